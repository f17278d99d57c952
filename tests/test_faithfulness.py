"""Faithfulness metrics against twins in plain loops, against captum and torchcam, and in the corners."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.run import open_run
from lucidcam.errors import InputError, OptionError
from lucidcam.metrics import Batch, Comparative, FaithfulnessMetric, Record, State
from lucidcam.metrics._random import draws
from lucidcam.metrics.average_drop import AverageDrop, IncreaseInConfidence, WinRate
from lucidcam.metrics.coherency import ADCC, Coherency
from lucidcam.metrics.complexity import Complexity, Sparseness
from lucidcam.metrics.deletion import Deletion, Insertion
from lucidcam.metrics.infidelity import Infidelity
from lucidcam.metrics.max_sensitivity import MaxSensitivity
from nets import Fully, FunctionalGAP, SeveralFC, build, images

SIZE = (8, 11)
BLACK = (-1.9, -1.5, -2.1)
NAMES = ("one", "two", "three", "four")
SEED = 3


def gradcam(module: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    return lucidcam.attribute(module, x, "gradcam", target=classes, layer="conv2")


@contextmanager
def opened(
    net: nn.Module, x: Tensor, maps: Tensor, names: tuple[str, ...] = NAMES, batch_size: int | None = None, explain: Callable = gradcam
) -> Iterator[Batch]:
    with open_run(net, x, batch_size=batch_size, seed=SEED, progress=False) as run:
        black = torch.tensor(BLACK, dtype=x.dtype)
        yield Batch(run, maps, lambda r: explain(r.module, r.image, r.bound.ids[:, 0]), black, names[: len(x)])


def measured(metric: FaithfulnessMetric, net: nn.Module, x: Tensor, maps: Tensor, **options: object) -> Tensor:
    with opened(net, x, maps, **options) as batch:  # type: ignore[arg-type]
        return metric.measure(batch)


def figures(metric: FaithfulnessMetric, net: nn.Module, x: Tensor, maps: Tensor, **options: object) -> dict[str, np.ndarray]:
    values = measured(metric, net, x, maps, **options).numpy()
    return dict(metric.compute(np.ones((1, len(values))), values[None]))


def some_maps(batch: int = 4) -> Tensor:
    """Signed maps; the second is zero in many places, the third flat, the fourth zero."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(batch, 3, 4, generator=generator, dtype=torch.float64)
    for i, special in enumerate((maps[0].roll(1).relu(), torch.full((3, 4), 0.3), torch.zeros(3, 4)), start=1):
        if i < batch:
            maps[i] = special
    return maps


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Of strong opinions, which differ between images and change when these are masked."""
    net = build(FunctionalGAP, seed=2)
    net.fc.weight.data *= 30
    net.fc.bias.data -= net(images(4, SIZE, seed=7)).mean(0).detach()
    return net


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(4, SIZE, seed=7)


# ------------------------------------------------------------------------------------------------------------------- the twins


def resized(raw: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Bilinear, pixel centres aligned, one pixel at a time."""
    h, w = raw.shape
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            z = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            a, b = int(y), int(z)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            top = raw[a, b] + (raw[a, d] - raw[a, b]) * (z - b)
            bottom = raw[c, b] + (raw[c, d] - raw[c, b]) * (z - b)
            out[i, j] = top + (bottom - top) * (y - a)
    return out


def min_maxed(m: np.ndarray) -> np.ndarray:
    return np.zeros_like(m) if m.max() == m.min() else (m - m.min()) / (m.max() - m.min())


def logits_of(net: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(image)[None])[0].numpy()


def probability(net: nn.Module, image: np.ndarray, k: int) -> float:
    z = logits_of(net, image)
    return float(np.exp(z[k] - z.max()) / np.exp(z - z.max()).sum())


def seen_through(image: np.ndarray, raw: np.ndarray, keep: float, black: tuple[float, ...]) -> np.ndarray:
    m = resized(raw)
    if keep:
        mask = np.zeros(SIZE)
        for place in reading_order(m)[: round(keep * m.size)]:
            mask.flat[place] = 1
    else:
        mask = min_maxed(m)
    out = np.empty_like(image)
    for channel in range(3):
        out[channel] = image[channel] * mask + black[channel] * (1 - mask)
    return out


