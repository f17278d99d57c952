"""Small networks of every task, untrained: what they compute is simple enough to be checked by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam import tasks
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.types import Model

WORDS = ["<start>", "<end>", "a", "red", "blue", "circle", "square", "left", "of", "what", "colour", "is", "the"]
COLOURS = ("red", "blue", "green", "grey")
KINDS = ("background", "circle", "square")
SIDE = 24
PREPROCESS = Preprocess(size=(SIDE, SIDE), resize=(SIDE, SIDE), mean=(0.5,), std=(0.5,), fit="squash")


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in tasks.split(text)]


def trunk(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, channels, 3, padding=1), nn.ReLU()
    )  # fmt: skip


class Captioner(nn.Module):
    """An LSTM that begins with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.see = trunk()
        self.begin, self.embed = nn.Linear(8, 10), nn.Embedding(len(WORDS), 10)
        self.tell, self.word = nn.LSTM(10, 10, batch_first=True), nn.Linear(10, len(WORDS))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        state = self.begin(self.see(image).mean((2, 3)))[None].tanh()
        return self.word(self.tell(self.embed(text), (state, torch.zeros_like(state)))[0])

    def write(self, image: Tensor) -> str:
        ids = [0]
        with torch.no_grad():
            for _ in range(4):
                ids.append(int(self(image, torch.tensor([ids]))[0, -1, 2:].argmax()) + 2)
        return " ".join(WORDS[id] for id in ids[1:])


class Answerer(nn.Module):
    """The question scales the channels (FiLM); answers are colours. Its outputs are a dict, its inputs are named."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.embed = trunk(), nn.EmbeddingBag(len(WORDS), 8)
        self.answer = nn.Linear(8, len(COLOURS))

    def forward(self, text: Tensor, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.answer((self.see(image) * self.embed(text)[:, :, None, None]).relu().mean((2, 3)))}


class Towers(nn.Module):
    """The image's tower is called; the text's stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.project, self.read = trunk(), nn.Linear(8, 5), nn.EmbeddingBag(len(WORDS), 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.project(self.see(image).mean((2, 3)))

    def encode(self, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.read(torch.tensor([ids_of(text)])) for text in texts])


class Lister(nn.Module):
    """A detector that returns lists: each quarter of the map is a box, of the class and score that its mean gives."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.classify = trunk(), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> list[dict[str, Tensor]]:
        height, width = image.shape[2:]
        corners = [(0, 0), (width / 2, 0), (0, height / 2), (width / 2, height / 2)]
        boxes = image.new_tensor([[x, y, x + width / 2, y + height / 2] for x, y in corners])
        scores = self.classify(F.adaptive_avg_pool2d(self.see(image), 2).flatten(2).transpose(1, 2)).softmax(-1)
        best, labels = scores.max(-1)
        return [{"boxes": boxes, "labels": labels[i] + 1, "scores": best[i]} for i in range(len(image))]


class Querier(nn.Module):
    """A detector of DETR's kind: four queries, one for each quarter, and "no object" as the last class."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.classify = trunk(), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = F.adaptive_avg_pool2d(self.see(image), 2).flatten(2).transpose(1, 2)
        boxes = image.new_tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
        return {"logits": self.classify(features), "pred_boxes": boxes.expand(len(image), 4, 4)}


class Segmenter(nn.Module):
    """Class scores of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.classify = trunk(), nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.classify(self.see(image))}


def encode(text: str) -> tasks.Written:
    words = tasks.split(text)
    known = [(word, [i + 1]) for i, word in enumerate(words)]
    return tasks.Written([0, *(WORDS.index(word) for word in words)], known)


def talker(kind: str) -> Model:
    """A model of a task, the same every time."""
    torch.manual_seed(3)
    if kind == "captioning":
        net = Captioner()
        task = tasks.Captions(encode, lambda images, ids: (images, ids.expand(len(images), -1)), net.write)
        return Model(net.eval(), PREPROCESS, name=kind, task=task, layer="see.3")
    if kind == "question answering":
        asker = Answerer()

        def inputs(images: Tensor, text: str) -> dict[str, Tensor]:
            return {"text": torch.tensor([ids_of(text)] * len(images)), "image": images}

        return Model(asker.eval(), PREPROCESS, COLOURS, name=kind, task=tasks.Questions(inputs))
    if kind == "image-text similarity":
        towers = Towers()
        return Model(towers.eval(), PREPROCESS, name=kind, task=tasks.Prompts(towers.encode, scale=10.0))
    if kind == "semantic segmentation":
        return Model(Segmenter().eval(), PREPROCESS, KINDS, name=kind, task=tasks.Segments())
    net = Lister() if kind == "lists" else Querier()
    if kind == "queries":
        return Model(net.eval(), PREPROCESS, KINDS[1:], name=kind, task=tasks.Detections())
    return Model(net.eval(), PREPROCESS, KINDS, "see", name=kind, task=tasks.Detections())  # lists do not tell what makes class scores


TASKS = ("captioning", "question answering", "image-text similarity", "lists", "queries", "semantic segmentation")
