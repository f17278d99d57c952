"""A text detector from image-level labels (Zhou et al., CVPR 2016, section 4): trained on "text" and "no text", it says where the text is.

Words are drawn on scikit-image's pictures; half of the images have none. Lines, strokes, bars, dots and outlines of the same sizes and
colours lie on both halves, so that only text tells them apart. Boxes are kept to judge by, and never trained on. Backgrounds, fonts and
words of the test are not in training. The network is the embedded one, frozen and cut where its maps are fine, with a convolution, global
average pooling and a linear layer on top. Offline; about three minutes of processor time.

    python examples/text_detector.py [FOLDER] [FOLDER OF PHOTOS TO TRY IT ON]
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich import print
from skimage import data

import lucidcam
from lucidcam.imaging import maps, render
from lucidcam.localization import calibrate
from lucidcam.train import train_gap

SIZE = 96
"""Pixels per side of the images; the network sees them at twice that."""

TEXT, NO_TEXT = "text", "no text"
WITH_TEXT = ("page", "text")
WITHOUT_TEXT = ("clock", "coins", "gravel", "hubble_deep_field", "rocket", "cell")
"""None of them is in training."""
TRUE, FOUND = (60, 220, 90), (255, 64, 64)
HELD_OUT_WORDS = 5
"""One word in so many is kept for the test."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sources:
    """What images are made of.

    Attributes:
        backgrounds: names in `skimage.data`.
        fonts: files of matplotlib; "": Pillow's own font.
        held_out: words that training never sees, rather than those it does.
        shrink: backgrounds are made smaller by up to this factor before a piece is cut out.
    """

    backgrounds: tuple[str, ...]
    fonts: tuple[str, ...]
    held_out: bool
    shrink: float = 3.0


TRAINING = Sources(
    ("brick", "grass", "chelsea", "coffee", "camera", "moon", "immunohistochemistry", "retina"),
    (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSansMono",
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "cmr10",
    ),
    held_out=False,
)
UNSEEN = Sources(
    ("gravel", "rocket", "hubble_deep_field", "cell"),
    ("DejaVuSerif", "DejaVuSerif-Italic", "cmss10", "cmtt10", ""),
    held_out=True,
)


