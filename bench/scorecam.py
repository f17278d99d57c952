"""What Score-CAM and Ablation-CAM cost, exactly and with shortcuts, beside other libraries; and how near the shortcuts come.

    python bench/scorecam.py --data photos/                 # all parts
    python bench/scorecam.py --quick                        # one photo of scikit-image, minutes
    python bench/scorecam.py --parts accuracy --data photos/ --photos 50

Writes the section `scorecam` of docs/benchmarks.md. Times are in plain forward passes of the user's own module (batch 1, float32, its usual
memory layout), which run before and after every measurement.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lucidcam
import peers
from lucidcam.benchmark.timing import Ratio, Step, paired
from report import circumstances, table, write_section

PARTS = ("time", "ablation", "accuracy")
PACKAGES = ("lucidcam", "torch", "torchvision", "timm", "numpy", "grad-cam", "torchcam")
UNIT = 32
"""Plain forwards that run between two measurements."""

PEER_BATCHES = (8, 32)
"""Batch sizes that other libraries are tried with: one that suits the processor's caches, and their own usual one."""

SHORTCUTS: dict[str, dict[str, Any]] = {
    "budget=16": {"budget": 16},
    "budget=32": {"budget": 32},
    "budget=64": {"budget": 64},
    "tolerance=0.05": {"tolerance": 0.05},
    "clusters=32": {"clusters": 32},
    "clusters=64": {"clusters": 64},
    "top_channels=64": {"top_channels": 64},
}
FAST = "budget=32"
"""The shortcut that the targets are about."""


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Report:
    """Markdown of each part, and what is asked of the numbers: target, bound, measured, holds."""

    parts: list[str] = field(default_factory=list)
    verdicts: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def add(self, title: str, *paragraphs: str) -> None:
        """Add a part, and show it."""
        self.parts.append("\n\n".join([f"### {title}", *paragraphs]))
        say(f"\n{self.parts[-1]}\n")

    def judge(self, what: str, value: float, *, most: float | None = None, least: float | None = None) -> None:
        """Compare a number with the bound it should keep."""
        bound = f"≤ {most:g}" if most is not None else f"≥ {least:g}"
        holds = value <= most if most is not None else value >= (least or 0)
        self.verdicts.append((what, bound, f"{value:.4g}", bool(holds)))


@dataclass(frozen=True)
class Subject:
    """The demo network, its copies, and photos.

    Attributes:
        model: as loaded.
        fast: its optimised copy.
        half: that in bfloat16, where the processor has instructions for it.
        photos: names and what to open.
    """

    model: lucidcam.Model
    fast: lucidcam.Model
    half: lucidcam.Model | None
    photos: list[tuple[str, Any]]

    def image(self, photo: Any) -> Tensor:
        """`[1, 3, H, W]`."""
        return self.model.prepare(photo)[0].tensor[None]

    @property
    def layer(self) -> str:
        """The layer that `layer=None` means."""
        image = self.image(self.photos[0][1])
        return next(name for name, info in lucidcam.layers(self.model.module, image).items() if info.default)

    @property
    def channels(self) -> int:
        """How many channels that layer has."""
        image = self.image(self.photos[0][1])
        return int((lucidcam.layers(self.model.module, image)[self.layer].shape or (0, 0))[1])


def subject(options: argparse.Namespace) -> Subject:
    """Load what is measured."""
    model = lucidcam.load("demo")
    half = lucidcam.optimize(model, dtype=torch.bfloat16) if _bfloat16() else None
    return Subject(model, lucidcam.optimize(model), half, list(_photos(options)))


