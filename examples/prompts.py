"""Images and texts in one space, as CLIP does it: a dual encoder learns from scenes and what is said of them; then a prompt localises.

python examples/prompts.py [--out DIR] [--count N] [--epochs N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich import print
from torch import Tensor, nn
from torch.nn import functional as F

import coloured_scenes as common
import lucidcam
from lucidcam.imaging.maps import finish
from lucidcam.imaging.render import panel
from lucidcam.tasks import Prompts

OBJECTS = 3
FEATURES, HEADS, DIM = 128, 8, 64
METHODS = (("gradcam", "attend"), ("layercam", "attend"), ("gradcam", "trunk"), ("hirescam", "trunk"))
"""Methods and layers: what the attention read of the image, or the last convolution."""


class DualEncoder(nn.Module):
    """An image encoder (convolutions, attention pooling of several heads, a linear layer) and a text encoder (a GRU, a linear layer).

    The two meet in nothing but the cosine of their embeddings; `forward` gives the image's.

    Args:
        words: of the texts.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.trunk = common.trunk(FEATURES)
        self.look, self.attend = nn.Conv2d(FEATURES, HEADS, 1), common.Attend()
        self.project = nn.Linear(FEATURES, DIM)
        self.reader, self.translate = common.Reader(words), nn.Linear(64, DIM)
        self.sharpness = nn.Parameter(torch.tensor(2.3))

    def forward(self, images: Tensor) -> Tensor:
        """From `[B, 3, 64, 64]` to `[B, 64]` of length 1."""
        features = self.trunk(images)
        return F.normalize(self.project(self.attend(features, self.look(features)).sum((2, 3))), dim=-1)

    def texts(self, ids: Tensor) -> Tensor:
        """From numbers of words `[T, L]` to `[T, 64]` of length 1."""
        return F.normalize(self.translate(self.reader(ids)), dim=-1)


def said(sample: lucidcam.Sample, rng: np.random.Generator) -> str:
    """One, two or all shapes of a scene, in any order: "a blue cross and a red circle"."""
    chosen = rng.permutation(len(sample.objects))[: int(rng.integers(1, len(sample.objects) + 1))]
    return " and ".join(f"a {sample.objects[i].label}" for i in chosen)


def learn(samples: Sequence[lucidcam.Sample], epochs: int, seed: int = 0) -> tuple[DualEncoder, common.Vocabulary]:
    """Train with pairs of scene and text alone: of a batch, each scene has to find its text, and each text its scene (InfoNCE)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vocabulary = common.Vocabulary.of([f"a {thing.label} and" for each in samples for thing in each.objects])
    network, images = DualEncoder(len(vocabulary.words)), common.pixels(samples)

    def loss(rows: Tensor) -> Tensor:
        texts = network.texts(vocabulary.batch([said(samples[i], rng) for i in rows]))
        cosines, own = network.sharpness.exp() * network(images[rows]) @ texts.T, torch.arange(len(rows))
        return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2

    common.train(network, loss, len(samples), epochs)
    return network, vocabulary


def as_model(network: DualEncoder, vocabulary: common.Vocabulary) -> lucidcam.Model:
    """The image encoder as lucidcam takes it; texts are what can be asked of it."""

    def encode(texts: list[str]) -> Tensor:
        with torch.no_grad():
            return network.texts(vocabulary.batch(texts))

    return lucidcam.wrap(network, common.PREPROCESS, layer="attend", name="dual encoder", task=Prompts(encode))


def evaluated(network: DualEncoder, vocabulary: common.Vocabulary, samples: Sequence[lucidcam.Sample]) -> dict[str, dict[str, float]]:
    """Maps of the prompt for each shape of each scene: where their energy is, by method. And how well the network tells what is there."""
    labels = sorted({thing.label for each in samples for thing in each.objects})
    images = common.pixels(samples)
    with torch.no_grad():
        prompts = network.texts(vocabulary.batch([f"a {label}" for label in labels]))
        best = (network(images) @ prompts.T).topk(OBJECTS).indices.tolist()
    right = np.mean([labels[k] in each.labels for each, found in zip(samples, best, strict=True) for k in found])
    print(f"of the {OBJECTS} prompts that fit a scene best, out of {len(labels)}, {100 * right:.1f} % are true of it")
    results = {"the same everywhere": common.chance(thing for each in samples for thing in each.objects)}
    for method, layer in METHODS:
        maps = lucidcam.attribute(network, images, method, target=lucidcam.Similarity(prompts), layer=layer)
        rows = [
            common.judged(finish(found[labels.index(thing.label)], each.image.shape[:2]), thing)
            for each, found in zip(samples, maps, strict=True)
            for thing in each.objects
        ]
        results[f"{method}, {layer}"] = common.means(rows)
    return results


def main(
    out: str | Path = "out/prompts", count: int = 4500, test_count: int = 200, epochs: int = 8
) -> tuple[dict[str, dict[str, float]], Path]:
    """Train, print where the maps of unseen scenes lie, write a picture. Returns the figures by method, in %, and the picture's path."""
    begun = time.perf_counter()
    network, vocabulary = learn(common.scenes(count, common.TRAINING, OBJECTS), epochs)
    print(f"drawn and trained in {time.perf_counter() - begun:.0f} s")
    test = common.scenes(test_count, common.UNSEEN, OBJECTS)
    results = evaluated(network, vocabulary, test)
    common.show(results, f"maps of the prompt for a shape, {test_count} unseen scenes")
    model = as_model(network, vocabulary)
    rows = []
    for each in test[:4]:
        row = [("a scene", common.plain(each))]
        for thing in each.objects:
            [found] = lucidcam.explain(model, [each.image], target=f"a {thing.label}")
            row.append((f"{found.label}: {found.score:.2f}", common.seen(found, thing)))
        rows.append(row)
    return results, common.saved(panel(rows, height=common.SHOWN), out, "prompts.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/prompts")
    parser.add_argument("--count", type=int, default=4500, help="scenes to train on")
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.count, epochs=given.epochs)[1]}")
