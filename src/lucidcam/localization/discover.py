"""What a network has learnt of each class: the regions of a data set that speak most for it.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 4.2, rank images and look at their class
activation maps: they show parts, patterns and abstract concepts that nobody marked.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.attribution import on_any_image
from lucidcam.data import open_data
from lucidcam.data.class_map import Given
from lucidcam.errors import OptionError, TargetError, unknown
from lucidcam.imaging import maps
from lucidcam.imaging.explanation import Explanation
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.storage import check_writable, json_text, write_whole, writing
from lucidcam.localization.crops import Concept, Part, cut_out
from lucidcam.localization.sheets import save_sheets
from lucidcam.methods._base import Method
from lucidcam.methods.settings import resolve_method
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem
from lucidcam.stream.explain import explain
from lucidcam.stream.explainer import PREDICTED, Explainer, asked_of
from lucidcam.types import Model
from lucidcam.utils.progress import bar

FILES = ("regions.json", "overview.png")
"""What is written beside the sheets of the classes."""


@dataclass(frozen=True, eq=False)
class Discovery(OneLineRepr):
    """What `discover` found.

    Attributes:
        concepts: one per class, in the order in which the data set brings them.
        problems: images and labels that could not be used.
        images: how many images were.
        settings: of the run.
    """

    concepts: tuple[Concept, ...]
    problems: tuple[Problem, ...]
    images: int
    settings: dict[str, Any]

    def __getitem__(self, label: str) -> tuple[Part, ...]:
        """The parts of the class that is called `label`, with or without its synonyms.

        Raises:
            TargetError: when none is.
        """
        for each in self.concepts:
            if label in (each.label, each.label.split(",")[0]):
                return each.parts
        raise TargetError(unknown("class", label, (each.label for each in self.concepts)))

    def save(self, out: str | os.PathLike[str]) -> Path:
        """Write `regions.json`, `overview.png` (a row per class) and `classes/*.png` (a contact sheet per class).

        Many classes have several overviews, `overview-2.png` and so on. Files of these names are replaced, where this wrote them.

        Args:
            out: a folder; it is made.

        Returns:
            The folder.

        Raises:
            OptionError: nothing can be written there, or a file of these names is someone else's.
        """
        owned = check_place(out)
        with writing(owned.folder):
            owned.folder.mkdir(parents=True, exist_ok=True)
        sheets = save_sheets(self.concepts, owned.folder)
        classes = [
            {
                "label": each.label,
                "id": each.id,
                "meaning": each.meaning,
                "images": each.images,
                "sheet": sheet,
                "regions": [part.to_dict() for part in each.parts],
            }
            for each, sheet in zip(self.concepts, sheets, strict=True)
        ]
        problems = [{"name": each.name, "error": each.error} for each in self.problems]
        document = {**self.settings, "images": self.images, "classes": classes, "problems": problems}
        text = json_text(document, indent=2, ensure_ascii=False) + "\n"
        write_whole(owned.path(FILES[0]), text.encode())
        return owned.folder


def check_place(out: str | os.PathLike[str]) -> OwnedFiles:
    """The files of a folder that regions can be written to, found out before any work.

    Raises:
        OptionError: it cannot be written to, or a file of such names is someone else's.
    """
    check_writable(out, *FILES)
    owned = OwnedFiles(out)
    owned.check(*FILES, "overview-*.png", "classes/*.png")
    return owned


def discover(
    model: Model,
    data: Any,
    method: str | Method = "cam",
    *,
    target: Any = None,
    top: int = 8,
    threshold: float = 0.5,
    layer: Any = None,
    class_map: Given = None,
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    format: str | None = None,
    **options: Any,
) -> Discovery:
    """Find the regions of a data set that speak most for each class, in one pass.

    A region's score is its peak in the raw map `M_c`, not normalised. For CAM, `M_c(x, y) = Σ_k w_k^c f_k(x, y)` is what the place adds
    to the class's logit (Zhou et al. 2016, Eq. 2; their mean over the image is the logit without its bias), so scores of one class are
    in one unit, whatever the image. The peak rather than the mean, which would hang on the threshold; and not weighted by the class's
    probability, which hangs on what else the image shows and would hide a part beside another thing. Scores of different classes or
    methods are not comparable.

    Of each map at most the region around its peak counts, and of each class the `top` best are kept: memory does not grow with the data.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        data: a folder, an annotation file, a list of images, …, as for `lucidcam.data.open_data`.
        method: as for `lucidcam.explain`, like `layer` and `options`. CAM needs a network with global average pooling.
        target: None: the images' own labels where the data has any, else "predicted"; "label"; "predicted"; a class label or id; a list
            of them; "top5".
        top: regions per class.
        threshold: a region is what is connected with the map's peak at or above this share of it. 0.5 finds parts, 0.2 whole things.
        layer: as for `lucidcam.explain`.
        class_map: from the data's names of classes to the model's labels or ids, where they differ.
        limit: at most so many samples.
        out: a folder to `save` to; None: nothing is written.
        progress: a bar; None: in a terminal or notebook.
        format: of the data, as for `lucidcam.data.open_data`; None: found out.
        options: as for `lucidcam.explain`.

    Returns:
        The regions of each class, and what could not be used: a bad image is left out, and reported there.

    Raises:
        DataError: for a data set that cannot be read, or of which no image can be used.
        LucidcamError: before any image is read, for a method that cannot explain the model, or an option or class that does not exist.

    Example:
        >>> import torch, lucidcam, numpy as np
        >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1), torch.nn.Linear(3, 3))
        >>> _ = net[3].weight.data.copy_(torch.eye(3)), net[3].bias.data.zero_()  # class = colour
        >>> def to_tensor(image):
        ...     return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        >>> model = lucidcam.wrap(net, to_tensor, ["red", "green", "blue"], layer="0")
        >>> images = np.zeros((2, 8, 8, 3), np.uint8)
        >>> images[0, 2:5, 1:7, 0], images[1, 1:3, 1:3, 0] = 255, 102  # a bright red thing and a faint one
        >>> [(part.box, round(part.score, 2)) for part in lucidcam.discover(model, list(images))["red"]]
        [((1, 2, 7, 5), 1.0), ((1, 1, 3, 3), 0.4)]
    """
    _check(top, threshold, limit, out)
    dataset = open_data(data, format).first(limit)
    asked = asked_of(target, dataset)
    problems: list[Problem] = []
    stream = Explainer(model, method, asked, layer, class_map, options)(dataset, problems.append)
    _try(model, method, layer, options)
    found: dict[tuple[str, int | None], _Ranking] = {}
    settings: dict[str, Any] = {}
    images = 0
    with bar(dataset.count, "discovering", progress) as advance:
        for each in stream:
            for label, explanation in each.maps:
                found.setdefault((label, explanation.target), _Ranking(top, explanation.label)).see(explanation, threshold)
                settings = settings or {"method": explanation.method, "layer": explanation.layer}
            images += 1
            advance(1)
    concepts = tuple(Concept(label, id, ranking.meaning, ranking.seen, ranking.parts()) for (label, id), ranking in found.items())
    told = {
        "model": model.name,
        "data": dataset.name,
        "target": PREDICTED if asked is None else asked,
        **settings,
        "threshold": threshold,
        "top": top,
    }
    discovery = Discovery(concepts, tuple(problems), images, told)
    if out is not None:
        discovery.save(out)
    return discovery


@dataclass(eq=False)
class _Ranking:
    """The best regions of one class so far: the worst of them lies on top of the heap, to be thrown out next.

    Between equal scores the image that came first stays.
    """

    top: int
    meaning: str
    seen: int = 0
    heap: list[tuple[float, int, Part]] = field(default_factory=list)

    def see(self, explanation: Explanation, threshold: float) -> None:
        """Take a map into account. Only a region that gets into the heap is cut out."""
        self.seen += 1
        score = float(explanation.map.max())
        if not explanation.heatmap.any() or (len(self.heap) == self.top and score <= self.heap[0][0]):
            return
        entry = (score, -self.seen, cut_out(explanation, threshold, score))
        (heapq.heappush if len(self.heap) < self.top else heapq.heappushpop)(self.heap, entry)

    def parts(self) -> tuple[Part, ...]:
        return tuple(part for *_, part in sorted(self.heap, key=lambda entry: entry[:2], reverse=True))


def _check(top: int, threshold: float, limit: int | None, out: str | os.PathLike[str] | None) -> None:
    """What would otherwise be told only after the pass over the data."""
    if top < 1:
        raise OptionError(f"expected top ≥ 1 (regions per class); got {top}.")
    if limit is not None and limit < 1:
        raise OptionError(f"expected limit ≥ 1 (samples); got {limit}.")
    maps.threshold(np.zeros((1, 1), np.float32), threshold)
    if out is not None:
        check_place(out)


def _try(model: Model, method: str | Method, layer: Any, options: dict[str, Any]) -> None:
    """Explain noise: a network that the method cannot explain (CAM without global pooling) is told of before the data is read.

    Methods that mask run anywhere, and would take long.
    """
    if resolve_method(method, options)[0].kind != "perturbation":
        noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
        with on_any_image(model):
            explain(model, noise, method, None, layer, **{**options, "progress": False})
