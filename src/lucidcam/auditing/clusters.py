"""Kinds of maps: spectral clustering with as many clusters as the eigengap says (SpRAy: Lapuschkin et al., Nature Communications 2019)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lucidcam.utils.optional import import_optional

MOST = 8
"""Clusters of one class at most."""

EMPTY = 1e-12
"""Instead of 0, below what is divided: a map without any energy is like no other."""

NEIGHBOURS = 10
"""Of each map in the graph of maps, as in the paper."""


def clusters(features: npt.NDArray[np.float32], most: int = MOST) -> npt.NDArray[np.int64]:
    """Which kind each map is.

    Maps are joined with those most like them (cosine); the eigenvalues of the graph's normalised Laplacian are near 0 once for each group
    that hangs together, and the largest gap after them says how many groups there are.

    Args:
        features: `[n, d]`, one map each.
        most: clusters at most.

    Returns:
        A number from 0 for each map; all 0 where there are too few to tell.
    """
    count = len(features)
    if count < 2 * NEIGHBOURS:
        return np.zeros(count, np.int64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, np.finfo(np.float32).tiny)
    likeness = np.clip(unit @ unit.T, 0, None).astype(np.float64)
    np.fill_diagonal(likeness, 0)
    far = np.argsort(-likeness, axis=1)[:, NEIGHBOURS:]
    graph = likeness.copy()
    np.put_along_axis(graph, far, 0, axis=1)
    graph = np.maximum(graph, graph.T)
    degree = np.maximum(graph.sum(1), EMPTY)
    scaled = graph / np.sqrt(degree[:, None] * degree[None])
    values, vectors = np.linalg.eigh(np.eye(count) - scaled)
    most = min(most, count // NEIGHBOURS)
    groups = int(np.argmax(np.diff(values[: most + 1]))) + 1
    if groups == 1:
        return np.zeros(count, np.int64)
    embedded = vectors[:, :groups]
    embedded = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), EMPTY)
    cluster = import_optional("sklearn.cluster", "audit", "an audit")
    return np.asarray(cluster.KMeans(groups, n_init=10, random_state=0).fit_predict(embedded), np.int64)
