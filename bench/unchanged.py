"""Compare every method's maps and every metric's values before and after a change of the code.

    PYTHONPATH=OLD/src python bench/unchanged.py save before.npz
    PYTHONPATH=NEW/src python bench/unchanged.py save after.npz
    python bench/unchanged.py compare before.npz after.npz

`save` runs the demo network (float32), four networks of other families with seeded random weights (float64) and a network of class
activation mapping; it takes a few minutes on two cores and calls nothing but the public interface, so that the same file runs on old and
new code. `compare` prints the largest relative difference of each method and metric, lists those above 1e-6, and exits with code 1 if
one of them is not among the intended changes (`INTENDED`) or if something that gave a result no longer does.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import lucidcam

Array = npt.NDArray[Any]

TOLERANCE = 1e-6
"""Largest relative difference of an unchanged result: the largest absolute difference over the largest magnitude of either side."""

INTENDED: dict[str, str] = {
    "*/contrastive_excitation_backprop/*": "the contrast is summed over channels before it is clamped",
    "*/excitation_backprop/branch": "inside a residual branch, mass is shared with the skip connection",
    **dict.fromkeys(
        [f"torchvision:densenet121/{method}/*" for method in ("gradcam++", "smoothgradcam++", "xgradcam")],
        "the default layer is read after its functional ReLU, away from the pole of the weights",
    ),
    **dict.fromkeys(
        [f"*/metric {metric}/*" for metric in ("deletion", "insertion", "road", "pxap", "pointing_game")],
        "cells of one value give pixels of one value, ranked in reading order; rounding decided before",
    ),
    "*/metric sanity/sanity_hog": "the directions of rounding noise on plateaus are gone",
    "demo/*average_drop": "maps are resized in float32 by differences from the nearest cell; the rounding is another",
}
"""Patterns of results that were wrong and change on purpose, with the reason."""

OPTIONS: dict[str, dict[str, Any]] = {
    "iscam": {"steps": 2, "top_channels": 8},
    "occlusion": {"window": 32, "stride": 32},
    "rise": {"masks": 16},
    "scorecam": {"top_channels": 24},
    "smoothgradcam++": {"samples": 3},
    "sscam": {"samples": 2, "top_channels": 8},
    "deletion": {"steps": 8},
    "infidelity": {"samples": 4},
    "insertion": {"steps": 8},
    "grid_pointing_game": {"confidence": 0.0, "mosaics": 2},
    "max_sensitivity": {"samples": 2},
    "sanity": {"stages": 3},
}
"""Options that bound the cost; every other option keeps its default."""


EXPENSIVE = ("infidelity", "max_sensitivity", "road", "sanity")
"""Metrics that the evaluation leaves out: their values are recorded by themselves."""


@dataclass(frozen=True)
class Case:
    """A network with images for it.

    Attributes:
        name: the first part of each result's key.
        module: the network, in eval mode.
        images: `[B, C, H, W]`, pre-processed.
        black: a black pixel in the network's input space, `[C]`.
        branch: a layer inside a residual branch; None: there is none.
        model: the network with its preprocessing, for photos; None: tensors only.
    """

    name: str
    module: nn.Module
    images: Tensor
    black: Tensor
    branch: str | None = None
    model: lucidcam.Model | None = None


@dataclass
class Recorder:
    """Collects results by key, a refusal as its error's class.

    Attributes:
        results: key to array; a refused request is a text array.
    """

    results: dict[str, Array] = field(default_factory=dict)

    def record(self, key: str, compute: Callable[[], Any]) -> None:
        """Store what `compute` returns: a tensor, or a mapping of figures to values."""
        start = time.perf_counter()
        try:
            values = compute()
        except lucidcam.LucidcamError as error:
            self.results[key] = np.array(f"{type(error).__name__}: {error}")
            return
        for name, value in values.items() if isinstance(values, Mapping) else [("", values)]:
            self.results[f"{key}{name}"] = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        seconds = time.perf_counter() - start
        if seconds > 5:
            print(f"  {key}: {seconds:.0f} s", file=sys.stderr, flush=True)


def photos() -> list[Array]:
    """Four photos that scikit-image ships, `[H, W, 3]` uint8."""
    from skimage import data

    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def cases() -> Iterator[Case]:
    """Yield the networks, each built and seeded when its turn comes."""
    demo = lucidcam.load("demo")
    images = torch.stack([prepared.tensor for prepared in demo.prepare(photos())])
    yield Case("demo", demo.module, images, torch.full((3,), -127 / 128), branch="blocks.2.1.bn3", model=demo)
    options: dict[str, Any] = {"pretrained": False, "num_classes": 10}
    for spec, size, branch, more in (
        ("torchvision:resnet18", 64, "layer4.1.bn2", {}),
        ("torchvision:densenet121", 64, None, {}),
        ("timm:mobilenetv3_small_050", 96, "blocks.2.1.bn3", {}),
        ("timm:vit_tiny_patch16_224", 96, None, {"img_size": 96}),
    ):
        torch.manual_seed(0)
        module = lucidcam.load(spec, **options, **more).module.double()
        images = _small(size)
        _settle(module, images)
        yield Case(spec, module, images, torch.full((3,), -2.0, dtype=torch.float64), branch)
    from lucidcam.nn import to_gap

    torch.manual_seed(0)
    backbone = lucidcam.load("torchvision:vgg11", **options).module.double()
    images = _small(64)
    yield Case("gap", to_gap(backbone, inputs=images, classes=10).double().eval(), images, torch.full((3,), -2.0, dtype=torch.float64))


def _small(size: int) -> Tensor:
    """The photos as `[4, 3, size, size]` float64, about standardised."""
    tensors = [torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].double() / 255 for photo in photos()]
    resized = [torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True) for tensor in tensors]
    return (torch.cat(resized) - 0.5) / 0.25


def _settle(module: nn.Module, images: Tensor) -> None:
    """Let normalisation layers measure their statistics, so that random networks tell images apart."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(5):
            module(images)
    module.eval()


