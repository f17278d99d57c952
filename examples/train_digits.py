"""Train a network of class activation mapping on handwritten digits, then ask it: what makes this a 3, and not an 8?

python examples/train_digits.py [--out DIR] [--source torchvision|folder|sklearn] [--count N] [--epochs N]
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageChops
from rich import print

import lucidcam
from lucidcam.imaging.maps import finish
from lucidcam.imaging.render import colour, panel
from lucidcam.train import train_gap
from lucidcam.utils.optional import impatient_downloads, import_optional, import_torchvision

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "mnist10k"
"""Where MNIST's test images may lie already."""

SIZE = 28
PAIRS = (("3", "8"), ("4", "9"), ("7", "1"), ("5", "6"))
"""Digits that differ by a stroke: the right class, and the wrong one to hold against it."""

PATCH = 2
"""Pixels to each side of the middle of a patch that is inverted."""

SHOWN = 168
"""Pixels per side of a digit in the picture."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Digits:
    """Handwritten digits, white on black.

    Attributes:
        source: where they come from, in words.
        images: `[n, 28, 28]`.
        labels: `[n]`, 0 to 9.
    """

    source: str
    images: Pixels
    labels: npt.NDArray[np.int64]

    def samples(self) -> list[lucidcam.Sample]:
        """As lucidcam takes them."""
        return [
            lucidcam.Sample(np.stack([image] * 3, -1), f"{i:05d}", (str(k),)) for i, (image, k) in enumerate(zip(self.images, self.labels))
        ]


def from_torchvision() -> Digits:
    """MNIST as torchvision downloads it, once.

    Raises:
        OSError, RuntimeError: it cannot be reached.
    """
    with impatient_downloads():
        found = import_torchvision("MNIST").datasets.MNIST(Path.home() / ".cache" / "lucidcam" / "data", train=True, download=True)
    return Digits("MNIST (torchvision)", found.data.numpy(), found.targets.numpy())


def from_folder(folder: Path = SHARED) -> Digits:
    """MNIST's files as they are published; of those in the folder, the first.

    Raises:
        OSError: there are none.
    """
    images, labels = (next(folder.glob(f"*-{what}.gz"), None) for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if images is None or labels is None:
        raise FileNotFoundError(f"no MNIST in {folder}")
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, SIZE, SIZE)
    return Digits(
        f"MNIST ({images.name})", pixels, np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8).astype(np.int64)
    )


def from_sklearn() -> Digits:
    """The 1797 digits of 8 × 8 pixels that come with scikit-learn, enlarged."""
    found = import_optional("sklearn.datasets", "train", "digits without a download").load_digits()
    small = (found.images * (255 / 16)).round().astype(np.uint8)
    enlarged = [np.asarray(Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for each in small]
    return Digits("scikit-learn's digits", np.stack(enlarged), found.target.astype(np.int64))


SOURCES: dict[str, Callable[[], Digits]] = {"torchvision": from_torchvision, "folder": from_folder, "sklearn": from_sklearn}


def digits(source: str | None = None) -> Digits:
    """Those of a source; None: of the first that can be had."""
    if source is not None:
        return SOURCES[source]()
    for name in ("torchvision", "folder"):
        try:
            return SOURCES[name]()
        except (OSError, RuntimeError, lucidcam.LucidcamError) as error:
            print(f"{name}: {str(error).splitlines()[0]}; trying the next source")
    return from_sklearn()


def scores(model: lucidcam.Model, images: Sequence[Pixels]) -> torch.Tensor:
    """Class scores `[n, 10]`."""
    with torch.inference_mode():
        return torch.cat([model.module(inputs) for inputs in prepared(model, images).split(256)])


def prepared(model: lucidcam.Model, images: Sequence[Pixels]) -> torch.Tensor:
    """Network inputs `[n, 3, 28, 28]`."""
    return torch.stack([each.tensor for each in model.prepare(list(images))])


def accuracy(model: lucidcam.Model, samples: Sequence[lucidcam.Sample]) -> float:
    """Share of digits that are recognised, in %."""
    best = scores(model, [each.image for each in samples]).argmax(1).tolist()
    return 100 * float(np.mean([model.labels[k] == each.labels[0] for k, each in zip(best, samples, strict=True)]))


def telling(model: lucidcam.Model, samples: Sequence[lucidcam.Sample], right: str, wrong: str) -> lucidcam.Sample:
    """A recognised digit of one class, of middling certainty among those whose runner-up is the other (among all, where there is none)."""
    own = [each for each in samples if each.labels[0] == right]
    found = scores(model, [each.image for each in own])
    first, second = model.labels.index(right), model.labels.index(wrong)
    top = found.topk(2, dim=1).indices
    near = [i for i in range(len(own)) if top[i].tolist() == [first, second]] or list(range(len(own)))
    return own[sorted(near, key=lambda i: float(found[i, first] - found[i, second]))[len(near) // 2]]


def evidence(raw: torch.Tensor, digit: Pixels, scale: float) -> Image.Image:
    """A digit in black, on red where the map speaks for the class and on blue where against; `scale` is full colour."""
    values = finish(raw, (SHOWN, SHOWN))
    ink = Image.fromarray(digit).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC).point(lambda value: 255 - 0.75 * value)
    return ImageChops.multiply(colour(0.5 + 0.5 * values / scale, "RdBu_r"), ink.convert("RGB"))


def row_of(model: lucidcam.Model, sample: lucidcam.Sample, right: str, wrong: str) -> list[tuple[str, Image.Image]]:
    """A digit, what speaks for its class, for the wrong one, and for its class rather than the wrong one: one scale of colours."""
    ids = [model.labels.index(right), model.labels.index(wrong)]
    asked = [*ids, lucidcam.Contrast(*ids)]
    # A target at a time: ids go in one list, a contrast by itself.
    found = [lucidcam.explain(model, [sample.image], "cam", target=target)[0] for target in asked]
    scale = max(float(each.raw.abs().max()) for each in found)
    plain = Image.fromarray(255 - sample.image).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    names = [f"{right}: {found[0].score:+.1f}", f"{wrong}: {found[1].score:+.1f}", f"{right} not {wrong}: {found[2].score:+.1f}"]
    return [(f"a {right}", plain), *((name, evidence(each.raw, sample.image[..., 0], scale)) for name, each in zip(names, found))]


def disturbed(model: lucidcam.Model, samples: Sequence[lucidcam.Sample], seed: int = 0) -> tuple[float, float]:
    """By how much the lead of the right class over its rival falls when a patch is inverted: ink becomes paper, and paper ink.

    Args:
        model: the network.
        samples: digits; the rival is the most likely of the other classes.
        seed: of the draw of patches.

    Returns:
        Mean fall of the difference of the two scores: for the patch where CAM sees most evidence for the one class rather than the other,
        and for a patch anywhere on the digit's box.
    """
    images = [each.image for each in samples]
    rows = torch.arange(len(samples))
    right = torch.tensor([model.labels.index(each.labels[0]) for each in samples])
    rival = scores(model, images).scatter(1, right[:, None], -torch.inf).argmax(1)
    maps = lucidcam.attribute(model.module, prepared(model, images), "cam", target="all", layer=model.layer)
    differences = [finish(each, (SIZE, SIZE)) for each in maps[rows, right] - maps[rows, rival]]
    rng = np.random.default_rng(seed)
    places = [[np.unravel_index(each.argmax(), each.shape) for each in differences], [anywhere(image, rng) for image in images]]
    leads = [
        lead[rows, right] - lead[rows, rival] for lead in (scores(model, images), *(scores(model, inverted(images, at)) for at in places))
    ]
    return float((leads[0] - leads[1]).mean()), float((leads[0] - leads[2]).mean())


def anywhere(image: Pixels, rng: np.random.Generator) -> tuple[int, int]:
    """A place in the box around a digit's ink."""
    ink = np.argwhere(image[..., 0] > 0)
    y, x = rng.integers(ink.min(0), ink.max(0) + 1)
    return int(y), int(x)


