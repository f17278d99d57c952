"""What evaluation finds on real photos, and what it costs beside pytorch-grad-cam's metrics and beside plain forward passes.

    make bench-evaluation                                        # in an environment of its own
    python bench/evaluation.py --data ../shared/data             # all parts
    python bench/evaluation.py --parts speed road memory         # what needs no data

Writes one section of docs/benchmarks.md per part. The parts `kangaroo`, `grid` and `sanity` need photos (`--data`, with
`kangaroo/` as Pascal VOC and `imagenet_sample/images/`) and are left out without them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import lucidcam
from lucidcam.benchmark.timing import Ratio, paired
from lucidcam.metrics.deletion import Deletion, Insertion
from lucidcam.metrics.road import ROAD
from report import circumstances, table, write_section

PARTS = ("kangaroo", "grid", "sanity", "speed", "road", "memory")
PACKAGES = ("lucidcam", "torch", "torchvision", "timm", "numpy", "scipy", "opencv-python-headless", "grad-cam")
FORWARDS, SHARE = 450, 5
DEFAULT_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def rows_of(report: lucidcam.Report, metrics: Sequence[str]) -> str:
    """A report's table in Markdown: mean and interval, the best in bold."""
    best = {metric: report.best(metric) for metric in metrics}
    rows = []
    for method in report.methods:
        cells = []
        for metric in metrics:
            row = report.row(method, metric)
            text = f"{row.mean:.3g} ({row.low:.3g}–{row.high:.3g})"
            cells.append(f"**{text}**" if best[metric] == method else text)
        rows.append([f"*{method}*" if method in report.trivial else method, *cells])
    return table(["", *metrics], rows)


def kangaroo(data: Path, options: argparse.Namespace) -> str:
    """Boxes and points from a class the network was never asked to find, beside trivial baselines."""
    model = lucidcam.load("demo", fit="squash")
    metrics = ["maxboxacc", "maxboxacc_v2", "pointing_game", "energy_pointing_game", "localization_error"]
    report = lucidcam.evaluate(model, data / "kangaroo", ["gradcam", "cam"], metrics, class_map={"kangaroo": 104}, limit=options.images)
    shown = ["maxboxacc", "maxboxacc_v2", "pointing_game", "energy_pointing_game", "localization_error_gt_known"]
    n = report.row("gradcam", "maxboxacc").n
    holds = all(
        report.row(method, metric).mean > report.row(trivial, metric).mean
        for method in ("gradcam", "cam")
        for metric in ("maxboxacc", "pointing_game")
        for trivial in report.trivial
    )
    return "\n\n".join(
        [
            "### Boxes of kangaroos",
            f'{n} photos, class 104 (wallaby) of the demo network, `fit="squash"`; {len(report.skipped)} skipped '
            f"({', '.join(each.name for each in report.skipped)}). Percent, with 95 % bootstrap intervals; trivial baselines in italics.",
            rows_of(report, shown),
            f"gradcam and cam above every trivial baseline on maxboxacc and on pointing: {'holds' if holds else '**misses**'}.",
        ]
    )


def grid(data: Path, options: argparse.Namespace) -> str:
    """Which cell of a mosaic the energy is in."""
    model = lucidcam.load("demo")
    report = lucidcam.evaluate(
        model,
        data / "imagenet_sample" / "images",
        ["cam", "gradcam", "gradcam++"],
        ["grid_pointing_game"],
        baselines=["uniform", "centre_point", "random"],
        limit=options.images,
    )
    value = {method: report.row(method, "grid_pointing_game").mean for method in report.methods}
    holds = min(value["cam"], value["gradcam"]) > value["gradcam++"] > value["uniform"] and value["gradcam"] > 75
    return "\n\n".join(
        [
            "### Mosaics of ImageNet photos",
            f"{report.row('gradcam', 'grid_pointing_game').n} mosaics of 2×2 confidently classified photos of different classes; share of "
            "the positive energy in the right cell, percent.",
            rows_of(report, ["grid_pointing_game"]),
            f"cam, gradcam > gradcam++ > uniform, and gradcam > 75: {'holds' if holds else '**misses**'}.",
        ]
    )


def sanity(data: Path, options: argparse.Namespace) -> str:
    """Whether maps change when the weights do."""
    model = lucidcam.load("demo")
    photos = data / "imagenet_sample" / "images"
    limit = min(options.images or 24, 24)
    report = lucidcam.evaluate(model, photos, ["gradcam", "guided_backprop"], ["sanity"], baselines=["sobel_edges"], limit=limit)
    figures = [name for name in report.figures if name.startswith("sanity")]
    report.plot("sanity").savefig(options.out.parent / "pictures" / "sanity.png", dpi=80)
    return "\n\n".join(
        [
            "### Sanity check by parameter randomisation",
            f"{limit} ImageNet photos, demo network, cascading from the head down: similarity of the maps to those of the trained network, "
            "0 where they have nothing in common. Guided Backprop stays more similar: it shows the image's edges, whatever the weights "
            "(Adebayo 2018).",
            rows_of(report, figures),
            "![similarity against the share of randomised layers](pictures/sanity.png)",
        ]
    )


