"""Let a policy learn a game from its pixels, then ask of each move: what on the screen made you do that?

python examples/policy.py [--out DIR] [--game catch|breakout] [--steps N]
"""

from __future__ import annotations

import argparse
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from rich import print
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

import lucidcam
from lucidcam.imaging.render import colour

CELLS = 10
"""Pixels per side of a screen."""

METHODS = ("hirescam", "layercam", "gradcam++", "gradcam", "scorecam", "occlusion")
COLUMNS = ("what matters", "other objects", "black cells")

LAYER = "features.seen.1"
"""What is seen in each cell, before anything is made of it."""

FRAMES = 90
"""Of the film, at most."""

SHOWN = 18
"""Pixels per side of a cell in the film."""

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.float64]


class Game(gymnasium.Env):  # type: ignore[misc]
    """A game on a screen of `[3, 10, 10]` colours."""

    colours: ClassVar[Mapping[str, tuple[int, int, int]]]
    """RGB of each kind of object; what comes later covers what comes earlier."""

    matters: ClassVar[tuple[str, ...]]
    """What a move should depend on."""

    moves = ("stay", "left", "right")
    longest = 1000

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (3, CELLS, CELLS), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(self.moves))
        self.steps = 0

    @abstractmethod
    def begin(self, seed: int | None) -> None:
        """Start an episode; None: go on with the same draws."""

    @abstractmethod
    def move(self, move: str) -> tuple[float, bool]:
        """Make a move; returns the reward, and whether the episode is over."""

    @abstractmethod
    def where(self) -> dict[str, Mask]:
        """The cells `[10, 10]` of each kind of object, in the order of `colours`."""

    def screen(self) -> Pixels:
        """What is seen `[3, 10, 10]`."""
        shown = np.zeros((CELLS, CELLS, 3), np.uint8)
        for kind, cells in self.where().items():
            shown[cells] = self.colours[kind]
        return shown.transpose(2, 0, 1).copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self.begin(seed)
        self.steps = 0
        return self.screen(), {}

    def step(self, action: Any) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        reward, over = self.move(self.moves[int(action)])
        self.steps += 1
        return self.screen(), reward, over, self.steps >= self.longest, {}


class Catch(Game):
    """Ten balls fall, one after the other: caught +1, missed −1. Six other things fall beside, and mean nothing."""

    colours: ClassVar = {
        "blue decoy": (70, 120, 255),
        "green decoy": (60, 190, 90),
        "pink decoy": (200, 80, 220),
        "ball": (255, 230, 60),
        "paddle": (230, 70, 60),
    }
    matters = ("ball", "paddle")
    each = 2
    """Decoys of each colour."""

    def begin(self, seed: int | None) -> None:
        """See `Game.begin`."""
        if seed is not None or not hasattr(self, "rng"):
            self.rng = np.random.default_rng(seed)
        decoys = [kind for kind in self.colours if kind.endswith("decoy")] * self.each
        self.balls, self.paddle = 10, int(self.rng.integers(1, CELLS - 1))
        self.falling = [("ball", 0, self._column()), *((kind, int(self.rng.integers(CELLS - 1)), self._column()) for kind in decoys)]

    def move(self, move: str) -> tuple[float, bool]:
        """See `Game.move`."""
        self.paddle = int(np.clip(self.paddle + {"stay": 0, "left": -1, "right": 1}[move], 1, CELLS - 2))
        self.falling = [(kind, row + 1, column) for kind, row, column in self.falling]
        reward = 0.0
        if self.falling[0][1] == CELLS - 1:
            reward = 1.0 if abs(self.falling[0][2] - self.paddle) <= 1 else -1.0
            self.balls -= 1
        self.falling = [(kind, 0, self._column()) if row == CELLS - 1 else (kind, row, column) for kind, row, column in self.falling]
        return reward, self.balls == 0

    def where(self) -> dict[str, Mask]:
        """See `Game.where`."""
        found = {kind: np.zeros((CELLS, CELLS), bool) for kind in self.colours}
        for kind, row, column in self.falling:
            found[kind][row, column] = True
        found["paddle"][-1, self.paddle - 1 : self.paddle + 2] = True
        return found

    def _column(self) -> int:
        return int(self.rng.integers(CELLS))


class Breakout(Game):
    """MinAtar's Breakout (Young and Tian 2019): +1 for each brick. One move in ten repeats the last, whatever is chosen.

    The trail is where the ball was a step ago; it tells whither the ball flies.
    """

    colours: ClassVar = {"brick": (220, 160, 40), "trail": (70, 120, 255), "ball": (255, 255, 255), "paddle": (230, 70, 60)}
    matters = ("ball", "trail", "paddle")

    def __init__(self) -> None:
        from minatar import Environment

        super().__init__()
        self.game = Environment("breakout")

    def begin(self, seed: int | None) -> None:
        """See `Game.begin`."""
        if seed is not None:
            self.game.seed(seed)
        self.game.reset()

    def move(self, move: str) -> tuple[float, bool]:
        """See `Game.move`."""
        reward, over = self.game.act({"stay": 0, "left": 1, "right": 3}[move])
        return float(reward), bool(over)

    def where(self) -> dict[str, Mask]:
        """See `Game.where`."""
        state, channels = np.asarray(self.game.state(), bool), self.game.env.channels
        return {kind: state[..., channels[kind]] for kind in self.colours}


