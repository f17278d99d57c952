"""`lucidcam train gap|memory`: networks of class activation mapping, and M-CAM's memory, from image-level labels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lucidcam.cli._loading import parse_window
from lucidcam.cli._usage import Command, expanded
from lucidcam.options.groups import ClassMapOptions, GreyWindowOptions, ModelOptions, TrainingDataOptions
from lucidcam.options.training import FittingOptions, MemoryOptions, NetworkOptions, RecordOptions, ScheduleOptions, TrainerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lucidcam.samples import Problem

T = TypeVar("T")

app = typer.Typer(
    help="Train a network whose maps are class activation maps, or M-CAM's memory for one.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A folder with a sub-folder per class, or an annotation file.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the result, log and checkpoints; run again, it goes on.")]
WeightsOption = Annotated[bool, typer.Option("--class-weights", help="Rare classes weigh more in the loss.")]
WorkersOption = Annotated[int | None, typer.Option(min=0, help="Processes that read photos.")]


@app.command("gap", cls=Command, no_args_is_help=True)
@expanded
def gap(
    data: DataArgument,
    *,
    out: OutOption = Path("lucidcam-gap"),
    network: NetworkOptions,
    grey: GreyWindowOptions,
    fitting: FittingOptions,
    schedule: ScheduleOptions,
    source: TrainingDataOptions,
    trainer: TrainerOptions,
    workers: WorkersOption = None,
    record: RecordOptions,
) -> None:
    """Train a network of class activation mapping from image-level labels (Zhou et al. 2016).

    The result explains, localises and evaluates like any other model: lucidcam explain photo.jpg --model OUT --method cam.
    Where the data has boxes, the log tells how well the maps find them.

    Exit code 0: all right; 1: some photos could not be used (the network is trained); 2: usage.
    """
    from lucidcam.io.storage import SETTINGS, check_writable

    check_writable(out, SETTINGS)  # before Lightning is imported, which takes a while
    from lucidcam.train import train_gap

    found = _unless_stopped(
        lambda: train_gap(
            data,
            network.backbone,
            out=out,
            at=network.at,
            channels="default" if network.channels is None else network.channels or None,
            pooling=network.pooling,
            size=network.size,
            fit_photos=network.fit,
            window=None if grey.grey_window is None else parse_window(grey.grey_window),
            pretrained=not fitting.untrained,
            freeze=fitting.freeze,
            classes=_classes(schedule.classes),
            multi_label=fitting.multi_label,
            sampling=fitting.sampling,
            class_weights=fitting.class_weights,
            augment=fitting.augment,
            validation=fitting.validation,
            validation_share=schedule.validation_share,
            limit=source.limit,
            format=source.data_format,
            data_options=source.reader_options(),
            logger=record.logger,
            seed=record.seed,
            restart=record.restart,
            workers=workers,
            **_trainer_options(schedule, trainer),
        )
    )
    _tell(found.metrics, f"lucidcam explain PHOTO --method cam --model {out}", found.problems)


@app.command("memory", cls=Command, no_args_is_help=True)
@expanded
def memory(
    data: DataArgument,
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="The network: the folder of [b]lucidcam train gap[/b], or any other model.")],
    out: OutOption = Path("lucidcam-memory"),
    form: MemoryOptions,
    class_weights: WeightsOption = False,
    mapping: ClassMapOptions,
    schedule: ScheduleOptions,
    source: TrainingDataOptions,
    loading: ModelOptions,
    trainer: TrainerOptions,
    record: RecordOptions,
) -> None:
    """Train M-CAM's memory on a network, which stays as it is (Kim & Ro 2021).

    Then: lucidcam explain photo.jpg --model MODEL --method mcam --memory OUT/memory.safetensors --weights slot, the published map;
    after --unbiased --weights evidence, which tells apart what always occurs together.
    What its slots hold is drawn in OUT: slots.png, slots-nearest.png, slots.json.

    Exit code 0: all right; 1: some photos could not be used (the memory is trained); 2: usage.
    """
    from lucidcam.cli._loading import load_model, typed_again
    from lucidcam.cli._screen import out as screen
    from lucidcam.io.storage import SETTINGS, check_writable

    check_writable(out, SETTINGS)  # before Lightning is imported, which takes a while
    from lucidcam.train import train_memory

    loaded = load_model(model, loading)
    found = _unless_stopped(
        lambda: train_memory(
            data,
            loaded,
            out=out,
            unbiased=form.unbiased,
            slots=form.slots,
            temperature=form.temperature,
            read_at=form.read,
            whiten=form.whiten,
            sampling=form.sampling,
            layer=form.layer,
            loss=form.loss,
            class_weights=class_weights,
            class_map=mapping.class_map,
            classes=_classes(schedule.classes),
            validation_share=schedule.validation_share,
            limit=source.limit,
            format=source.data_format,
            data_options=source.reader_options(),
            logger=record.logger,
            seed=record.seed,
            restart=record.restart,
            **_trainer_options(schedule, trainer),
        )
    )
    screen.print(f"{len(found.slots.dead)} of {found.memory.slots} slots are dead: no training image addresses them most")
    words = ["--model", model, *typed_again(loading), "--method", "mcam", "--memory", str(found.file), "--weights", found.weights]
    if found.weights != "evidence":
        screen.print("the published form; what always occurs together is told apart by --unbiased here, and --weights evidence there")
    _tell(found.metrics, f"lucidcam explain PHOTO {shlex.join(words)}", found.problems)


def _unless_stopped(work: Callable[[], T]) -> T:
    """Do the work; when the user stops it, say that it can go on. Lightning ends the process by itself then."""
    from lucidcam.cli._screen import err

    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        err.print("stopped; the same command goes on after the last whole epoch")
        raise typer.Exit(130) from None


def _classes(words: list[str] | None) -> Any:
    return "present" if words == ["present"] else words


def _trainer_options(schedule: ScheduleOptions, trainer: TrainerOptions) -> dict[str, Any]:
    """Those options of training that were given."""
    options: dict[str, Any] = {
        "epochs": schedule.epochs,
        "batch_size": schedule.batch_size,
        "lr": schedule.lr,
        "patience": schedule.patience,
        **asdict(trainer),
    }
    if trainer.devices is not None and trainer.devices.isdigit():
        options["devices"] = int(trainer.devices)
    return {name: value for name, value in options.items() if value is not None}


def _tell(metrics: Mapping[str, float], command: str, problems: Sequence[Problem]) -> None:
    """The figures of the epoch that was kept, and what to do next."""
    from lucidcam.cli._screen import out, report, table

    listing = table("figure", "value")
    for name, value in sorted(metrics.items()):
        listing.add_row(name, f"{value:.4g}")
    out.print(listing)
    out.print(f"\ntry it: {command}", soft_wrap=True, markup=False)
    report([problem.error for problem in problems])