def _bfloat16() -> bool:
    """Whether the processor computes bfloat16 itself."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text(encoding="utf-8").split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _photos(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    if options.data is None:
        from skimage import data

        for name in ("chelsea", "coffee", "astronaut", "rocket")[: options.photos]:
            yield name, getattr(data, name)()
        return
    files = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in files[:: max(1, len(files) // options.photos)][: options.photos]:  # from all over the folder
        yield path.stem, str(path)


def forwards(module: nn.Module, image: Tensor, count: int) -> None:
    """Plain forwards, one image at a time."""
    with torch.inference_mode():
        for _ in range(count):
            module(image)


# ----------------------------------------------------------------------------------------------------------------------- time


def measure_time(report: Report, what: Subject, options: argparse.Namespace) -> None:
    """Score-CAM of some photos, in plain forwards."""
    ways: dict[str, Callable[[Tensor, int], Step]] = {
        "lucidcam, exact": partial(_ours, what.model.module, {}),
        "lucidcam, exact, optimised": partial(_ours, what.fast.module, {}),
    }
    ways |= {f"lucidcam, {name}": partial(_ours, what.model.module, SHORTCUTS[name]) for name in (FAST,)}
    ways |= {f"lucidcam, {name}, optimised": partial(_ours, what.fast.module, chosen) for name, chosen in SHORTCUTS.items()}
    if what.half is not None:
        ways["lucidcam, exact, optimised, bf16"] = partial(_ours, what.half.module, {})
        ways[f"lucidcam, {FAST}, optimised, bf16"] = partial(_ours, what.half.module, SHORTCUTS[FAST])
    ways |= _peers(what, peers.scorecam, options)
    costs = _costs(what, ways, options)
    rivals = {name: cost for name, cost in costs.items() if name.startswith(tuple(peers.LIBRARIES))}
    best = {library: min((c for n, c in rivals.items() if n.startswith(library)), key=_middle, default=None) for library in peers.LIBRARIES}
    rows = []
    for name, cost in costs.items():
        times = [f"{_middle(rival) / _middle(cost):.1f}×" if rival else "–" for rival in (best["pytorch-grad-cam"], best["torchcam"])]
        rows.append([name, f"{_middle(cost):.1f}", f"{min(cost):.1f}–{max(cost):.1f}", f"{_middle(cost) / what.channels:.3f}", *times])
    report.add(
        "Time of Score-CAM",
        f"EfficientNet-Lite0 with ImageNet weights, {what.channels} channels, {options.timed} photos one at a time, predicted class, "
        f"{options.threads} thread{'s' * (options.threads > 1)}. In plain forwards of the user's module (batch 1, float32): {UNIT} of them "
        "run before and after each measurement. Median over the photos, in the next column the smallest and the largest; then as a share "
        f"of {what.channels} forwards; then how many times faster than the other libraries, each at the better of the batch sizes "
        f"{' and '.join(map(str, PEER_BATCHES))}."
        + ("" if what.half is not None else " This processor has no bfloat16 instructions, so bf16 is left out."),
        table(["", "plain forwards", "range", "per channel", "vs pytorch-grad-cam", "vs torchcam"], rows),
    )
    exact, fast = costs["lucidcam, exact, optimised"], costs[f"lucidcam, {FAST}, optimised"]
    report.judge(f"exact, optimised: share of {what.channels} plain forwards", _middle(exact) / what.channels, most=0.40)
    for library, rival in best.items():
        if rival:
            report.judge(f"exact, optimised: times faster than {library}", _middle(rival) / _middle(exact), least=2.5)
            report.judge(f"{FAST}, optimised: times faster than {library}", _middle(rival) / _middle(fast), least=20)
            if what.half is not None:
                half = costs[f"lucidcam, {FAST}, optimised, bf16"]
                report.judge(f"{FAST}, optimised, bf16: times faster than {library}", _middle(rival) / _middle(half), least=40)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def _ours(module: nn.Module, options: dict[str, Any], image: Tensor, number: int, method: str = "scorecam") -> Step:
    return partial(lucidcam.attribute, module, image, method, target=number, **options)


def _peers(what: Subject, make: Callable[..., Step | None], options: argparse.Namespace) -> dict[str, Callable[[Tensor, int], Step]]:
    """The other libraries' steps by name and batch size."""
    found: dict[str, Callable[[Tensor, int], Step]] = {}
    for who, api in ({} if options.alone else peers.available(say)).items():
        for batch in PEER_BATCHES:
            if make(who, api, what.model.module, what.layer, torch.zeros(1), 0, batch) is not None:

                def step(image: Tensor, number: int, who: str = who, api: Any = api, batch: int = batch) -> Step:
                    made = make(who, api, what.model.module, what.layer, image, number, batch)
                    assert made is not None
                    return made

                found[f"{who}, batch {batch}"] = step
    return found


