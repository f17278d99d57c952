"""Training: what comes out loads and explains, what was killed goes on, what is wrong is said."""

from __future__ import annotations

import contextlib
import json
import resource
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
import scenes
from commands import run
from lucidcam.errors import DataError, LucidcamError, ModelError, OptionError
from lucidcam.models._card import Card
from lucidcam.nn import to_gap
from lucidcam.samples import Sample
from lucidcam.train import features as features_
from lucidcam.train import train_gap, train_memory
from lucidcam.train.gap import GAPTask
from lucidcam.train.labelled import Labelled, read
from lucidcam.train.loading import Drawn, Photos, augmentation
from lucidcam.train.memory import TrainedMemory
from lucidcam.train.slots import Slots
from lucidcam.train.trainer import Training
from nets import few_numbers_drawn

QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "augment": "none", "size": 32, "progress": False, "workers": 0}
MEMORY: dict[str, Any] = {"epochs": 2, "batch_size": 8, "slots": 6, "progress": False}


def data(count: int = 24) -> list[Sample]:
    return scenes.samples(count)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_gap(data(), out=tmp_path_factory.mktemp("trained") / "net", **QUICK)


# ------------------------------------------------------------------------------------------------------------- the data


def sample(name: str, *labels: str) -> Sample:
    return Sample(np.zeros((8, 8, 3), np.uint8), name, labels)


