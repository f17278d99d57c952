"""What explanations cost: time and memory relative to the user's plain forward pass, beside three other libraries.

    make bench                              # in an environment of its own
    python bench/methods.py --quick         # a few minutes, few repeats
    python bench/methods.py --parts memory --nets resnet50

Writes the section `methods` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lucidcam
import peers
from lucidcam.benchmark.memory import peak_of
from lucidcam.benchmark.timing import Clock, Ratio, Step, paired
from lucidcam.utils.optional import import_torchvision
from report import circumstances, table, write_section

NETS = ("resnet18", "resnet50", "vgg16", "mobilenet_v2")
MEMORY_NETS = ("resnet50", "vgg16")
PARTS = ("time", "memory", "scorecam", "import")
BATCH, SIZE, CLASSES = 8, 224, 5
MASKED_BATCH = 32

PLAIN, FAST, HALF = "lucidcam", "lucidcam, optimised", "lucidcam, optimised, bf16"
CASES: dict[str, tuple[str, float, float | None]] = {
    "gradcam": ("gradcam", 1.05, 0.80),
    "gradcam++": ("gradcam++", 1.05, 0.80),
    "hirescam": ("hirescam", 1.05, 0.80),
    "layercam": ("layercam", 1.05, 0.80),
    "gradcam, 5 classes": ("gradcam", 1.10, None),
    "cam, all classes": ("cam", 1.05, None),
    "eigencam": ("eigencam", 1.10, None),
}
"""What is timed: method, and the largest ratio wanted on the user's module and on the optimised copy."""
MEMORY_LIMIT, IMPORT_LIMIT = 0.05, 2.0

PACKAGES = ("lucidcam", "torch", "torchvision", "timm", "numpy", "grad-cam", "torchcam", "captum")


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Verdict:
    """Whether a target was met.

    Attributes:
        what: the target.
        limit: the largest value wanted.
        value: what was measured.
        spread: between which values the middle half of the repeats lies.
    """

    what: str
    limit: float
    value: float
    spread: tuple[float, float]

    def row(self) -> list[str]:
        """A row of the table of targets."""
        low, high = self.spread
        word = "holds" if self.value <= self.limit else "**misses**"
        return [self.what, f"≤ {self.limit:.2f}", f"{self.value:.3f}", f"{low:.3f}–{high:.3f}", word]


@dataclass
class Report:
    """Markdown of each part, and the verdicts of all."""

    parts: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def add(self, title: str, *paragraphs: str) -> None:
        """Add a part, and show it."""
        self.parts.append("\n\n".join([f"### {title}", *paragraphs]))
        say(f"\n{self.parts[-1]}\n")


def network(name: str) -> nn.Module:
    """A torchvision network with random weights, the same in every process.

    Its batch normalisations are set to random images' statistics: with those of a fresh network activations fade from layer to layer
    (to 10⁻⁸ in MobileNetV2), which no trained network does to its numbers.
    """
    torch.manual_seed(0)
    module: nn.Module = import_torchvision("the benchmark").models.get_model(name, weights=None).eval()
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(random_images(1))
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()
    return module


def random_images(seed: int = 0) -> Tensor:
    """`[8, 3, 224, 224]` in float32."""
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def default_layer(module: nn.Module, inputs: Tensor) -> str:
    """Name of the layer that `layer=None` means."""
    return next(name for name, info in lucidcam.layers(module, inputs).items() if info.default)


def plain_forward(module: nn.Module, inputs: Tensor) -> Tensor:
    """What everything is compared with: the user's own inference."""
    with torch.inference_mode():
        return module(inputs)


# ----------------------------------------------------------------------------------------------------------------------- time


