"""Networks in which the images of a batch influence each other, or that draw random numbers: an image gets the map it gets alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from few_passes import METHODS, OPTIONS
from in_turn import in_turn
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.mixing import mixes
from lucidcam.errors import ModelError
from lucidcam.registry import metrics

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own quantisation


def images(count: int = 3, side: int = 10) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def network(norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 5, 3), *([norm(5)] if norm else []), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


class By(nn.Module):
    """A network with something done to images, to features or to scores on the way."""

    def __init__(self, change: Callable[[Tensor], Tensor], at: str = "features") -> None:
        super().__init__()
        self.net, self.change, self.at = network(), change, at

    def forward(self, x: Tensor) -> Tensor:
        x = self.change(x) if self.at == "images" else x
        features = self.net[:6](x)
        features = self.change(features) if self.at == "features" else features
        scores = self.net[6](features)
        return self.change(scores) if self.at == "scores" else scores


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net[1:](F.batch_norm(self.net[0](x), None, None, training=True))


def cumulative(f: Tensor) -> Tensor:
    """An image sees those before it alone."""
    return f.cumsum(0) / torch.arange(1, len(f) + 1).reshape(-1, *[1] * (f.ndim - 1))


def ghost(f: Tensor) -> Tensor:
    """Statistics of two images at a time."""
    return torch.cat([part - 0.5 * part.mean(0) for part in f.split(2)])


LEVEL = float(images().mean((1, 2, 3)).sort().values[:2].mean())
"""Of brightness: one image, not the first, is darker, all together are not; no trial with the first one crosses it."""


class Way(nn.Module):
    """Turns the colours of bright images round: one way is taken for all that come together."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > self.level:
            return x.flip(1)
        return x