def test_labels_are_read_without_opening_an_image() -> None:
    found = read([Sample(b"not opened", "a", ("x",)), Sample(b"not opened", "b", ("y", "x")), Sample(b"not opened", "c")])
    assert (found.classes, found.multi_label, found.labels.tolist()) == (("x", "y"), True, [[1, 0], [1, 1], [0, 0]])
    single = read([Sample(b"not opened", "a", ("x",)), Sample(b"not opened", "b", ("y",)), Sample(b"not opened", "c")])
    assert (single.multi_label, len(single), [each.error for each in single.problems]) == (False, 2, ["c: it has no label"])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([("a",), ("b",)], {"classes": ["a", "b", "c"]}, "1 of 3 classes have no images: 'c'.*present"),
        ([("a",), ("b",), ("dog",)], {"classes": ["a", "b"]}, r"labels outside the list of classes: 'dog' \(1 images\)"),
        ([("a",), ("a",)], {}, "two classes or more"),
        ([(), ()], {}, "no image has a label"),
        ([("a", "b"), ("b",)], {"multi_label": False}, "some images have several labels"),
    ],
)
def test_bad_labels_are_told(labels: list[tuple[str, ...]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read([sample(str(i), *each) for i, each in enumerate(labels)], **options)


def test_a_limit_takes_samples_of_all_classes(tmp_path: Path) -> None:
    found = read(scenes.folder(tmp_path / "data", 30), limit=12)
    assert len(found) == 12
    assert (found.labels.sum(0) > 0).all()
    assert [each.name for each in found.samples] == [each.name for each in read(tmp_path / "data", limit=12).samples]


def test_classes_without_images_can_be_left_out(tmp_path: Path) -> None:
    scenes.folder(tmp_path / "data")
    (tmp_path / "data" / "purple").mkdir()
    with pytest.raises(DataError, match="'purple'"):
        read(tmp_path / "data")
    assert read(tmp_path / "data", "present").classes == ("blue", "green", "red")


def labelled(*rows: tuple[int, ...]) -> Labelled:
    classes = tuple("abc"[: len(rows[0])])
    return Labelled("given", tuple(sample(str(i)) for i in range(len(rows))), np.array(rows, float), classes, True)


def test_a_split_takes_its_share_of_each_combination_and_leaves_singletons() -> None:
    whole = labelled(*[(1, 0)] * 20, *[(1, 1)] * 10, (0, 1))
    first, second = whole.split(0.2, 0)
    assert sorted(map(tuple, second.labels.tolist())) == [(1, 0)] * 4 + [(1, 1)] * 2
    assert len(first) == 25
    assert not {s.name for s in first.samples} & {s.name for s in second.samples}


def test_decorrelated_sampling_makes_labels_independent() -> None:
    whole = labelled(*[(1, 1)] * 60, *[(1, 0)] * 20, *[(0, 1)] * 20, *[(0, 0)] * 100)
    weights = whole.sampling_weights("decorrelated")
    assert weights is not None
    share = weights / weights.sum()
    both, first, second = (float(share @ whole.labels.prod(1)), *(share @ whole.labels).tolist())
    assert both == pytest.approx(first * second)
    assert float(np.corrcoef(whole.labels.T)[0, 1]) > 0.5


def test_balanced_sampling_gives_classes_equal_shares() -> None:
    whole = labelled(*[(1, 0, 0)] * 90, *[(0, 1, 0)] * 9, (0, 0, 1))
    weights = whole.sampling_weights("balanced")
    assert weights is not None
    np.testing.assert_allclose(weights / weights.sum() @ whole.labels, [1 / 3] * 3)
    assert whole.sampling_weights("uniform") is None
    np.testing.assert_allclose(whole.class_weights().numpy(), [10 / 90, 91 / 9, 99], rtol=1e-6)


def test_draws_hang_on_the_seed_and_the_epoch_alone() -> None:
    drawn = Drawn(5, None, 3)
    first = list(drawn)
    assert sorted(row for row, _, _ in first) == list(range(5))
    assert first == list(Drawn(5, None, 3))
    drawn.set_epoch(1)
    assert [row for row, _, _ in drawn] != [row for row, _, _ in first]
    rare = Drawn(200, np.array([1.0] + [0.0] * 199), 0)
    assert {row for row, _, _ in rare} == {0}


def test_augmentation_does_not_hang_on_workers() -> None:
    model = lucidcam.load("gap:small", size=32, num_classes=3)
    from lucidcam.train.loading import steps_of

    photos = Photos(read(data(6)), steps_of(model), augmentation("standard", steps_of(model)), 1)
    keys = list(Drawn(6, None, 0))
    torch.manual_seed(5)
    one = [photos[key].tensor for key in keys]
    torch.manual_seed(6)
    other = [photos[key].tensor for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(photos[keys[0]].tensor, photos[keys[0][0], keys[0][1], 1].tensor)  # another epoch, another change


# ---------------------------------------------------------------------------------------------------------- a network


def test_a_trained_network_loads_and_explains_at_once(trained: Any) -> None:
    model = lucidcam.load(trained.folder)
    assert model.labels == ("blue", "green", "red")
    assert model.layer == "trunk"
    assert model.fingerprint() == trained.model.fingerprint()
    again = lucidcam.load(trained.folder / "model.safetensors")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.module(x), trained.model.module(x))
    torch.testing.assert_close(again.module(x), model.module(x))
    photo = scenes.scene(("red", (10, 10, 30, 30)))
    [found] = lucidcam.explain(model, photo, "cam", target="red")
    assert (found.label, found.layer, found.map.shape) == ("red", "trunk", (48, 64))
    cams = lucidcam.attribute(model.module, x, "cam", target="all", layer="trunk")
    torch.testing.assert_close(cams.mean((2, 3)) + model.module.head.bias, model.module(x))
    assert lucidcam.load(trained.folder, fit="whole").preprocess.fit == "whole"


def test_the_card_and_the_log_tell_how_it_was_made(trained: Any) -> None:
    card = Card.beside(trained.folder)
    assert card is not None
    assert card.architecture == "gap:small"
    assert card.training["lr"] == 1e-2
    assert card.metrics == trained.metrics
    assert {"val_loss", "val_accuracy", "val_balanced_accuracy", "val_maxboxacc", "val_pointing_game", "train_loss"} <= set(card.metrics)
    log = (trained.folder / "log" / "version_0" / "metrics.csv").read_text()
    assert "val_maxboxacc" in log.splitlines()[0]


def test_batch_normalisation_learns_the_datas_statistics(trained: Any) -> None:
    norms = [each for each in trained.model.module.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert norms
    assert all(int(each.num_batches_tracked) in (3, 6, 9) for each in norms)  # three batches in each epoch, up to the best
    assert not trained.model.module.training


def test_damaged_cards_are_told(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        lucidcam.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"kind": "lucidcam network", "preprocess": {"wrong": 1}, "labels": []}))
    with pytest.raises(ModelError, match="damaged"):
        lucidcam.load(tmp_path)
    (tmp_path / "model.json").write_text((trained.folder / "model.json").read_text())
    with pytest.raises(ModelError, match="does not exist"):
        lucidcam.load(tmp_path)


class KilledError(RuntimeError):
    pass


def killed_in_epoch(number: int, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task.on_train_epoch_start

    def epoch(self: Any) -> None:
        if self.current_epoch == number:
            raise KilledError
        whole(self)

    monkeypatch.setattr(task, "on_train_epoch_start", epoch)


def test_a_killed_training_goes_on_as_if_nothing_had_been(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        killed_in_epoch(2, GAPTask, patch)
        with pytest.raises(KilledError):
            train_gap(data(), out=tmp_path / "net", **QUICK)
    with pytest.raises(OptionError, match=r"other settings \(lr\)"):
        train_gap(data(), out=tmp_path / "net", **{**QUICK, "lr": 1e-3})
    last = tmp_path / "net" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])  # the kill came while it was written
    epochs: list[int] = []
    whole = GAPTask.on_train_epoch_start
    monkeypatch.setattr(GAPTask, "on_train_epoch_start", lambda self: (epochs.append(self.current_epoch), whole(self)))
    found = train_gap(data(), out=tmp_path / "net", **QUICK)
    assert epochs
    assert epochs[0] in (1, 2)
    assert epochs[-1] == 2
    assert found.model.fingerprint() == trained.model.fingerprint()
    epochs.clear()
    assert train_gap(data(), out=tmp_path / "net", **QUICK).model.fingerprint() == trained.model.fingerprint()
    assert not epochs  # there was nothing left to do
    train_gap(data(), out=tmp_path / "net", **{**QUICK, "epochs": 1, "restart": True})
    assert epochs == [0]


@pytest.mark.parametrize("batch_size", [8, 32], ids=["several steps", "one step"])
@pytest.mark.parametrize("workers", [0, 1])
def test_draws_go_on_as_if_nothing_had_been(workers: int, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples, changes of photos and what the network draws: however many steps an epoch has, and whoever reads the photos."""
    loss = GAPTask._loss
    monkeypatch.setattr(GAPTask, "_loss", lambda self, scores, *rest: loss(self, torch.dropout(scores, 0.5, self.training), *rest))
    options = {**QUICK, "workers": workers, "batch_size": batch_size, "augment": "standard"}
    whole = train_gap(data(), out=tmp_path / "whole", **options)
    for epoch in (1, 2):
        with monkeypatch.context() as patch:
            killed_in_epoch(epoch, GAPTask, patch)
            with pytest.raises(KilledError):
                train_gap(data(), out=tmp_path / "net", **{**options, "restart": epoch > 1})
        found = train_gap(data(), out=tmp_path / "net", **options)
        assert found.model.fingerprint() == whole.model.fingerprint(), epoch
        assert found.metrics == whole.metrics


@pytest.mark.parametrize("names", [("best",), ("last",), ("best", "last")], ids="-".join)
@pytest.mark.parametrize("epochs", [2, 3])
def test_a_damaged_checkpoint_is_not_gone_on_from(names: Any, epochs: int, trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        if epochs < QUICK["epochs"]:
            killed_in_epoch(epochs, GAPTask, patch)
        with contextlib.suppress(KilledError):
            train_gap(data(), out=tmp_path / "net", **QUICK)
    for name in names:
        path = tmp_path / "net" / "checkpoints" / f"{name}.ckpt"
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda each: each.file_size)
        content = bytearray(path.read_bytes())
        content[largest.header_offset + largest.file_size // 2] ^= 64  # one bit of a weight; torch reads it without a word
        path.write_bytes(content)
        torch.load(path, weights_only=True)
    assert train_gap(data(), out=tmp_path / "net", **QUICK).model.fingerprint() == trained.model.fingerprint()


def rising(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the validation loss rises from epoch to epoch; gives the epochs that are trained."""
    loss, begun = GAPTask._loss, GAPTask.on_train_epoch_start
    epochs: list[int] = []

    def worse(self: Any, *args: Any) -> Any:
        return loss(self, *args) * (1 if self.training else 1000**self.current_epoch)

    monkeypatch.setattr(GAPTask, "_loss", worse)
    monkeypatch.setattr(GAPTask, "on_train_epoch_start", lambda self: (epochs.append(self.current_epoch), begun(self)))
    return epochs


def test_a_training_goes_on_from_its_last_epoch_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = rising(monkeypatch)
    with monkeypatch.context() as patch:
        killed_in_epoch(2, GAPTask, patch)
        with pytest.raises(KilledError):
            train_gap(data(), out=tmp_path / "net", **QUICK)
    best = torch.load(tmp_path / "net" / "checkpoints" / "best.ckpt", weights_only=True)
    assert (epochs, best["epoch"]) == ([0, 1], 0)
    (tmp_path / "net").rename(tmp_path / "moved")
    found = train_gap(data(), out=tmp_path / "moved", **QUICK)
    assert epochs == [0, 1, 2]
    assert torch.load(tmp_path / "moved" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0
    weight = best["state_dict"]["network.head.weight"]
    assert torch.equal(found.model.module.head.weight, weight)
    assert len(list((tmp_path / "moved" / "log").glob("version_*/metrics.csv"))) == 2


def test_patience_ends_a_training_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = rising(monkeypatch)
    options = {**QUICK, "epochs": 6, "patience": 2}
    train_gap(data(), out=tmp_path / "net", **options)
    assert epochs == [0, 1, 2]
    train_gap(data(), out=tmp_path / "net", **options)
    assert epochs == [0, 1, 2]


def test_a_restart_takes_the_old_network_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_gap(data(), out=tmp_path, **{**QUICK, "epochs": 1})
    monkeypatch.setattr(GAPTask, "_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ModelError, match="became nan"):
        train_gap(data(), out=tmp_path, **{**QUICK, "epochs": 1, "restart": True})
    assert not (tmp_path / "model.json").exists()


def test_workers_are_given_nothing_that_cannot_be_sent() -> None:
    import pickle

    given = read(scenes.samples(4, masks=True))
    with pytest.raises(AttributeError, match="pickle"):
        pickle.dumps(given)
    assert len(pickle.loads(pickle.dumps(given.lean()))) == 4


def test_a_loss_that_is_no_number_keeps_the_last_good_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GAPTask._loss

    def loss(self: Any, *args: Any) -> Any:
        return whole(self, *args) * (float("nan") if self.current_epoch == 1 else 1)

    monkeypatch.setattr(GAPTask, "_loss", loss)
    with pytest.raises(ModelError, match=r"training loss became nan in epoch 2.*smaller lr.*Epoch 1, the best before, is kept"):
        train_gap(data(), out=tmp_path / "net", **QUICK)
    assert lucidcam.load(tmp_path / "net").labels == ("blue", "green", "red")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written: File too large.*run again"):
            train_gap(data(), out=tmp_path / "net", **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert train_gap(data(), out=tmp_path / "net", **QUICK).metrics["val_loss"] > 0


def test_broken_photos_are_reported_and_left_out(tmp_path: Path) -> None:
    root = scenes.folder(tmp_path / "data", 12)
    (root / "red" / "broken.png").write_bytes(b"\x89PNG broken")
    found = train_gap(root, out=tmp_path / "net", **{**QUICK, "epochs": 1, "validation_share": 0.3})
    assert [Path(each.name).name for each in found.problems] == ["broken.png"]
    memory = train_memory(root, found.model, out=tmp_path / "memory", **{**MEMORY, "validation_share": 0.3})
    assert [Path(each.name).name for each in memory.problems] == ["broken.png"]


def test_several_labels_frozen_backbones_weights_and_other_poolings(tmp_path: Path) -> None:
    given = scenes.samples(16, per_image=2)
    backbone = lucidcam.wrap(
        torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, stride=2), torch.nn.BatchNorm2d(6), torch.nn.ReLU()), scenes_steps()
    )
    before = backbone.fingerprint()
    options = {**QUICK, "size": None, "epochs": 1}
    found = train_gap(given, backbone, out=tmp_path / "net", freeze=True, channels=4, pooling="lse", class_weights=True, **options)
    assert found.metrics["val_map"] > 0
    assert backbone.fingerprint() == before
    trunk = found.model.module.trunk.module
    assert all(torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), backbone.module.state_dict().values(), strict=True))
    with pytest.raises(OptionError, match="architecture"):
        lucidcam.load(tmp_path / "net")  # a module of one's own is built by a callable of one's own
    example = torch.zeros(1, 3, 32, 32)
    model = lucidcam.load(tmp_path / "net", architecture=lambda: to_gap(backbone.module, None, 4, "lse", 3, example))
    assert (model.labels, model.layer) == (found.model.labels, "convolution")
    assert model.fingerprint() == found.model.fingerprint()
    x = torch.rand(1, 3, 32, 32)
    photo = scenes.scene(("red", (10, 10, 30, 30)), ("blue", (34, 5, 60, 40)))
    told = [each.probability for each in lucidcam.explain(model, photo, "gradcam", target=[0, 1, 2])]
    scores = model.module(model.prepare(photo)[0].tensor[None])[0]
    np.testing.assert_allclose(told, scores.sigmoid().tolist(), rtol=1e-5)  # several labels: each has a probability of its own
    assert all(p.requires_grad for p in found.model.module.parameters())
    with pytest.raises(OptionError, match="a model's size"):
        train_gap(given, backbone, out=tmp_path / "other", **{**options, "size": 64})
    assert model.module(x).shape == (1, 3)


def scenes_steps() -> Any:
    from lucidcam.imaging.preprocess import Preprocess

    return Preprocess(size=32, resize=None, fit="squash")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "heavy"}, "no augmentation is called"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"validation_share": 1.5}, "validation_share"),
        ({"backbone": "smal"}, "did you mean 'small'"),
        ({"backbone": "small", "fit_photos": "whole"}, "one size"),
        ({"pooling": "max"}, "no pooling is called"),
        ({"precision": "bf16"}, "did you mean 'bf16-mixed'"),
        ({"accelerator": "gpus"}, "Lightning cannot train so"),
        ({"seed": -1}, "seed ≥ 0"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LucidcamError, match=message):
        train_gap(data(6), out=tmp_path, **{**QUICK, **options})
    with pytest.raises(OptionError, match="expected epochs"):
        Training(epochs=0)