def reading_order(m: np.ndarray) -> list[int]:
    return sorted(range(m.size), key=lambda i: (-m.flat[i], i))


def fall(net: nn.Module, image: np.ndarray, raw: np.ndarray, keep: float, black: tuple[float, ...]) -> tuple[float, float]:
    k = int(logits_of(net, image).argmax())
    before, after = probability(net, image, k), probability(net, seen_through(image, raw, keep, black), k)
    return max(0.0, before - after) / before, float(before < after)


def blurred(image: np.ndarray) -> np.ndarray:
    """11×11 taps of a Gaussian of σ = 5, edges reflected without repeating them; radius cut to the image."""
    out = image
    for axis in (1, 2):
        n = image.shape[axis]
        radius = min(5, n - 1)
        taps = [math.exp(-(t**2) / 50) for t in range(-radius, radius + 1)]
        done = np.zeros_like(out)
        for i in range(n):
            for t, tap in zip(range(-radius, radius + 1), taps):
                j = abs(i + t)
                j = 2 * (n - 1) - j if j > n - 1 else j
                source, goal = [slice(None)] * 3, [slice(None)] * 3
                source[axis], goal[axis] = j, i
                done[tuple(goal)] += tap / sum(taps) * out[tuple(source)]
        out = done
    return out


def start_of(image: np.ndarray, name: object) -> np.ndarray:
    if name == "black":
        return np.stack([np.full(SIZE, level) for level in BLACK])
    if name == "mean":
        return np.stack([np.full(SIZE, channel.mean()) for channel in image])
    if name == "blur":
        return blurred(image)
    return np.full_like(image, 0.0 if name == "zeros" else float(name))  # type: ignore[arg-type]


def curve(net: nn.Module, image: np.ndarray, raw: np.ndarray, steps: int, name: object, deletes: bool) -> list[float]:
    k = int(logits_of(net, image).argmax())
    order = reading_order(resized(raw))
    now, goal = (image.copy(), start_of(image, name)) if deletes else (start_of(image, name), image)
    found, done = [probability(net, now, k)], 0
    for i in range(1, steps + 1):
        until = math.floor(len(order) * i / steps + 0.5)
        for place in order[done:until]:
            row, column = divmod(place, SIZE[1])
            now[:, row, column] = goal[:, row, column]
        done = until
        found.append(probability(net, now, k))
    return found


def area(points: list[float]) -> float:
    return sum((a + b) / 2 for a, b in pairwise(points)) / (len(points) - 1)


def noise_of(name: str, number: int, deviation: float) -> np.ndarray:
    return torch.randn((3, *SIZE), generator=draws(SEED, name, number)).double().numpy() * deviation


def square_of(image: np.ndarray, name: str, number: int, side: int, baseline: object) -> np.ndarray:
    generator = draws(SEED, name, number)
    top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in SIZE)
    change = np.zeros_like(image)
    empty = start_of(image, baseline)
    for i in range(top, top + side):
        for j in range(left, left + side):
            change[:, i, j] = image[:, i, j] - empty[:, i, j]
    return change


def infidelity(f: Callable[[np.ndarray], float], image: np.ndarray, raw: np.ndarray, changes: list[np.ndarray]) -> tuple[float, float]:
    m = resized(raw)
    said = [sum(float((change[c] * m).sum()) for c in range(3)) for change in changes]
    happened = [f(image) - f(image - change) for change in changes]
    power = sum(s * s for s in said)
    beta = sum(s * h for s, h in zip(said, happened)) / power if power else 0.0
    n = len(changes)
    return sum((s - h) ** 2 for s, h in zip(said, happened)) / n, sum((beta * s - h) ** 2 for s, h in zip(said, happened)) / n


def one_map(net: nn.Module, image: np.ndarray, k: int) -> np.ndarray:
    return gradcam(net, torch.from_numpy(image)[None], torch.tensor([k]))[0].numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def gini(values: np.ndarray) -> float:
    """From the mean absolute difference of all pairs: another form than the sorted one."""
    v = np.abs(values).ravel()
    return float(np.abs(v[:, None] - v[None, :]).sum() / (2 * len(v) * v.sum())) if v.sum() else 0.0


