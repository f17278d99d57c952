"""What both trainings share: Lightning's trainer, checkpoints to go on from, and what is said while it runs."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lucidcam.errors import DataError, ModelError, OptionError, first_line, unknown
from lucidcam.io.storage import damaged_entry, workplace
from lucidcam.reprs import OneLineRepr
from lucidcam.train._lightning import Callback, leads, lightning
from lucidcam.utils.progress import bar, is_notebook, shows_bars
from lucidcam.utils.rollback import SavedWarnings, closes_scopes

CHECKPOINTS = "checkpoints"
MONITOR = "val_loss"
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
METRICS = "lucidcam_metrics"


@dataclass(frozen=True, kw_only=True)
class Training(OneLineRepr):
    """How long, how fast and where; the same for every training.

    Attributes:
        epochs: passes over the data.
        batch_size: images at a time (per device).
        lr: the largest learning rate of AdamW; it rises over the first twentieth of the steps and falls along a cosine.
        weight_decay: of AdamW.
        patience: stop after so many epochs without a smaller validation loss; None: never.
        precision: "32-true", "16-mixed" or "bf16-mixed".
        accelerator: "auto", "cpu", "gpu", ….
        devices: how many, or which; "auto": all.
        strategy: "auto", "ddp", ….
        workers: processes that read photos; None: as many as there are processors, up to 4, none for data in memory.
        logger: "csv" (`log/version_N/metrics.csv`, a file for each run) or "tensorboard".
        seed: of every draw.
        restart: forget an earlier training in the folder instead of going on with it.
        progress: a line per epoch, and a bar in a terminal or notebook; False: silent.
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-4
    patience: int | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    strategy: str = "auto"
    workers: int | None = None
    logger: Literal["csv", "tensorboard"] = "csv"
    seed: int = 0
    restart: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0 or self.weight_decay < 0:
            given = f"{self.epochs}, {self.batch_size}, {self.lr}, {self.weight_decay}"
            raise OptionError(f"expected epochs ≥ 1, batch_size ≥ 1, lr > 0, weight_decay ≥ 0; got {given}.")
        if self.logger not in ("csv", "tensorboard"):
            raise OptionError(unknown("logger", str(self.logger), ("csv", "tensorboard")))
        if self.precision not in PRECISIONS:
            raise OptionError(unknown("precision", str(self.precision), PRECISIONS))
        if self.seed < 0:
            raise OptionError(f"expected seed ≥ 0; got {self.seed}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Training:
        """From keyword arguments.

        Raises:
            OptionError: for one that does not exist.
        """
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                raise OptionError(f"training: {unknown('option', name, known)}")
        return cls(**options)

    def described(self) -> dict[str, Any]:
        """What decides the result."""
        names = ("epochs", "batch_size", "lr", "weight_decay", "patience", "precision", "seed")
        return {name: getattr(self, name) for name in names}


class DivergedError(ModelError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Fitted:
    """What a training left.

    Attributes:
        state: of the best epoch, by parameter name.
        epoch: which one that was, counted from 1.
        metrics: what was logged in it.
        diverged: why training stopped before its end; None: it did not.
    """

    state: dict[str, Tensor]
    epoch: int
    metrics: dict[str, float]
    diverged: DivergedError | None

    def weights(self, part: str) -> dict[str, Tensor]:
        """The state of one of the task's modules, by its own names."""
        return {name.removeprefix(f"{part}."): value for name, value in self.state.items() if name.startswith(f"{part}.")}

    def check(self, folder: Path) -> None:
        """Say that training did not come to its end, once the best epoch is written.

        Raises:
            ModelError: the loss was no number any more.
        """
        if self.diverged is not None:
            raise ModelError(f"{self.diverged} Epoch {self.epoch}, the best before, is kept in {folder}.") from self.diverged


def checked(loss: Tensor, task: Any, where: str) -> Tensor:
    """The loss, when it is a number.

    Raises:
        DivergedError: otherwise.
    """
    if not bool(torch.isfinite(loss)):
        raise DivergedError(
            f"the {where} loss became {float(loss)} in epoch {task.current_epoch + 1}, step {task.global_step}: use a smaller lr, 32-true "
            "precision, or look for broken images."
        )
    return loss


def schedule(task: Any, groups: list[dict[str, Any]], training: Training) -> dict[str, Any]:
    """AdamW with a warm-up and a cosine, for `configure_optimizers`."""
    optimizer = torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)
    steps = max(1, int(task.trainer.estimated_stepping_batches))
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, (step - warm) / max(1, steps - warm))))))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