def inverted(images: Sequence[Pixels], places: Sequence[tuple[int, int]]) -> list[Pixels]:
    """The images with a patch inverted around a place each."""
    changed = [image.copy() for image in images]
    for image, (y, x) in zip(changed, places, strict=True):
        patch = slice(max(y - PATCH, 0), y + PATCH + 1), slice(max(x - PATCH, 0), x + PATCH + 1)
        image[patch] = 255 - image[patch]
    return changed


def main(
    out: str | Path = "out/train_digits",
    source: str | None = None,
    count: int | None = 8000,
    epochs: int = 4,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> tuple[dict[str, float], Path]:
    """Train, print how well it recognises digits that it has never seen, and write a picture. Returns figures and the picture's path."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = digits(source)
    samples = found.samples()[:count]
    test, known = samples[: len(samples) // 10], samples[len(samples) // 10 :]
    begun = time.perf_counter()
    trained = train_gap(
        known,
        "small",
        out=folder / "network",
        size=SIZE,
        classes=[str(k) for k in range(10)],
        augment="shift",
        epochs=epochs,
        batch_size=64,
        lr=1e-2,
        restart=True,
    )
    seconds = time.perf_counter() - begun
    model = trained.model
    chosen, other = disturbed(model, test)
    figures = {
        "validation accuracy": 100 * trained.metrics["val_accuracy"],
        "test accuracy": accuracy(model, test),
        "lead lost where CAM points": chosen,
        "lead lost elsewhere": other,
        "seconds of training": seconds,
    }
    print(f"{found.source}: {len(known)} digits to train on and to choose the epoch by, {len(test)} to test with")
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")
    rows = [row_of(model, telling(model, test, *pair), *pair) for pair in pairs]
    path = folder / "digits.png"
    panel(rows, "What speaks for a class (red), what against (blue)", height=SHOWN).save(path)
    return figures, path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/train_digits")
    parser.add_argument("--source", choices=list(SOURCES), help="where the digits come from; else the first of these that can be had")
    parser.add_argument("--count", type=int, default=8000, help="at most so many digits")
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.source, given.count, given.epochs)[1]}")