# ----------------------------------------------------------------------------------------------------- equal to the twins


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.13, 1.0])
@pytest.mark.parametrize("space", ["image", "normalised"])
def test_average_drop_and_increase_are_the_papers(net: nn.Module, x: Tensor, keep: float, space: str) -> None:
    black = BLACK if space == "image" else (0.0, 0.0, 0.0)
    expected = [fall(net, image, raw, keep, black) for image, raw in zip(x.numpy(), some_maps().numpy())]
    options = {"keep": keep, "space": space}
    drop = figures(AverageDrop(**options), net, x, some_maps())["average_drop"]
    rise = figures(IncreaseInConfidence(**options), net, x, some_maps())["increase_in_confidence"]
    # With keep = 1 nothing is hidden: O equals Y up to rounding, and "increase" is that of the last bit.
    np.testing.assert_allclose(drop, [100 * each for each, _ in expected], atol=1e-9)
    if keep < 1:
        np.testing.assert_array_equal(rise, [100 * each for _, each in expected])
    wins = measured(WinRate(**options), net, x, some_maps())
    np.testing.assert_allclose(100 * wins[:, 0], drop, atol=1e-12)


def test_both_signs_of_the_change_occur(net: nn.Module) -> None:
    x = images(12, SIZE, seed=11)
    maps = torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    names = tuple(map(str, range(12)))
    rise = figures(IncreaseInConfidence(), net, x, maps, names=names)["increase_in_confidence"]
    drop = figures(AverageDrop(), net, x, maps, names=names)["average_drop"]
    assert 0 < rise.mean() < 100
    assert ((drop > 0) == (rise == 0)).all()


@pytest.mark.parametrize("steps", [1, 7, 88, 100])  # of 88 pixels
@pytest.mark.parametrize("kind", [Deletion, Insertion])
def test_deletion_and_insertion_are_rises(kind: type, net: nn.Module, x: Tensor, steps: int) -> None:
    metric = kind(steps=steps)
    for baseline in (metric.baseline, "black", "mean", "blur", 0.7)[: 5 if steps == 7 else 1]:
        metric = kind(steps=steps, baseline=baseline)
        expected = [curve(net, a, m, steps, baseline, kind is Deletion) for a, m in zip(x.numpy(), some_maps().numpy())]
        found = measured(metric, net, x, some_maps())
        np.testing.assert_allclose(found, expected, atol=1e-9)
        named = figures(metric, net, x, some_maps())[metric.figures[0].name]
        np.testing.assert_allclose(named, [area(each) for each in expected], atol=1e-9)


def test_defaults_are_the_papers() -> None:
    assert Deletion().baseline == "zeros"
    assert Insertion().baseline == "blur"
    np.testing.assert_array_equal(Deletion()._amounts(224 * 224), 224 * np.arange(225))
    percent = np.diff(Deletion(steps=100)._amounts(224 * 224))
    assert set(percent) == {501, 502}
    assert percent.sum() == 224 * 224


@pytest.mark.parametrize("logit", [False, True])
def test_infidelity_is_the_papers(net: nn.Module, x: Tensor, logit: bool) -> None:
    for options in ({"noise": 0.4}, {"perturbation": "square", "size": 3}, {"perturbation": "square", "baseline": "blur"}):
        metric = Infidelity(samples=6, logit=logit, **options)
        found = measured(metric, net, x, some_maps())
        for i, (image, raw) in enumerate(zip(x.numpy(), some_maps().numpy())):
            k = int(logits_of(net, image).argmax())
            changes = [
                noise_of(NAMES[i], n, 0.4) if "noise" in options
                else square_of(image, NAMES[i], n, options.get("size", 1), options.get("baseline", "zeros"))
                for n in range(6)
            ]  # fmt: skip
            f = (lambda a, k=k: logits_of(net, a)[k]) if logit else (lambda a, k=k: probability(net, a, k))
            np.testing.assert_allclose(found[i], infidelity(f, image, raw, changes), atol=1e-9, rtol=1e-9)


