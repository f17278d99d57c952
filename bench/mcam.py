"""M-CAM beside other maps where a network was trained on biased data, with truth: what the paper measured, and what it could not.

    make bench-mcam
    python bench/mcam.py --parts together longtail              # generated scenes: needs no data
    python bench/mcam.py --data ../shared/data                  # and COCO photos (multi-label, few), blood cells (11:1:1)

Networks and memories are trained here. Writes one section of docs/benchmarks.md per part.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from lucidcam.data import open_data
from lucidcam.methods._base import Method, spatial_mean, weighted_sum
from lucidcam.nn import Memory
from lucidcam.train import train_gap, train_memory
from lucidcam.train.features import features_of
from lucidcam.train.labelled import read
from report import circumstances, table, write_section

PARTS = ("together", "longtail", "coco", "bccd")
PACKAGES = ("lucidcam", "torch", "lightning", "numpy")
DEFAULT_DATA = Path(__file__).parent.parent.parent / "shared" / "data"
RATES, RATIOS = (0.95, 0.8, 0.99), (1.0, 10.0, 100.0)
MEMORY_EPOCHS = 12
PAPER = ("average_drop", "increase_in_confidence", "infidelity", "max_sensitivity")
FIGURES = ("average_drop", "increase_in_confidence", "infidelity_scaled", "max_sensitivity")
"""The papers' four; infidelity with the map scaled as fits best, or maps of other units could not be compared."""

USUAL = ("gradcam", "gradcam++", "eigencam", "eigengradcam", "ablationcam")


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Method):
    """Class activation maps of a linear classifier on the network's whitened features: what a memory has to beat.

    It sees the same features under the same sampling; its map is centred and rectified as the memory's evidence is.

    Attributes:
        memory: whose whitening is used, and whose layer is looked at.
        weights: `[K, c]`, of whitened features.
    """

    kind = "activation"
    paper = "baseline"
    name = "probe"

    memory: Memory
    weights: Tensor

    def layer_of(self, module: nn.Module, asked: Any, usual: str | None = None) -> Any:
        """The memory's layer."""
        assert self.memory.belongs is not None
        return self.memory.belongs.layer

    def maps(self, run: Any) -> Tensor:
        """See `Method.maps`."""
        features = self.memory.prepared(run.capture().activations[:, 0]).unsqueeze(1)
        found = weighted_sum(self.weights[run.bound.ids[:, run.targets]], features)
        return (found - found.mean((-2, -1), keepdim=True)).relu()


