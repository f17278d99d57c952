"""Networks of class activation mapping from photos with image-level labels (Zhou et al., CVPR 2016)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from lucidcam.errors import DataError, OptionError, unknown
from lucidcam.imaging.preprocess import Fit, Preprocess, with_window
from lucidcam.io.images import Window
from lucidcam.io.storage import SETTINGS, check_writable, write_whole
from lucidcam.metrics import State
from lucidcam.metrics._localization import Located
from lucidcam.metrics.maxboxacc import MaxBoxAcc
from lucidcam.metrics.pointing_game import PointingGame
from lucidcam.models import load
from lucidcam.models._card import WEIGHTS, Card
from lucidcam.models.gap import OWN, on_top
from lucidcam.nn import GAPNetwork
from lucidcam.nn.gap import Pooling
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import Problem
from lucidcam.train._lightning import Task, leads, torchmetrics
from lucidcam.train.labelled import Labelled, Sampling, read
from lucidcam.train.loading import Augment, Batch, loaders, steps_of
from lucidcam.train.trainer import Training, checked, fit, folder_of, schedule
from lucidcam.types import Model
from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.class_scores import OutputKind
from lucidcam.utils.fingerprint import fingerprint, steady
from lucidcam.utils.flags import takes

BACKBONE_RATE = 0.1
"""Of the learning rate, for a backbone whose weights were trained before."""

LOCATED = 200
"""Validation photos with boxes that are localised after each epoch."""


@dataclass(frozen=True, eq=False)
class Trained(OneLineRepr):
    """A trained network.

    Attributes:
        model: ready for `explain`, `evaluate` and `localize`; `lucidcam.load(folder)` gives it again.
        folder: with `model.safetensors`, `model.json`, the log and the checkpoints.
        metrics: on the validation data, of the epoch that was kept.
        problems: photos that could not be used.
    """

    model: Model
    folder: Path
    metrics: Mapping[str, float]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class NetworkForm:
    """How the network is made of its backbone.

    Attributes:
        at: the layer where the backbone is cut; None: the paper's, or the last before pooling.
        channels: of the 3×3 convolution on top; None: none; "default": 1024 for the paper's networks, else none.
        pooling: "gap" (mean), "gmp" (maximum) or "lse".
        size: pixels per side of the input; None: the backbone's own.
        fit_photos: how photos come into the input: "crop", "squash" or "whole"; None: the backbone's own.
        window: (width, level) of grey photos, in their files' values (see `lucidcam.io.images.read`); the trained network keeps it.
        pretrained: the backbone starts from its published weights, where it has any, and learns at a tenth of the rate. False for a
            module of your own whose weights are random.
        freeze: train only what is on top of the backbone.
    """

    at: str | None = None
    channels: int | str | None = "default"
    pooling: Pooling = "gap"
    size: int | None = None
    fit_photos: Fit | None = None
    window: Window | None = None
    pretrained: bool = True
    freeze: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelledPhotos:
    """Which photos are read, how they are drawn, and by which the best epoch is chosen.

    Attributes:
        classes: which, and in which order; "present": those that have images; None: those that the data lists.
        multi_label: an image may hold several classes, or none: a sigmoid each; None: where an image has several.
        sampling: which images are drawn how often: "uniform", "balanced" (each class alike) or "decorrelated" (as if labels were
            independent).
        class_weights: rare classes weigh more in the loss.
        augment: "standard" (crops, mirror images, colours), "shift" (small shifts and sizes, where left and right or colours matter) or
            "none".
        validation: data to choose the best epoch by, of a format that is found out; None: a share of `data`.
        validation_share: of `data`.
        limit: at most so many samples.
        format: the data's format; None: found out.
        data_options: of the format, `{"split": "train"}` for instance.
    """

    classes: Sequence[str] | Literal["present"] | None = None
    multi_label: bool | None = None
    sampling: Sampling = "uniform"
    class_weights: bool = False
    augment: Augment = "standard"
    validation: Any = None
    validation_share: float = 0.1
    limit: int | None = None
    format: str | None = None
    data_options: Mapping[str, Any] | None = None


@takes(form=NetworkForm, photos=LabelledPhotos)
def train_gap(
    data: Any,
    backbone: str | nn.Module | Model = "small",
    *,
    out: str | os.PathLike[str],
    form: NetworkForm,
    photos: LabelledPhotos,
    **training: Any,
) -> Trained:
    """Train a network of class activation mapping; a killed training goes on when it is called again.

    Args:
        data: photos with image-level labels: a folder with a sub-folder per class, an annotation file, samples (see `lucidcam.data`).
        backbone: "small", "nin", "alexnet", "vgg16", "googlenet", "demo", "timm:NAME", "torchvision:NAME"; a model, or a module of your
            own (which takes `[B, 3, 224, 224]`; others as a `lucidcam.wrap`ped model with its preprocessing).
        out: folder for the network, its card, log and checkpoints.
        form: keywords, the fields of `NetworkForm`.
        photos: keywords, the fields of `LabelledPhotos`.
        training: the fields of `Training`: `epochs`, `batch_size`, `lr`, `patience`, `precision`, `devices`, ….

    Raises:
        DataError: the data cannot be used (see `lucidcam.train.labelled.read`), or the folder cannot be written.
        ModelError: the loss is no number any more; the best epoch before is kept, and loads.
        OptionError: an unknown name; a folder that holds another training.
    """
    if photos.augment not in ("standard", "shift", "none"):
        raise OptionError(unknown("augmentation", str(photos.augment), ("standard", "shift", "none")))
    how, folder, options = Training.of(training), Path(out).expanduser(), dict(photos.data_options or {})
    check_writable(folder, SETTINGS)
    everything = read(data, photos.classes, photos.multi_label, photos.limit, photos.format, **options)
    if photos.validation is None:
        train, check = everything.split(photos.validation_share, how.seed)
    else:
        train, check = everything, read(photos.validation, everything.classes, everything.multi_label, complete=False)
    torch.manual_seed(how.seed)
    model, architecture, built = _network(backbone, train.classes, form)
    settings = {
        "data": everything.name,
        "samples": f"{len(train)} for training, {len(check)} for validation",
        "digest": f"{train.digest()} {check.digest()}",
        "classes": list(train.classes),
        "multi_label": train.multi_label,
        "backbone": architecture or model.name,
        **{name: value for name, value in built.items() if name != "num_classes"},
        "starting weights": fingerprint(model.module),
        "code": behaviour(model.module),
        "preprocess": steady(model.preprocess),
        "freeze": form.freeze,
        "sampling": photos.sampling,
        "class_weights": photos.class_weights,
        "augment": photos.augment,
        **how.described(),
    }
    network = model.module
    assert isinstance(network, GAPNetwork)
    network.multi_label = train.multi_label
    with folder_of(folder, settings, how, "network"):
        fresh = not form.pretrained or (architecture or "").removeprefix("gap:") in OWN
        task = GAPTask(
            network, check, how, train.class_weights() if photos.class_weights else None, form.freeze, 1.0 if fresh else BACKBONE_RATE
        )
        fitted = fit(task, *loaders(train, check, steps_of(model), photos.augment, photos.sampling, how), how, folder, "network")
        network.load_state_dict(fitted.weights("network"))
        outputs: OutputKind = "sigmoid" if train.multi_label else "softmax"
        card = Card(
            architecture,
            built,
            train.classes,
            network.layer,
            steps_of(model),
            train.multi_label,
            outputs,
            metrics=fitted.metrics,
            training=settings,
        )
        network.requires_grad_()
        if leads():
            _export(network, card, folder)
        fitted.check(folder)
        found = replace(
            model, module=network.cpu().eval(), labels=train.classes, layer=network.layer, name=folder.resolve().name, outputs=outputs
        )
        return Trained(found, folder, fitted.metrics, (*everything.problems, *task.problems.values()))


class GAPTask(Task):  # type: ignore[misc]
    """What Lightning trains: the network, its loss, and what is measured on the validation photos.

    Args:
        network: to train.
        check: the validation data, for its boxes.
        training: how.
        weights: of the classes in the loss `[K]`.
        freeze: leave the trunk as it is.
        rate: of the trunk's learning rate to that of what is on top.
    """

    def __init__(self, network: GAPNetwork, check: Labelled, training: Training, weights: Tensor | None, freeze: bool, rate: float) -> None:
        super().__init__()
        self.network, self.check, self.training_options, self.rate = network, check, training, rate
        self.multi_label = check.multi_label
        self.register_buffer("weights", weights, persistent=False)
        self.frozen = freeze
        self.problems: dict[str, Problem] = {}
        network.trunk.requires_grad_(not freeze)
        self.scored: Any = _scores(check)
        self.located: tuple[State, State] | None = None
        self.seen = 0

    def train(self, mode: bool = True) -> GAPTask:
        """A frozen trunk keeps its running statistics, too."""
        super().train(mode)
        if self.frozen:
            self.network.trunk.eval()
        return self

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The loss of a batch."""
        self.problems.update({each.name: each for each in batch.problems})
        if batch.inputs is None:  # every process has to take the step
            return torch.stack([0 * p.sum() for p in self.network.parameters() if p.requires_grad]).sum()
        loss = checked(self._loss(self.network(batch.inputs), batch.labels, self.weights), self, "training")
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.inputs), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count anew."""
        self.located = State(MaxBoxAcc(), resamples=0), State(PointingGame(), resamples=0)
        self.seen = 0

    def validation_step(self, batch: Batch, number: int) -> None:
        """Add a batch to what is measured."""
        self.problems.update({each.name: each for each in batch.problems})
        if batch.inputs is None:
            return
        self.seen += len(batch.inputs)
        features = self.network.features(batch.inputs)
        scores = self.network.scores(features)
        loss = checked(self._loss(scores, batch.labels, None), self, "validation")
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch.inputs), sync_dist=True)
        truth = batch.labels.int() if self.multi_label else batch.labels.argmax(1)
        for name, metric in self.scored.items():
            metric.update(scores.float(), truth)
            self.log(name, metric, on_epoch=True, batch_size=len(batch.inputs))
        self._locate(batch, features)

    def on_validation_epoch_end(self) -> None:
        """Log how well the maps localise, where there are boxes.

        Raises:
            DataError: no photo could be read.
        """
        assert self.located is not None
        if not self.seen:
            raise DataError(f"{self.check.name}: none of the photos for validation can be read; {next(iter(self.problems.values())).error}")
        for state in self.located:
            whole = _of_all_processes(state)
            if whole.n:
                figure = whole.metric.figures[0].name
                self.log(f"val_{figure}", float(whole.figures()[figure]), rank_zero_only=False)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; a trunk that was trained before learns slower."""
        top = [*self.network.convolution.parameters(), *self.network.head.parameters()]
        groups = [{"params": top}]
        if not self.frozen:
            lr = self.rate * self.training_options.lr
            groups.append({"params": [*self.network.trunk.parameters()], "lr": lr})  # type: ignore[dict-item]
        return schedule(self, groups, self.training_options)

    def _loss(self, scores: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weights)
        return F.cross_entropy(scores, labels.argmax(1), weight=weights)

    def _locate(self, batch: Batch, features: Tensor) -> None:
        """Judge the class activation maps of the marked classes of the first photos."""
        assert self.located is not None
        if self.located[0].n >= LOCATED:
            return
        cams = self.network.cams(features).float().cpu()
        for i, (row, frame) in enumerate(zip(batch.rows, batch.frames)):
            sample = self.check.samples[row].fitted(frame.width, frame.height)
            views = []
            for label in sample.labels:
                objects = tuple(each for each in sample.objects if each.label == label)
                if objects and label in self.check.classes:
                    raw = cams[i, self.check.classes.index(label)]
                    views.append(Located(raw, frame, label, objects, sample.ignore, alone=len(sample.labels) == 1))
            if views:
                for state in self.located:
                    metric: Any = state.metric
                    state.update(sample.name, metric.measure(views))