def measure_time(report: Report, options: argparse.Namespace) -> None:
    """All methods on all networks."""
    libraries = {} if options.alone else peers.available(say)
    columns: dict[str, dict[tuple[str, str], Ratio]] = {}
    seconds = {}
    for name in options.nets:
        say(f"time: {name}")
        columns[name], seconds[name] = _time_of(name, libraries, options.repeats, options.clock)
    rows = []
    for case, (_, limit, fast_limit) in CASES.items():
        for who in (PLAIN, FAST, HALF, *libraries):
            cells = [columns[name].get((case, who)) for name in options.nets]
            if any(cells):
                rows.append([case, who, *["–" if cell is None else str(cell) for cell in cells]])
            wanted = {PLAIN: limit, FAST: fast_limit}.get(who)
            report.verdicts += [
                Verdict(f"{case}, {who}, {name}", wanted, cell.median, cell.quartiles)
                for name, cell in zip(options.nets, cells, strict=True)
                if cell is not None and wanted is not None
            ]
    rows.append(["plain forward", "seconds", *[f"{seconds[name]:.3f}" for name in options.nets]])
    report.add(
        "Time, relative to one plain forward pass",
        f"Batch {BATCH} of {SIZE}×{SIZE} pixels in float32, random weights, last layer (`layer=None`; the other libraries are given "
        "the same one), predicted class unless said. One thread. The base is the user's own module under `torch.inference_mode()`, in "
        "its usual memory layout; it runs before and after every single measurement, and each is divided by the mean of its two "
        f"neighbours. Median of {options.repeats} repeats ({_peer_repeats(options.repeats)} for other libraries and bf16), in brackets "
        "the middle half of them (the extremes, where there are fewer than four).",
        "*optimised* is a copy made by `lucidcam.optimize` (batch normalisation folded, channels-last), once, outside the measurement; "
        "*bf16* also computes in bfloat16, which pays only on processors with native instructions for it. lucidcam and captum return maps "
        "of the layer's size, torchcam the same min-max normalised, pytorch-grad-cam normalised NumPy maps of the input's size. VGG-16 has "
        "no head for `cam`.",
        table(["method", "library", *options.nets], rows),
    )


def _time_of(name: str, libraries: dict[str, Any], repeats: int, clock: Clock) -> tuple[dict[tuple[str, str], Ratio], float]:
    module, inputs = network(name), random_images()
    classes = plain_forward(module, inputs).topk(CLASSES, dim=1).indices.clone()
    modules = {PLAIN: module, FAST: lucidcam.optimize(module, inputs)}
    steps: dict[tuple[str, str], tuple[Step, int]] = {}
    for case, (method, *_) in CASES.items():
        target: Any = {"gradcam, 5 classes": classes, "cam, all classes": "all"}.get(case)
        for who, one in modules.items():
            steps[case, who] = partial(lucidcam.attribute, one, inputs, method, target=target), repeats
    half = _optimised_half(module, inputs)
    if half is not None:
        steps["gradcam", HALF] = partial(lucidcam.attribute, half, inputs, "gradcam"), _peer_repeats(repeats)
    layer = default_layer(module, inputs)
    for who, api in libraries.items():
        for case, step in peers.steps(who, api, module, layer, inputs, classes).items():
            steps[case, who] = step, _peer_repeats(repeats)
    by_text = {" | ".join(key): step for key, step in steps.items()}
    found, seconds = paired(partial(plain_forward, module, inputs), by_text, clock, lambda text: say(f"  {name}: {text}"))
    return {key: found[" | ".join(key)] for key in steps if " | ".join(key) in found}, seconds


def _optimised_half(module: nn.Module, inputs: Tensor) -> nn.Module | None:
    try:
        return lucidcam.optimize(module, inputs, torch.bfloat16)
    except lucidcam.LucidcamError as error:
        say(f"  bf16 is left out: {error}")
        return None


def _peer_repeats(repeats: int) -> int:
    return max(1, min(repeats, 3))


# --------------------------------------------------------------------------------------------------------------------- memory


