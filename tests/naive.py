"""Every method once more: slower, less complicated, in float64 NumPy, one image, one class, one channel at a time.

Activations and gradients come from the whole graph of a copy of the network, by plain hooks.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def whole_graph(net: nn.Module, x: torch.Tensor, layer: str, target: int) -> Arrays:
    """Activations and gradients `[C, h, w]` of one image's layer (its last call), and the scores `[K]`, without any cut."""
    net = copy.deepcopy(net)
    kept: list[torch.Tensor] = []

    def hook(_: nn.Module, __: object, out: torch.Tensor) -> torch.Tensor:
        out.retain_grad()
        kept.append(out)
        return out.clone()  # in-place operations further up must not reach what is kept

    dict(net.named_modules())[layer].register_forward_hook(hook)
    with torch.enable_grad():
        scores = net(x.clone().requires_grad_())
        scores[0, target].backward()
    assert kept[-1].grad is not None
    return kept[-1].detach()[0].numpy(), kept[-1].grad[0].numpy(), scores.detach()[0].numpy()


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def gradcam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total += g[k].sum() / g[k].size * a[k]
    return relu(total)


def counterfactual(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return gradcam(a, -g)


def gradcam_plus_plus(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                if g[k, i, j] != 0:
                    alpha = 1 / (2 + a[k].sum() * g[k, i, j])
                    weight += alpha * max(g[k, i, j], 0.0)
        total += weight * a[k]
    return relu(total)


def xgradcam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        if a[k].sum() != 0:
            total += (a[k] / a[k].sum() * g[k]).sum() * a[k]
    return relu(total)


def hirescam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return sum(g[k] * a[k] for k in range(len(a)))


def layercam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return relu(sum(relu(g[k]) * a[k] for k in range(len(a))))


def eigencam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return _principal(a, a)


def eigengradcam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return _principal(g * a, a)


def _principal(x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Full decomposition of the pixels × channels matrix."""
    flat = x.reshape(len(x), -1).T
    first = np.linalg.svd(flat)[2][0]
    projection = flat @ first
    if np.corrcoef(projection, a.sum(0).ravel())[0, 1] < 0:
        projection = -projection
    return projection.reshape(x.shape[1:])


CAMS = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
}


def scorecam(net: nn.Module, x: torch.Tensor, a: np.ndarray, target: int, weights: str, empty: torch.Tensor) -> np.ndarray:
    """A loop over all channels of one image `x [1, C, H, W]`."""

    def logits(image: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return net(image)[0].numpy()

    def mask(k: int) -> torch.Tensor | None:
        up = nn.functional.interpolate(torch.tensor(a[k])[None, None], size=x.shape[2:], mode="bilinear", align_corners=False)
        return None if a[k].max() == a[k].min() else (up - up.min()) / (up.max() - up.min())

    masks = [mask(k) for k in range(len(a))]
    scores = [None if m is None else logits(x * m + empty * (1 - m)) for m in masks]
    live = [s[target] for s in scores if s is not None]
    total = np.zeros(a.shape[1:])
    for k, s in enumerate(scores):
        if s is None:
            continue
        if weights == "increase":
            alpha = s[target] - logits(empty)[target]
        elif weights == "softmax":
            alpha = np.exp(s[target]) / sum(np.exp(each) for each in live)
        else:
            alpha = np.exp(s[target]) / np.exp(s).sum()
        total += alpha * a[k]
    return relu(total)


def ablationcam(net: nn.Module, x: torch.Tensor, layer: str, target: int) -> np.ndarray:
    """One forward pass of the whole network per channel."""
    net = copy.deepcopy(net)
    module = dict(net.named_modules())[layer]
    state: dict[str, object] = {"calls": 0, "zero": None}

    with torch.no_grad():
        kept: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda _, __, out: kept.append(out.clone()))
        clean = net(x)[0, target].item()
        handle.remove()
        last = len(kept) - 1

        def hook(_: nn.Module, __: object, out: torch.Tensor) -> torch.Tensor:
            number = state["calls"]
            state["calls"] = number + 1  # type: ignore[operator]
            if number != last:
                return out
            out = out.clone()
            out[:, state["zero"]] = 0  # type: ignore[index]
            return out

        module.register_forward_hook(hook)
        a = kept[-1][0].numpy()
        total = np.zeros(a.shape[1:])
        for k in range(len(a)):
            state["calls"], state["zero"] = 0, k
            total += (clean - net(x)[0, target].item()) / clean * a[k]
    return relu(total)


def smoothgradcam_plus_plus(a: np.ndarray, gs: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        d1, d2, d3 = (np.mean([g[k] ** n for g in gs], axis=0) for n in (1, 2, 3))
        weight = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                below = 2 * d2[i, j] + a[k].sum() * d3[i, j]
                if d2[i, j] != 0 and below != 0:
                    weight += d2[i, j] / below * max(d1[i, j], 0.0)
        total += weight * a[k]
    return relu(total)