def test_infidelity_of_a_linear_network_is_zero_for_its_weights() -> None:
    weights = torch.randn(2, 4, 5, dtype=torch.float64)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).double()
    linear[1].weight.data = weights[:, None].expand(2, 3, 4, 5).flatten(1)  # the same for every channel
    x = torch.randn(3, 3, 4, 5, dtype=torch.float64)
    chosen = linear(x).argmax(1)
    for options in ({}, {"perturbation": "square", "size": 2}):
        exact = Infidelity(logit=True, samples=8, **options)(linear, x, weights[chosen])
        assert exact["infidelity"].max() < 1e-20
        tripled = Infidelity(logit=True, samples=8, **options)(linear, x, 3 * weights[chosen])
        assert tripled["infidelity"].min() > 1e-4
        assert tripled["infidelity_scaled"].max() < 1e-20


def test_max_sensitivity_is_the_papers(net: nn.Module, x: Tensor) -> None:
    maps = gradcam(net, x, net(x).argmax(1)).double()
    found = figures(MaxSensitivity(radius=0.3, samples=4), net, x, maps)["max_sensitivity"]
    for i, image in enumerate(x.numpy()):
        k = int(logits_of(net, image).argmax())
        clean, worst = one_map(net, image, k), 0.0
        for n in range(4):
            delta = (2 * torch.rand((3, *SIZE), generator=draws(SEED, NAMES[i], n)).double().numpy() - 1) * 0.3
            assert 0.28 < np.abs(delta).max() <= 0.3
            changed = one_map(net, image + delta, k)
            worst = max(worst, math.sqrt(((changed - clean) ** 2).sum()) / math.sqrt((clean**2).sum()))
        assert worst > 0.01
        assert found[i] == pytest.approx(worst, abs=1e-9)


def test_complexity_and_sparseness_are_the_papers(net: nn.Module, x: Tensor) -> None:
    maps = some_maps()
    mean, entropy = (figures(Complexity(measure_by=how), net, x, maps)["complexity"] for how in ("mean", "entropy"))
    sparse = figures(Sparseness(), net, x, maps)["sparseness"]
    for i, raw in enumerate(maps.numpy()):
        m = resized(raw)
        assert mean[i] == pytest.approx(min_maxed(m).sum() / m.size, abs=1e-12)
        p = np.abs(m).ravel() / np.abs(m).sum() if m.any() else np.full(m.size, 1 / m.size)
        assert entropy[i] == pytest.approx(-sum(q * math.log(q) for q in p if q > 0), abs=1e-12)
        assert sparse[i] == pytest.approx(gini(m), abs=1e-12)
    assert entropy[2] == entropy[3] == pytest.approx(math.log(math.prod(SIZE)))
    assert mean[2] == mean[3] == 0
    assert sparse[2] == pytest.approx(sparse[3], abs=1e-12) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_coherency_and_adcc_are_the_papers(net: nn.Module, x: Tensor, keep: float) -> None:
    raw = gradcam(net, x, net(x).argmax(1)).double()
    coherency = figures(Coherency(keep=keep), net, x, raw)["coherency"]
    adcc = figures(ADCC(keep=keep), net, x, raw)["adcc"]
    for i, image in enumerate(x.numpy()):
        k = int(logits_of(net, image).argmax())
        m = one_map(net, image, k)
        again = one_map(net, seen_through(image, m, keep, BLACK), k)
        expected = (1 + correlation(resized(m), resized(again))) / 2 if again.any() else 0.0
        assert coherency[i] == pytest.approx(expected, abs=1e-9)
        terms = [expected, 1 - min_maxed(resized(m)).mean(), 1 - fall(net, image, m, keep, BLACK)[0]]
        assert adcc[i] == pytest.approx(3 / sum(1 / t for t in terms) if all(terms) else 0.0, abs=1e-9)
    assert len(set(coherency.round(3))) > 2
    assert (adcc > 0.1).sum() > 1


def test_adcc_is_zero_where_a_term_is(net: nn.Module, x: Tensor) -> None:
    found = figures(ADCC(), net, x, some_maps())["adcc"]
    assert (found[:2] > 0).all()
    assert found[2:].tolist() == [0, 0]  # flat maps cohere with nothing


# ----------------------------------------------------------------------------------------------------------------- corners

