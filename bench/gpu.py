"""Explanations on a GPU: images a second, time beside the plain forward pass and peak memory, beside other libraries.

    make bench-gpu                                   # in an environment of its own, on a machine with CUDA
    python bench/gpu.py --nets resnet50 --batches 32
    python bench/gpu.py --device cpu --tiny          # all code paths on small networks, without CUDA; writes no page unless told

Writes the section `gpu` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import lucidcam
import peers
from lucidcam.benchmark.memory import above
from lucidcam.benchmark.timing import Ratio, Step, Stopwatch
from lucidcam.metrics.deletion import Deletion, Insertion
from report import circumstances, table, write_section

NETS = {
    "resnet50": "torchvision:resnet50",
    "vgg16": "torchvision:vgg16",
    "convnext_tiny": "torchvision:convnext_tiny",
    "vit_b_16": "timm:vit_base_patch16_224",
}
TINY = {"resnet": "timm:test_resnet", "vit": "timm:test_vit"}
"""By what they are called in the tables, the networks measured, and those that try the script out."""

PLAIN, FAST, HALF = "lucidcam", "lucidcam, optimised", "lucidcam, optimised, bf16"
MASKED = 128
"""Masked images that go through the network together, in all libraries."""

CLUSTERS, BUDGET = 64, 64
"""Of fast Score-CAM: groups of masks, and forward passes allowed."""

PACKAGES = ("lucidcam", "torch", "torchvision", "timm", "numpy", "grad-cam", "torchcam", "captum")
MEMORY_SECONDS = 60.0


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes:
        what: row of the table.
        who: the library, or the way the network is run.
        step: does it.
        images: how many it explains.
    """

    what: str
    who: str
    step: Step
    images: int


@dataclass(frozen=True)
class Timed:
    """What was measured of a piece of work."""

    work: Work
    ratio: Ratio
    seconds: float
    memory: int | None

    def cells(self) -> list[str]:
        """Images a second, ratio and memory."""
        memory = "–" if self.memory is None else f"{self.memory / 2**20:+.0f} MiB"
        return [f"{self.work.images / self.seconds:.3g}", str(self.ratio), memory]


def forward(module: nn.Module, inputs: Tensor) -> object:
    """What everything is compared with: the user's own inference."""
    with torch.inference_mode():
        return module(inputs)


def autocast(module: nn.Module, inputs: Tensor) -> object:
    """The same in bfloat16, where autocast sees fit."""
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return forward(module, inputs)