def save(path: Path) -> None:
    """Compute all results and write them."""
    torch.set_num_threads(1)  # sums are in the same order on every run
    recorder = Recorder()
    for case in cases():
        start = time.perf_counter()
        record_methods(recorder, case)
        record_targets(recorder, case)
        record_metrics(recorder, case)
        if case.model is not None:
            record_photos(recorder, case.model)
            record_evaluation(recorder, case.model)
        print(f"{case.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    np.savez_compressed(path, **recorder.results)
    print(f"{len(recorder.results)} results of lucidcam in {Path(lucidcam.__file__).parent} are in {path}")


def record_methods(recorder: Recorder, case: Case) -> None:
    """Every method: for the predicted class; and for a class of each image at other layers and with the options that all methods have."""
    images = case.images[:2]
    classes = torch.tensor([[1, 3], [5, 0]])
    for name, kind in lucidcam.methods().items():
        options = OPTIONS.get(name, {})
        if name == "mcam":
            options = {"memory": _memory(case)}
        cheap = kind.kind != "perturbation"

        def record(variant: str, name: str = name, **more: Any) -> None:
            recorder.record(f"{case.name}/{name}/{variant}", lambda: lucidcam.attribute(case.module, images, name, **more))

        record("predicted", **options)
        if cheap:
            record("classes", target=classes, **options)
            record("smooth", target=1, smooth=2, augment="hflip", **options)
        if case.branch is not None and kind.layered != "never" and name != "mcam" and cheap:
            record("branch", target=1, layer=case.branch, **options)


def _memory(case: Case) -> Any:
    """A memory of seeded random slots that belongs to the network."""
    from lucidcam.nn import Memory
    from lucidcam.nn.memory import Belongs
    from lucidcam.utils.fingerprint import fingerprint

    layer, info = next(
        (name, info) for name, info in lucidcam.layers(case.module, case.images[:1]).items() if info.default and info.shape is not None
    )
    maps = lucidcam.attribute(case.module, case.images[:1], "gradcam", target=0)
    assert info.shape is not None
    channels = info.shape[-1] if len(info.shape) == 3 else info.shape[1]
    classes = 10
    ids = tuple(range(classes))
    torch.manual_seed(0)
    belongs = Belongs(fingerprint(case.module), case.name, layer, tuple(map(str, ids)), ids)
    return Memory(8, channels, tuple(maps.shape[1:]), classes, belongs=belongs).eval()


def record_targets(recorder: Recorder, case: Case) -> None:
    """Targets beyond a class."""
    targets = {
        "probability": lucidcam.Probability(1),
        "log-probability": lucidcam.LogProbability(1),
        "contrast": lucidcam.Contrast(1, 3),
        "top3": "top3",
        "all": "all",
    }
    for name, target in targets.items():
        if name == "all" and case.name == "demo":
            continue  # a thousand classes
        compute = lambda target=target: lucidcam.attribute(case.module, case.images[:2], "gradcam", target=target)  # noqa: E731
        recorder.record(f"{case.name}/target {name}/gradcam", compute)


def record_metrics(recorder: Recorder, case: Case) -> None:
    """Every metric, of Grad-CAM's maps."""

    def explain(module: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        return lucidcam.attribute(module, images, "gradcam", target=classes)

    images = case.images[:2]
    maps = lucidcam.attribute(case.module, images, "gradcam")
    boxes, masks, labels = _objects(images)
    for name, kind in lucidcam.metrics().items():
        metric = kind(**OPTIONS.get(name, {}))
        key = f"{case.name}/metric {name}/"
        if name == "win_rate":
            continue  # compares methods: see `record_evaluation`
        if kind.needs == "masks":
            recorder.record(key, lambda metric=metric: metric(maps, masks=masks, labels=labels, ranks=[0, 3]))
        elif kind.needs == "boxes":
            sizes = [tuple(images.shape[2:])] * len(maps)
            recorder.record(key, lambda metric=metric, sizes=sizes: metric(maps, boxes, sizes=sizes, labels=labels, ranks=[0, 3]))
        elif name == "grid_pointing_game":
            recorder.record(key, lambda metric=metric: metric(case.module, case.images, explain))
        else:
            recorder.record(key, lambda metric=metric: metric(case.module, images, maps, explain=explain, black=case.black))


def _objects(images: Tensor) -> tuple[list[list[list[float]]], list[Array], list[str]]:
    """Made boxes and masks, one or two for each of two images, and their classes."""
    height, width = images.shape[2:]
    boxes = [
        [[0.1 * width, 0.2 * height, 0.6 * width, 0.7 * height]],
        [[0.0, 0.0, 0.4 * width, 0.5 * height], [0.5 * width, 0.3 * height, 0.9 * width, 0.9 * height]],
    ]
    masks = []
    for sides in boxes:
        mask = np.zeros((height, width), bool)
        for left, top, right, bottom in sides:
            mask[int(top) : int(bottom), int(left) : int(right)] = True
        masks.append(mask)
    return boxes, masks, ["a", "b"]


def record_photos(recorder: Recorder, model: lucidcam.Model) -> None:
    """What `lucidcam.explain` says of photos: maps, scores, probabilities, boxes."""
    for method in ("cam", "gradcam"):
        for number, explanation in enumerate(lucidcam.explain(model, photos(), method, target="top2")):
            values = {
                "raw": explanation.raw,
                "map": explanation.map,
                "score": explanation.score,
                "probability": explanation.probability,
                "target": explanation.target,
                "boxes": explanation.boxes(0.2),
            }
            recorder.record(f"demo/explain {method}/{number} ", lambda values=values: values)


def record_evaluation(recorder: Recorder, model: lucidcam.Model) -> None:
    """Figures of a small evaluation with boxes and masks, trivial baselines included."""
    samples = []
    labels = model.labels or ()
    for number, (photo, label) in enumerate(zip(photos()[:2], (652, 285))):
        height, width = photo.shape[:2]
        box = (0.1 * width, 0.2 * height, 0.7 * width, 0.8 * height)
        mask = np.zeros((height, width), bool)
        mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        thing = lucidcam.Object(labels[label], box, lambda mask=mask: mask)
        samples.append(lucidcam.Sample(photo, f"photo {number}", objects=(thing,)))
    metrics = [(name, OPTIONS.get(name, {})) for name in lucidcam.metrics() if name not in EXPENSIVE]

    def figures() -> dict[str, float]:
        report = lucidcam.evaluate(model, samples, ["gradcam", "cam"], metrics, resamples=0, progress=False)
        return {f"{row.method} {row.metric}": row.mean for row in report.rows}

    recorder.record("demo/evaluate/", figures)


def difference(before: Array, after: Array) -> float:
    """The largest absolute difference over the largest magnitude; infinite where shapes or refusals differ; NaN equals NaN."""
    texts = before.dtype.kind == "U", after.dtype.kind == "U"
    if any(texts):
        return 0.0 if all(texts) else float("inf")
    if before.shape != after.shape:
        return float("inf")
    if before.size == 0:
        return 0.0
    left, right = before.astype(np.float64), after.astype(np.float64)
    if not np.array_equal(np.isnan(left), np.isnan(right)):
        return float("inf")
    left, right = np.nan_to_num(left), np.nan_to_num(right)
    size = max(np.abs(left).max(), np.abs(right).max())
    return 0.0 if size == 0 else float(np.abs(left - right).max() / size)


def compare(before: Mapping[str, Array], after: Mapping[str, Array]) -> int:
    """Print what differs; return 1 where something differs that is not intended."""
    worst: dict[str, float] = defaultdict(float)
    listing: list[str] = []
    faults = 0
    for key in before:
        if key not in after:
            listing.append(f"UNEXPECTED {key}: no longer there")
            faults += 1
            continue
        if before[key].dtype.kind == "U" and after[key].dtype.kind != "U":
            listing.append(f"answered   {key}: was refused ({before[key]})")
            continue
        found = difference(before[key], after[key])
        group = re.match(r"[^/]*/[^/]*", key)
        worst[group[0] if group else key] = max(worst[group[0] if group else key], found)
        if found > TOLERANCE:
            reason = next((reason for pattern, reason in INTENDED.items() if fnmatch.fnmatchcase(key, pattern)), None)
            refusal = f"; now refused: {after[key]}" if after[key].dtype.kind == "U" else ""
            verdict = "UNEXPECTED" if reason is None else "intended  "
            listing.append(f"{verdict} {key}: {found:.1e}{refusal}" + (f": {reason}" if reason else ""))
            faults += reason is None
    for group, found in worst.items():
        print(f"{found:8.1e}  {group}")
    print(f"\n{len(before)} results, {len(worst)} groups; above {TOLERANCE:.0e}: {len(listing)}; unexpected: {faults}")
    for line in listing:
        print(line)
    return int(faults > 0)


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("save", help="compute all results and write them").add_argument("file", type=Path)
    comparison = commands.add_parser("compare", help="list what differs between two files")
    comparison.add_argument("before", type=Path)
    comparison.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "save":
        save(options.file)
        return 0
    with np.load(options.before) as before, np.load(options.after) as after:
        return compare(dict(before), dict(after))


if __name__ == "__main__":
    sys.exit(main())
