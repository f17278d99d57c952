"""Studies for tests: a plan with made-up pictures, a tiny one that is really explained, and people who answer by a rule."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam.study import Plan
from lucidcam.study.answers import Answers, Task
from lucidcam.study.plan import PICTURES, Block, Item

METHODS = ("sharp", "blurred")
SIDES = ("weak", "strong")
BETTER = "strong"
HOSTILE = '<b>x</b>" onerror="alert(1)'


def plan(folder: Path, *, photos: int = 6, items: int = 4, checks: int = 2, passed: float = 0.75, which: bool = True, trust: bool = True,
         participants: int = 1000) -> Plan:  # fmt: skip
    """A study of pictures of one colour, written to `folder`."""
    (folder / PICTURES).mkdir(parents=True)
    found: list[Item] = []
    blocks = []
    if which:
        for image in range(photos):
            for method in METHODS:
                for options in (("horse", HOSTILE), (HOSTILE, "horse")):
                    found.append(Item(name(), "which_class", f"photo {image}", method, (picture(folder),), options=options))
        for image in range(2 * checks):
            drawn = Item(name(), "which_class", f"check {image}", "check", (picture(folder),), options=("cow", "dog"), expected=0)
            found.append(drawn)
        blocks.append(Block("which_class", items, checks, "What do you see?", "One of the two."))
    if trust:
        for image in range(photos):
            for method in METHODS:
                both = picture(folder), picture(folder)
                found.append(Item(name(), "trust", f"photo {image}", method, both, picture(folder), sides=SIDES, said="horse"))
        for k in range(2 * checks):
            expected, told = ((-2, "A is clearly more reliable"), (2, "B is clearly more reliable"))[k % 2]
            both = picture(folder), picture(folder)
            found.append(
                Item(name(), "trust", f"check {k}", "check", both, picture(folder), sides=SIDES, said="x", expected=expected, told=told)
            )
        blocks.append(Block("trust", items, checks, "Which is more reliable?"))
    made = Plan(name(), "A study", "First.\n\nSecond.", tuple(blocks), tuple(found), passed, participants, BETTER if trust else "")
    made.write(folder)
    return made


def name() -> str:
    return secrets.token_hex(16)


def picture(folder: Path) -> str:
    found = f"{name()}.jpg"
    rng = np.random.default_rng()
    Image.new("RGB", (160, 120), tuple(rng.integers(0, 256, 3).tolist())).save(folder / PICTURES / found)
    return found


Rule = Callable[[Task], int]


def right(task: Task) -> int:
    """What one who knows the truth answers, as it stands on the page: the class shown; clearly the better model."""
    item = task.item
    if item.kind == "which_class":
        return int(task.flipped)
    if item.check:
        assert item.expected is not None
        return item.expected
    return -2 if task.flipped else 2  # the better one is the second side


def take_part(answers: Answers, rule: Rule, most: int = 1000) -> str:
    """Somebody who answers by a rule, at most so many questions; returns their token."""
    token = answers.start()
    for _ in range(most):
        task = answers.next(token)
        if task is None:
            break
        assert answers.answer(token, task.token, rule(task))
    return token


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The study's server in this process; gives its address."""
    import uvicorn

    from lucidcam.study import application

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = application(folder)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            for _ in range(200):
                if server.started:
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


class Colours(nn.Module):
    """Scores of red and blue: how much of each there is; or red for everything."""

    def __init__(self, only_red: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[8.0, 0, -8.0], [-8.0, 0, 8.0]])[:, :, None, None])
            self.conv.bias.copy_(torch.tensor([0.5, 0.5]))
            if only_red:
                self.conv.bias.copy_(torch.tensor([9.0, 0.5]))
        self.relu = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(images)).mean((-2, -1))


def model(only_red: bool = False) -> lucidcam.Model:
    from lucidcam.imaging.preprocess import Preprocess

    steps = Preprocess(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), fit="squash")
    return lucidcam.wrap(Colours(only_red).eval(), steps, ["red", "blue"], name="red for all" if only_red else "colours")


def samples(both: int = 4, single: int = 6, boxes: bool = True) -> list[lucidcam.Sample]:
    """Photos with red on one side and blue on the other, boxes around each; and photos of one colour."""
    found = []
    for k in range(both):
        pixels = np.full((48, 64, 3), 40, np.uint8)
        places = {("red", "blue")[k % 2]: (4, 8, 28, 40), ("blue", "red")[k % 2]: (36, 8, 60, 40)}
        for colour, (left, top, right_, bottom) in places.items():
            pixels[top:bottom, left:right_] = (230, 20, 20) if colour == "red" else (20, 20, 230)
        objects = tuple(lucidcam.Object(colour, tuple(map(float, places[colour])) if boxes else None) for colour in ("red", "blue"))
        found.append(lucidcam.Sample(pixels, f"both {k}", objects=objects))
    for k in range(single):
        colour = ("red", "blue")[k % 2]
        pixels = np.full((48, 64, 3), 40, np.uint8)
        pixels[8:40, 10:54] = (230, 20, 20) if colour == "red" else (20, 20, 230)
        found.append(lucidcam.Sample(pixels, f"{colour} {k}", labels=(colour,)))
    return found