WRITTEN = re.compile(rf"{CHECKPOINTS}/(best|last)(-v\d+)?\.ckpt|(model|memory)\.(safetensors|json)|slots(-nearest)?\.(json|png)")
"""Files that a training writes and that one which begins anew takes away; features are the same for both, and stay."""


@contextmanager
def folder_of(out: Path, settings: Mapping[str, Any], training: Training, what: str) -> Iterator[None]:
    """Hold the folder of a training while it goes on: made for it, or found to hold the same one.

    Of several processes the first does so for all of them.

    Args:
        out: the folder.
        settings: all that decides the result: a training with others is refused.
        training: how; with `restart` what an earlier one left is taken away.
        what: is trained, for messages.

    Raises:
        OptionError: the folder holds another training, or files of others, or is in use.
        DataError: the folder cannot be written: a full disk, say.
    """
    if not leads():
        yield
        return
    with workplace(out, settings, f"the training of a {what}", lambda name: WRITTEN.fullmatch(name) is not None, training.restart):
        yield


@closes_scopes
def fit(task: Any, train: Any, validation: Any, training: Training, out: Path, what: str) -> Fitted:
    """Train, or go on with what a killed training left in the folder.

    Args:
        task: a Lightning module that logs `val_loss`.
        train: a loader whose sampler draws anew in each epoch (`lucidcam.train.loading.Drawn`).
        validation: a loader.
        training: how.
        out: the folder; see `folder_of`.
        what: is trained, for messages.

    Raises:
        OptionError: Lightning refuses the precision, devices or strategy.
        DataError: the folder cannot be written: a full disk, say.
    """
    folder = out / CHECKPOINTS
    newest = _newest(folder)
    best = folder / "best.ckpt"
    if newest is not None and newest[0] != best and best.exists() and _read(best) is None:
        _say(training, f"{what}: {best} is not as it was written; training begins anew, since later epochs need not be better")
        newest = None
    diverged = None
    if newest is not None and _finished(newest[1], training):
        _say(training, f"{what}: trained to its end before; --restart begins anew")
    else:
        if newest is not None:
            train.sampler.set_epoch(int(newest[1]["epoch"]) + 1)  # Lightning does so after loaders with workers drew their first samples
        task.train()  # Lightning leaves modules in the mode they come in, and loaded networks come in evaluation mode
        with SavedWarnings():
            warnings.simplefilter("ignore")  # Lightning's advice about workers, intervals and folders that are not empty
            trainer = _trainer(training, out, folder, what)
            try:
                trainer.fit(task, train, validation, ckpt_path=None if newest is None else newest[0], weights_only=True)
            except DivergedError as error:
                diverged = error
            except OSError as error:
                raise DataError(
                    f"{out} cannot be written: {error.strerror or error}; mend that and run again: training goes on from its last epoch."
                ) from error
    kept = _read(best)
    if kept is None:
        raise diverged or ModelError(f"training left no checkpoint in {folder}; was the validation loss never a number?")
    _say(training, f"{what}: epoch {int(kept['epoch']) + 1}, of the smallest validation loss, is kept")
    return Fitted(kept["state_dict"], int(kept["epoch"]) + 1, kept[METRICS], diverged)


def _say(training: Training, text: str) -> None:
    if training.progress is not False and leads():
        sys.stderr.write(f"{text}\n")


