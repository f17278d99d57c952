"""`lucidcam train gap|memory`: networks of class activation mapping, and M-CAM's memory, from image-level labels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from lucidcam.cli._common import (
    DEFAULT_LOADING,
    ClassMapOption,
    DataFormatOption,
    DataRootOption,
    GreyWindowOption,
    LimitOption,
    LoadOptions,
    SplitOption,
    data_options,
    parse_window,
)
from lucidcam.cli._usage import Command, expanded

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
ClassesOption = Annotated[
    list[str] | None, typer.Option("--classes", help="A class, repeatable; or [b]present[/b]: those with images. [dim]default: all[/dim]")
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes over the data. [dim]default: 20; memory: 15[/dim]")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images at a time. [dim]default: 32; memory: 64[/dim]")]
RateOption = Annotated[float | None, typer.Option("--lr", help="Learning rate. [dim]default: 0.001; memory: 0.003, unbiased 0.01[/dim]")]
PatienceOption = Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without a smaller validation loss.")]
ShareOption = Annotated[float, typer.Option(help="Of the data, kept for validation.")]
WeightsOption = Annotated[bool, typer.Option("--class-weights", help="Rare classes weigh more in the loss.")]
PrecisionOption = Annotated[str | None, typer.Option(help="32-true, 16-mixed or bf16-mixed. [dim]default: 32-true[/dim]")]
DevicesOption = Annotated[str | None, typer.Option(help="How many GPUs, or which: 2, 0,1. [dim]default: all there are[/dim]")]
StrategyOption = Annotated[str | None, typer.Option(help="Of Lightning: ddp, …. [dim]default: chosen[/dim]")]
WorkersOption = Annotated[int | None, typer.Option(min=0, help="Processes that read photos.")]
LoggerOption = Annotated[Literal["csv", "tensorboard"], typer.Option(help="csv (log/version_N/metrics.csv) or tensorboard.")]
SeedOption = Annotated[int, typer.Option(help="Of every random draw.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget what an earlier run left in --out.")]
AcceleratorOption = Annotated[str | None, typer.Option(help="cpu, gpu, …. [dim]default: gpu where there is one[/dim]")]
SamplingHelp = "Which images are drawn how often: uniform; balanced: each class alike; decorrelated: as if labels were independent."


@app.command("gap", cls=Command, no_args_is_help=True)
def gap(
    data: DataArgument,
    out: OutOption = Path("lucidcam-gap"),
    backbone: Annotated[
        str, typer.Option(help="small, nin, alexnet, vgg16, googlenet (cut as in the paper), demo, timm:NAME, torchvision:NAME.")
    ] = "small",
    at: Annotated[str | None, typer.Option(help="Cut the backbone at this layer; see [b]lucidcam layers[/b].")] = None,
    channels: Annotated[
        int | None, typer.Option(min=0, help="Of the 3×3 convolution on top; 0: none. [dim]default: 1024 for the paper's networks[/dim]")
    ] = None,
    pooling: Annotated[Literal["gap", "gmp", "lse"], typer.Option(help="Global mean, maximum, or log-sum-exp.")] = "gap",
    size: Annotated[int | None, typer.Option(min=16, help="Pixels per side of the input. [dim]default: the backbone's[/dim]")] = None,
    fit: Annotated[
        Literal["crop", "squash"] | None, typer.Option(help="How photos come into the input. [dim]default: the backbone's[/dim]")
    ] = None,
    grey_window: GreyWindowOption = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Start from random weights, not the backbone's published ones.")] = False,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train only what is on top of the backbone.")] = False,
    multi_label: Annotated[
        bool | None, typer.Option("--multi-label/--single-label", help="Several classes per image, or one. [dim]default: as the data[/dim]")
    ] = None,
    sampling: Annotated[Literal["uniform", "balanced", "decorrelated"], typer.Option(help=SamplingHelp)] = "uniform",
    class_weights: WeightsOption = False,
    augment: Annotated[
        Literal["standard", "shift", "none"],
        typer.Option(help="standard: crops, mirror images, colours; shift: small shifts, where left and right matter; none."),
    ] = "standard",
    validation: Annotated[str | None, typer.Option(help="Data for validation. [dim]default: a share of DATA[/dim]")] = None,
    validation_share: ShareOption = 0.1,
    classes: ClassesOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: RateOption = None,
    patience: PatienceOption = None,
    data_format: DataFormatOption = None,
    split: SplitOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    precision: PrecisionOption = None,
    accelerator: AcceleratorOption = None,
    devices: DevicesOption = None,
    strategy: StrategyOption = None,
    workers: WorkersOption = None,
    logger: LoggerOption = "csv",
    seed: SeedOption = 0,
    restart: RestartOption = False,
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
            backbone,
            out=out,
            at=at,
            channels="default" if channels is None else channels or None,
            pooling=pooling,
            size=size,
            fit_photos=fit,
            window=None if grey_window is None else parse_window(grey_window),
            pretrained=not untrained,
            freeze=freeze,
            classes=_classes(classes),
            multi_label=multi_label,
            sampling=sampling,
            class_weights=class_weights,
            augment=augment,
            validation=validation,
            validation_share=validation_share,
            limit=limit,
            format=data_format,
            data_options=data_options(split, data_root),
            logger=logger,
            seed=seed,
            restart=restart,
            workers=workers,
            **_given(epochs, batch_size, lr, patience, precision, accelerator, devices, strategy),
        )
    )
    _tell(found.metrics, f"lucidcam explain PHOTO --method cam --model {out}", found.problems)


@app.command("memory", cls=Command, no_args_is_help=True)
@expanded
def memory(
    data: DataArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="The network: the folder of [b]lucidcam train gap[/b], or any other model.")],
    out: OutOption = Path("lucidcam-memory"),
    unbiased: Annotated[
        bool, typer.Option("--unbiased", help="Tell apart what always occurs together: other defaults than the paper's (see the docs).")
    ] = False,
    slots: Annotated[int | None, typer.Option(min=1, help="Of the memory. [dim]default: 100; unbiased: 64[/dim]")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the addresses. [dim]default: 1; unbiased: 0.1[/dim]")] = None,
    read: Annotated[
        Literal["query", "places"] | None, typer.Option(help="Compare the image's average, or each place, with the keys.")
    ] = None,
    whiten: Annotated[bool | None, typer.Option("--whiten/--no-whiten", help="Centre and decorrelate the features first.")] = None,
    sampling: Annotated[Literal["uniform", "balanced", "decorrelated"] | None, typer.Option(help=SamplingHelp)] = None,
    layer: Annotated[str | None, typer.Option(help="Whose activations are the features. [dim]default: the last spatial one[/dim]")] = None,
    loss: Annotated[Literal["bce", "cross_entropy"] | None, typer.Option(help="Of the classifier. [dim]default: as the data[/dim]")] = None,
    class_weights: WeightsOption = False,
    class_map: ClassMapOption = None,
    validation_share: ShareOption = 0.1,
    classes: ClassesOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: RateOption = None,
    patience: PatienceOption = None,
    data_format: DataFormatOption = None,
    split: SplitOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    loading: LoadOptions = DEFAULT_LOADING,
    precision: PrecisionOption = None,
    accelerator: AcceleratorOption = None,
    devices: DevicesOption = None,
    strategy: StrategyOption = None,
    logger: LoggerOption = "csv",
    seed: SeedOption = 0,
    restart: RestartOption = False,
) -> None:
    """Train M-CAM's memory on a network, which stays as it is (Kim & Ro 2021).

    Then: lucidcam explain photo.jpg --model MODEL --method mcam --memory OUT/memory.safetensors --weights slot, the published map;
    after --unbiased --weights evidence, which tells apart what always occurs together.
    What its slots hold is drawn in OUT: slots.png, slots-nearest.png, slots.json.

    Exit code 0: all right; 1: some photos could not be used (the memory is trained); 2: usage.
    """
    from lucidcam.cli._common import load_model
    from lucidcam.cli._common import out as screen
    from lucidcam.io.storage import SETTINGS, check_writable

    check_writable(out, SETTINGS)  # before Lightning is imported, which takes a while
    from lucidcam.train import train_memory

    loaded = load_model(model, loading)
    found = _unless_stopped(
        lambda: train_memory(
            data,
            loaded,
            out=out,
            unbiased=unbiased,
            slots=slots,
            temperature=temperature,
            read_at=read,
            whiten=whiten,
            sampling=sampling,
            layer=layer,
            loss=loss,
            class_weights=class_weights,
            class_map=class_map,
            classes=_classes(classes),
            validation_share=validation_share,
            limit=limit,
            format=data_format,
            data_options=data_options(split, data_root),
            logger=logger,
            seed=seed,
            restart=restart,
            **_given(epochs, batch_size, lr, patience, precision, accelerator, devices, strategy),
        )
    )
    screen.print(f"{len(found.slots.dead)} of {found.memory.slots} slots are dead: no training image addresses them most")
    words = ["--model", model, *loading.words(), "--method", "mcam", "--memory", str(found.file), "--weights", found.weights]
    if found.weights != "evidence":
        screen.print("the published form; what always occurs together is told apart by --unbiased here, and --weights evidence there")
    _tell(found.metrics, f"lucidcam explain PHOTO {shlex.join(words)}", found.problems)


def _unless_stopped(work: Callable[[], T]) -> T:
    """Do the work; when the user stops it, say that it can go on. Lightning ends the process by itself then."""
    from lucidcam.cli._common import err

    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        err.print("stopped; the same command goes on after the last whole epoch")
        raise typer.Exit(130) from None


def _classes(words: list[str] | None) -> Any:
    return "present" if words == ["present"] else words


def _given(
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    patience: int | None,
    precision: str | None,
    accelerator: str | None,
    devices: str | None,
    strategy: str | None,
) -> dict[str, Any]:
    """Those options of training that were given."""
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "patience": patience,
        "precision": precision,
        "accelerator": accelerator,
        "devices": int(devices) if devices is not None and devices.isdigit() else devices,
        "strategy": strategy,
    }
    return {name: value for name, value in options.items() if value is not None}


def _tell(metrics: Mapping[str, float], command: str, problems: Sequence[Problem]) -> None:
    """The figures of the epoch that was kept, and what to do next."""
    from lucidcam.cli._common import out, report, table

    listing = table("figure", "value")
    for name, value in sorted(metrics.items()):
        listing.add_row(name, f"{value:.4g}")
    out.print(listing)
    out.print(f"\ntry it: {command}", soft_wrap=True, markup=False)
    report([problem.error for problem in problems])
