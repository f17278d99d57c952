"""Optimised copies: where one cannot be made or run, the network as it is takes its place, and that is said."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lucidcam
from lucidcam.attribution import optimized_if_possible
from lucidcam.errors import ModelError, OptimizedCopyError
from lucidcam.imaging.preprocess import Preprocess


class Net(nn.Module):
    """A small VGG, flattened by `reshape`."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.pool, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.MaxPool2d(4), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(self.pool(self.features(x))))

    def flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class View(Net):
    """The usual `view`, which a channels-last tensor does not stand."""

    def flat(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class Locked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Opened(Net):
    def __init__(self) -> None:
        super().__init__()
        self.file = Path(__file__).open()  # noqa: SIM115 - closed by the test


class NoCopies(Net):
    def __deepcopy__(self, memo: object) -> Net:
        raise AttributeError("no copies, please\nnone at all")


class OfItself(Net):
    """A copy that is none: to change it is to change the user's network."""

    def __deepcopy__(self, memo: object) -> Net:
        return self


class Sharing(Net):
    def __deepcopy__(self, memo: object) -> Net:
        other = copy.copy(self)
        other._modules = dict(self._modules)
        return other


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.features[0] = nn.utils.parametrizations.weight_norm(self.features[0])


class Differing(Net):
    """Computes something else once it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.known = id(self)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (id(self) != self.known)


class Pairs(Net):
    """A copy fails with two images or more."""

    def __init__(self) -> None:
        super().__init__()
        self.known = id(self)

    def flat(self, x: Tensor) -> Tensor:
        if id(self) != self.known and len(x) > 1:
            raise KeyError("two")
        return super().flat(x)


KINDS = [View, Locked, Opened, NoCopies, OfItself, Sharing, Differing, Pairs]
OPTIONS = {"baselines": [], "resamples": 0, "progress": False}


def build(kind: type[Net]) -> Net:
    torch.manual_seed(0)
    return kind().eval()


def wrapped(net: Net, side: int = 16) -> lucidcam.types.Model:
    return lucidcam.wrap(net, Preprocess(size=(side, side), fit="squash"))


def photos(count: int = 3) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8) for i in range(count)]


def closed(net: Net) -> None:
    if isinstance(net, Opened):
        net.file.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_copied_is_worked_with_as_it_is(kind: type[Net], tmp_path) -> None:
    net, plain = build(kind), build(Net)
    before = {name: (value.clone(), value.stride()) for name, value in net.state_dict().items()}
    types = [type(module) for module in net.modules()]
    expected = lucidcam.evaluate(wrapped(plain), photos(), ["gradcam"], ["average_drop"], optimized=False, **OPTIONS)
    report = lucidcam.evaluate(wrapped(net), photos(), ["gradcam"], ["average_drop"], **OPTIONS)
    assert report.row("gradcam", "average_drop").mean == pytest.approx(expected.row("gradcam", "average_drop").mean, rel=1e-6)
    [note] = report.notes
    assert note.startswith("measured on the network as it is")
    assert "\n" not in note
    with pytest.raises(ModelError):
        lucidcam.optimize(net, torch.rand(1, 3, 16, 16))
    costs = lucidcam.bench(net, torch.rand(2, 3, 16, 16), ["gradcam"], optimized=True, batch=1, repeats=1, memory=False)
    assert [row.method for row in costs.rows] == ["forward", "gradcam"]
    assert costs.notes[0].startswith("measured on the network as it is alone")
    assert [type(module) for module in net.modules()] == types
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name][0], rtol=0, atol=0)
        assert value.stride() == before[name][1]
    closed(net)


def test_runs_say_once_what_they_worked_with(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, photo in zip(files, photos(), strict=True):
        Image.fromarray(photo).save(file)
    results = lucidcam.run(wrapped(build(View)), files, tmp_path / "out", unit=1, workers=1, progress=False)
    assert len(results) == 3
    [note] = results.manifest["notes"]
    assert note.startswith("explained on the network as it is, not on an optimised copy: ")
    plain = lucidcam.run(wrapped(build(Net)), files, tmp_path / "plain", unit=1, workers=1, progress=False)
    assert plain.manifest["notes"] == []
    for got, expected in zip(results.maps(), plain.maps(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_parametrised_weights_are_copied() -> None:
    model = wrapped(build(Normed))
    fast, note = optimized_if_possible(model)
    assert note is None
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(fast.module(x), model.module(x))


def test_that_the_memory_ends_is_still_told() -> None:
    class Large(Net):
        def __deepcopy__(self, memo: object) -> Net:
            raise torch.OutOfMemoryError("CUDA out of memory")

    net = build(Large)
    with pytest.raises(torch.OutOfMemoryError):
        lucidcam.optimize(net, torch.rand(1, 3, 16, 16))
    with pytest.raises(torch.OutOfMemoryError):
        lucidcam.evaluate(wrapped(net), photos(), ["gradcam"], ["average_drop"], **OPTIONS)


class Late(Net):
    """A copy fails on dark photos, or on many images at once: no example shows that."""

    def __init__(self) -> None:
        super().__init__()
        self.known, self.most = id(self), 2

    def forward(self, x: Tensor) -> Tensor:
        if id(self) != self.known and (len(x) > self.most or x.mean() < -1.5):
            raise ZeroDivisionError("too dark\nor too many")
        return super().forward(x)


@pytest.mark.parametrize("method", ["gradcam", "rise"])
def test_a_copy_that_fails_later_gives_way(method: str) -> None:
    """To masked images in large batches, and to photos unlike the example."""
    dark = [photo // 16 for photo in photos()]
    expected = lucidcam.explain(wrapped(build(Net)), [*photos(), *dark], method, 0)
    fast, note = optimized_if_possible(wrapped(build(Late)))
    assert note is None
    for got, plain in zip(lucidcam.explain(fast, [*photos(), *dark], method, 0), expected, strict=True):
        np.testing.assert_allclose(got.map, plain.map, atol=1e-5)
    fast, _ = optimized_if_possible(wrapped(build(Late)))
    inputs = torch.stack([each.tensor for each in fast.prepare(dark)])
    torch.testing.assert_close(
        lucidcam.attribute(fast.module, inputs, method, target=0), lucidcam.attribute(build(Net), inputs, method, target=0)
    )


def test_measures_go_on_with_the_network_as_it_is() -> None:
    dark = [*photos(2), *(photo // 16 for photo in photos())]
    metrics = ["average_drop", ("deletion", {"steps": 5})]
    expected = lucidcam.evaluate(wrapped(build(Net)), dark, ["gradcam"], metrics, optimized=False, **OPTIONS)
    report = lucidcam.evaluate(wrapped(build(Late)), dark, ["gradcam"], metrics, **OPTIONS)
    assert not report.skipped
    for row, plain in zip(report.rows, expected.rows, strict=True):
        assert row.mean == pytest.approx(plain.mean, rel=1e-5)
    [note] = report.notes
    assert note == "measured in part on the network as it is, because the optimised copy failed: too dark"


def test_what_the_network_itself_does_not_stand_is_not_the_copys_fault() -> None:
    class Narrow(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] > 16:
                raise ZeroDivisionError("too wide")
            return super().forward(x)

    fast = lucidcam.optimize(build(Narrow), torch.rand(1, 3, 16, 16))
    with pytest.raises(ZeroDivisionError):
        lucidcam.attribute(fast, torch.rand(1, 3, 16, 32), "gradcam")
    with pytest.raises(lucidcam.LucidcamError) as refused:
        lucidcam.attribute(fast, torch.rand(1, 3, 16, 16), "gradcam", target=17)
    assert not isinstance(refused.value, OptimizedCopyError)