def _trainer(training: Training, out: Path, folder: Path, what: str) -> Any:
    shown = shows_bars() and training.progress is not False
    callbacks: list[Any] = [Told(what, training.progress), Seeded(training.seed)]
    if training.patience is not None:
        callbacks.append(lightning.callbacks.EarlyStopping(MONITOR, patience=training.patience, mode="min", check_finite=False))
    if shown:
        callbacks.append(NotebookBar(what) if is_notebook() else lightning.callbacks.RichProgressBar(leave=False))
    shared = {"enable_version_counter": False, "save_on_exception": False}
    callbacks.append(Best(folder, filename="best", monitor=MONITOR, mode="min", **shared))
    callbacks.append(lightning.callbacks.ModelCheckpoint(folder, filename="last", every_n_epochs=1, **shared))
    try:
        return lightning.Trainer(
            max_epochs=training.epochs,
            precision=training.precision,
            accelerator=training.accelerator,
            devices=training.devices,
            strategy=training.strategy,
            logger=_logger(training, out),
            callbacks=callbacks,
            enable_progress_bar=shown and not is_notebook(),  # Lightning's own wants widgets there
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:  # Lightning's own errors are among them
        raise OptionError(f"Lightning cannot train so: {first_line(error)}") from error


def _logger(training: Training, out: Path) -> Any:
    """A log of this run; one that goes on has another beside it."""
    if training.logger == "tensorboard":
        return lightning.loggers.TensorBoardLogger(out, name="log")
    return lightning.loggers.CSVLogger(out, name="log")


def _finished(checkpoint: Mapping[str, Any], training: Training) -> bool:
    """Whether a training that has come so far has nothing left to do."""
    waited = [state.get("wait_count", 0) for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")]
    return int(checkpoint["epoch"]) + 1 >= training.epochs or (
        training.patience is not None and any(w >= training.patience for w in waited)
    )


def _newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole: a kill may have left half of the last one, a disk other bits."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda each: each.stat().st_mtime, reverse=True):
        found = _read(path)
        if found is not None:
            return path, found
    return None


class Best(lightning.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Keeps the best epoch, also in a folder that was moved since: Lightning would forget which that was."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `lightning.Callback`."""
        path, score = str(Path(self.dirpath) / "best.ckpt"), state_dict["best_model_score"]
        moved = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path, "best_k_models": {path: score}}
        super().load_state_dict({**state_dict, **moved})


def _read(path: Path) -> dict[str, Any] | None:
    """A checkpoint; None where it is not as it was written."""
    try:
        if damaged_entry(path) is not None:
            return None
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises anything on half a file
        return None
    return found


class Told(Callback):  # type: ignore[misc]
    """One line per epoch, on standard error; and each epoch's figures in its checkpoint."""

    def __init__(self, what: str, shown: bool | None) -> None:
        self.what, self.shown = what, shown is not False

    def on_train_epoch_end(self, trainer: Any, task: Any) -> None:
        """Say how it goes."""
        if self.shown and trainer.is_global_zero:
            told = ", ".join(f"{name} {value:.4g}" for name, value in _metrics(trainer).items())
            sys.stderr.write(f"{self.what}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {told}\n")

    def on_save_checkpoint(self, trainer: Any, task: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the figures with the weights they are of."""
        checkpoint[METRICS] = _metrics(trainer)


class NotebookBar(Callback):  # type: ignore[misc]
    """A bar over the steps of a whole training, in the output of a notebook's cell."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._stack = ExitStack()

    def on_train_start(self, trainer: Any, task: Any) -> None:
        """Begin to count; a training that goes on has done some."""
        if trainer.is_global_zero:
            steps = trainer.estimated_stepping_batches
            self._advance = self._stack.enter_context(bar(int(steps) if math.isfinite(steps) else None, self.what, True))
            self._told = 0
            self._tell(trainer)

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step."""
        self._tell(trainer)

    def on_train_end(self, trainer: Any, task: Any) -> None:
        """Take the bar away."""
        self._stack.close()

    def on_exception(self, trainer: Any, task: Any, exception: BaseException) -> None:
        """Take the bar away."""
        self._stack.close()

    def _tell(self, trainer: Any) -> None:
        if trainer.is_global_zero:
            self._advance(trainer.global_step - self._told)
            self._told = trainer.global_step


class Seeded(Callback):  # type: ignore[misc]
    """What networks draw hangs on the seed and the step alone, so that a training that goes on is the one that was not interrupted.

    Loaders draw a number, too, when they begin an epoch: before or after the hook of an epoch's start, as the run has begun or goes on.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, batch_idx: int) -> None:
        """Seed dropout and the like."""
        torch.manual_seed(hash((self.seed, trainer.current_epoch, batch_idx)) % 2**63)


def _metrics(trainer: Any) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
