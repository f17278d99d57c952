"""Questions about a scene: "what colour is the circle?", "what shape is blue?" The map goes where the question points.

python examples/questions.py [--out DIR] [--count N] [--epochs N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from lucidcam.tasks import Questions

OBJECTS = 3
FEATURES, STATE = 48, 64
METHODS = (("gradcam", "attend"), ("layercam", "attend"), ("gradcam", "trunk"), ("hirescam", "trunk"))
"""Methods and layers: what the attention read of the image, or the last convolution."""


@dataclass(frozen=True)
class Asked:
    """A question with one answer.

    Attributes:
        text: the question.
        answer: one word.
        about: the shape that the answer is about.
    """

    text: str
    answer: str
    about: lucidcam.Object


class FiLM(nn.Module):
    """A 1×1 convolution whose channels are scaled and shifted by the question (Perez et al., AAAI 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(FEATURES, FEATURES, 1), nn.BatchNorm2d(FEATURES, affine=False)
        self.modulate, self.act = nn.Linear(STATE, 2 * FEATURES), nn.ReLU()

    def forward(self, features: Tensor, question: Tensor) -> Tensor:
        """From `[B, K, h, w]` and `[B, 64]` to `[B, K, h, w]`."""
        scale, shift = self.modulate(question)[:, :, None, None].chunk(2, 1)
        return self.act(self.norm(self.conv(features)) * (1 + scale) + shift)


class Answerer(nn.Module):
    """Convolutions, two FiLM layers for the question, attention pooling, a linear layer over the answers.

    Args:
        words: of the questions.
        answers: how many there are.
    """

    def __init__(self, words: int, answers: int) -> None:
        super().__init__()
        self.trunk, self.reader = common.trunk(FEATURES), common.Reader(words, STATE)
        self.first, self.second = FiLM(), FiLM()
        self.look, self.attend = nn.Conv2d(FEATURES, 1, 1), common.Attend()
        self.head = nn.Linear(FEATURES, answers)

    def forward(self, images: Tensor, question: Tensor) -> Tensor:
        """From `[B, 3, 64, 64]` and numbers of words `[B, L]` to answers' logits."""
        state = self.reader(question)
        features = self.second(self.first(self.trunk(images), state), state)
        return self.head(self.attend(features, self.look(features)).sum((2, 3)))


def questions(sample: lucidcam.Sample) -> list[Asked]:
    """All that can be asked of a scene and has one answer: "the circle" must be the only one, and so must what is blue."""
    found = []
    words = [thing.label.split() for thing in sample.objects]
    for thing, (colour, form) in zip(sample.objects, words, strict=True):
        if sum(form in each for each in words) == 1:
            found.append(Asked(f"what colour is the {form}?", colour, thing))
        if sum(colour in each for each in words) == 1:
            found += [Asked(f"what shape is {colour}?", form, thing), Asked(f"what shape is the {colour} one?", form, thing)]
    return found


def learn(samples: Sequence[lucidcam.Sample], epochs: int, seed: int = 0) -> tuple[Answerer, common.Vocabulary, tuple[str, ...]]:
    """Train with scenes, questions and answers alone. Returns the network, the questions' words and the answers."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    askable, images = [questions(each) for each in samples], common.pixels(samples)
    vocabulary = common.Vocabulary.of(each.text for some in askable for each in some)
    answers = tuple(sorted({each.answer for some in askable for each in some}))
    network = Answerer(len(vocabulary.words), len(answers))

    def loss(rows: Tensor) -> Tensor:
        asked = [askable[i][int(rng.integers(len(askable[i])))] for i in rows]
        logits = network(images[rows], vocabulary.batch([each.text for each in asked]))
        return F.cross_entropy(logits, torch.tensor([answers.index(each.answer) for each in asked]))

    common.train(network, loss, len(samples), epochs)
    return network, vocabulary, answers


def as_model(network: Answerer, vocabulary: common.Vocabulary, answers: Sequence[str]) -> lucidcam.Model:
    """The network as lucidcam takes it: what can be asked of it are questions, and its labels are the answers."""

    def inputs(images: Tensor, question: str) -> tuple[Tensor, Tensor]:
        return images, vocabulary.batch([question]).expand(len(images), -1)

    return lucidcam.wrap(network, common.PREPROCESS, answers, layer="attend", name="answerer", task=Questions(inputs))


def evaluated(
    network: Answerer, vocabulary: common.Vocabulary, answers: Sequence[str], samples: Sequence[lucidcam.Sample]
) -> dict[str, dict[str, float]]:
    """Maps of the network's own answer to all questions of all scenes: where their energy is, by method. And how often it is right."""
    asked = [(i, each) for i, sample in enumerate(samples) for each in questions(sample)]
    inputs = common.pixels([samples[i] for i, _ in asked]), vocabulary.batch([each.text for _, each in asked])
    with torch.no_grad():
        given = network(*inputs).argmax(1).tolist()
    right = np.mean([answers[k] == each.answer for k, (_, each) in zip(given, asked, strict=True)])
    print(f"{100 * right:.1f} % of {len(asked)} questions are answered rightly")
    results = {"the same everywhere": common.chance(each.about for _, each in asked)}
    for method, layer in METHODS:
        maps = lucidcam.attribute(network, inputs, method, layer=layer)
        rows = [common.judged(finish(found, samples[i].image.shape[:2]), each.about) for found, (i, each) in zip(maps, asked, strict=True)]
        results[f"{method}, {layer}"] = common.means(rows)
    return results


def main(
    out: str | Path = "out/questions", count: int = 4000, test_count: int = 200, epochs: int = 6
) -> tuple[dict[str, dict[str, float]], Path]:
    """Train, print where the maps of unseen scenes lie, write a picture. Returns the figures by method, in %, and the picture's path."""
    begun = time.perf_counter()
    network, vocabulary, answers = learn(common.scenes(count, common.TRAINING, OBJECTS), epochs)
    print(f"drawn and trained in {time.perf_counter() - begun:.0f} s")
    test = common.scenes(test_count, common.UNSEEN, OBJECTS)
    results = evaluated(network, vocabulary, answers, test)
    common.show(results, f"maps of the network's answers, {test_count} unseen scenes")
    model = as_model(network, vocabulary, answers)
    rows = []
    for each in [sample for sample in test if len(questions(sample)) == 3 * OBJECTS][:4]:  # where everything can be asked for
        row = [("a scene", common.plain(each))]
        for k, thing in enumerate(each.objects):
            asked = [question for question in questions(each) if question.about is thing][:2][k % 2]
            [found] = lucidcam.explain(model, [each.image], target=lucidcam.Question(asked.text))
            row.append((f"{found.label}", common.seen(found, thing)))
        rows.append(row)
    return results, common.saved(panel(rows, height=common.SHOWN), out, "questions.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/questions")
    parser.add_argument("--count", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.count, epochs=given.epochs)[1]}")