EVERY = [
    AverageDrop(), AverageDrop(keep=0.5), IncreaseInConfidence(), WinRate(), Deletion(steps=9), Insertion(steps=9),
    Infidelity(samples=5), Infidelity(samples=5, perturbation="square", logit=True), MaxSensitivity(samples=3), Complexity(),
    Complexity(measure_by="entropy"), Sparseness(), Coherency(), ADCC(),
]  # fmt: skip


@pytest.mark.parametrize("metric", EVERY, ids=repr)
def test_a_batch_is_its_images_one_by_one(metric: FaithfulnessMetric, net: nn.Module, x: Tensor) -> None:
    maps = gradcam(net, x, net(x).argmax(1)).double()
    maps[1] = 0
    maps[2] = maps[2].round()
    together = measured(metric, net, x, maps)
    for size in (1, 3, 64):
        np.testing.assert_allclose(measured(metric, net, x, maps, batch_size=size), together, atol=1e-11)
    for i in range(len(x)):
        alone = measured(metric, net, x[i : i + 1], maps[i : i + 1], names=NAMES[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-11)
    assert together.isfinite().all()


@pytest.mark.parametrize("metric", EVERY, ids=repr)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 2)])
def test_tiny_images_and_maps(metric: FaithfulnessMetric, size: tuple[int, int]) -> None:
    net = build(Fully)
    x = images(3, size)

    def explain(module: nn.Module, image: Tensor, _: Tensor) -> Tensor:
        return image.mean(1)

    for maps in (torch.zeros(3, 1, 1), torch.ones(3, 1, 1), torch.randn(3, *size)):
        whole = maps.expand(3, *size) if isinstance(metric, MaxSensitivity) else maps
        found = measured(metric, net, x, whole, explain=explain)
        assert len(found) == 3
        assert found.isfinite().all()


@pytest.mark.parametrize("metric", [m for m in EVERY if not isinstance(m, Comparative)], ids=repr)
def test_the_module_comes_back_as_it_was(metric: FaithfulnessMetric) -> None:
    net = build(FunctionalGAP, dtype=torch.float32).train()
    net.conv1.eval()
    net.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = metric(net, images(2, SIZE, dtype=torch.float32), explain=gradcam, black=BLACK, batch_size=3)
    assert list(found) == [figure.name for figure in metric.figures]
    assert all(value.shape == (2,) and value.dtype == torch.float64 for value in found.values())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == [True, False, True, True, True]
    assert not net.fc.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_flat_map_stays_flat_when_resized() -> None:
    """Interpolation weights sum to 1 up to rounding: of a flat map min-max must not make a map of rounding errors."""
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    for side, size in ((7, 224), (10, 299), (3, 20)):
        found = lucidcam.imaging.maps.resize(values[:, None, None].expand(-1, side, side), (size, size))
        assert torch.equal(found, values[:, None, None].expand_as(found))


def test_a_flat_map_shows_nothing(net: nn.Module, x: Tensor) -> None:
    found = figures(AverageDrop(), net, x, torch.full((4, 3, 3), 0.3, dtype=torch.float64))["average_drop"]
    for i, image in enumerate(x.numpy()):
        k = int(logits_of(net, image).argmax())
        before, after = probability(net, image, k), probability(net, start_of(image, "black"), k)
        assert found[i] == pytest.approx(100 * max(0.0, before - after) / before, abs=1e-9)


