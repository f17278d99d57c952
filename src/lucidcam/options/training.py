"""The options of training, in groups: see `lucidcam.options.groups`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lucidcam.utils.flags import option

SAMPLING_HELP = "Which images are drawn how often: uniform; balanced: each class alike; decorrelated: as if labels were independent."


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The form of M-CAM's memory, and what it is trained on."""

    unbiased: bool = option(False, "Tell apart what always occurs together: other defaults than the paper's (see the docs).")
    slots: int | None = option(None, "Of the memory. [dim]default: 100; unbiased: 64[/dim]", min=1)
    temperature: float | None = option(None, "Of the addresses. [dim]default: 1; unbiased: 0.1[/dim]")
    read: Literal["query", "places"] | None = option(None, "Compare the image's average, or each place, with the keys.")
    whiten: bool | None = option(None, "Centre and decorrelate the features first.", "--whiten/--no-whiten")
    sampling: Literal["uniform", "balanced", "decorrelated"] | None = option(None, SAMPLING_HELP)
    layer: str | None = option(None, "Whose activations are the features. [dim]default: the last spatial one[/dim]")
    loss: Literal["bce", "cross_entropy"] | None = option(None, "Of the classifier. [dim]default: as the data[/dim]")


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How long is trained, on which classes."""

    validation_share: float = option(0.1, "Of the data, kept for validation.")
    classes: list[str] | None = option(None, "A class, repeatable; or [b]present[/b]: those with images. [dim]default: all[/dim]")
    epochs: int | None = option(None, "Passes over the data. [dim]default: 20; memory: 15[/dim]", min=1)
    batch_size: int | None = option(None, "Images at a time. [dim]default: 32; memory: 64[/dim]", min=1)
    lr: float | None = option(None, "Learning rate. [dim]default: 0.001; memory: 0.003, unbiased 0.01[/dim]")
    patience: int | None = option(None, "Stop after so many epochs without a smaller validation loss.", min=1)


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What Lightning's trainer is given."""

    precision: str | None = option(None, "32-true, 16-mixed or bf16-mixed. [dim]default: 32-true[/dim]")
    accelerator: str | None = option(None, "cpu, gpu, …. [dim]default: gpu where there is one[/dim]")
    devices: str | None = option(None, "How many GPUs, or which: 2, 0,1. [dim]default: all there are[/dim]")
    strategy: str | None = option(None, "Of Lightning: ddp, …. [dim]default: chosen[/dim]")


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """How a training is recorded and repeated."""

    logger: Literal["csv", "tensorboard"] = option("csv", "csv (log/version_N/metrics.csv) or tensorboard.")
    seed: int = option(0, "Of every random draw.")
    restart: bool = option(False, "Forget what an earlier run left in --out.")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The form of a network of class activation mapping."""

    backbone: str = option("small", "small, nin, alexnet, vgg16, googlenet (cut as in the paper), demo, timm:NAME, torchvision:NAME.")
    at: str | None = option(None, "Cut the backbone at this layer; see [b]lucidcam layers[/b].")
    channels: int | None = option(None, "Of the 3×3 convolution on top; 0: none. [dim]default: 1024 for the paper's networks[/dim]", min=0)
    pooling: Literal["gap", "gmp", "lse"] = option("gap", "Global mean, maximum, or log-sum-exp.")
    size: int | None = option(None, "Pixels per side of the input. [dim]default: the backbone's[/dim]", min=16)
    fit: Literal["crop", "squash"] | None = option(None, "How photos come into the input. [dim]default: the backbone's[/dim]")


@dataclass(frozen=True, kw_only=True)
class FittingOptions:
    """What of a network is trained, on which images."""

    untrained: bool = option(False, "Start from random weights, not the backbone's published ones.")
    freeze: bool = option(False, "Train only what is on top of the backbone.")
    multi_label: bool | None = option(
        None, "Several classes per image, or one. [dim]default: as the data[/dim]", "--multi-label/--single-label"
    )
    sampling: Literal["uniform", "balanced", "decorrelated"] = option("uniform", SAMPLING_HELP)
    class_weights: bool = option(False, "Rare classes weigh more in the loss.")
    augment: Literal["standard", "shift", "none"] = option(
        "standard", "standard: crops, mirror images, colours; shift: small shifts, where left and right matter; none."
    )
    validation: str | None = option(None, "Data for validation. [dim]default: a share of DATA[/dim]")
