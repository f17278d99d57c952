"""Whether a change of the code changed results: saves maps, boxes, metrics, reports' numbers and run files, and compares two such files.

    python bench/same.py save before.npz --data ../shared/data      # in the checkout before the change
    python bench/same.py save after.npz --data ../shared/data       # in the checkout after it
    python bench/same.py compare before.npz after.npz               # a Markdown table; exit status 1 where something differs

Only public names are used, so that one copy of this file serves both checkouts (`PYTHONPATH=.../src python bench/same.py`). Without
`--data` photos are those of scikit-image and made scenes. Networks: the demo network, and four with seeded weights, which are a
mobile and a residual CNN, a transformer and one with two logits. Every method's maps on tensors are compared by `unchanged.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

import lucidcam

METHODS = ("gradcam", "gradcam++", "layercam", "eigencam", "hirescam", "gradient", "excitation_backprop", "occlusion", "scorecam")
FEW_CHANNELS = {"scorecam": {"budget": 16}, "occlusion": {"window": 64, "stride": 32}}
METRICS = ("average_drop", "increase_in_confidence", ("deletion", {"steps": 8}), ("insertion", {"steps": 8}), "complexity", "coherency")
WRITERS = ("npz", "coco", "voc", "yolo", "masks", "png")
TOLERANCE = 1e-6
SEED = 0


def convolutions(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    """A convolution that halves the sides, and its non-linearity."""
    return nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()


def networks() -> dict[str, lucidcam.Model]:
    """The demo network and four others by name; their weights come from a seed."""
    models = {"demo": lucidcam.load("demo")}
    import timm  # where torchvision's compiled operators do not load, only after lucidcam has mended that

    torch.manual_seed(SEED)
    wrapped = {
        "resnet10t": timm.create_model("resnet10t", num_classes=10),
        "mobilenet": timm.create_model("mobilenetv3_small_050", num_classes=10),
        "vit_tiny": timm.create_model("vit_tiny_patch16_224", num_classes=10),
        "two logits": nn.Sequential(*convolutions(3, 8), *convolutions(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    }
    size = {"two logits": 96}
    labels = {2: ["no", "yes"], 10: [f"class {number}" for number in range(10)]}
    for name, module in wrapped.items():
        side = size.get(name, 224)
        preprocess = lucidcam_preprocess()(size=(side, side), resize=side, fit="squash")
        models[name] = lucidcam.wrap(module.eval(), preprocess, labels[2 if name == "two logits" else 10])
    return models


def lucidcam_preprocess() -> Any:
    """The class `Preprocess`, which checkouts from before it was public have elsewhere."""
    if "Preprocess" in lucidcam.__all__:
        return lucidcam.Preprocess
    from importlib import import_module

    return import_module("lucidcam.preprocess").Preprocess


def photos(data: Path | None, count: int, folder: Path) -> list[Path]:
    """Photos of a folder, evenly spread by name; else cuts of those of scikit-image, which are written to `folder`."""
    if data is not None:
        files = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        step = max(1, len(files) // count)
        return files[::step][:count]
    from skimage import data as samples

    own = [Image.fromarray(getattr(samples, name)()).convert("RGB") for name in ("astronaut", "cat", "coffee", "rocket")]
    generator = np.random.default_rng(SEED)
    paths = []
    for number in range(count):
        photo = own[number % len(own)]
        left, top = (int(generator.integers(0, length // 3)) for length in photo.size)
        paths.append(folder / f"{number:03}.png")
        photo.crop((left, top, left + photo.width // 2, top + photo.height // 2)).save(paths[-1])
    return paths


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested dictionaries and lists, with its place; times and versions are left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not any(word in str(key) for word in ("second", "time", "version", "date", "memory")):
                yield from numbers(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from numbers(item, f"{path}/{index}")
    elif isinstance(value, (int, float)) and value is not None:
        yield path, float(value)


def files_of(folder: Path) -> Iterator[tuple[str, Any]]:
    """The files of a run by name: arrays of .npz, pixels of pictures, numbers of JSON, bytes of texts."""
    for path in sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        if path.suffix == ".npz":
            with np.load(io.BytesIO(content)) as archive:
                yield from ((f"{name}:{key}", archive[key]) for key in archive.files if archive[key].dtype.kind in "fiub")
        elif path.suffix == ".png":
            yield name, np.asarray(Image.open(io.BytesIO(content)))
        elif path.suffix in {".txt", ".xml", ".csv"}:
            yield name, np.frombuffer(content, np.uint8)
        elif path.name in {"labels.json", "coco.json", "results.json"}:
            yield name, np.array([number for _, number in numbers(json.loads(content))])


def results(name: str, model: lucidcam.Model, images: list[Path], few: int) -> Iterator[tuple[str, Any]]:
    """All results of one network by name: costly ones over `few` of the images."""
    for method in METHODS:
        options = FEW_CHANNELS.get(method, {})
        chosen = images[:few] if method in FEW_CHANNELS else images
        try:
            explanations = lucidcam.explain(model, chosen, method, progress=False, **options)
        except lucidcam.LucidcamError as error:  # a method that this network has no layer for; the reason must stay the same, too
            yield f"explain/{name}/{method}/refusal", np.frombuffer(str(error).encode(), np.uint8)
            continue
        for index, explanation in enumerate(explanations):
            yield f"explain/{name}/{method}/map/{index}", explanation.map
            yield f"explain/{name}/{method}/score/{index}", np.array(explanation.score)
            yield f"explain/{name}/{method}/boxes/{index}", np.array(explanation.boxes(), dtype=float).ravel()
    torch.manual_seed(SEED)
    report = lucidcam.evaluate(model, images[:few], ["gradcam", "hirescam"], list(METRICS), resamples=100, baselines=(), progress=False)
    for row in report.rows:
        yield f"evaluate/{name}/{row.method}/{row.metric}", np.array([row.mean, row.low, row.high, row.n], dtype=float)
    for (method, metric), values in report.values.items():
        yield f"evaluate/{name}/{method}/{metric}/values", values
    with tempfile.TemporaryDirectory() as folder:
        lucidcam.run(model, images, folder, write=WRITERS, metrics=("average_drop",), progress=False)
        for file, content in files_of(Path(folder)):
            yield f"run/{name}/{file}", content
    for labels in lucidcam.localize(model, images[:few]):
        yield f"localize/{name}/{labels.name}", np.array([region.box for region in labels.objects], dtype=float).ravel()


def save(options: argparse.Namespace) -> int:
    """Compute everything and keep it."""
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        images = photos(options.data, options.photos, Path(folder))
        for name, model in networks().items():
            start = time.monotonic()
            for key, value in results(name, model, images, max(2, options.photos // 10)):
                kept[key] = np.asarray(value)
            print(f"{name}: {len(kept)} results, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    with options.file.open("wb") as file:
        np.savez_compressed(file, **{key.replace("/", "\\"): value for key, value in kept.items()})
    return 0


def difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """The largest difference, as a share of the largest value where that is above 1; infinite where only one of the two has a number."""
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return np.inf
    scale = max(1.0, float(np.abs(one[finite]).max(initial=0.0)))
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0)) / scale


def compare(options: argparse.Namespace) -> int:
    """Print a table: how many results of each kind are equal to the bit, how many within the tolerance, and the largest difference."""
    with np.load(options.before) as first, np.load(options.after) as second:
        before, after = ({key.replace("\\", "/"): archive[key] for key in archive.files} for archive in (first, second))
    rows: dict[str, list[float]] = {}
    failures = [f"only on one side: {key}" for key in sorted(before.keys() ^ after.keys())]
    for key in sorted(before.keys() & after.keys()):
        one, other = before[key], after[key]
        parts = key.split("/")
        row = rows.setdefault(" / ".join(parts[:2] if parts[0] != "explain" else (parts[0], parts[1], parts[3])), [0, 0, 0.0])
        row[0] += 1
        if one.shape != other.shape:
            failures.append(f"{key}: shapes {one.shape} and {other.shape}")
            continue
        row[1] += np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        distance = difference(one.astype(float), other.astype(float))
        row[2] = max(row[2], distance)
        if distance > TOLERANCE:
            failures.append(f"{key}: differs by {distance:.3g}")
    print("| results | compared | equal to the bit | largest difference |\n|---|---|---|---|")
    for title, (count, equal, largest) in rows.items():
        print(f"| {title} | {count:.0f} | {equal:.0f} | {largest:.3g} |")
    print("\n".join(failures[:40]), file=sys.stderr)
    return int(bool(failures))


def main() -> int:
    """Save or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("save", help="compute all results with this checkout and keep them in a file")
    saving.add_argument("file", type=Path)
    saving.add_argument("--photos", type=int, default=60, help="how many photos (60)")
    saving.add_argument("--data", type=Path, help="a folder of photos; else those of scikit-image are taken")
    comparing = commands.add_parser("compare", help="compare two such files")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    return save(options) if options.command == "save" else compare(options)


if __name__ == "__main__":
    sys.exit(main())
