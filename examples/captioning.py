"""A network that writes "a red circle left of a blue square", and shows for each word where it looked.

python examples/captioning.py [--out DIR] [--count N] [--epochs N]
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
from lucidcam.imaging.render import panel
from lucidcam.tasks import Captions, Written, split

START, END = "<start>", "<end>"
STATE, LOOK, HEADS = 96, 64, 8
LONGEST = 9
"""Words of the longest caption, with its end."""

METHODS = (("gradcam", "attend"), ("gradcam", "trunk"), ("hirescam", "trunk"))
"""Methods and layers: what the network read of the image for the word, or its last convolution."""


class Captioner(nn.Module):
    """Convolutions, and an LSTM that reads the words so far and then looks at their map for the next one, with eight heads.

    The LSTM reads words alone: what a word takes from the image passes through its own look (soft attention by dot products, Xu et al.,
    ICML 2015 and Vaswani et al., NeurIPS 2017). Two channels tell each cell of the map its place, as words for places need them.

    Args:
        words: of the vocabulary.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.trunk, self.embed, self.read = common.trunk(), nn.Embedding(words, 32), nn.LSTM(32, STATE, batch_first=True)
        self.query, self.key, self.value = nn.Linear(STATE, LOOK), nn.Conv2d(50, LOOK, 1), nn.Conv2d(50, LOOK, 1)
        self.attend = common.Attend()
        self.tell = nn.Sequential(nn.Linear(STATE + LOOK, 128), nn.ReLU(), nn.Linear(128, words))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """From `[B, 3, 64, 64]` and numbers of the words so far `[B, L]` to logits `[B, L, V]` of the next ones."""
        features = self.trunk(images).contiguous()  # two layouts in one product are slow
        n, _, h, w = features.shape
        places = torch.stack(torch.meshgrid(torch.linspace(-3, 3, h), torch.linspace(-3, 3, w), indexing="ij"))
        features = torch.cat([features, places.to(features).expand(n, -1, -1, -1)], 1)
        states = self.read(self.embed(ids))[0]
        keys, values = self.key(features).view(n, HEADS, -1, h, w), self.value(features)
        logits = []
        for state in states.unbind(1):
            scores = torch.einsum("bnkhw,bnk->bnhw", keys, self.query(state).view(n, HEADS, -1)) / keys.shape[2] ** 0.5
            looked = self.attend(values, scores).sum((2, 3))
            logits.append(self.tell(torch.cat([state, looked], 1)))
        return torch.stack(logits, 1)


def caption(one: lucidcam.Object, other: lucidcam.Object) -> str:
    """Where one shape is, seen from the other: "a red circle left of a blue square"."""
    x, y = np.subtract(common.middle(one), common.middle(other))
    where = ("left of" if x < 0 else "right of") if abs(x) > abs(y) else ("above" if y < 0 else "below")
    return f"a {one.label} {where} a {other.label}"


def captions(sample: lucidcam.Sample) -> tuple[str, str]:
    """Both that are true of a scene."""
    one, other = sample.objects
    return caption(one, other), caption(other, one)


def learn(samples: Sequence[lucidcam.Sample], epochs: int, seed: int = 0) -> tuple[Captioner, common.Vocabulary]:
    """Train with scenes and captions alone; each time with one of the two captions that are true."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, texts = common.pixels(samples), [captions(each) for each in samples]
    vocabulary = common.Vocabulary.of((text for both in texts for text in both), START, END)
    network = Captioner(len(vocabulary.words))

    def loss(rows: Tensor) -> Tensor:
        ids = vocabulary.batch([f"{START} {texts[i][int(rng.integers(2))]} {END}" for i in rows])
        return F.cross_entropy(network(images[rows], ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)

    common.train(network, loss, len(samples), epochs, batch=32)
    return network, vocabulary


@torch.no_grad()
def written(network: Captioner, vocabulary: common.Vocabulary, images: Tensor) -> list[str]:
    """The network's own captions: always the likeliest word, up to the end."""
    ids = torch.full((len(images), 1), vocabulary.words.index(START))
    for _ in range(LONGEST):
        ids = torch.cat([ids, network(images, ids)[:, -1:].argmax(-1)], 1)
    return [vocabulary.text(row).removeprefix(START).partition(END)[0].strip() for row in ids.tolist()]