# --------------------------------------------------------------------------------------------------------------- a memory


def test_a_memory_leaves_the_network_as_it_is_and_reads_its_features_once(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in trained.model.module.state_dict().items()}
    found = train_memory(data(), trained.model, out=tmp_path, **MEMORY)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.module.state_dict().items())
    assert {"val_classifier", "val_sparse", "val_address", "train_classifier", "val_accuracy"} <= set(found.metrics)
    assert found.memory.belongs.encoder == trained.model.fingerprint()
    assert found.memory.belongs.layer == "trunk"
    photo = scenes.scene(("red", (10, 10, 30, 30)))
    [one] = lucidcam.explain(lucidcam.load(trained.folder), photo, "mcam", memory=found.file, target="red")
    assert one.layer == "trunk"
    assert np.isfinite(one.map).all()
    monkeypatch.setattr(features_, "_activations", lambda *_: pytest.fail("features were made again"))
    other = train_memory(data(), trained.model, out=tmp_path, unbiased=True, restart=True, **MEMORY)
    assert other.memory.read == "places"
    assert (found.weights, other.weights) == ("slot", "evidence")
    assert not torch.equal(other.memory.whitening, torch.eye(len(other.memory.mean)))
    [one] = lucidcam.explain(trained.model, photo, "mcam", memory=other.memory, weights="evidence", target="red")
    assert one.map.min() >= 0