def measure_memory(report: Report, options: argparse.Namespace) -> None:
    """Peak memory of Grad-CAM, each in processes of its own."""
    nets = options.memory_nets
    if not nets:
        return
    if not Path("/proc/self/clear_refs").exists():
        report.add("Memory", "Not measured: this system cannot reset a process's peak of resident memory (Linux can).")
        return
    whos = ["grad-enabled forward", PLAIN, FAST, *peers.available(say)]
    found = {}
    for name in nets:
        for who in whos:
            say(f"memory: {name}, {who}")
            extra = sorted(extra for _ in range(options.memory_repeats) if (extra := _memory_in_process(name, who)) is not None)
            if extra:
                found[name, who] = extra
    rows = []
    for who in whos:
        cells = []
        for name in nets:
            extra, whole = found.get((name, who)), found.get((name, whos[0]))
            if extra is None or whole is None:
                cells += ["–", "–"]
                continue
            shares = [each / statistics.median(whole) for each in extra]
            share = statistics.median(shares)
            cells += [f"{statistics.median(extra) / 2**20:+.0f} MiB", f"{share:.1%}"]
            if who == PLAIN:
                report.verdicts.append(Verdict(f"memory of gradcam, {who}, {name}", MEMORY_LIMIT, share, (shares[0], shares[-1])))
        rows.append([who, *cells])
    report.add(
        "Memory of Grad-CAM, above one plain forward pass",
        f"Batch {BATCH}. Peak of resident memory while the method runs minus the peak while a plain forward runs, and as a share of "
        "what one forward pass with gradients enabled takes more (every tensor that a backward pass would need is alive at its end). "
        f"Median of {options.memory_repeats} fresh processes each. Within a process: two plain forwards, the kernel's high-water mark is "
        "reset, a plain forward is measured; then the method runs once, the mark is reset, the method is measured. Allocations over "
        "64 KiB are given back to the system at once (`MALLOC_MMAP_THRESHOLD_`), so that the mark shows what is alive. `.grad` tensors "
        "that a library leaves on the parameters count.",
        table(["", *[f"{name}{what}" for name in nets for what in ("", ", share")]], rows),
    )