GAMES: dict[str, type[Game]] = {"catch": Catch, "breakout": Breakout}
STEPS = {"catch": 100_000, "breakout": 180_000}


class Features(BaseFeaturesExtractor):  # type: ignore[misc]
    """What is seen in each cell, what is around it, and a layer that knows places.

    The convolutions have no bias: where the screen is black, there is nothing.
    """

    def __init__(self, space: gymnasium.spaces.Box, width: int = 16, out: int = 64) -> None:
        super().__init__(space, out)
        self.seen = nn.Sequential(nn.Conv2d(3, width, 1, bias=False), nn.ReLU())
        self.around = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU())
        self.placed = nn.Sequential(nn.Flatten(), nn.Linear(width * CELLS**2, out), nn.ReLU())

    def forward(self, screens: Tensor) -> Tensor:
        """Return features `[B, 64]`."""
        return self.placed(self.around(self.seen(screens)))


class Actor(nn.Module):
    """The part of a policy that chooses: screens `[B, 3, 10, 10]`, 0 to 1, to a logit of each move `[B, 3]`."""

    def __init__(self, learner: PPO) -> None:
        super().__init__()
        self.features, self.moves = learner.policy.features_extractor, learner.policy.action_net

    def forward(self, screens: Tensor) -> Tensor:
        """Return logits `[B, 3]`."""
        return self.moves(self.features(screens))


def learner(game: type[Game], seed: int = 0) -> PPO:
    """Proximal policy optimisation (Schulman et al. 2017) with a network that has learnt nothing yet."""
    return PPO(
        "CnnPolicy",
        DummyVecEnv([game] * 32),
        n_steps=64,
        batch_size=512,
        n_epochs=3,
        learning_rate=lambda left: 2e-3 * left,
        gamma=0.97,
        ent_coef=0.01,
        policy_kwargs={"features_extractor_class": Features, "net_arch": []},
        seed=seed,
        device="cpu",
    )


def model_of(trained: PPO) -> lucidcam.Model:
    """The policy as lucidcam takes it: screens are its photos, moves its classes."""
    return lucidcam.wrap(Actor(trained), preprocess=as_input, labels=Game.moves, layer=LAYER, name="policy")


def as_input(screen: Image.Image) -> Tensor:
    """A screen as the network takes it `[3, 10, 10]`, 0 to 1."""
    return torch.from_numpy(np.array(screen.convert("RGB"))).permute(2, 0, 1).float() / 255


def logits(model: lucidcam.Model, screens: Sequence[Image.Image]) -> Tensor:
    """Of each move `[n, 3]`."""
    with torch.inference_mode():
        return model.module(torch.stack([as_input(each) for each in screens]))


@dataclass(frozen=True, eq=False)
class Moment:
    """A screen, and what was done.

    Attributes:
        screen: a picture of 10 × 10 pixels.
        cells: of each kind of object `[10, 10]`.
        move: its number.
        total: the reward of the episode until then.
    """

    screen: Image.Image = field(repr=False)
    cells: dict[str, Mask] = field(repr=False)
    move: int
    total: float

    def mask(self, kinds: Sequence[str]) -> Mask:
        """The cells of some kinds of objects that are seen: not covered by another."""
        seen = {}
        covered = np.zeros((CELLS, CELLS), bool)
        for kind, cells in reversed(self.cells.items()):
            seen[kind] = cells & ~covered
            covered |= cells
        return np.any([seen[kind] for kind in kinds], axis=0)


def play(game: Game, choose: Callable[[Image.Image], int], episodes: int, seed: int) -> tuple[list[Moment], list[float]]:
    """Play, and keep every moment; returns these and each episode's return."""
    moments, returns = [], []
    for episode in range(episodes):
        pixels, _ = game.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            screen = Image.fromarray(pixels.transpose(1, 2, 0))
            moments.append(Moment(screen, game.where(), choose(screen), total))
            pixels, reward, ended, cut, _ = game.step(moments[-1].move)
            total, over = total + reward, ended or cut
        returns.append(total)
    return moments, returns


def likeliest(model: lucidcam.Model) -> Callable[[Image.Image], int]:
    """Choose the move of the highest logit."""
    return lambda screen: int(logits(model, [screen]).argmax())


def anything(seed: int) -> Callable[[Image.Image], int]:
    """Choose at random."""
    rng = np.random.default_rng(seed)
    return lambda screen: int(rng.integers(len(Game.moves)))


def explained(model: lucidcam.Model, moments: Sequence[Moment], method: str) -> list[lucidcam.Explanation]:
    """What speaks for each moment's move: for its log-probability, so that what speaks for every move alike does not count."""
    targets = [lucidcam.LogProbability(each.move) for each in moments]
    return lucidcam.explain(model, [each.screen for each in moments], method, targets, progress=False)