def probe(memory: Memory, features: Any, sampling: str, seed: int, steps: int = 1000) -> LinearProbe:
    """Train the baseline: as many steps, the same batches and the same sampling as a memory has."""
    torch.manual_seed(seed)
    query = torch.cat([spatial_mean(memory.prepared(maps).unsqueeze(1))[:, 0] for maps, _ in features.loader()])
    labels = torch.from_numpy(features.data.labels).float()
    weights = features.data.sampling_weights(sampling)
    chances = torch.ones(len(query)) if weights is None else torch.from_numpy(weights).float()
    linear = nn.Linear(query.shape[1], labels.shape[1])
    optimizer = torch.optim.Adam(linear.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        rows = torch.multinomial(chances, 64, replacement=True)
        loss = F.binary_cross_entropy_with_logits(linear(query[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return LinearProbe(memory=memory, weights=linear.weight.detach())


@dataclass(frozen=True, eq=False)
class Trial:
    """A network, the data it was trained on, and the maps that are compared.

    Attributes:
        model: the network.
        methods: by label, as `lucidcam.evaluate` takes them.
        metrics: of training.
    """

    model: lucidcam.Model
    methods: Mapping[str, Any]
    metrics: Mapping[str, float]


def trial(data: Any, folder: Path, seed: int, backbone: dict[str, Any], sampling: str = "decorrelated", **options: Any) -> Trial:
    """Train a network, then on its features: the paper's memory, the unbiased one, and the linear probe."""
    quiet = {"progress": False, "seed": seed, **options}
    short = {"epochs": MEMORY_EPOCHS}
    trained = train_gap(data, out=folder / "net", **{**quiet, **backbone})
    paper = train_memory(data, trained.model, out=folder / "paper", **quiet, **short)
    unbiased = train_memory(data, trained.model, out=folder / "unbiased", unbiased=True, sampling=sampling, **quiet, **short)
    labelled = read(data, options.get("classes"), options.get("multi_label"))
    features = features_of(trained.model, labelled, None, folder / "unbiased", False)
    methods = {
        **{name: (name, {}) for name in USUAL},
        "mcam (published)": ("mcam", {"memory": paper.file}),
        "mcam gradient (unbiased)": ("mcam", {"memory": unbiased.file, "weights": "gradient"}),
        "mcam evidence (unbiased)": ("mcam", {"memory": unbiased.file, "weights": "evidence"}),
        "linear probe": (probe(unbiased.memory, features, sampling, seed), {}),
    }
    return Trial(trained.model, methods, trained.metrics)


def judged(trials: Sequence[Trial], tests: Sequence[Any], metrics: Sequence[str], limit: int) -> list[lucidcam.Report]:
    """Each trial's methods on its test images: where objects are, on all of them; what masks the image, on the first `limit`."""
    reports = []
    for each, test in zip(trials, tests, strict=True):
        say("  judging")
        places = [name for name in metrics if name not in PAPER]
        masked = [name for name in metrics if name in PAPER]
        shared: dict[str, Any] = {"baselines": [], "progress": False, "target": "label"}
        report = lucidcam.evaluate(each.model, test, each.methods, places, **shared) if places else None
        if masked:
            other = lucidcam.evaluate(each.model, test, each.methods, masked, limit=limit, **shared)
            report = (
                other if report is None else replace(report, rows=report.rows + other.rows, figures={**report.figures, **other.figures})
            )
        assert report is not None
        reports.append(report)
    return reports


def combined(reports: Sequence[lucidcam.Report], figures: Sequence[str]) -> str:
    """Mean over seeds with the standard deviation; of one seed the figure with its 95 % interval. The best in bold."""
    methods = reports[0].methods
    values = {(m, f): [report.row(m, f).mean for report in reports] for m in methods for f in figures}
    rows = []
    for method in methods:
        cells = []
        for figure in figures:
            found = values[method, figure]
            row = reports[0].row(method, figure)
            text = (
                f"{np.mean(found):.3g} ± {np.std(found, ddof=1):.2g}"
                if len(found) > 1
                else f"{row.mean:.3g} ({row.low:.3g}–{row.high:.3g})"
            )
            up = next(each for name, each in reports[0].figures.items() if name == figure).higher_is_better
            best = (max if up else min)(np.mean(values[m, figure]) for m in methods)
            cells.append(f"**{text}**" if np.mean(found) == best else text)
        rows.append([method, *cells])
    return table(["", *figures], rows)


def differences(reports: Sequence[lucidcam.Report], figure: str, first: str, second: str) -> str:
    """The paired differences of two methods, seed by seed, with their 95 % intervals."""
    found = []
    for report in reports:
        for each in report.comparisons:
            if each.metric == figure and {each.first, each.second} == {first, second}:
                sign = 1 if each.first == first else -1
                low, high = sorted((sign * each.low, sign * each.high))
                found.append(f"{sign * each.difference:+.1f} ({low:+.1f} to {high:+.1f})")
    return ", ".join(found)


def together(data: Path, options: argparse.Namespace) -> str:
    """Circle and square nearly always in one image: does the map of one lie on it, or on both?"""
    parts = [
        "### Objects that always occur together",
        f"Generated scenes (`synthetic:scene=together`), {options.count} for training; circle and square occur together in RATE of the "
        f"images that hold either. Test: {options.test} images that hold both, each asked for.",
        "`companion` is how often more energy lies on the asked one than on the other, mean over both classes (50: no difference seen). "
        f"Mean ± standard deviation over seeds of data, network and memory. The networks are trained for {options.epochs} epochs.",
    ]
    figures = ["companion", "companion_own", "companion_others", *FIGURES]
    for rate in RATES:
        trials, tests = [], []
        seeds = range(options.seeds if rate == 0.95 else 1)
        for seed in seeds:
            say(f"  rate {rate}, seed {seed}")
            spec = f"synthetic:count={options.count},rate={rate},seed={seed}"
            backbone = {"backbone": "small", "channels": 64, "epochs": options.epochs, "batch_size": 64, "lr": 3e-3, "augment": "none"}
            trials.append(trial(spec, options.work / f"together-{rate}-{seed}", seed, backbone))
            tests.append(_pairs(options.test, 1000 + seed))
        reports = judged(trials, tests, ["companion", *PAPER], options.masked)
        known = ", ".join(f"{each.metrics['val_map']:.3f}" for each in trials)
        parts += [
            f"**Rate {rate}**, {len(trials)} seed{'s' * (len(trials) > 1)}; the networks' mean average precision on (biased) validation "
            f"data: {known}.",
            combined(reports, figures),
            "Paired differences on companion, seed by seed, with 95 % intervals: evidence − gradcam "
            f"{differences(reports, 'companion', 'mcam evidence (unbiased)', 'gradcam')}; evidence − linear probe "
            f"{differences(reports, 'companion', 'mcam evidence (unbiased)', 'linear probe')}; published − gradcam "
            f"{differences(reports, 'companion', 'mcam (published)', 'gradcam')}.",
        ]
    return "\n\n".join(parts)


def _pairs(count: int, seed: int) -> list[lucidcam.Sample]:
    """Scenes with a circle and a square; only these two are asked for."""
    found = []
    for sample in open_data(f"synthetic:count={10 * count},rate=1,seed={seed}"):
        objects = tuple(each for each in sample.objects if each.label in ("circle", "square"))
        if len(objects) == 2:
            found.append(replace(sample, labels=("circle", "square"), objects=objects))
        if len(found) == count:
            break
    return found


def longtail(data: Path, options: argparse.Namespace) -> str:
    """Imbalanced classes: the same metrics on a balanced test set."""
    figures = [*FIGURES, "energy_pointing_game"]
    parts = [
        "### Long-tailed classes",
        f"Generated scenes (`synthetic:scene=longtail`), {options.count // 2} for training, one object each; the first of four classes has "
        "RATIO times as many images as the last. Test: a balanced set. The unbiased memory draws classes alike (`sampling=balanced`).",
    ]
    for ratio in RATIOS:
        say(f"  ratio {ratio}")
        spec = f"synthetic:scene=longtail,count={options.count // 2},ratio={ratio},seed=0"
        backbone = {"backbone": "small", "channels": 64, "epochs": 4 * options.epochs, "batch_size": 64, "lr": 3e-3, "augment": "none"}
        one = trial(spec, options.work / f"longtail-{ratio}", 0, backbone, sampling="balanced")
        test = f"synthetic:scene=longtail,count={options.test // 2},ratio=1,seed=1000"
        reports = judged([one], [test], [*PAPER, "energy_pointing_game"], options.masked)
        parts += [
            f"**Ratio {ratio:g}**; balanced accuracy on the (imbalanced) validation part {one.metrics['val_balanced_accuracy']:.2f}.",
            combined(reports, figures),
        ]
    return "\n\n".join(parts)


def photos(title: str, about: str, source: Path, options: argparse.Namespace, metrics: Sequence[str]) -> str:
    """A network with a head trained here on real photos, and the same comparison on them."""
    backbone = {"backbone": "demo", "freeze": True, "epochs": 4 * options.epochs, "lr": 1e-2, "augment": "none"}
    one = trial(source, options.work / source.name, 0, backbone, classes="present", multi_label=True)
    reports = judged([one], [source], metrics, options.masked)
    figures = [*FIGURES, *(name for name in metrics if name not in PAPER)]
    skipped = len(reports[0].skipped)
    return "\n\n".join(
        [
            f"### {title}",
            f"{about} The demo network's trunk, with a head trained here (mean average precision on a tenth kept apart: "
            f"{one.metrics.get('val_map', float('nan')):.2f}). {reports[0].row('gradcam', figures[-1]).n} images counted, {skipped} "
            f"skipped; what masks images on the first {options.masked}. Judged on the photos that were trained on, there being so few.",
            combined(reports, figures),
        ]
    )


def coco(data: Path, options: argparse.Namespace) -> str:
    """100 photos of COCO with many classes each."""
    about = "COCO128's training part: 100 photos, several classes each, most of them with a handful of images."
    return photos("COCO photos (multi-label, few)", about, data / "coco128_train", options, [*PAPER, "energy_pointing_game", "companion"])


def bccd(data: Path, options: argparse.Namespace) -> str:
    """Blood cells, 11 : 1 : 1."""
    about = "BCCD: 120 photos of blood cells; red cells, white cells and platelets occur 11 : 1 : 1, and red ones in nearly every photo."
    return photos("Blood cells (11 : 1 : 1)", about, data / "bccd", options, [*PAPER, "energy_pointing_game", "companion"])


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks.md")
    parser.add_argument("--seeds", type=int, default=3, help="at rate 0.95; one at the other rates")
    parser.add_argument("--count", type=int, default=4000, help="training scenes")
    parser.add_argument("--test", type=int, default=300, help="test scenes")
    parser.add_argument("--masked", type=int, default=30, help="test images for metrics that mask them")
    parser.add_argument("--epochs", type=int, default=3, help="of the network on pairs; longer trainings are multiples of it")
    parser.add_argument("--work", type=Path, default=None, help="keep trained networks there, and go on from what is there")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path, argparse.Namespace], str]] = {
        "together": together,
        "longtail": longtail,
        "coco": coco,
        "bccd": bccd,
    }
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        for name in options.parts:
            if name in ("coco", "bccd") and not options.data.is_dir():
                say(f"{name}: left out, there is no {options.data}")
                continue
            say(name)
            body = parts[name](options.data, options)
            write_section(options.out, f"mcam-{name}", f"## M-CAM: {name}\n\n{circumstances(PACKAGES)}\n\n{body}")
    say(f"wrote {options.out}")


if __name__ == "__main__":
    main()
