"""M-CAM's memory on a frozen network (Kim & Ro, BMVC 2021)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lucidcam.data import ClassMap
from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import SETTINGS, check_writable
from lucidcam.nn import Memory
from lucidcam.nn.memory import FILE, Belongs, Loss, Losses, Read
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem
from lucidcam.train._lightning import Task, leads
from lucidcam.train.features import Features, features_of
from lucidcam.train.labelled import Sampling, read
from lucidcam.train.loading import Drawn, steps_of
from lucidcam.train.slots import Slots, slots_of
from lucidcam.train.trainer import Training, checked, fit, folder_of, schedule
from lucidcam.types import Model
from lucidcam.utils.fingerprint import architecture, steady
from lucidcam.utils.flags import takes

USUAL = {"epochs": 15, "batch_size": 64, "lr": 3e-3}
"""A memory is small, and its features are at hand."""

PAPER: dict[str, Any] = {"slots": 100, "temperature": 1.0, "read": "query", "whiten": False, "sampling": "uniform"}
UNBIASED: dict[str, Any] = {"slots": 64, "temperature": 0.1, "read": "places", "whiten": True, "sampling": "decorrelated"}
UNBIASED_LR = 1e-2


@dataclass(frozen=True, eq=False)
class TrainedMemory(OneLineRepr):
    """A trained memory.

    Attributes:
        memory: for the method `mcam`: `lucidcam.explain(…, "mcam", memory=…)`.
        file: where it is written; `--memory FILE` on the command line.
        metrics: on the validation data, of the epoch that was kept: each loss by itself.
        slots: what they hold.
        problems: photos that could not be used.
    """

    memory: Memory
    file: Path
    metrics: Mapping[str, float]
    slots: Slots
    problems: tuple[Problem, ...]

    @property
    def weights(self) -> str:
        """The form of the map that suits this memory (`weights` of `mcam`): "evidence" where it reads places, else the published "slot"."""
        return "evidence" if self.memory.read == "places" else "slot"


@dataclass(frozen=True, kw_only=True)
class MemoryForm:
    """What the memory is and which features it is trained on.

    Attributes:
        unbiased: our defaults instead of the paper's.
        slots: N.
        temperature: of the address softmaxes; smaller ones let an image address few slots.
        read_at: "query": the image's average is compared with the keys; "places": each place is.
        whiten: features are centred and decorrelated first; see `lucidcam.nn.Memory`.
        sampling: which images are drawn how often: "uniform", "balanced", or "decorrelated", as if labels were independent: without it the
            memory learns that objects which always occur together are one.
        layer: whose activations are the features; None: the model's own, or the last spatial one.
        loss: "bce", or "cross_entropy" for one label per image; None: what the data has.
    """

    unbiased: bool = False
    slots: int | None = None
    temperature: float | None = None
    read_at: Read | None = None
    whiten: bool | None = None
    sampling: Sampling | None = None
    layer: str | None = None
    loss: Loss | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """What is read of the data, and kept for validation.

    Attributes:
        classes: which of the data's; "present": those that have images; None: those that the data lists.
        multi_label: an image may hold several classes, or none; None: where an image has several.
        validation_share: of the data, to choose the best epoch by.
        limit: at most so many samples.
        format: the data's format; None: found out.
        data_options: of the format.
    """

    classes: Sequence[str] | Literal["present"] | None = None
    multi_label: bool | None = None
    validation_share: float = 0.1
    limit: int | None = None
    format: str | None = None
    data_options: Mapping[str, Any] | None = None


@takes(form=MemoryForm, labels=LabelledData)
def train_memory(
    data: Any,
    model: Model,
    *,
    out: str | os.PathLike[str],
    form: MemoryForm,
    class_weights: bool = False,
    class_map: Any = None,
    labels: LabelledData,
    **training: Any,
) -> TrainedMemory:
    """Train a memory on a network, which stays as it is; a killed training goes on when it is called again.

    The network runs once over the photos; its features are kept in the folder (`features.npy`, float32). By default the memory is the
    paper's. That one learns the data's bias like the network did; `unbiased` tells apart what always occurs together, with
    `mcam`'s `weights="evidence"` (or `"gradient"`): it changes the defaults of `slots` (100 to 64), `temperature` (1 to 0.1), `read_at`
    ("query" to "places"), `whiten` (to True), `sampling` ("uniform" to "decorrelated") and `lr` (to 0.01).

    Args:
        data: photos with the image-level labels that the network was trained on, or others of the same classes.
        model: the network; it needs a preprocessing.
        out: folder for the memory, its views, log and checkpoints.
        form: keywords, the fields of `MemoryForm`.
        class_weights: rare classes weigh more in the classifiers' losses.
        class_map: from the data's class names to the model's, where they differ (see `lucidcam.data.ClassMap`).
        labels: keywords, the fields of `LabelledData`.
        training: the fields of `Training`; by default 15 epochs of batches of 64, lr 0.003 (0.01 where `unbiased`).

    Raises:
        DataError: the data cannot be used, or names classes that the network does not have; the folder cannot be written.
        ModelError: the loss is no number any more; the best epoch before is kept.
        OptionError: an unknown name; a folder that holds another training.
    """
    stated = {
        "slots": form.slots,
        "temperature": form.temperature,
        "read": form.read_at,
        "whiten": form.whiten,
        "sampling": form.sampling,
    }
    shape = (UNBIASED if form.unbiased else PAPER) | {name: value for name, value in stated.items() if value is not None}
    how, folder = Training.of({**USUAL, **({"lr": UNBIASED_LR} if form.unbiased else {}), **training}), Path(out).expanduser()
    check_writable(folder, SETTINGS)
    everything = read(data, labels.classes, labels.multi_label, labels.limit, labels.format, **dict(labels.data_options or {}))
    ids = _ids(model, everything.classes, class_map, everything.name)
    if form.loss == "cross_entropy" and everything.multi_label:
        raise OptionError("cross_entropy is for one label per image; this data has several: leave the loss out, or give bce.")
    loss = form.loss or ("bce" if everything.multi_label else "cross_entropy")
    before = model.fingerprint()
    settings = {
        "data": everything.name,
        "samples": len(everything),
        "digest": everything.digest(),
        "classes": dict(zip(everything.classes, ids)),
        "model": model.name,
        "weights": before,
        "layer": form.layer or model.layer,
        "architecture": architecture(model.module),
        "preprocess": steady(steps_of(model)),
        **shape,
        "loss": loss,
        "class_weights": class_weights,
        **how.described(),
    }
    with folder_of(folder, settings, how, "memory"):
        features = features_of(model, everything, form.layer, folder, how.progress)
        known, check = _split(features, labels.validation_share, how.seed)
        belongs = Belongs(before, model.name, features.layer, everything.classes, ids)
        torch.manual_seed(how.seed)
        memory = Memory(
            shape["slots"], features.maps.shape[1], features.maps.shape[2:], len(ids), shape["temperature"], shape["read"], belongs
        )
        if shape["whiten"]:
            memory.whiten(torch.cat([maps.flatten(2).mean(-1) for maps, _ in known.loader()]))
        weights = known.data.class_weights() if class_weights else None
        fitted = fit(MemoryTask(memory, loss, weights, how), *_loaders(known, check, shape["sampling"], how), how, folder, "memory")
        memory.load_state_dict(fitted.weights("memory"))
        memory.cpu().eval()
        views = slots_of(memory, known, model.window)
        if leads():
            try:
                memory.save(folder / FILE)
                views.save(folder)
            except OSError as error:
                raise DataError(f"{folder} cannot be written: {error.strerror or error}; mend that and run again.") from error
        fitted.check(folder)
        return TrainedMemory(memory, folder / FILE, fitted.metrics, views, (*everything.problems, *features.problems))


class MemoryTask(Task):  # type: ignore[misc]
    """What Lightning trains: the memory on features that were made before; the network itself is not here.

    Args:
        memory: to train.
        loss: of its classifier.
        weights: of the classes in it `[K]`.
        training: how.
    """

    def __init__(self, memory: Memory, loss: Loss, weights: Tensor | None, training: Training) -> None:
        super().__init__()
        self.memory, self.loss, self.training_options = memory, loss, training
        self.register_buffer("weights", weights, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """The sum of the three losses, each of which is logged."""
        losses = self.memory.losses(*batch, self.loss, self.weights)
        self._log("train", losses, len(batch[0]))
        return checked(losses.total, self, "training")

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        """The losses, and how well the memory's own classifier does."""
        features, labels = batch
        losses = self.memory.losses(features, labels, self.loss)
        self._log("val", losses, len(features))
        checked(losses.total, self, "validation")
        scores = self.memory(features)
        if self.loss == "cross_entropy":
            accuracy = (scores.argmax(1) == labels.argmax(1)).float().mean()
        else:
            accuracy = ((scores > 0) == (labels > 0)).float().mean()
        self.log("val_accuracy", accuracy, on_epoch=True, batch_size=len(features), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW on everything but the network."""
        return schedule(self, [{"params": [*self.memory.parameters()]}], self.training_options)

    def _log(self, part: str, losses: Losses, count: int) -> None:
        for name, value in (
            ("loss", losses.total),
            ("classifier", losses.classifier),
            ("sparse", losses.sparse),
            ("address", losses.address),
        ):
            self.log(f"{part}_{name}", value, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)


def _ids(model: Model, classes: tuple[str, ...], class_map: Any, data: str) -> tuple[int, ...]:
    """The network's class id of each of the data's classes."""
    known = ClassMap.of(model, class_map)
    found = [known.resolve(name) for name in classes]
    if None in found:
        name = classes[found.index(None)]
        raise DataError(
            f"{data}: the network {model.name} has no class {name!r}: {known.reasons.get(name, '')} Give class_map (--class-map), leave "
            "the class out (classes, --classes), or train a network on these classes first (lucidcam train gap)."
        )
    if len(set(found)) < len(found):
        twice = next(name for name, id in zip(classes, found) if found.count(id) > 1)
        raise DataError(
            f"{data}: several classes, {twice!r} among them, stand for one class of the network; give each its own, or relabel."
        )
    return tuple(each for each in found if each is not None)


def _split(features: Features, share: float, seed: int) -> tuple[Features, Features]:
    """Features for training and for validation."""
    data = features.data
    _, check = data.split(share, seed)
    names = {sample.name for sample in check.samples}
    rows = [i for i, sample in enumerate(data.samples) if sample.name in names]
    return features.part(sorted(set(range(len(data))) - set(rows))), features.part(rows)


def _loaders(known: Features, check: Features, sampling: Sampling, how: Training) -> tuple[Any, Any]:
    drawn = Drawn(len(known), known.data.sampling_weights(sampling), how.seed)
    return known.loader(how.batch_size, drawn), check.loader(how.batch_size)