def _memory_in_process(name: str, who: str) -> int | None:
    """Bytes above a plain forward, measured by this script in a fresh process."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, "--memory-of", name, who]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"  {who} is left out: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'it failed'}")
        return None
    return int(done.stdout.split()[-1])


def memory_of(name: str, who: str) -> int:
    """Bytes above a plain forward; call it in a fresh process."""
    module, inputs = network(name), random_images()
    classes = plain_forward(module, inputs).topk(CLASSES, dim=1).indices.clone()
    plain = partial(plain_forward, module, inputs)
    step: Step
    if who == "grad-enabled forward":
        step = partial(module, inputs)
    elif who in (PLAIN, FAST):
        explained = module if who == PLAIN else lucidcam.optimize(module, inputs)
        step = partial(lucidcam.attribute, explained, inputs, "gradcam")
    else:
        api = peers.available(say)[who]
        step = peers.steps(who, api, module, default_layer(module, inputs), inputs, classes)["gradcam"]
    plain()
    before = peak_of(plain)
    step()
    return peak_of(step) - before


# ------------------------------------------------------------------------------------------------------------------- Score-CAM


def measure_scorecam(report: Report, options: argparse.Namespace) -> None:
    """Score-CAM of one photo, against as many plain forwards as the layer has channels."""
    libraries = {name: api for name, api in peers.available(say).items() if name != "captum"}
    rows = []
    for title, module, image in _scorecam_subjects(options.quick):
        layer = default_layer(module, image)
        channels = int((lucidcam.layers(module, image)[layer].shape or (0, 0))[1])
        number = int(plain_forward(module, image).argmax())
        fast = lucidcam.optimize(module, image)
        steps: dict[str, Step] = {
            PLAIN: partial(lucidcam.attribute, module, image, "scorecam", target=number, batch_size=MASKED_BATCH),
            FAST: partial(lucidcam.attribute, fast, image, "scorecam", target=number, batch_size=MASKED_BATCH),
        }
        for who, api in libraries.items():
            step = peers.scorecam(who, api, module, layer, image, number, MASKED_BATCH)
            if step is not None:
                steps[who] = step
        half = partial(_forwards, module, image, channels // 2)  # half before, half after each step
        for who, step in steps.items():
            say(f"scorecam: {title}, {who}")
            found, _ = paired(half, {who: (step, 1)}, options.clock, say, warm=False)
            if who in found:
                rows.append([title, who, str(channels), f"{found[who].median / 2:.2f}"])
    report.add(
        "Score-CAM, relative to as many plain forwards as there are channels",
        f"One photo (the cat of scikit-image), batches of {MASKED_BATCH}, one thread, one run; half of the plain forwards run before it "
        "and half after it. lucidcam does not run channels whose activation is constant; the maps are the same.",
        table(["network", "library", "channels", "ratio"], rows),
    )


def _forwards(module: nn.Module, image: Tensor, count: int) -> None:
    for start in range(0, count, MASKED_BATCH):
        plain_forward(module, image.expand(min(MASKED_BATCH, count - start), -1, -1, -1).contiguous())


def _scorecam_subjects(quick: bool) -> Iterator[tuple[str, nn.Module, Tensor]]:
    try:
        from skimage import data

        photo = data.chelsea()
        demo = lucidcam.load("demo")
    except (ImportError, lucidcam.LucidcamError) as error:
        say(f"Score-CAM is left out: {error}")
        return
    image = demo.prepare(photo)[0].tensor.unsqueeze(0)
    yield "EfficientNet-Lite0, ImageNet weights", demo.module, image
    if not quick:
        yield "ResNet-18, random weights", network("resnet18"), image


# ---------------------------------------------------------------------------------------------------------------------- import


def measure_import(report: Report, options: argparse.Namespace) -> None:
    """How long `import lucidcam` takes next to `import torch`, both in fresh processes."""
    seconds: dict[str, list[float]] = {"torch": [], "lucidcam": []}
    for repeat in range(options.import_repeats + 1):
        for name, found in seconds.items():
            code = f"import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
            printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            if repeat:  # the first one reads files from the disk
                found.append(float(printed.split()[-1]))
    ratio = Ratio(tuple(sorted(ours / theirs for ours, theirs in zip(seconds["lucidcam"], seconds["torch"], strict=True))))
    report.verdicts.append(Verdict("import lucidcam / import torch", IMPORT_LIMIT, ratio.median, ratio.quartiles))
    rows = [[f"import {name}", f"{statistics.median(found):.2f} s"] for name, found in seconds.items()]
    report.add(
        "Import",
        f"Median of {options.import_repeats} fresh processes each, in turn; ratio {ratio}.",
        table(["", "seconds"], rows),
    )


# ------------------------------------------------------------------------------------------------------------------------ page


def page(report: Report, options: argparse.Namespace) -> str:
    """The section's Markdown."""
    held = sum(verdict.value <= verdict.limit for verdict in report.verdicts)
    chosen = circumstances(
        PACKAGES, [("command", f"`{shlex.join(['python', 'bench/methods.py', *sys.argv[1:]])}`"), ("clock", options.clock)]
    )
    targets = [
        "### Targets",
        f"{held} of {len(report.verdicts)} hold. The verdict is on the median; the spread says how sure it is.",
        table(["target", "limit", "measured", "spread", ""], [verdict.row() for verdict in report.verdicts]),
    ]
    return "\n\n".join(
        [
            "## Methods",
            "What an explanation costs, relative to one plain forward pass of the same network on the same batch, in lucidcam and in "
            "other libraries, all measured in one run.",
            "Run it with `make bench`, which makes an environment of its own, or with `python bench/methods.py --quick`; `--help` lists "
            "what can be chosen. Let the machine do nothing else meanwhile.",
            chosen,
            *(targets if report.verdicts else ()),
            *report.parts,
        ]
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with what `--quick` changes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, ResNet-18 and MobileNetV2 (ResNet-50 for memory)")
    parser.add_argument("--nets", nargs="+", metavar="NET", choices=NETS, help=f"of {', '.join(NETS)}")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, help="of each of lucidcam's timings (default 9; quick 3)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: other processes' turns do not count (default wall)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks.md", help="Markdown page to write")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--section", default="methods", help="section of the page to write (default methods)")
    parser.add_argument("--memory-of", nargs=2, metavar=("NET", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.memory_nets = [name for name in MEMORY_NETS[: 1 if options.quick else None] if name in (options.nets or MEMORY_NETS)]
    options.nets = options.nets or (["resnet18", "mobilenet_v2"] if options.quick else list(NETS))
    options.repeats = options.repeats or (3 if options.quick else 9)
    options.memory_repeats = 1 if options.quick else 3
    options.import_repeats = 3 if options.quick else 5
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(1)
    if options.memory_of:
        print(memory_of(*options.memory_of))
        return
    report = Report()
    parts: dict[str, Callable[[Report, argparse.Namespace], None]] = {
        "time": measure_time,
        "memory": measure_memory,
        "scorecam": measure_scorecam,
        "import": measure_import,
    }
    for name in PARTS:
        if name in options.parts:
            parts[name](report, options)
    write_section(options.out, options.section, page(report, options))
    say(f"wrote {options.out}")


if __name__ == "__main__":
    main()