def compiled(module: nn.Module, device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """What `torch.compile` makes of the network: by itself, and with CUDA graphs.

    A CPU only tries the code out, without a C++ compiler.
    """
    if device.type == "cpu":
        yield "torch.compile, no code generation", torch.compile(module, backend="aot_eager")
        return
    yield "torch.compile", torch.compile(module)
    yield "torch.compile, CUDA graphs", torch.compile(module, mode="reduce-overhead")


def copies(module: nn.Module, inputs: Tensor) -> dict[str, nn.Module]:
    """The network as it is, and its optimised copies."""
    found = {PLAIN: module, FAST: lucidcam.optimize(module, inputs[:1])}
    try:
        found[HALF] = lucidcam.optimize(module, inputs[:1], torch.bfloat16)
    except lucidcam.LucidcamError as error:
        say(f"  bf16 is left out: {error}")
    return found


def batched(module: nn.Module, inputs: Tensor, libraries: dict[str, object], steps: int) -> Iterator[Work]:
    """What is done on all images together."""
    count, layer = len(inputs), default_layer(module, inputs)
    classes = torch.as_tensor(forward(module, inputs)).topk(5, dim=1).indices.clone()
    yield Work("forward", "bf16 by autocast", partial(autocast, module, inputs), count)
    for who, quick in compiled(module, inputs.device):
        yield Work("forward", who, partial(forward, quick, inputs), count)
    maps = lucidcam.attribute(module, inputs, "gradcam")
    for who, one in copies(module, inputs).items():
        if one is not module:
            yield Work("forward", who.removeprefix("lucidcam, "), partial(forward, one, inputs), count)
        yield Work("gradcam", who, partial(lucidcam.attribute, one, inputs, "gradcam"), count)
        yield Work("gradcam, 5 classes", who, partial(lucidcam.attribute, one, inputs, "gradcam", target=classes), count)
        for metric in (Deletion(steps=steps), Insertion(steps=steps)):
            yield Work(f"{metric.name}, {steps} steps", who, partial(metric, one, inputs, maps), count)
    for who, api in libraries.items():
        theirs = peers.steps(who, api, module, layer, inputs, classes)
        for what in ("gradcam", "gradcam, 5 classes"):
            if what in theirs:
                yield Work(what, who, theirs[what], count)


def single(module: nn.Module, inputs: Tensor, libraries: dict[str, object]) -> Iterator[Work]:
    """Score-CAM of one image, exact and fast."""
    one, layer = inputs[:1], default_layer(module, inputs)
    number = int(torch.as_tensor(forward(module, one)).argmax())
    known = {field.name for field in fields(lucidcam.methods()["scorecam"])}
    ways = {"exact": {}, f"clusters={CLUSTERS}": {"clusters": CLUSTERS}, f"budget={BUDGET}": {"budget": BUDGET}}
    for who, each in copies(module, one).items():
        for way, options in ways.items():
            if known.issuperset(options):
                step = partial(lucidcam.attribute, each, one, "scorecam", target=number, batch_size=MASKED, **options)
                yield Work(f"scorecam, {way}", who, step, 1)
    for who, api in libraries.items():
        theirs = peers.scorecam(who, api, module, layer, one, number, MASKED)
        if theirs is not None:
            yield Work("scorecam, exact", who, theirs, 1)


def default_layer(module: nn.Module, inputs: Tensor) -> str:
    """Name of the layer that `layer=None` means."""
    return next(name for name, info in lucidcam.layers(module, inputs[:1]).items() if info.default)


def measure(work: Work, base: Step, device: torch.device, repeats: int) -> Timed | None:
    """One piece of work beside plain forward passes; None where it fails, which is told."""
    say(f"  {work.what}, {work.who}")
    watch = Stopwatch(device)
    try:
        work.step()  # compiles, chooses kernels, fills caches
        ratios, took = watch.beside(base, work.step, repeats)
        extra = above(base, work.step, device, 2 * max(took) + MEMORY_SECONDS)
    except Exception as error:
        say(f"    left out: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Timed(work, Ratio(tuple(sorted(ratios))), statistics.median(took), extra)


def section(name: str, works: Iterator[Work], inputs: Tensor, module: nn.Module, options: argparse.Namespace, title: str) -> str:
    """Measure everything of one network and batch."""
    say(f"{name}, {title}")
    base = partial(forward, module, inputs)
    base()
    watch = Stopwatch(inputs.device)
    seconds = statistics.median(watch.seconds(base) for _ in range(options.repeats))
    rows = [["forward", "as it is, float32", f"{len(inputs) / seconds:.3g}", "1", "–"]]
    try:
        for work in works:
            found = measure(work, base, inputs.device, options.repeats)
            if found is not None:
                rows.append([work.what, work.who, *found.cells()])
    except Exception as error:  # of making the work: a library that does not take this network, or a copy that does not hold
        say(f"  the rest is left out: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return f"### {name}, {title}\n\n" + table(["", "by", "images a second", "× forward", "memory"], rows).replace("---: |", "--- |", 1)


def load(name: str, spec: str, device: torch.device, tiny: bool) -> tuple[lucidcam.Model, str]:
    """The network, and where its weights come from."""
    if not tiny:
        try:
            return lucidcam.load(spec, device=str(device)), "trained weights"
        except lucidcam.LucidcamError as error:
            say(f"{name}: {error}")
    torch.manual_seed(0)
    return lucidcam.load(spec, device=str(device), pretrained=False), "random weights"


def on(options: argparse.Namespace) -> list[tuple[str, str]]:
    """What the tables depend on beyond processor and versions."""
    rows = [("command", f"`{shlex.join(['python', 'bench/gpu.py', *sys.argv[1:]])}`"), ("repeats", str(options.repeats))]
    if options.device.type == "cuda":
        of = torch.cuda.get_device_properties(options.device)
        rows.insert(
            0, ("GPU", f"{of.name}, {of.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
        )
        rows.insert(1, ("TF32", f"matrix products {torch.backends.cuda.matmul.allow_tf32}, convolutions {torch.backends.cudnn.allow_tf32}"))
    return rows


def page(parts: Sequence[str], weights: dict[str, str], options: argparse.Namespace) -> str:
    """The section's Markdown."""
    random = [name for name, found in weights.items() if found == "random weights"]
    note = (
        f"{', '.join(random)}: random weights, because trained ones could not be had; Score-CAM's live channels hang on them."
        if random
        else ""
    )
    return "\n\n".join(
        [
            "## On a GPU",
            "Written by `make bench-gpu`. A plain forward pass of the network as it is runs before and after every measurement, on the "
            "same images (one image for Score-CAM); *× forward* is the ratio to the mean of the two, median and quartiles. The device is "
            "waited for before and after every reading of the clock. Memory: peak of torch's allocator above that of a plain forward "
            f"pass. Noise as images; {MASKED} masked images at a time in all libraries. lucidcam's gradients run eagerly: `torch.compile` "
            "is shown for what it does to the forward pass.",
            *([note] if note else []),
            circumstances(PACKAGES, on(options)),
            *parts,
        ]
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu with --tiny (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="small networks, few steps: to try the script out")
    parser.add_argument("--nets", nargs="+", metavar="NET", help=f"of {', '.join(NETS)}; tiny: of {', '.join(TINY)}")
    parser.add_argument("--batches", nargs="+", type=int, help="images together (default 1 32 128; tiny 2)")
    parser.add_argument("--repeats", type=int, help="of each measurement (default 9; tiny 1)")
    parser.add_argument("--side", type=int, help="of the images, in pixels, for networks that take any (default: the network's own)")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--out", type=Path, help="Markdown page to write (default docs/benchmarks.md; tiny: standard output)")
    options = parser.parse_args(arguments)
    options.device = torch.device(options.device)
    known = TINY if options.tiny else NETS
    wrong = [name for name in options.nets or () if name not in known]
    if wrong:
        parser.error(f"no network here is called {wrong[0]!r}; known: {', '.join(known)}.")
    options.nets = {name: known[name] for name in options.nets or known}
    options.batches = options.batches or ([2] if options.tiny else [1, 32, 128])
    options.repeats = options.repeats or (1 if options.tiny else 9)
    if options.out is None and not options.tiny:
        options.out = Path(__file__).parent.parent / "docs" / "benchmarks.md"
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench/gpu.py measures on CUDA, and torch sees none here; --device cpu --tiny tries its code out on small networks.")
    libraries = {} if options.alone else peers.available(say)
    steps = 4 if options.tiny else 224
    parts: list[str] = []
    weights = {}
    for name, spec in options.nets.items():
        model, weights[name] = load(name, spec, options.device, options.tiny)
        size = (3, options.side, options.side) if options.side else model.prepare(torch.rand(3, 256, 256))[0].tensor.shape
        for batch in options.batches:
            inputs = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0)).to(options.device)
            title = f"{batch} image{'s' if batch > 1 else ''}"
            parts.append(section(name, batched(model.module, inputs, libraries, steps), inputs, model.module, options, title))
        one = inputs[:1]
        parts.append(section(name, single(model.module, one, libraries), one, model.module, options, "Score-CAM of one image"))
    written = page(parts, weights, options)
    if options.out is None:
        print(written)
        return
    write_section(options.out, "gpu", written)
    say(f"wrote {options.out}")


if __name__ == "__main__":
    main()