def speed(data: Path, options: argparse.Namespace) -> str:
    """Deletion and insertion against the plain forward passes they need."""
    rows = []
    for title, model in networks():
        inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        maps = lucidcam.attribute(model.module, inputs, "gradcam")
        fast = lucidcam.optimize(model)

        def judge(inputs=inputs, maps=maps, fast=fast) -> None:
            for metric in (Deletion(), Insertion()):
                metric(fast.module, inputs, maps)

        for batch in (1, 32):

            def plain(inputs=inputs, model=model, batch=batch) -> None:
                count = FORWARDS // SHARE
                images = inputs[:1].expand(batch, -1, -1, -1).contiguous()
                with torch.no_grad():
                    for start in range(0, count, batch):
                        model.module(images[: min(batch, count - start)])

            say(f"speed: {title}, forwards in batches of {batch}")
            ratios, seconds = paired(plain, {"both": (judge, options.repeats)}, "wall", say, warm=False)
            median = ratios["both"].median / SHARE
            shown = Ratio(tuple(value / SHARE for value in ratios["both"].values))
            rows.append([title, str(batch), f"{seconds * SHARE:.1f} s", str(shown), "holds" if median <= 0.8 else "**misses**"])
    return "\n\n".join(
        [
            "### Deletion and insertion",
            "224 steps each, one image of 224², both curves, as `lucidcam.evaluate` measures them (on an optimised copy), relative to the "
            f"{FORWARDS} plain forward passes an image needs (timed on a {SHARE}th of them, before and after); target ≤ 0.80.",
            table(["network", "plain batch", "plain forwards", "ratio", ""], rows),
        ]
    )


def networks() -> list[tuple[str, lucidcam.Model]]:
    """The demo network, and a ResNet-50 with random weights: time does not hang on the weights."""
    return [("demo (EfficientNet-Lite0)", lucidcam.load("demo")), ("ResNet-50", lucidcam.load("torchvision:resnet50", pretrained=False))]


def road(data: Path, options: argparse.Namespace) -> str:
    """ROAD beside pytorch-grad-cam's, one image, the same percentiles."""
    model = lucidcam.load("demo")
    inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    maps = lucidcam.attribute(model.module, inputs, "gradcam")
    fast = lucidcam.optimize(model)
    seconds: dict[str, list[float]] = {"lucidcam": [], "pytorch-grad-cam": []}

    def timed(name: str, step: Callable[[], object]) -> None:
        start = time.perf_counter()
        step()
        seconds[name].append(time.perf_counter() - start)

    def theirs() -> None:
        from pytorch_grad_cam.metrics.road import ROADCombined
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

        heat = torch.nn.functional.interpolate(maps[:, None], size=(224, 224), mode="bilinear")[:, 0]
        heat = ((heat - heat.min()) / (heat.max() - heat.min())).numpy()
        with contextlib.redirect_stdout(io.StringIO()):
            ROADCombined(percentiles=[20, 40, 60, 80])(inputs, heat, [ClassifierOutputSoftmaxTarget(0)], model.module)

    ROAD()(fast.module, inputs, maps)  # warm
    for repeat in range(options.repeats):
        say(f"road: {repeat + 1} of {options.repeats}")
        timed("lucidcam", lambda: ROAD()(fast.module, inputs, maps))
        timed("pytorch-grad-cam", theirs)
    best = {name: sorted(each)[len(each) // 2] for name, each in seconds.items()}
    ratio = best["pytorch-grad-cam"] / best["lucidcam"]
    return "\n\n".join(
        [
            "### ROAD",
            "One image of 224², demo network, percentiles 20, 40, 60, 80, most and least relevant first; median seconds per image. "
            "pytorch-grad-cam's `ROADCombined`, its defaults at the same percentiles. Target: 20 times faster.",
            table(["", "seconds"], [[name, f"{value:.2f}"] for name, value in best.items()]),
            f"{ratio:.0f} times faster: {'holds' if ratio >= 20 else '**misses**'}.",
        ]
    )


def memory(data: Path, options: argparse.Namespace) -> str:
    """Highest resident memory of evaluating few and many images, each in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        noise = torch.randint(0, 256, (1000, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
        for i, pixels in enumerate(noise):
            Image.fromarray(pixels).resize((256, 256)).save(Path(folder) / f"{i:04d}.jpg")
        for count in (100, 1000):
            say(f"memory: {count} images")
            ran = subprocess.run([sys.executable, __file__, "--memory-of", folder, str(count)], capture_output=True, text=True, check=True)
            rows.append([str(count), f"{int(ran.stdout) / 2**20:.0f} MiB"])
    return "\n\n".join(
        [
            "### Memory",
            "Highest resident memory of `lucidcam.evaluate` with gradcam, the six trivial baselines, average drop and increase, in a fresh "
            "process each.",
            table(["images", "peak"], rows),
        ]
    )


def memory_of(folder: str, count: int) -> int:
    """Bytes of this process at its highest, after evaluating `count` images."""
    model = lucidcam.load("demo")
    lucidcam.evaluate(model, folder, "gradcam", ["average_drop", "increase_in_confidence"], limit=count)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with kangaroo/ and imagenet_sample/")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--images", type=int, help="at most so many photos (default all)")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks.md", help="Markdown page to write")
    parser.add_argument("--memory-of", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of:
        print(memory_of(options.memory_of[0], int(options.memory_of[1])))
        return
    parts = {"kangaroo": kangaroo, "grid": grid, "sanity": sanity, "speed": speed, "road": road, "memory": memory}
    intro = "What `lucidcam evaluate` finds on real photos, and what its metrics cost. Each part says when and on what it was measured."
    write_section(options.out, "evaluation", f"## Evaluation\n\n{intro}")
    for name in [part for part in PARTS if part in options.parts]:
        needed = {"kangaroo": "kangaroo", "grid": "imagenet_sample", "sanity": "imagenet_sample"}.get(name)
        if needed and not (options.data / needed).exists():
            say(f"{name}: left out, there is no {options.data / needed}")
            continue
        say(f"{name} …")
        body = parts[name](options.data, options)
        command = [("command", f"`{shlex.join(['python', 'bench/evaluation.py', '--parts', name])}`")]
        write_section(options.out, f"evaluation-{name}", f"{body}\n\n{circumstances(PACKAGES, command)}")
    say(f"wrote {options.out}")


if __name__ == "__main__":
    main()