class Exits(nn.Module):
    """Leaves early as soon as the first scores are sure, as networks with early exits do."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.early = network(), nn.Linear(5, 3)
        with torch.no_grad():
            sure = self.early(self.net[:2](images()).mean((2, 3))).softmax(-1).amax(-1)
        self.level = float(sure.median())

    def forward(self, x: Tensor) -> Tensor:
        first = self.net[:2](x)
        scores: Tensor = self.early(first.mean((2, 3)))
        return scores if scores.softmax(-1).min(0).values.max().item() > self.level else self.net[2:](first)


READS: dict[str, Callable[[Tensor], object]] = {
    "bool": lambda x: x.mean() > LEVEL,
    "item": lambda x: x.mean().item() > LEVEL,
    "float": lambda x: float(x.mean()) > LEVEL,
    "int": lambda x: int(1e6 * x.mean()) > int(1e6 * LEVEL),
    "index": lambda x: [False, True][(x.mean() > LEVEL).long()],
    "list": lambda x: sum(x.mean((0, 2, 3)).tolist()) / 3 > LEVEL,
    "array": lambda x: np.asarray(x.detach()).mean() > LEVEL,
    "equal": lambda x: not torch.equal(x.mean().clamp(max=LEVEL), x.mean()),
    "in": lambda x: True in (x.mean() > LEVEL),
}


def read_by(name: str) -> Callable[[], nn.Module]:
    return lambda: By(lambda x: x.flip(1) if READS[name](x) else x, "images")


MIXING: dict[str, Callable[[], nn.Module]] = {
    "batch norm without running statistics": lambda: network(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "batch norm by hand": ByHand,
    "mean of the images": lambda: By(lambda x: x - 0.5 * x.mean(0), "images"),
    "attention between images": lambda: By(lambda f: (3 * f @ f.T).softmax(-1) @ f),
    "largest value of the batch": lambda: By(lambda y: y / y.abs().max(), "scores"),
    "images before it": lambda: By(cumulative),
    "ghost norm": lambda: By(ghost),
    "number of images": lambda: By(lambda y: y / len(y), "scores"),
    "dynamic int8": lambda: torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, torch.qint8),
    "noise": lambda: By(lambda x: x + 0.3 * torch.randn_like(x), "images"),
    "dropout": lambda: By(lambda f: F.dropout(f, 0.5)),
    "early exit": Exits,
    "scripted way": lambda: nn.Sequential(torch.jit.script(Way(LEVEL)), *network()),
}
WAYS = {f"way by {name}": read_by(name) for name in READS}
MIXING |= WAYS


def checked(x: Tensor) -> Tensor:
    if x.isnan().any() or not x.min() >= 0:
        raise ValueError("expected numbers from 0")
    assert x.max() <= 1
    return x


def told(x: Tensor) -> Tensor:
    if x.mean() > 1:
        warnings.warn("bright images", stacklevel=1)
    return x


APART: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: network(nn.BatchNorm2d),
    "instance norm": lambda: network(nn.InstanceNorm2d),
    "group norm": lambda: network(lambda c: nn.GroupNorm(1, c)),
    "half precision": lambda: network().to(torch.bfloat16),
    "a check": lambda: By(checked, "images"),
    "several checks": lambda: By(lambda x: checked(checked(x)), "images"),
    "a message": lambda: By(told, "images"),
    "a value of each image": lambda: By(lambda x: torch.stack([each.flip(0) if each.mean() > LEVEL else each for each in x]), "images"),
    "values of each image": lambda: By(lambda x: x * torch.tensor(x.mean((1, 2, 3)).tolist())[:, None, None, None], "images"),
    "parameters that are read": lambda: By(lambda f: f * float(torch.ones(1))),
    "shapes that are read": lambda: By(lambda f: f / int(torch.tensor(f.shape[1]))),
    "one output": lambda: nn.Sequential(*network()[:6], nn.Linear(4, 1)),
}


def attribute(module: nn.Module, x: Tensor, method: str, target: Any = 1, **options: Any) -> Tensor | None:
    """The maps, or None where the method refuses the network."""
    try:
        return lucidcam.attribute(module, x, method, target=target, **OPTIONS.get(method, {}), **options)
    except lucidcam.LucidcamError:
        return None


def assert_alone(kind: str, method: str) -> None:
    module = MIXING[kind]()
    state = torch.get_rng_state()
    maps = attribute(module, images(), method)
    alone = [attribute(MIXING[kind](), image[None], method, batch_size=1) for image in images()]
    assert torch.equal(state, torch.get_rng_state())
    if maps is None and kind == "early exit" and any(part is None for part in alone):
        return  # a noisy copy leaves before the layer
    if maps is None or any(part is None for part in alone):
        assert method == "cam" or "backprop" in method or "deconv" in method or "guided" in method or kind == "dynamic int8"
        return
    torch.testing.assert_close(
        maps, torch.cat([part for part in alone if part is not None]), rtol=1e-4, atol=1e-5 * float(maps.abs().max())
    )


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_an_image_gets_the_map_that_it_gets_alone(kind: str, method: str) -> None:
    assert_alone(kind, method)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), in_turn([kind for kind in MIXING if kind not in WAYS], METHODS, 3))
def test_an_image_gets_the_map_that_it_gets_alone_by_every_method(kind: str, method: str) -> None:
    assert_alone(kind, method)


@pytest.mark.parametrize("kind", APART)
def test_networks_that_take_a_batch_at_once_still_do(kind: str) -> None:
    module = APART[kind]()
    x = images().to(next(module.parameters()).dtype)
    assert not mixes(module, Inputs.of(x))


@pytest.mark.parametrize(
    "target",
    [
        None,
        "top2",
        torch.tensor([0, 1, 2]),
        [[0, 1], [1, 2], [2, 0]],
        lucidcam.Contrast([0, 1, 2], [1, 2, 0]),
        lucidcam.Probability([2, 1, 0]),
        lambda outputs: outputs[:, 1] - outputs[:, 0],
    ],
    ids=["predicted", "top2", "one each", "two each", "contrast", "probability", "function"],
)
def test_each_image_keeps_its_own_target(target: Any) -> None:
    module = MIXING["batch norm by hand"]()
    maps = attribute(module, images(), "gradient", target)
    assert maps is not None
    for i, image in enumerate(images()):
        own = target
        if isinstance(target, (Tensor, list)):
            own = target[i : i + 1]
        elif isinstance(target, lucidcam.Contrast):
            own = lucidcam.Contrast([0, 1, 2][i], [1, 2, 0][i])
        elif isinstance(target, lucidcam.Probability):
            own = lucidcam.Probability([2, 1, 0][i])
        torch.testing.assert_close(maps[i : i + 1], attribute(module, image[None], "gradient", own))


@pytest.mark.parametrize(
    "name", ["deletion", pytest.param("infidelity", marks=pytest.mark.slow), pytest.param("road", marks=pytest.mark.slow)]
)
def test_metrics_do_one_image_and_one_mask_at_a_time(name: str) -> None:
    module, metric = MIXING["batch norm by hand"](), metrics[name]()
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = metric(module, images(), maps, target=[0, 1, 2])
    one_mask = metric(module, images(), maps, target=[0, 1, 2], batch_size=1)
    for figure, values in together.items():
        torch.testing.assert_close(values, one_mask[figure])


def test_photos_are_explained_one_by_one() -> None:
    module = MIXING["batch norm without running statistics"]()
    model = lucidcam.wrap(module, preprocess=lambda picture: torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255)
    photos = list((images().permute(0, 2, 3, 1) * 255).byte().numpy())
    together = lucidcam.explain(model, photos, "gradcam", target=1)
    for photo, one in zip(photos, together, strict=True):
        torch.testing.assert_close(one.raw, lucidcam.explain(model, photo, "gradcam", target=1)[0].raw)


def test_what_cannot_be_done_one_by_one_is_refused() -> None:
    from lucidcam.engine.run import open_run

    with (
        pytest.raises(ModelError, match="'1' normalises by the statistics of the batch"),
        open_run(MIXING["batch norm without running statistics"](), images()),
    ):
        pass