def samples(sources: Sources, count: int, seed: int) -> list[lucidcam.Sample]:
    """Draw images, every other one with text."""
    pictures = [np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB")) for name in sources.backgrounds]
    return [_sample(sources, pictures, np.random.default_rng([seed, i]), i) for i in range(count)]


def _sample(sources: Sources, pictures: Sequence[Any], rng: np.random.Generator, number: int) -> lucidcam.Sample:
    canvas = _background(pictures[rng.integers(len(pictures))], rng, sources.shrink)
    taken: list[Box] = []
    for _ in range(rng.integers(3)):
        mark = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        _stamp(canvas, mark(rng), rng, taken)
    boxes = []
    while number % 2 == 0 and not boxes:
        for _ in range(rng.integers(1, 3)):
            boxes += _stamp(canvas, _text(rng, sources), rng, taken)
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    pixels = np.asarray(canvas, np.float32) + rng.normal(0, rng.uniform(0, 8), (SIZE, SIZE, 3))
    objects = tuple(lucidcam.Object(TEXT, tuple(map(float, box))) for box in boxes)
    return lucidcam.Sample(pixels.clip(0, 255).astype(np.uint8), f"{number:05d}", (TEXT if boxes else NO_TEXT,), objects)


def _background(picture: Any, rng: np.random.Generator, shrink: float) -> Image.Image:
    """A random piece at a random scale, mirrored, tinted, brighter or darker."""
    height, width = picture.shape[:2]
    side = int(min(SIZE * rng.uniform(0.7, shrink), height, width))
    left, top = rng.integers(width - side + 1), rng.integers(height - side + 1)
    piece = Image.fromarray(picture[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tinted = np.asarray(piece, np.float32) * rng.uniform(0.7, 1.1, 3) * rng.uniform(0.6, 1.2) + rng.uniform(-20, 40)
    return Image.fromarray(tinted.clip(0, 255).astype(np.uint8))


def _stamp(canvas: Image.Image, mark: Image.Image, rng: np.random.Generator, taken: list[Box]) -> list[Box]:
    """Turn a mark, and put it where there is room, in a colour that stands out; its box, or none where there is no room."""
    turned = mark.rotate(float(rng.normal(0, 12)), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.point(lambda level: 255 * (level > 40)).getbbox())
    for _ in range(30):
        if turned.width >= SIZE - 4 or turned.height >= SIZE - 4:
            return []
        left, top = rng.integers(2, SIZE - turned.width - 1), rng.integers(2, SIZE - turned.height - 1)
        box = (int(left), int(top), int(left) + turned.width, int(top) + turned.height)
        if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in taken):
            ground = np.asarray(canvas.crop(box), np.float32).mean((0, 1))
            strength = rng.uniform(0.7, 1)
            faint = turned.point([int(level * strength) for level in range(256)])
            canvas.paste(_colour(ground, rng), box, faint)
            taken.append(box)
            return [box]
    return []


def _colour(ground: Any, rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour whose lightness is far from the ground's."""
    while True:
        colour = rng.integers(0, 256, 3)
        if abs(float(colour.mean() - ground.mean())) > 90:
            return int(colour[0]), int(colour[1]), int(colour[2])


def _word(rng: np.random.Generator, held_out: bool) -> str:
    """Syllables, a number now and then; whether a word is held out depends on the word."""
    while True:
        word = "".join(rng.choice(list("bcdfghjklmnpqrstvwxyz")) + rng.choice(list("aeiouy")) for _ in range(rng.integers(1, 4)))
        word += rng.choice(list("lmnrst")) if rng.random() < 0.5 else ""
        word = str(rng.integers(10, 100000)) if rng.random() < 0.1 else word
        if (zlib.crc32(word.encode()) % HELD_OUT_WORDS == 0) == held_out:
            return str(rng.choice([word, word.capitalize(), word.upper()]))


def _text(rng: np.random.Generator, sources: Sources) -> Image.Image:
    """One to three lines of one or two words."""
    file, height = sources.fonts[rng.integers(len(sources.fonts))], int(rng.integers(11, 27))
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"
    font = ImageFont.truetype(str(path), height) if file else ImageFont.load_default(height)
    lines = [" ".join(_word(rng, sources.held_out) for _ in range(rng.integers(1, 3))) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    mark = Image.new("L", (40 * height, 6 * height))
    ImageDraw.Draw(mark).multiline_text((height, height), "\n".join(lines), 255, font=font)
    return mark.crop(mark.getbbox())


def _blank(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, int, int]:
    """A canvas as large as a text, and its sides."""
    width, height = int(rng.integers(20, 75)), int(rng.integers(8, 40))
    mark = Image.new("L", (width + 8, height + 8))
    return mark, ImageDraw.Draw(mark), width, height


def _strokes(rng: np.random.Generator) -> Image.Image:
    """Straight strokes in all directions."""
    mark, draw, width, height = _blank(rng)
    for _ in range(rng.integers(1, 7)):
        ends = [(int(rng.integers(4, width + 4)), int(rng.integers(4, height + 4))) for _ in range(2)]
        draw.line(ends, 255, int(rng.integers(1, 4)))
    return mark


def _wave(rng: np.random.Generator) -> Image.Image:
    """One long curve, like a pen's."""
    mark, draw, width, height = _blank(rng)
    x = np.linspace(0, width, 60)
    y = height / 2 * (1 + 0.9 * np.sin(x * rng.uniform(0.1, 0.5) + rng.uniform(0, 6)) * np.cos(x * rng.uniform(0, 0.2)))
    draw.line([(float(a) + 4, float(b) + 4) for a, b in zip(x, y)], 255, int(rng.integers(1, 4)))
    return mark


def _bars(rng: np.random.Generator) -> Image.Image:
    """Parallel bars side by side, like letters without their forms."""
    mark, draw, width, height = _blank(rng)
    step, thick = int(rng.integers(4, 10)), int(rng.integers(1, 4))
    for x in range(4, width + 4, step):
        draw.line((x, 4, x, height + 4), 255, thick)
    return mark


def _rows(rng: np.random.Generator) -> Image.Image:
    """Parallel lines, like ruled paper."""
    mark, draw, width, height = _blank(rng)
    step, thick = int(rng.integers(5, 14)), int(rng.integers(1, 4))
    for y in range(4, height + 4, step):
        draw.line((4, y, width + 4, y), 255, thick)
    return mark


def _dots(rng: np.random.Generator) -> Image.Image:
    """A row of blobs, as long as a word."""
    mark, draw, width, height = _blank(rng)
    x = 4
    while x < width:
        wide, high = (int(rng.integers(2, 10)) for _ in "xy")
        y = int(rng.integers(4, max(5, height + 4 - high)))
        draw.ellipse((x, y, x + wide, y + high), 255)
        x += wide + int(rng.integers(1, 5))
    return mark


def _outline(rng: np.random.Generator) -> Image.Image:
    """An empty box or ring, filled now and then."""
    mark, draw, width, height = _blank(rng)
    shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
    shape((4, 4, width + 3, height + 3), 255 if rng.random() < 0.3 else None, 255, int(rng.integers(1, 4)))
    return mark


DISTRACTORS: tuple[Callable[[np.random.Generator], Image.Image], ...] = (_strokes, _wave, _bars, _rows, _dots, _outline)


def accuracy(model: lucidcam.Model, images: Sequence[lucidcam.Sample]) -> float:
    """Share of the images whose class is right, in %."""
    right = 0
    with torch.no_grad():
        for each in images:
            scores = model.module(model.prepare([each.image])[0].tensor[None])
            right += model.label(int(scores.argmax())) in each.labels
    return 100 * right / len(images)


def photo_model(model: lucidcam.Model, side: int = 4 * SIZE) -> lucidcam.Model:
    """The same network for photos: the short side is `side` pixels, nothing is cut off; a network with global pooling takes any size."""
    return replace(model, preprocess=replace(model.preprocess, size=(side, side), fit="whole"))


def generated_picture(model: lucidcam.Model, images: Sequence[lucidcam.Sample], threshold: float) -> Image.Image:
    """Held-out images: with true boxes (green) and found ones (red), and with the heatmap."""
    cells = []
    found = lucidcam.localize(model, list(images), method="cam", target=TEXT, threshold=threshold, min_area=0.004, masks=False)
    heats = lucidcam.explain(model, [each.image for each in images], "cam", TEXT)
    for sample, labels, heat in zip(images, found, heats):
        picture = heat.image.resize((3 * SIZE, 3 * SIZE), Image.Resampling.BICUBIC)
        for boxes, colour in (([thing.box for thing in labels.objects], FOUND), ([thing.box for thing in sample.objects], TRUE)):
            around = [(3 * left - 3, 3 * top - 3, 3 * right + 3, 3 * bottom + 3) for left, top, right, bottom in boxes]
            for box in around:
                picture = render.draw_boxes(picture, [tuple(map(round, box))], colour)
        cells += [("", picture), ("", heat.overlay())]
    columns = 8
    return render.panel([cells[i : i + columns] for i in range(0, len(cells), columns)], height=150)


def photo_picture(model: lucidcam.Model, images: Sequence[lucidcam.Sample], threshold: float) -> Image.Image:
    """Photos with heatmap and boxes under name and evidence at the peak; heat is a share of the most evidence in any of them."""
    heats = list(lucidcam.explain(model, [each.image for each in images], "cam", TEXT))
    most = max(float(each.map.max()) for each in heats)
    cells = []
    for sample, each in zip(images, heats):
        heat = (each.map / most).clip(0, 1)
        picture = render.overlay(each.image, heat)
        for box in maps.boxes(heat, threshold):
            picture = render.draw_boxes(picture, [box], FOUND)
        cells.append((f"{sample.name}  {each.map.max():.1f}", picture))
    return render.panel([cells[:2], cells[2:5], cells[5:]], height=190)


def evidence(model: lucidcam.Model, images: Sequence[lucidcam.Sample]) -> dict[str, float]:
    """Peak of the class activation map of "text" by image, not normalised, most first; without an image that has no evidence."""
    parts = lucidcam.discover(model, list(images), "cam", target=TEXT, top=len(images), progress=False)[TEXT]
    return {part.image: part.score for part in parts}


def photographs(names: Sequence[str]) -> list[lucidcam.Sample]:
    """Pictures of scikit-image."""
    return [lucidcam.Sample(np.asarray(getattr(data, name)()), name, (TEXT if name in WITH_TEXT else NO_TEXT,)) for name in names]


def main(
    folder: str | Path = "out/text-detector", photos: str | Path | None = None, train: int = 800, test: int = 400, epochs: int = 3
) -> Any:
    """Train, judge on what was never seen, try on photos."""
    out = Path(folder)
    labelled = [replace(each, objects=()) for each in samples(TRAINING, train, seed=1)]  # no boxes
    network: dict[str, Any] = {"at": "blocks.4", "channels": 64, "size": 2 * SIZE, "fit_photos": "squash", "freeze": True}
    trained = train_gap(labelled, "demo", **network, out=out / "trained", epochs=epochs, lr=3e-3, augment="none")
    model, unseen = trained.model, samples(UNSEEN, test, seed=2)
    level = calibrate(model, [each for each in samples(TRAINING, 200, seed=3) if each.objects], method="cam").threshold
    with_text = [each for each in unseen if each.objects]
    metrics = [("pointing_game", {"tolerance": 0}), "energy_pointing_game", "maxboxacc"]
    report = lucidcam.evaluate(model, with_text, "cam", metrics, baselines=["random", "centre_point", "sobel_edges", "full_box"])
    right = accuracy(model, unseen)
    print(report.table())
    print(f"accuracy {right:.1f} % of {len(unseen)} (chance 50 %); threshold {level:.2f}, from training's kind of images")
    generated_picture(model, with_text[:12], level).save(out / "generated.png")
    wide = photo_model(model)
    real = photographs([*WITH_TEXT, *WITHOUT_TEXT])
    photo_picture(wide, real, level).save(out / "photos.png")
    print("evidence for text in photos:", ", ".join(f"{name} {score:.1f}" for name, score in evidence(wide, real).items()))
    if photos is not None:
        lucidcam.discover(wide, photos, "cam", target=TEXT, top=24, threshold=level, out=out / "folder")
    return trained, report, right


if __name__ == "__main__":
    main(*sys.argv[1:])
