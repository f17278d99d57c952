"""M-CAM's memory against loops in NumPy, and what its maps tell apart."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.nn import Memory
from lucidcam.nn.memory import Belongs
from lucidcam.utils.fingerprint import fingerprint
from nets import FunctionalGAP, build, images

SLOTS, CHANNELS, GRID, CLASSES = 5, 6, (3, 2), 4


def memory(read: str = "query", temperature: float = 1.0, whiten: bool = False, slots: int = SLOTS) -> Memory:
    torch.manual_seed(1)
    found = Memory(slots, CHANNELS, GRID, CLASSES, temperature, read).double()
    if whiten:
        found.whiten(torch.randn(40, CHANNELS).double() @ torch.randn(CHANNELS, CHANNELS).double() + 1)
    return found


def features(count: int = 3) -> Tensor:
    return torch.rand(count, CHANNELS, *GRID, generator=torch.Generator().manual_seed(2)).double()


def labels(count: int = 3) -> Tensor:
    hot = torch.zeros(count, CLASSES).double()
    hot[torch.arange(count), torch.arange(count)] = 1
    hot[0, 3] = 1
    return hot


# ------------------------------------------------------------------------------------------------------ a slower, plainer memory


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.ravel() * b.ravel()).sum() / np.sqrt((a**2).sum()) / np.sqrt((b**2).sum()))


class Naive:
    """mcam.md, equation by equation, one image and one slot at a time."""

    def __init__(self, m: Memory) -> None:
        self.m = m
        self.K, self.V, self.S = array(m.key), array(m.value), array(m.spatial)
        self.fc, self.bias = array(m.classifier.weight), array(m.classifier.bias)

    def prepared(self, f: np.ndarray) -> np.ndarray:
        A, mean = array(self.m.whitening), array(self.m.mean)
        return np.stack([[A @ (f[:, y, x] - mean) for x in range(f.shape[2])] for y in range(f.shape[1])]).transpose(2, 0, 1)

    def address(self, f: np.ndarray, K: np.ndarray | None = None) -> np.ndarray:
        K = self.K if K is None else K
        asked = [f.mean((1, 2))] if self.m.read == "query" else [f[:, y, x] for y in range(f.shape[1]) for x in range(f.shape[2])]
        return np.mean([softmax(np.array([cosine(q, k) for k in K]) / self.m.temperature) for q in asked], axis=0)

    def label_address(self, y: np.ndarray) -> np.ndarray:
        first, last = self.m.label_encoder[0], self.m.label_encoder[2]
        encoded = array(last.weight) @ np.maximum(array(first.weight) @ y + array(first.bias), 0) + array(last.bias)
        return softmax(np.array([cosine(encoded, v) for v in self.V]) / self.m.temperature)

    def spatial_address(self, f: np.ndarray) -> np.ndarray:
        return softmax(np.array([cosine(f, s) for s in self.S]) / self.m.temperature)

    def scores(self, p: np.ndarray, f: np.ndarray) -> np.ndarray:
        return self.fc @ np.concatenate([p @ self.V, f.mean((1, 2))]) + self.bias

    def losses(self, f: np.ndarray, y: np.ndarray, loss: str) -> tuple[float, float, float]:
        f = self.prepared(f)
        p, p1, ps = self.address(f), self.label_address(y), self.spatial_address(f)
        v, vt = p @ self.V, p1 @ self.V

        def classified(z: np.ndarray) -> float:
            if loss == "cross_entropy":
                return -float(np.log(softmax(z)) @ y)
            probability = 1 / (1 + np.exp(-z))
            return -float(np.mean(y * np.log(probability) + (1 - y) * np.log(1 - probability)))

        def divergence(a: np.ndarray, b: np.ndarray) -> float:
            return float((a * np.log(a / b)).sum())

        return (
            classified(self.scores(p1, f)) + classified(self.scores(p, f)),
            float(((v - vt) ** 2).mean()),
            divergence(p1, ps) + divergence(p1, p),
        )

    def search(self, f: np.ndarray, noise: np.ndarray) -> np.ndarray:
        f = self.prepared(f)
        z = np.zeros((len(self.K), len(self.bias)))
        for drawn in noise:
            for i in range(len(self.K)):
                K = self.K.copy()
                K[i] = drawn[i]
                z[i] += self.scores(self.address(f, K), f)
        return z.argmin(0)

    def slot_map(self, f: np.ndarray, slot: int) -> np.ndarray:
        own = self.prepared(f)
        return sum(np.exp(cosine(own[k], self.S[slot, k])) * f[k] for k in range(len(f)))


FORMS = [("query", 1.0, False), ("query", 0.1, True), ("places", 0.1, True), ("places", 1.0, False)]


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
@pytest.mark.parametrize(("read", "temperature", "whiten"), FORMS)
def test_losses_and_addresses_equal_the_naive_memory(read: str, temperature: float, whiten: bool, loss: str) -> None:
    m, f = memory(read, temperature, whiten), features()
    y = labels() if loss == "bce" else torch.eye(CLASSES)[:3].double()
    naive = Naive(m)
    expected = np.mean([naive.losses(array(f[i]), array(y[i]), loss) for i in range(3)], axis=0)
    got = m.losses(f, y, loss)
    np.testing.assert_allclose([each.item() for each in (got.classifier, got.sparse, got.address)], expected, rtol=1e-9)
    assert got.total.item() == pytest.approx(expected.sum())
    prepared = m.prepared(f)
    for i in range(3):
        own = naive.prepared(array(f[i]))
        np.testing.assert_allclose(array(prepared[i]), own, atol=1e-12)
        np.testing.assert_allclose(array(m.log_address(prepared)[i].exp()), naive.address(own), rtol=1e-9)
        np.testing.assert_allclose(array(m.log_label_address(y)[i].exp()), naive.label_address(array(y[i])), rtol=1e-9)
        np.testing.assert_allclose(array(m.log_spatial_address(prepared)[i].exp()), naive.spatial_address(own), rtol=1e-9)
        np.testing.assert_allclose(array(m(f)[i]), naive.scores(naive.address(own), own), rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("read", ["query", "places"])
def test_slot_search_equals_the_loop(read: str, temperature: float) -> None:
    m, f = memory(read, temperature, slots=9), features(6)
    noise = torch.randn(3, 9, CHANNELS, generator=torch.Generator().manual_seed(4)).double()
    got = m.search(f, noise)
    naive = Naive(m)
    assert got.tolist() == [naive.search(array(f[i]), array(noise)).tolist() for i in range(6)]
    assert len(set(got.flatten().tolist())) > 1


def test_gradients_flow_to_every_part_and_never_to_the_features() -> None:
    m, f = memory(), features().requires_grad_()
    m.losses(f, labels()).total.backward()
    assert f.grad is None
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_whitened_queries_have_no_mean_and_unit_covariance() -> None:
    torch.manual_seed(0)
    queries = torch.rand(500, CHANNELS).double() @ torch.rand(CHANNELS, CHANNELS).double()
    m = memory()
    m.whiten(queries)
    white = m.prepared(queries[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(white.mean(0), torch.zeros(CHANNELS).double(), atol=1e-9, rtol=0)
    assert float((torch.cov(white.t()) - torch.eye(CHANNELS)).abs().max()) < 0.3  # the ridge damps the faintest direction
    assert float(torch.cov(queries.t()).diag().std()) > 0.01


def test_evidence_adds_up_to_the_score() -> None:
    m, f = memory("places", 0.1, whiten=True), features()
    torch.testing.assert_close(m.evidence(f).mean((2, 3)) + m.classifier.bias, m(f))
    with pytest.raises(lucidcam.LucidcamError, match="reads places"):
        memory("query").evidence(f)


def test_a_memory_comes_back_from_its_file(tmp_path) -> None:
    m = memory("places", 0.3, whiten=True).float()
    with pytest.raises(lucidcam.LucidcamError, match="belongs"):
        m.save(tmp_path / "m.safetensors")
    m.belongs = Belongs("abc", "net", "layer4", ("a", "b, c", "d", "é"), (4, 2, 0, 1))
    m.save(tmp_path / "m.safetensors")
    found = Memory.load(tmp_path / "m.safetensors")
    assert (found.belongs, found.temperature, found.read) == (m.belongs, 0.3, "places")
    torch.testing.assert_close(found(features().float()), m(features().float()))


def test_what_is_no_memory_is_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(lucidcam.LucidcamError, match="does not exist"):
        Memory.load(tmp_path / "none")
    (tmp_path / "half").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(lucidcam.LucidcamError, match="cannot be read"):
        Memory.load(tmp_path / "half")
    save_file({"x": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(lucidcam.LucidcamError, match="no memory of"):
        Memory.load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"temperature": 0.0}, {"read": "pixels"}])
def test_wrong_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(lucidcam.LucidcamError, match=r"expected slots|way to read"):
        Memory(**{"slots": 3, "channels": 2, "grid": (2, 2), "classes": 2, **wrong})


# -------------------------------------------------------------------------------------------------------------------- the method


def belonging(net: nn.Module, ids: tuple[int, ...] = (0, 1, 2, 4), **options: Any) -> Memory:
    torch.manual_seed(3)
    belongs = Belongs(fingerprint(net), "the network", "conv2", tuple("abce"), ids)
    return Memory(SLOTS, 12, (10, 14), 4, belongs=belongs, **options).double()


def activations(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.conv2(torch.nn.functional.max_pool2d(net.norm(net.conv1(x)).relu(), 2))


def test_published_maps_equal_the_naive_ones() -> None:
    net, x = build(FunctionalGAP), images(2)
    m = belonging(net)
    got = lucidcam.attribute(net, x, "mcam", memory=m, target=[[0, 4], [2, 1]], draws=2, seed=7)
    noise = torch.randn(2, SLOTS, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    f, naive = array(activations(net, x)), Naive(m)
    for i, asked in enumerate([[0, 3], [2, 1]]):  # the memory's numbers of the classes
        slots = naive.search(f[i], array(noise))
        for t, k in enumerate(asked):
            np.testing.assert_allclose(array(got[i, t]), naive.slot_map(f[i], slots[k]), rtol=1e-9)


def test_gradient_and_evidence_maps_equal_autograd_and_the_scores() -> None:
    net, x = build(FunctionalGAP), images(2)
    m = belonging(net, read="places", temperature=0.2)
    m.whiten(torch.randn(30, 12).double())
    f = activations(net, x).requires_grad_()
    prepared = (m.whitening @ (f.flatten(2) - m.mean[:, None])).reshape(f.shape)
    score = m._scores(prepared)[:, 3].sum()
    weights = torch.autograd.grad(score, f)[0].mean((2, 3))
    expected = torch.einsum("bk,bkyx->byx", weights, f.detach()).relu()
    torch.testing.assert_close(lucidcam.attribute(net, x, "mcam", memory=m, weights="gradient", target=4), expected)
    evidence = m.evidence(f.detach())[:, 3]
    expected = (evidence - evidence.mean((1, 2), keepdim=True)).relu()
    torch.testing.assert_close(lucidcam.attribute(net, x, "mcam", memory=m, weights="evidence", target=4), expected)


def test_another_network_layer_or_class_is_refused() -> None:
    net, x = build(FunctionalGAP), images(1)
    m = belonging(net)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.fc.bias[0] += 1
    with pytest.raises(lucidcam.LucidcamError, match="belongs to another network"):
        lucidcam.attribute(other, x, "mcam", memory=m, target=0)
    with pytest.raises(lucidcam.LucidcamError, match="'conv2'; leave the layer out"):
        lucidcam.attribute(net, x, "mcam", memory=m, target=0, layer="conv1")
    with pytest.raises(lucidcam.LucidcamError, match=r"class 3 is none of the memory's 4: 0 \(a\)"):
        lucidcam.attribute(net, x, "mcam", memory=m, target=3)
    with pytest.raises(lucidcam.LucidcamError, match="train memory"):
        lucidcam.attribute(net, x, "mcam", target=0)
    with pytest.raises(lucidcam.LucidcamError, match="classes that its memory knows"):
        lucidcam.attribute(net, x, "mcam", memory=m, target=lambda scores: scores[:, 0] ** 2)
    lucidcam.attribute(net, x, "mcam", memory=m, target=0, layer=["conv2"])
    net.fc.weight.data.mul_(2)  # a network that was trained on is another one, too, also behind autograd's back
    with pytest.raises(lucidcam.LucidcamError, match="belongs to another network"):
        lucidcam.attribute(net, x, "mcam", memory=m, target=0)


def test_an_optimised_copy_stands_for_its_network_until_it_is_changed() -> None:
    net, x = build(FunctionalGAP, dtype=torch.float32), images(1, dtype=torch.float32)
    m = belonging(net)
    fast = lucidcam.optimize(net, x)
    torch.testing.assert_close(
        lucidcam.attribute(fast, x, "mcam", memory=m, target=0),
        lucidcam.attribute(net, x, "mcam", memory=m, target=0),
        rtol=1e-4,
        atol=1e-4,
    )
    with torch.no_grad():
        fast.fc.weight.zero_()
    with pytest.raises(lucidcam.LucidcamError, match="another network"):
        lucidcam.attribute(fast, x, "mcam", memory=m, target=0)


# ------------------------------------------------------------------------------------------- what always occurs together, in small


def pairs(count: int, rate: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of two things that nearly always occur together, as a network that took them for one makes them.

    A channel answers to both, two faint ones to one each, others to neither. Returns features, labels, and where each thing is.
    """
    rng = np.random.default_rng(seed)
    f = np.abs(rng.normal(0, 0.05, (count, 8, 4, 4)))
    y, places = np.zeros((count, 2)), np.zeros((count, 2, 4, 4), bool)
    for i in range(count):
        present = [0, 1] if rng.random() < rate else [int(rng.integers(2))]
        for k, place in zip(present, rng.permutation(16)):
            at = divmod(int(place), 4)
            f[(i, 0, *at)] += 1
            f[(i, 1 + k, *at)] += 0.25
            y[i, k], places[(i, k, *at)] = 1, True
    return torch.from_numpy(f).float(), torch.from_numpy(y).float(), torch.from_numpy(places)