def _costs(what: Subject, ways: dict[str, Callable[[Tensor, int], Step]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Cost of each way for each photo, in plain forwards."""
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for title, photo in what.photos[: options.timed]:
        image = what.image(photo)
        with torch.inference_mode():
            number = int(what.model.module(image).argmax())
        base = partial(forwards, what.model.module, image, UNIT)
        base()
        for name, way in ways.items():
            ratios: dict[str, Ratio]
            ratios, _ = paired(base, {name: (way(image, number), 1)}, options.clock, say, warm=False)
            if name in ratios:
                costs[name].append(ratios[name].median * UNIT)
                say(f"  {title}: {name}: {costs[name][-1]:.1f} plain forwards")
    return {name: cost for name, cost in costs.items() if cost}


# -------------------------------------------------------------------------------------------------------------------- ablation


def measure_ablation(report: Report, what: Subject, options: argparse.Namespace) -> None:
    """Ablation-CAM of some photos, in plain forwards."""
    ways: dict[str, Callable[[Tensor, int], Step]] = {
        "lucidcam": partial(_ours, what.model.module, {}, method="ablationcam"),
        "lucidcam, optimised": partial(_ours, what.fast.module, {}, method="ablationcam"),
        **_peers(what, peers.ablationcam, options),
    }
    costs = _costs(what, ways, options)
    rival = min((cost for name, cost in costs.items() if "pytorch-grad-cam" in name), key=_middle, default=None)
    rows = [
        [name, f"{_middle(cost):.1f}", f"{min(cost):.1f}–{max(cost):.1f}", f"{_middle(rival) / _middle(cost):.1f}×" if rival else "–"]
        for name, cost in costs.items()
    ]
    report.add(
        "Time of Ablation-CAM",
        "Network, photos and unit as for Score-CAM. lucidcam runs what is above the layer only, on channels that are not zero.",
        table(["", "plain forwards", "range", "vs pytorch-grad-cam"], rows),
    )
    if rival:
        report.judge(
            "Ablation-CAM, the user's module: times faster than pytorch-grad-cam", _middle(rival) / _middle(costs["lucidcam"]), least=5
        )


# -------------------------------------------------------------------------------------------------------------------- accuracy


def measure_accuracy(report: Report, what: Subject, options: argparse.Namespace) -> None:
    """How near each shortcut's map comes to the exact one, and how well the estimated error knows it."""
    found: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in SHORTCUTS}
    ran: list[int] = []
    counting = replace(what.fast)
    handle = counting.module.register_forward_pre_hook(lambda _, args: ran.append(len(args[0])))
    live = []
    for title, photo in what.photos:
        prepared = what.fast.prepare(photo)
        ran.clear()
        exact = lucidcam.explain(counting, prepared, "scorecam")[0]
        live.append(sum(ran))
        for name, chosen in SHORTCUTS.items():
            ran.clear()
            one = lucidcam.explain(counting, prepared, "scorecam", **chosen)[0]
            distance = float((one.raw - exact.raw).norm() / exact.raw.norm())
            correlation = float(np.corrcoef(one.raw.flatten(), exact.raw.flatten())[0, 1])
            found[name].append((correlation, distance, one.error or 0.0, sum(ran)))
        say(f"  {title}: {live[-1]} passes exactly; {FAST}: r {found[FAST][-1][0]:.4f}")
    handle.remove()
    rows = []
    for name, values in found.items():
        r, distances, errors, passes = (np.array(column) for column in zip(*values, strict=True))
        ratios = errors / np.maximum(distances, 1e-12)
        rows.append(
            [
                name,
                f"{np.median(passes):.0f}",
                f"{r.mean():.4f}",
                f"{r.min():.4f}",
                f"{distances.mean():.3f}",
                f"{distances.max():.3f}",
                f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f})",
            ]
        )
    report.add(
        "Nearness of the shortcuts",
        f"{len(what.photos)} photos, predicted class, maps of the layer's size against the exact ones, which took "
        f"{min(live)} to {max(live)} forward passes (median {statistics.median(live):.0f}), the clean image and the baseline included. "
        "Pearson's r; the distance is the root of the summed squares, as a share of the exact map's; the last column divides the error "
        "that `Explanation.error` estimates by that distance: median, smallest and largest.",
        table(["", "passes", "mean r", "worst r", "mean distance", "largest", "estimated / true"], rows),
    )
    r = [value[0] for value in found[FAST]]
    report.judge(f"{FAST}: mean r over {len(r)} photos", statistics.mean(r), least=0.985)
    report.judge(f"{FAST}: worst r", min(r), least=0.95)


# ------------------------------------------------------------------------------------------------------------------------ page


def page(report: Report, options: argparse.Namespace) -> str:
    """The section's Markdown."""
    command = shlex.join(["python", "bench/scorecam.py", *["photos/" if part == str(options.data) else part for part in sys.argv[1:]]])
    chosen = circumstances(PACKAGES, [("command", f"`{command}`"), ("clock", options.clock), ("threads", str(options.threads))])
    rows = [[what, bound, value, "holds" if holds else "**misses**"] for what, bound, value, holds in report.verdicts]
    held = sum(holds for *_, holds in report.verdicts)
    targets = ["### Targets of Score-CAM", f"{held} of {len(rows)} hold.", table(["target", "bound", "measured", ""], rows)]
    return "\n\n".join(["## Score-CAM", chosen, *(targets if rows else ()), *report.parts])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of photos, looked through at any depth (default: some of scikit-image)")
    parser.add_argument("--photos", type=int, default=50, help="photos for the accuracy, from all over the folder (default 50)")
    parser.add_argument("--timed", type=int, default=5, help="of these, photos that are timed (default 5)")
    parser.add_argument("--quick", action="store_true", help="one photo")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: other processes' turns do not count (default wall)")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks.md", help="Markdown page to write")
    parser.add_argument("--section", default="scorecam", help="section of the page to write (default scorecam)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.photos = options.timed = 1
    torch.set_num_threads(options.threads)
    what, report = subject(options), Report()
    parts = {"time": measure_time, "ablation": measure_ablation, "accuracy": measure_accuracy}
    for name in PARTS:
        if name in options.parts:
            parts[name](report, what, options)
    write_section(options.out, options.section, page(report, options))
    say(f"wrote {options.out}")


if __name__ == "__main__":
    main()