def test_features_are_made_again_for_other_pixels_and_not_lost_to_another_run(trained: Any, tmp_path: Path) -> None:
    train_memory(data(), trained.model, out=tmp_path, **MEMORY)
    kept = np.load(tmp_path / "features.npy")
    other = lucidcam.load("gap:small", size=32, labels=trained.model.labels)
    with pytest.raises(OptionError, match="other settings"):
        train_memory(data(), other, out=tmp_path, **MEMORY)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), kept)
    inverted = [Sample(255 - np.asarray(each.image), each.name, each.labels, each.objects) for each in data()]
    train_memory(inverted, trained.model, out=tmp_path, restart=True, **MEMORY)
    assert not np.array_equal(np.load(tmp_path / "features.npy"), kept)


def test_an_evaluation_does_not_go_on_with_a_memory_that_was_trained_anew(trained: Any, tmp_path: Path) -> None:
    found = train_memory(data(), trained.model, out=tmp_path / "memory", **MEMORY)
    method = ("mcam", {"memory": str(found.file)})
    options = {"metrics": ["pointing_game"], "baselines": [], "out": tmp_path / "judged", "resamples": 0, "progress": False}
    lucidcam.evaluate(trained.model, data(6), [method], **options)
    train_memory(data(), trained.model, out=tmp_path / "memory", restart=True, **{**MEMORY, "seed": 5})
    with pytest.raises(OptionError, match="other settings"):
        lucidcam.evaluate(trained.model, data(6), [method], **options)