def _of_all_processes(state: State) -> State:
    """The state of all validation photos, where each process has seen some of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return state
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    whole = State(state.metric, resamples=0)
    for each in states:
        whole.merge(each)
    return whole


def _network(backbone: str | nn.Module | Model, classes: tuple[str, ...], form: NetworkForm) -> tuple[Model, str | None, dict[str, Any]]:
    """The network with its preprocessing, the spec that builds it again, and that spec's options."""
    built: dict[str, Any] = {"num_classes": len(classes), "pooling": form.pooling, "channels": form.channels}
    if form.at is not None:
        built["at"] = form.at
    if isinstance(backbone, str):
        if form.size is not None:
            built["size"] = form.size
        name = backbone.removeprefix("gap:")
        model, architecture = load(f"gap:{name}", pretrained=form.pretrained, **built), f"gap:{name}"
    else:
        if form.size is not None or (isinstance(form.channels, str) and form.channels != "default"):
            raise OptionError(
                "size and channels: a model's size is that of its preprocessing (lucidcam.wrap), channels are a number or None."
            )
        base = backbone if isinstance(backbone, Model) else Model(backbone, Preprocess(), name=type(backbone).__name__)
        model = on_top(base, form.at, form.channels if isinstance(form.channels, int) else None, form.pooling, None, classes)
        architecture = None
    if form.fit_photos is not None:
        model = replace(model, preprocess=steps_of(model).refit(form.fit_photos))
    if form.window is not None:
        model = replace(model, preprocess=with_window(steps_of(model), form.window))
    if steps_of(model).fit == "whole":
        raise OptionError(
            "training needs inputs of one size: give fit 'squash' or 'crop'; a trained network takes 'whole' when it is loaded."
        )
    return replace(model, labels=classes), architecture, built


def _scores(check: Labelled) -> nn.ModuleDict:
    """Figures of classification by the name they are logged under."""
    count = len(check.classes)
    if check.multi_label:
        return nn.ModuleDict({"val_map": torchmetrics.MultilabelAveragePrecision(count, average="macro")})
    return nn.ModuleDict(
        {
            "val_accuracy": torchmetrics.MulticlassAccuracy(count, average="micro"),
            "val_balanced_accuracy": torchmetrics.MulticlassAccuracy(count, average="macro"),
        }
    )


def _export(network: nn.Module, card: Card, folder: Path) -> None:
    """Write the weights and the card."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_whole(folder / WEIGHTS, save(tensors))
    card.write(folder)