class Recorder(nn.Module):
    """Remembers what it was shown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return self.net(x)


def test_exactly_so_many_pixels_are_kept_also_of_ties() -> None:
    recorder = Recorder(build(Fully)).eval()
    x = images(2, (5, 7)) + 50  # nothing in the images is black
    maps = torch.zeros(2, 5, 7, dtype=torch.float64)
    maps[1, 4, 6] = 1
    AverageDrop(keep=0.4)(recorder, x, maps, black=BLACK)
    kept = (recorder.shown[-1] == x).all(1)
    black = (recorder.shown[-1] == torch.tensor(BLACK, dtype=torch.float64)[:, None, None]).all(1)
    assert torch.equal(kept, ~black)
    assert kept.flatten(1).sum(1).tolist() == [14, 14]
    assert kept[0].flatten()[:14].all()
    assert kept[1].flatten()[:13].all()
    assert kept[1, 4, 6]


def test_each_state_is_asked_once_and_the_clean_image_not_again() -> None:
    recorder = Recorder(build(Fully)).eval()
    x, maps = images(3, (5, 7)), torch.rand(3, 5, 7, dtype=torch.float64)
    Deletion(steps=2)(recorder, x, maps)  # from now on it is known that images do not influence each other
    for metric, asked in ((Deletion(steps=5), 5), (Insertion(steps=6), 6), (Deletion(steps=1000), 35)):
        recorder.shown.clear()
        metric(recorder, x, maps, batch_size=4)
        assert len(recorder.shown[0]) == 3
        assert sum(map(len, recorder.shown)) == 3 + 3 * asked
        assert max(map(len, recorder.shown)) == 4
        flat = torch.cat(recorder.shown).flatten(1)
        assert len(flat.unique(dim=0)) == (3 + 3 * asked if isinstance(metric, Insertion) else 3 + 3 * (asked - 1) + 1)  # one is all zeros


def test_metrics_share_what_they_asked(net: nn.Module, x: Tensor) -> None:
    recorder = Recorder(net).eval()
    with opened(recorder, x, some_maps(), explain=lambda m, a, c: gradcam(net, a, c)) as batch:
        AverageDrop().measure(batch)
        once = len(recorder.shown)
        IncreaseInConfidence().measure(batch)
        WinRate().measure(batch)
        assert len(recorder.shown) == once
        AverageDrop(keep=0.5).measure(batch)
        AverageDrop(space="normalised").measure(batch)
        assert len(recorder.shown) == once + 2
    asked: list[Tensor] = []

    def explain(module: nn.Module, image: Tensor, _: Tensor) -> Tensor:
        asked.append(image)
        return image.mean(1)

    with opened(net, x, some_maps(), explain=explain) as batch:
        soft, hard = (Coherency(keep=keep).measure(batch)[:2] for keep in (0.0, 0.5))
        ADCC().measure(batch)
        ADCC(keep=0.5).measure(batch)
    assert len(asked) == 2
    assert (soft - hard).abs().min() > 1e-6


class Certain(nn.Module):
    """Its second class never has any probability."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2, 3)) * 0, x.sum((1, 2, 3)) * 0 - 1e6], dim=1)


def test_a_probability_of_zero_cannot_fall() -> None:
    x = images(2, (4, 4))
    assert AverageDrop()(Certain(), x, torch.rand(2, 4, 4), target=1)["average_drop"].tolist() == [0, 0]


def test_maps_of_zeros_and_sensitivity(net: nn.Module, x: Tensor) -> None:
    zeros, one = torch.zeros(4, 3, 3, dtype=torch.float64), torch.ones(4, 3, 3, dtype=torch.float64)
    assert measured(MaxSensitivity(), net, x, zeros, explain=lambda m, a, c: zeros).flatten().tolist() == [0] * 4
    assert measured(MaxSensitivity(), net, x, zeros, explain=lambda m, a, c: one).flatten().tolist() == [1] * 4
    with pytest.raises(InputError, match=r"expected maps \[4, 3, 3\].*got \[4, 2, 2\]"):
        measured(MaxSensitivity(), net, x, zeros, explain=lambda m, a, c: one[:, :2, :2])


def test_the_class_stays_that_of_the_clean_image(net: nn.Module, x: Tensor) -> None:
    asked: list[Tensor] = []
    changed = 0

    def explain(module: nn.Module, image: Tensor, classes: Tensor) -> Tensor:
        nonlocal changed
        asked.append(classes)
        changed += int((net(image).argmax(1) != classes).sum())
        return gradcam(module, image, classes)

    clean = net(x).argmax(1)
    for metric in (MaxSensitivity(radius=20.0, samples=3), Coherency()):
        measured(metric, net, x, gradcam(net, x, clean), explain=explain)
    assert len(asked) == 4
    assert all(torch.equal(each, clean) for each in asked)
    assert changed > 0


def test_draws_hang_on_seed_name_and_number() -> None:
    def first(*what: object) -> float:
        return float(torch.rand((), generator=draws(*what)))  # type: ignore[arg-type]

    assert first(0, "a", 1) == first(0, "a", 1)
    assert len({first(0, "a", 1), first(1, "a", 1), first(0, "b", 1), first(0, "a", 2), first(0, "1\na", 0)}) == 5