def test_a_memory_that_does_not_fit_the_disk_is_told(trained: Any, tmp_path: Path) -> None:
    found = train_memory(data(), trained.model, out=tmp_path, **MEMORY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DataError, match="File too large"):
            found.memory.save(tmp_path / "again.safetensors")
        with pytest.raises(DataError, match=r"features.npy cannot be written"):
            train_memory(data(), trained.model, out=tmp_path / "other", **MEMORY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "again.safetensors").exists()


def test_slots_are_described(trained: Any, tmp_path: Path) -> None:
    found = train_memory(data(), trained.model, out=tmp_path, **MEMORY)
    views = found.slots
    np.testing.assert_allclose(views.addresses.sum(1), 1, rtol=1e-5)
    assert views.read.sum() == len(data()) - 3  # three are kept for validation
    assert len(views.dead) == int((views.read == 0).sum()) > 0
    told = json.loads((tmp_path / "slots.json").read_text())
    assert told["dead"] == list(views.dead)
    assert len(told["slots"]) == 6
    assert len(told["slots"][0]["nearest"]) == 6
    kept = np.load(tmp_path / "features.npy")
    names = [each.name for each in data()]
    spatial = found.memory.spatial.detach().flatten(1)
    known = {name: kept[names.index(name)].ravel() for row in views.nearest for name in row}
    cosines = [torch.cosine_similarity(spatial[0], torch.from_numpy(known[name]), dim=0).item() for name in views.nearest[0]]
    assert cosines == sorted(cosines, reverse=True)
    for name in ("slots.png", "slots-nearest.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300


def test_a_killed_memory_goes_on(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucidcam.train.memory import MemoryTask

    whole = train_memory(data(), trained.model, out=tmp_path / "whole", **MEMORY).memory
    made = features_._activations
    calls: list[int] = []

    def once(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return made(*args)

    monkeypatch.setattr(features_, "AT_ONCE", 8)
    monkeypatch.setattr(features_, "SAVED", 8)
    with monkeypatch.context() as patch:
        patch.setattr(features_, "_activations", once)
        with pytest.raises(KilledError):
            train_memory(data(), trained.model, out=tmp_path / "killed", **MEMORY)
        killed_in_epoch(1, MemoryTask, patch)
        with pytest.raises(KilledError):
            train_memory(data(), trained.model, out=tmp_path / "killed", **MEMORY)
    assert len(calls) == 4  # the first batch was kept, the other two were made
    again = train_memory(data(), trained.model, out=tmp_path / "killed", **MEMORY).memory
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True))


def test_classes_that_the_network_lacks_are_told(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no class 'car'.*class_map.*train gap"):
        train_memory([sample(str(i), "car" if i % 2 else "red") for i in range(8)], trained.model, out=tmp_path, **MEMORY)
    found = train_memory(
        [Sample(each.image, each.name, ("car",) if each.labels == ("red",) else each.labels) for each in data()],
        trained.model, out=tmp_path, class_map={"car": "red"}, **MEMORY,
    )  # fmt: skip
    assert found.memory.belongs.ids == (0, 2, 1)
    assert found.memory.belongs.labels == ("blue", "car", "green")


# ------------------------------------------------------------------------------------------------------- the command line


def test_the_command_line_trains_explains_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    root = scenes.folder(tmp_path / "data", 12)
    quick = ("--epochs", 1, "--batch-size", 8, "--validation-share", 0.3)
    run("train", "gap", root, "--out", "net", "--size", 32, "--augment", "shift", *quick)
    shown = capsys.readouterr()
    assert "epoch 1 of 1" in shown.err
    assert "val_accuracy" in shown.out
    assert "lucidcam explain PHOTO --method cam --model net" in shown.out
    run("train", "memory", root, "--model", "net", "--out", "memory", "--unbiased", "--slots", 5, *quick)
    shown = capsys.readouterr()
    assert "of 5 slots are dead" in shown.out
    assert "--weights evidence" in shown.out
    photo = root / "red" / "000.png"
    memory = "memory/memory.safetensors"
    run("explain", photo, "--model", "net", "--method", "mcam", "--memory", memory, "--weights", "evidence", "--target", "red")
    assert json.loads((tmp_path / "lucidcam-out" / "explanations.json").read_text())[0]["method"] == "mcam"
    capsys.readouterr()
    run("train", "memory", root, "--model", "net", "--out", "memory", "--slots", 5, *quick, code=2)
    assert "holds the training of a memory with other settings" in capsys.readouterr().err
    run("train", "gap", root, "--backbone", "vgg17", code=2)
    assert "did you mean 'vgg16'" in capsys.readouterr().err
    run(
        "evaluate", "synthetic:count=2", "--model", "net", "--metric", "pointing_game", "--class-map", "circle=red", "--baseline", "uniform"
    )


@pytest.mark.parametrize(("read_at", "weights"), [("query", "slot"), ("places", "evidence")])
def test_what_to_try_next_are_the_weights_that_suit_the_memory(
    read_at: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = lucidcam.nn.Memory(3, 4, (2, 2), 2, 1.0, read_at)
    slots = Slots(("a", "b"), np.ones((2, 3)) / 3, np.array([4, 0, 2]), ((),) * 3)
    found = TrainedMemory(memory, Path("memory") / "memory.safetensors", {"val_loss": 0.5}, slots, ())
    monkeypatch.setattr("lucidcam.train.train_memory", lambda *_, **__: found)
    monkeypatch.setattr("lucidcam.cli._loading.load_model", lambda *_: None)
    how = ("--architecture", "nets:build", "--input-size", "32x48", "--mean", "0.5", "--labels", "my labels.txt", "--untrained")
    window = ("--window", "400", "--level", "40") if weights == "slot" else ()
    run("train", "memory", "photos", "--model", "a net", "--out", "memory", *how, *window)
    told = capsys.readouterr().out
    [tried] = [shlex.split(line) for line in told.splitlines() if line.startswith("try it: ")]
    assert tried[2:7] == ["lucidcam", "explain", "PHOTO", "--model", "a net"]
    rest = ["--method", "mcam", "--memory", "memory/memory.safetensors", "--weights", weights]
    assert tried[-len(rest) :] == rest
    assert sorted(tried[7 : -len(rest)]) == sorted([*how, *window])
    assert ("told apart by --unbiased here, and --weights evidence there" in " ".join(told.split())) == (weights == "slot")
    assert "1 of 3 slots are dead" in told


def test_images_nearest_to_slots_are_shown_through_the_models_window(tmp_path: Path) -> None:
    """Deep grey values, of which those from 100 to 200 are shown; without the window they would be black."""
    grey = np.full((16, 16), 150, np.uint16)
    grey[0, 0] = 4095
    photo = tmp_path / "scan.png"
    Image.fromarray(grey).save(photo)
    slots = {window: Slots(("a",), np.ones((1, 1)), np.ones(1), (("scan.png",),), ((photo,),), window) for window in (None, (100, 150))}
    bright = {window: np.array(each._sheet().convert("L")) for window, each in slots.items()}
    assert (bright[100, 150] == 128).sum() > 100 * 100
    assert (bright[None] == 128).sum() < 1000


# ----------------------------------------------------------------------------------------------------- the paper's networks


@pytest.mark.parametrize(
    ("name", "side", "at"), [("vgg16", 14, "features.29"), ("alexnet", 13, "features.11"), ("googlenet", 14, "inception4e")]
)
def test_the_papers_networks_have_their_maps_and_the_identity(name: str, side: int, at: str) -> None:
    with few_numbers_drawn():
        model = lucidcam.load(f"gap:{name}", pretrained=False, num_classes=7)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    maps = lucidcam.attribute(model.module, x, "cam", target="all", layer=model.layer)
    assert maps.shape == (1, 7, side, side)
    assert model.module.trunk.at == at
    with torch.no_grad():
        torch.testing.assert_close(maps.mean((2, 3)) + model.module.head.bias, model.module(x), rtol=1e-4, atol=1e-5)
    if name == "vgg16":  # the classifier's 120 million weights are gone
        assert sum(p.numel() for p in model.module.parameters()) < 20_000_000


def test_nin_and_any_other_backbone_are_pooled_where_they_end() -> None:
    assert lucidcam.load("gap:nin", num_classes=3).module.features(torch.zeros(1, 3, 224, 224)).shape == (1, 1024, 13, 13)
    model = lucidcam.load("gap:torchvision:resnet18", pretrained=False, labels=["a", "b"], size=64)
    assert (model.layer, model.module.trunk.at, model.preprocess.size) == ("trunk", "layer4", (64, 64))
    assert model.module(torch.zeros(2, 3, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize("name", ["googlenet", "torchvision:googlenet"])
def test_a_googlenet_that_rescales_its_input_comes_back_as_one_that_does(name: str) -> None:
    assert lucidcam.load(f"gap:{name}", pretrained=False, num_classes=2, size=64).module.trunk.module.transform_input