def as_model(network: Captioner, vocabulary: common.Vocabulary) -> lucidcam.Model:
    """The network as lucidcam takes it: what can be asked of it are captions and their words."""

    def encode(text: str) -> Written:
        return Written(vocabulary.ids(f"{START} {text}"), [(word, [i]) for i, word in enumerate(split(text), start=1)])

    def inputs(images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return images, ids.expand(len(images), -1)

    task = Captions(encode, inputs, lambda image: written(network, vocabulary, image)[0])
    return lucidcam.wrap(network, common.PREPROCESS, name="captioner", task=task)


def shapes_of(text: str) -> list[str]:
    """What a caption names: "red circle", "blue square"."""
    words = text.split()
    return [" ".join(words[1:3]), " ".join(words[-2:])]


def shape_words(text: str) -> tuple[int, int]:
    """Which words of a caption name the two shapes."""
    return 2, len(text.split()) - 1


def explained(model: lucidcam.Model, sample: lucidcam.Sample, text: str, word: int, method: str, layer: str) -> lucidcam.Explanation:
    """The map of a caption's word. The layer "attend" is called once for each word: the call that is this word's counts."""
    call = f"attend#{word}" if layer == "attend" else layer
    [found] = lucidcam.explain(model, [sample.image], method, target=lucidcam.Caption(text, word), layer=call)
    return found


def evaluated(model: lucidcam.Model, vocabulary: common.Vocabulary, samples: Sequence[lucidcam.Sample]) -> dict[str, dict[str, float]]:
    """Maps of both words for shapes ("circle", "square") in a true caption of each scene: where their energy is, by method and layer."""
    own = written(model.module, vocabulary, common.pixels(samples))
    named = [sorted(shapes_of(text)) == sorted(each.labels) for text, each in zip(own, samples, strict=True)]
    right = [text in captions(each) for text, each in zip(own, samples, strict=True)]
    print(f"its own captions: {100 * np.mean(named):.1f} % name both shapes, {100 * np.mean(right):.1f} % are true with the places, too")
    results = {"the same everywhere": common.chance(thing for each in samples for thing in each.objects)}
    for method, layer in METHODS:
        rows = []
        for i, each in enumerate(samples):
            things = each.objects[:: 1 if i % 2 else -1]  # either is named first in half of the scenes
            text = caption(*things)
            for thing, word in zip(things, shape_words(text), strict=True):
                rows.append(common.judged(explained(model, each, text, word, method, layer).map, thing))
        results[f"{method}, {layer}"] = common.means(rows)
    return results


def main(
    out: str | Path = "out/captioning", count: int = 4000, test_count: int = 200, epochs: int = 10
) -> tuple[dict[str, dict[str, float]], Path]:
    """Train, print where the maps of unseen scenes lie, write a picture. Returns the figures by method, in %, and the picture's path."""
    begun = time.perf_counter()
    network, vocabulary = learn(common.scenes(count, common.TRAINING, 2), epochs)
    print(f"drawn and trained in {time.perf_counter() - begun:.0f} s")
    test = common.scenes(test_count, common.UNSEEN, 2)
    model = as_model(network, vocabulary)
    results = evaluated(model, vocabulary, test)
    common.show(results, f"maps of the words for shapes, {test_count} unseen scenes")
    rows = []
    for each in test[:4]:
        text = caption(*each.objects)
        first, second = shape_words(text)
        named = {first - 1: 0, first: 0, second - 1: 1, second: 1}  # words for colours and shapes, and whose
        row = [("a scene", common.plain(each))]
        for word in range(second + 1):
            found = explained(model, each, text, word, "gradcam", "attend")
            row.append((found.label, common.seen(found, each.objects[named[word]] if word in named else None)))
        rows.append(row)
    return results, common.saved(panel(rows, height=128), out, "captioning.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/captioning")
    parser.add_argument("--count", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.count, epochs=given.epochs)[1]}")