def test_order_of_ties_and_one_pixel_is_in_the_curve(net: nn.Module, x: Tensor) -> None:
    """A map of one pixel ranks nothing: reading order, as a map that falls in reading order does."""
    falling = -torch.arange(math.prod(SIZE), dtype=torch.float64).reshape(1, *SIZE).expand(4, *SIZE)
    for metric in (Deletion(steps=11), Insertion(steps=11)):
        single = measured(metric, net, x, torch.full((4, 1, 1), 0.7, dtype=torch.float64))
        np.testing.assert_allclose(single, measured(metric, net, x, falling), atol=1e-12)


def test_curves_are_the_means(net: nn.Module, x: Tensor) -> None:
    for metric in (Deletion(steps=8), Insertion(steps=8)):
        values = measured(metric, net, x, some_maps()).numpy()
        state = State(metric, resamples=20)
        state.update_all(NAMES, [[Record(row)] for row in values])
        (drawn,) = state.curves()
        np.testing.assert_allclose(drawn.y, values.mean(0))
        np.testing.assert_allclose(drawn.x, np.arange(9) / 8)
        areas = [area(list(row)) for row in values]
        assert state.figures()[metric.figures[0].name] == pytest.approx(np.mean(areas))
        low, high = state.intervals()[metric.figures[0].name]
        assert 0 <= low < np.mean(areas) < high <= 1


def test_win_rate_is_the_mean_over_rivals() -> None:
    metric = WinRate()
    own, rivals = np.array([0.0, 0.2, 0.3, 0.5]), {"a": np.array([0.0, 0.3, 0.4, 0.6]), "b": np.array([0.1, 0.1, 0.3, 0.4])}
    assert metric.against(own, rivals["a"]).tolist() == [0.5, 1, 1, 1]
    assert metric.against(own, rivals["b"]).tolist() == [1, 0, 0.5, 0]
    for rival in rivals.values():
        np.testing.assert_array_equal(metric.against(own, rival) + metric.against(rival, own), 1)
    state = State(metric, resamples=50)
    for i, name in enumerate(NAMES):
        state.update(name, [Record(metric.against(own[[i]], rival[[i]]), label) for label, rival in rivals.items()])
    assert state.figures() == {"win_rate": pytest.approx((100 * 3.5 / 4 + 100 * 1.5 / 4) / 2)}
    count, sums = np.array([[4.0, 0, 0], [2, 1, 0]]), np.array([[[3.0], [0], [0]], [[1], [1], [0]]])
    np.testing.assert_array_equal(metric.compute(count, sums)["win_rate"], [62.5, 100, np.nan])
    with pytest.raises(OptionError, match="compares methods"):
        metric(nn.Identity(), torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AverageDrop(keep=1.5), "expected keep between 0 and 1"),
        (lambda: ADCC(space="lab"), 'expected space "image"'),
        (lambda: Deletion(steps=0), "expected steps ≥ 1; got 0"),
        (lambda: Insertion(baseline="blurr"), "one of zeros, black, mean, blur as baseline; got 'blurr'"),
        (lambda: Deletion(baseline=float("nan")), "as baseline; got nan"),
        (lambda: Infidelity(perturbation="salt"), 'expected perturbation "noise" or "square"'),
        (lambda: Infidelity(noise=0.0), "expected noise > 0"),
        (lambda: Infidelity(samples=0), "samples ≥ 1"),
        (lambda: Infidelity(baseline="grey"), "as baseline"),
        (lambda: MaxSensitivity(radius=-1.0), "expected radius ≥ 0"),
        (lambda: MaxSensitivity(samples=0), "samples ≥ 1"),
        (lambda: Complexity(measure_by="l2"), 'expected measure_by "mean"'),
    ],
)
def test_options_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions(dtype: torch.dtype) -> None:
    net, x = build(FunctionalGAP, dtype=torch.float64), images(3, SIZE)
    maps = gradcam(net, x, net(x).argmax(1)).float()
    low = build(FunctionalGAP, dtype=dtype)
    loose = 1e-4 if dtype == torch.float32 else 0.1
    for metric in (AverageDrop(), Deletion(steps=9), Insertion(steps=9), Infidelity(samples=5), MaxSensitivity(radius=0.3), Coherency()):
        exact, found = measured(metric, net, x, maps.double()), measured(metric, low, x.to(dtype), maps)
        assert found.dtype == torch.float32
        scale = 100 if metric.name == "average_drop" else max(1.0, float(exact.abs().max()))
        assert (found - exact).abs().max() <= loose * scale