def shares(maps: Sequence[Map], moments: Sequence[Moment], game: type[Game]) -> dict[str, float]:
    """Mean share of the maps' energy, in %: on what matters, on other objects, on black cells. They sum to less where maps are empty."""
    others = [kind for kind in game.colours if kind not in game.matters]
    found = []
    for each, moment in zip(maps, moments, strict=True):
        masks = (moment.mask(game.matters), moment.mask(others), ~moment.mask(list(game.colours)))
        found.append([each[mask].sum() / (each.sum() or 1) for mask in masks])
    return dict(zip(COLUMNS, (100 * np.mean(found, axis=0)).tolist(), strict=True))


def changed(model: lucidcam.Model, moments: Sequence[Moment], kinds: Sequence[str], seed: int = 0) -> float:
    """How often, in %, the likeliest move is another when one object of some kinds, any of them, is painted black."""
    rng = np.random.default_rng(seed)
    kept = [each for each in moments if each.mask(kinds).any()]
    without = []
    for each in kept:
        kind = rng.choice([kind for kind in kinds if each.mask([kind]).any()])
        cells = np.argwhere(each.mask([kind]))
        pixels = np.array(each.screen)
        for row, column in cells if kind == "paddle" else [rng.choice(cells)]:
            pixels[row, column] = 0
        without.append(Image.fromarray(pixels))
    before, after = logits(model, [each.screen for each in kept]).argmax(1), logits(model, without).argmax(1)
    return 100 * float((before != after).float().mean())


def film(model: lucidcam.Model, moments: Sequence[Moment], method: str, path: Path) -> None:
    """An episode as a GIF: the screen, beside it what spoke for each move."""
    frames = []
    for moment, found in zip(moments, explained(model, moments, method), strict=True):
        side = CELLS * SHOWN
        frame = Image.new("RGB", (2 * side + 24, side + 40), (255, 255, 255))
        heat = Image.fromarray(np.uint8(255 * found.heatmap)).resize((side, side), Image.Resampling.NEAREST)
        for x, picture in ((8, moment.screen), (side + 16, colour(np.asarray(heat, np.float32) / 255, "magma"))):
            frame.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, 32))
        words = f"{Game.moves[moment.move]}: {100 * np.exp(found.score):.0f} %"
        ImageDraw.Draw(frame).text((8, 8), f"score {moment.total:.0f}", (28, 28, 30), font=ImageFont.load_default(size=15))
        ImageDraw.Draw(frame).text((side + 16, 8), words, (28, 28, 30), font=ImageFont.load_default(size=15))
        frames.append(frame.quantize(48, dither=Image.Dither.NONE))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=160, loop=0, optimize=True)


def main(
    out: str | Path = "out/policy",
    game: str = "catch",
    steps: int | None = None,
    episodes: int = 10,
    count: int = 200,
    methods: Sequence[str] = METHODS,
) -> tuple[dict[str, dict[str, float]], Path]:
    """Learn, print what was learnt and where the maps of the moves lie, and write a film.

    Args:
        out: a folder.
        game: "catch" or "breakout".
        steps: of the game to learn from; None: as many as the game needs.
        episodes: to judge by; more of them to compare with choosing at random.
        count: moments of these whose moves are explained.
        methods: of explaining.

    Returns:
        Figures by what they are of ("return", "chance", a method, a method "untrained"); and where the film is.
    """
    folder, kind = Path(out), GAMES[game]
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    trained = learner(kind)
    trained.learn(STEPS[game] if steps is None else steps)
    model, untrained = model_of(trained), model_of(learner(kind, seed=1))
    moments, returns = play(kind(), likeliest(model), episodes, seed=1000)
    random_returns = play(kind(), anything(0), 3 * episodes, seed=1000)[1]
    figures = {"return": {"learnt": float(np.mean(returns)), "at random": float(np.mean(random_returns))}}
    seconds = time.perf_counter() - begun
    print(f"{game}: learnt in {seconds:.0f} s; mean return {np.mean(returns):.1f}, at random {np.mean(random_returns):.1f}")

    chosen = [moments[i] for i in np.random.default_rng(0).permutation(len(moments))[:count]]
    figures["move changed without"] = {each: changed(model, chosen, [each]) for each in kind.colours}
    for each, value in figures["move changed without"].items():
        print(f"painted black: {each}: another move in {value:.0f} % of the moments")
    rows = {"chance": shares([np.ones((CELLS, CELLS))] * len(chosen), chosen, kind)}
    for method in methods:
        for name, network in ((method, model), (f"{method}, untrained", untrained)):
            rows[name] = shares([each.heatmap for each in explained(network, chosen, method)], chosen, kind)
    table = Table("energy in %", *COLUMNS)
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    print(table)
    path = folder / f"{game}.gif"
    shown, _ = play(kind(), likeliest(model), 1, seed=2000)
    film(model, shown[:FRAMES], methods[0], path)
    return figures | rows, path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/policy")
    parser.add_argument("--game", choices=list(GAMES), default="catch")
    parser.add_argument("--steps", type=int, help="of the game to learn from")
    given = parser.parse_args()
    print(f"wrote {main(given.out, given.game, given.steps)[1]}")
