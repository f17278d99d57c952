"""Words on networks whose truth is known: how often is a channel called what it sees, and is the class's reason named first?

Two networks, several seeds, all of it generated:

- planted: eight channels that see one thing each by construction (three directions of stripes, five hues), six more that see nothing of the
  bank (whether pixel values are odd). Counted are the planted channels that get their name, and the others that rightly get none. Its
  classes are the planted concepts; of held-out images of each class the words must name that concept first.
- trained: a small convolutional network that learns to tell eight textures, whatever their colour and shape. Of held-out images the words
  for their class must name its texture first.

The bank's images, the training's and those that are counted come from different seeds, and no counted texture is cut from a picture.

    python examples/words.py --seeds 1 2 3 --images 256
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from lucidcam.dissection import patterns

SIZE = 64
TEXTURES = ("plain", "vertical stripes", "horizontal stripes", "slanted stripes", "checks", "dots", "grid", "speckle")
PLANTED = ("vertical stripes", "horizontal stripes", "slanted stripes", "red", "yellow", "green", "blue", "purple")
HUES = {
    "red": (1.0, -1.0, -1.0),
    "yellow": (1.0, 1.0, -2.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
    "purple": (1.0, -2.0, 1.0),
}
NOTHING = 6


class Detectors(nn.Module):
    """Maps `[B, 14, 8, 8]` of images `[B, 3, 64, 64]` in [0, 1]: eight that see one thing each, and six that see the pixels' last bits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("hues", torch.tensor(list(HUES.values())).float())
        self.register_buffer("odd", torch.randn(NOTHING, 3, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Directions by the structure of grey, hues by colour without brightness, noise by parity."""
        grey = x.mean(1, keepdim=True)
        across, down = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2], grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
        xx, yy, xy = (F.adaptive_avg_pool2d(each, 8) for each in (across**2, down**2, across * down))
        stripes = torch.cat([xx - 4 * yy, yy - 4 * xx, 4 * xy.abs() - 1.5 * (xx + yy)], dim=1)
        mean = F.adaptive_avg_pool2d(x, 8)
        spread = mean - mean.amin(1, keepdim=True)
        hue = spread / spread.amax(1, keepdim=True).clamp(min=0.15)  # of dull places hardly any
        seen = torch.einsum("kc,bchw->bkhw", self.hues, hue)
        colours = torch.stack(
            [seen[:, i] - (1.4 if name == "yellow" else 1.2 if name == "purple" else 0.4) for i, name in enumerate(HUES)], 1
        )
        parity = F.adaptive_avg_pool2d((x * 255).round() % 2, 8) - 0.5  # of the pixels' last bits: the same whatever they show
        noise = torch.einsum("kc,bchw->bkhw", self.odd, parity)
        return torch.cat([stripes.relu() * 20, colours.relu(), noise.relu()], dim=1)


class Planted(nn.Module):
    """A class for each detector, which speaks for it; the other detectors speak a little against it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.see = Detectors(seed)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(len(PLANTED) + NOTHING, len(PLANTED))
        generator = torch.Generator().manual_seed(seed)
        weight = torch.full((len(PLANTED), len(PLANTED) + NOTHING), -0.2)
        weight[:, : len(PLANTED)] += 1.2 * torch.eye(len(PLANTED))
        weight[:, len(PLANTED) :] = 0.3 * torch.randn(len(PLANTED), NOTHING, generator=generator)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[B, 8]`."""
        return self.head(self.pool(self.see(x)))


def to_tensor(photo: object) -> Tensor:
    """What both networks take."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


def draw(seed: int, textures: list[str], colours: list[str]) -> np.ndarray:
    """Images `[N, 64, 64, 3]` of these textures and colours; half of them shapes, half of them full."""
    forms = list(patterns.FORMS)
    found = []
    for i, (texture, colour) in enumerate(zip(textures, colours, strict=True)):
        rng = np.random.default_rng([seed, i, 7])
        form = None if rng.random() < 0.5 else forms[int(rng.integers(len(forms)))]
        found.append(patterns.scene(rng, SIZE, texture, colour, form)[0])
    return np.stack(found)


def planted(seed: int, images: int, bank: lucidcam.Bank) -> dict[str, float]:
    """Name the planted network's channels, and ask for words of held-out images."""
    model = lucidcam.wrap(Planted(seed).eval(), to_tensor, list(PLANTED), layer="see", name="planted")
    names = lucidcam.concepts(model, bank, progress=False)
    right = sum(names[k].concept == name for k, name in enumerate(PLANTED))
    quiet = sum(names[k].concept is None for k in range(len(PLANTED), len(names)))
    rng = np.random.default_rng(1000 + seed)
    asked = [PLANTED[i % len(PLANTED)] for i in range(images)]
    hues = [*patterns.COLOURS, patterns.GREY]
    textures = [name if name in TEXTURES else TEXTURES[int(rng.integers(len(TEXTURES)))] for name in asked]
    colours = [name if name in HUES else hues[int(rng.integers(len(hues)))] for name in asked]
    first = first_words(model, names, draw(1000 + seed, textures, colours), asked)
    return {"named": right / len(PLANTED), "left unnamed": quiet / NOTHING, "first word": float(np.mean(first))}


def trained(seed: int, images: int, bank: lucidcam.Bank, steps: int) -> dict[str, float]:
    """Train on textures, name the channels, ask for words of held-out images."""
    torch.manual_seed(seed)
    net = network()
    fit(net, seed, steps)
    model = lucidcam.wrap(net.eval(), to_tensor, list(TEXTURES), name="trained")
    names = lucidcam.concepts(model, bank, progress=False)
    rng = np.random.default_rng(2000 + seed)
    asked = [TEXTURES[i % len(TEXTURES)] for i in range(images)]
    hues = [*patterns.COLOURS, patterns.GREY]
    pixels = draw(2000 + seed, asked, [hues[int(k)] for k in rng.integers(len(hues), size=images)])
    with torch.no_grad():
        said = net(torch.stack([to_tensor(each) for each in pixels])).argmax(1)
    truth = torch.tensor([TEXTURES.index(name) for name in asked])
    first = first_words(model, names, pixels, asked)
    named = len(names.named) / len(names)
    return {"accuracy": float((said == truth).float().mean()), "channels named": named, "first word": float(np.mean(first))}


def network() -> nn.Sequential:
    """Three convolutions, average pooling, a linear layer."""
    layers: list[nn.Module] = []
    wide = 3
    for width in (16, 32, 64):
        layers += [nn.Conv2d(wide, width, 5, padding=2, stride=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        wide = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, len(TEXTURES)))


def fit(net: nn.Module, seed: int, steps: int) -> None:
    """Train on new images at every step."""
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    rng = np.random.default_rng(3000 + seed)
    hues = [*patterns.COLOURS, patterns.GREY]
    for step in range(steps):
        classes = rng.integers(len(TEXTURES), size=32)
        pixels = draw(3_000_000 + 10_000 * seed + step, [TEXTURES[k] for k in classes], [hues[int(k)] for k in rng.integers(7, size=32)])
        loss = F.cross_entropy(net(torch.stack([to_tensor(each) for each in pixels])), torch.from_numpy(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def first_words(model: lucidcam.Model, names: lucidcam.Names, pixels: np.ndarray, asked: list[str]) -> list[bool]:
    """Whether the first word for each image's class is what its class is."""
    found = []
    for image, name in zip(pixels, asked, strict=True):
        words = lucidcam.words(model, image, name, names=names)
        found.append(bool(words.because) and words.because[0].concept == name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=256, help="held-out images of each network and seed")
    parser.add_argument("--steps", type=int, default=300, help="of training, 32 images each")
    parser.add_argument("--out", type=Path, default=Path("out/words"))
    options = parser.parse_args()
    report = []
    for seed in options.seeds:
        bank = lucidcam.Bank.builtin(size=SIZE, seed=5000 + seed)
        for kind in ("planted", "trained"):
            began = time.perf_counter()
            found = planted(seed, options.images, bank) if kind == "planted" else trained(seed, options.images, bank, options.steps)
            report.append({"network": kind, "seed": seed, **found})
            told = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
            print(f"{kind}, seed {seed}: {told} ({options.images} images, {time.perf_counter() - began:.0f} s)", flush=True)
    for kind in ("planted", "trained"):
        mine = [row["first word"] for row in report if row["network"] == kind]
        print(f"{kind}: the first word is the truth in {np.mean(mine):.1%} of {options.images * len(mine)} images")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "words.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