# ------------------------------------------------------------------------------------------------------------------- peers


def test_captum_agrees_about_infidelity(net: nn.Module, x: Tensor) -> None:
    from captum.metrics import infidelity as peer

    samples, maps = 6, some_maps()
    classes = net(x).argmax(1)
    changes = torch.stack([torch.from_numpy(noise_of(name, n, 0.2)) for name in NAMES for n in range(samples)])
    wide = lucidcam.imaging.maps.resize(maps, SIZE)[:, None].expand_as(x)
    found = measured(Infidelity(samples=samples), net, x, maps)
    for column, scaled in enumerate((False, True)):
        theirs = peer(
            lambda a: net(a).softmax(1), lambda a: (changes, a - changes), x, wide, target=classes, n_perturb_samples=samples,
            normalize=scaled,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, column], theirs.detach(), atol=1e-12)


def test_captum_agrees_about_max_sensitivity(net: nn.Module, x: Tensor) -> None:
    from captum.metrics import sensitivity_max

    classes = net(x).argmax(1)
    drawn = [2 * torch.rand((3, *SIZE), generator=draws(SEED, name, n)).double() - 1 for name in NAMES for n in range(5)]
    delta = torch.stack(drawn) * 0.1

    def explain(given: Tensor | tuple[Tensor], target: Tensor) -> Tensor | tuple[Tensor]:
        return (gradcam(net, given[0], target),) if isinstance(given, tuple) else gradcam(net, given, target)

    theirs = sensitivity_max(explain, x, lambda a: a + delta, n_perturb_samples=5, target=classes)
    found = measured(MaxSensitivity(radius=0.1, samples=5), net, x, gradcam(net, x, classes))
    np.testing.assert_allclose(found[:, 0], theirs, atol=1e-9)
    assert theirs.min() > 0


def torchcams(net: nn.Module, x: Tensor, layer: str) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchcam.methods import GradCAM
        from torchcam.metrics import ClassificationMetric

        with GradCAM(net, layer) as extractor:
            metric = ClassificationMetric(extractor, lambda z: z.softmax(-1))
            metric.update(x.clone().requires_grad_())
            found = metric.summary()
    return 100 * found["avg_drop"], 100 * found["conf_increase"]


def ours(net: nn.Module, x: Tensor, layer: str, space: str) -> tuple[float, float]:
    maps = lucidcam.attribute(net, x, "gradcam", target=lucidcam.Probability(), layer=layer)
    drop = AverageDrop(space=space)(net, x, maps, black=BLACK)
    rise = IncreaseInConfidence(space=space)(net, x, maps, black=BLACK)
    return float(drop["average_drop"].mean()), float(rise["increase_in_confidence"].mean())


def test_torchcam_agrees_in_the_normalised_space_and_differs_in_the_images() -> None:
    """torchcam divides by Y + 1e-7 and multiplies the normalised tensor, whose zero is the mean colour and not black.

    Given a softmax it also explains the probability, so ours gets maps of that.
    """
    net, x = build(Fully, seed=4), images(8, (6, 7), seed=3)
    theirs = torchcams(net, x, "features")
    same = ours(net, x, "features", "normalised")
    assert same[0] == pytest.approx(theirs[0], abs=1e-4)
    assert same[1] == theirs[1]
    assert theirs[0] > 0
    assert abs(ours(net, x, "features", "image")[0] - theirs[0]) > 0.1


def test_torchcam_differs_where_maps_are_resized() -> None:
    """torchcam min-maxes the small map and resizes it then, so the mask of the image need not reach 1; ours spans [0, 1]."""
    net, x = build(SeveralFC, seed=4), images(8, (12, 16), seed=3)
    theirs = torchcams(net, x, "features.5")
    assert abs(ours(net, x, "features.5", "normalised")[0] - theirs[0]) > 1e-3