def trained(m: Memory, f: Tensor, y: Tensor, weights: np.ndarray | None, steps: int = 150) -> Memory:
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(m.parameters(), lr=1e-2)
    for _ in range(steps):
        rows = rng.choice(len(f), 64, p=weights)
        optimizer.zero_grad()
        m.losses(f[rows], y[rows]).total.backward()
        optimizer.step()
    return m.eval()


def wins(maps: Tensor, places: Tensor) -> float:
    """How often the asked thing gets more than the other, in images with both."""
    both = places.flatten(2).any(2).all(1)
    energy = (maps.relu()[:, :, None] * places[:, None]).flatten(3).sum(3)[both]  # [n, asked, thing]
    return float((energy.diagonal(dim1=1, dim2=2) > energy.flip(2).diagonal(dim1=1, dim2=2)).float().mean())


def test_the_unbiased_memory_tells_apart_what_always_occurs_together_and_the_published_one_does_not() -> None:
    from lucidcam.samples import Sample
    from lucidcam.train.labelled import Labelled

    f, y, _ = pairs(1500, 0.95, 0)
    test, _, places = pairs(200, 1.0, 1)
    samples = tuple(Sample(None, str(i)) for i in range(len(f)))
    weights = Labelled("pairs", samples, y.double().numpy(), ("a", "b"), True).sampling_weights("decorrelated")
    torch.manual_seed(0)
    published = trained(Memory(16, 8, (4, 4), 2), f, y, None)
    noise = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0))
    slots = published.search(test, noise)
    maps = torch.einsum("btk,bkyx->btyx", published.slot_weights(test, slots), test)
    torch.manual_seed(0)
    unbiased = Memory(16, 8, (4, 4), 2, 0.1, "places")
    unbiased.whiten(f.flatten(2).mean(-1))
    trained(unbiased, f, y, weights / weights.sum())
    evidence = unbiased.evidence(test).detach()
    evidence = evidence - evidence.mean((2, 3), keepdim=True)
    assert 0.4 < wins(maps.detach(), places) < 0.6
    assert wins(evidence, places) > 0.85
