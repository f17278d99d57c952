"""The options of loading, reading, asking and computing, in groups: each field is one option, and carries its help.

The command line makes its flags of these fields (`lucidcam.cli._usage.expanded`): a new option is one field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lucidcam.utils.choices import Channels, Fit, OutputKind
from lucidcam.utils.flags import option

WINDOW_HELP = "Of grey images, in their files' values; also --window WIDTH --level LEVEL. [dim]default: by bit depth[/dim]"
TARGET_HELP = "A label, an id, top5, predicted, or label: the images' own. Repeatable. [dim]default: label, or predicted without[/dim]"
MODEL_PANEL = "Model"
TASK_PANEL = "Beyond classification: for models that do more"
CHECKPOINT_PANEL = "Checkpoint files: what they do not say of themselves"


@dataclass(frozen=True, kw_only=True)
class GreyWindowOptions:
    """How grey values of many bits come into eight."""

    grey_window: str | None = option(None, WINDOW_HELP, metavar="WIDTH,LEVEL")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded, and what a checkpoint does not say of itself."""

    device: str | None = option(None, "cpu, cuda, cuda:1, mps. [dim]default: cuda where there is one[/dim]", panel=MODEL_PANEL)
    dtype: str = option("float32", "float32, float64, bfloat16, float16.", panel=MODEL_PANEL)
    fit: Fit | None = option(None, "crop (as trained), squash, or whole (no crop, convolutional networks).", panel=MODEL_PANEL)
    grey_window: str | None = option(None, WINDOW_HELP, metavar="WIDTH,LEVEL", panel=MODEL_PANEL)
    untrained: bool = option(False, "Random weights: to try mechanics without a download.", "--untrained", panel=MODEL_PANEL)
    outputs: OutputKind | None = option(
        None, "What they mean: probabilities, or logits of one. [dim]default: found[/dim]", panel=MODEL_PANEL
    )
    decision_threshold: float | None = option(
        None, "Of a single output: its class is predicted above this probability. [dim]default: 0.5[/dim]", panel=MODEL_PANEL
    )
    architecture: str | None = option(
        None, "What builds the network: timm:NAME, torchvision:NAME or package.module:function.", panel=CHECKPOINT_PANEL
    )
    input_size: str | None = option(
        None, "Of the network's input, in pixels. [dim]default: 224[/dim]", metavar="H[xW]", panel=CHECKPOINT_PANEL
    )
    mean: str | None = option(
        None, "Subtracted, one number or one per channel. [dim]default: ImageNet's[/dim]", metavar="R,G,B", panel=CHECKPOINT_PANEL
    )
    std: str | None = option(None, "Divided by, likewise. [dim]default: ImageNet's[/dim]", metavar="R,G,B", panel=CHECKPOINT_PANEL)
    scale: float | None = option(None, "Factor on pixel values of 0 to 255. [dim]default: 1/255[/dim]", panel=CHECKPOINT_PANEL)
    channels: Channels | None = option(None, "RGB, BGR, or L: grey. [dim]default: RGB[/dim]", panel=CHECKPOINT_PANEL)
    labels: Path | None = option(None, "One class per line, by id.", metavar="FILE", panel=CHECKPOINT_PANEL)
    num_classes: int | None = option(None, "Of the head. [dim]default: as the checkpoint has[/dim]", min=1, panel=CHECKPOINT_PANEL)


@dataclass(frozen=True, kw_only=True)
class ClassMapOptions:
    """Which class of the model a class of the data is."""

    class_map: list[str] | None = option(None, "NAME=ID: the data's class in the model's; repeatable; or a file of them.")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a data set is read."""

    data_format: str | None = option(None, "voc, coco, yolo, folder, …. [dim]default: found out[/dim]")
    split: str | None = option(None, "train, val, …, for formats that have them.")
    data_root: Path | None = option(None, "Files that the data's lists name may lie here, too, not only in the data's own folder.")

    def reader_options(self) -> dict[str, str]:
        """Those of them that the reader of a format takes, where they were given."""
        values = {"split": self.split, "data_root": None if self.data_root is None else str(self.data_root)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """How much of a data set is used."""

    limit: int | None = option(None, "At most so many samples.", min=1)


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Where in the network a map is taken from."""

    layer: list[str] | None = option(None, "Dotted name; repeated: fused. See [b]lucidcam layers[/b].")


@dataclass(frozen=True, kw_only=True)
class DataOptions(LayerOptions, LimitOptions, SourceOptions, ClassMapOptions):
    """How a data set is read and matched with the model, and where it is looked at; fields are listed from the last base to the first."""


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(LimitOptions, SourceOptions):
    """How a data set is read, and how much of it."""


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(SourceOptions):
    """How an annotation file is read whose images lie elsewhere."""

    images: Path | None = option(None, "Folder of the images, for annotation files that lie elsewhere.")

    def reader_options(self) -> dict[str, str]:
        """Those of them that the reader of a format takes, where they were given."""
        return super().reader_options() | ({} if self.images is None else {"images": str(self.images)})


@dataclass(frozen=True, kw_only=True)
class EvaluationDataOptions(LayerOptions, LimitOptions, ImagesOptions, ClassMapOptions):
    """How an evaluation's data set is read and matched with the model, and which layer's maps are scored."""


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """The method, and what is explained of each image of a data set."""

    method: str = option("gradcam", "See [b]lucidcam methods[/b].")
    target: list[str] | None = option(
        None,
        TARGET_HELP,
        "--target",
        "-t",
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What becomes of the maps of a data set."""

    write: list[str] | None = option(
        None, "npz, zarr, png, coco, voc, yolo, masks; none: the index alone. Repeatable. [dim]default: npz[/dim]", "--write", "-w"
    )
    metric: list[str] | None = option(None, "Judge the maps: NAME or NAME:option=value; see [b]lucidcam metrics[/b]. Repeatable.")


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How maps become boxes and masks."""

    threshold: float = option(0.2, "Boxes are around what is above this share of the maximum.")
    regions: Literal["all", "largest"] = option("all", "Of boxes and masks in label formats.")
    min_area: float = option(0.0, "Leave out smaller regions; a share of the image.")
    refine: Literal["grabcut"] | None = option(None, "Masks follow the image's colours.")


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How the work on a data set is divided, and what an earlier run left."""

    workers: int | None = option(None, "Processes that explain. [dim]default: one per GPU, or per processor[/dim]", min=1)
    decoders: int | None = option(None, "Processes per worker that read images. [dim]default: 0; processors on a GPU[/dim]", min=0)
    images_at_once: int | None = option(None, "Images in the network together. [dim]default: what fits[/dim]", min=1)
    max_memory: str | None = option(None, "8G: of all workers together; of each GPU.")
    unit: int | None = option(None, "Images per file: what a kill costs at most. [dim]default: 512 or fewer[/dim]", min=1)
    exact: bool = option(False, "The network as it is, not a faster copy with equal scores.")
    cache: str | None = option(None, "Keep inputs and activations there, for other runs.")
    engine: Literal["local", "ray"] = option("local", "This machine, or a Ray cluster.")
    address: str | None = option(None, "Of the Ray cluster. [dim]default: a new one here[/dim]")
    retry_failed: bool = option(False, "Do units again in which something failed.")
    restart: bool = option(False, "Begin anew in a folder that holds another run.")


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions:
    """How maps become the boxes and masks of labels."""

    threshold: float | None = option(None, "Regions are above this share of the map's maximum. [dim]default: 0.2[/dim]")
    calibrate: str | None = option(None, "Choose the threshold on this data set, which has boxes.")
    calibrate_format: str | None = option(None, "Its format. [dim]default: found out[/dim]")
    regions: Literal["all", "largest"] = option("all", "all: a box per connected region; largest: one per map.")
    min_area: float = option(0.0, "Leave out smaller regions; a share of the image.")
    refine: Literal["grabcut"] | None = option(None, "grabcut: masks and boxes follow the image's colours.")
    masks: bool = option(True, "Masks too, or boxes only.", "--masks/--no-masks")


@dataclass(frozen=True, kw_only=True)
class LabelFilesOptions:
    """Where labels are written."""

    written: list[str] | None = option(
        None,
        "coco, voc, yolo, masks, fiftyone; FORMAT:FOLDER says where (else lucidcam-labels/FORMAT). Repeatable. [dim]default: coco[/dim]",
        "--out",
        "-o",
    )
    overwrite: bool = option(False, "Replace labels that are there already.")
    copy_images: bool = option(False, "Copy the images beside the labels instead of linking them.")


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What is compared by which metrics."""

    method: list[str] | None = option(None, "NAME or NAME:option=value,…; repeatable. [dim]default: the preset's, or gradcam[/dim]")
    metric: list[str] | None = option(
        None, "NAME or NAME:option=value,…; repeatable; see [b]lucidcam metrics[/b]. [dim]default: what fits the data[/dim]"
    )
    preset: str | None = option(None, "A paper's protocol: gradcam-paper, gradcam++-paper, scorecam-paper or wsol.")
    out: Path | None = option(None, "Folder for results; run again, it goes on where it stopped.", "--out", "-o")
    baseline: list[str] | None = option(None, "Only these trivial baselines; repeatable. [dim]default: all six[/dim]")
    target: str | None = option(
        None, "For metrics on masked images: a label, an id, or [b]label[/b]. [dim]default: the predicted class[/dim]", "--target", "-t"
    )


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """How metrics are computed."""

    seed: int = option(0, "Of every random draw.")
    resamples: int = option(1000, "Bootstrap samples behind the intervals; 0: none.", min=0)
    batch_size: int | None = option(None, "Masked images at a time.", min=1)
    restart: bool = option(False, "Forget what an earlier run left in --out.")
    exact: bool = option(False, "Measure on the network as it is, not on an optimised copy.")


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How the hypotheses of an audit are tested."""

    fill: str = option("inpaint", "In place of what is covered: inpaint, mean, blur or zeros.")
    images_per_class: int = option(200, "That are tried; of more a random sample.")
    min_effect: float = option(0.05, "The smallest for a finding: by itself, and beyond its control.")


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """What is timed, and how often."""

    images: int = option(8, "Explained together; one alone is measured, too.", min=1)
    repeats: int = option(5, "Of each measurement, within about five seconds.", min=1)
    time_limit: float = option(30.0, "Seconds after which one run of a method is ended; 0: never.", min=0)


@dataclass(frozen=True, kw_only=True)
class MaskingOptions:
    """How a photo is masked by a channel's map."""

    increase: bool = option(True, "Run the masks.", "--increase/--no-increase")
    budget: int = option(0, "Masks that are run at most. [dim]default: every live channel's[/dim]", min=0)
    baseline: str = option("zeros", "What masked pixels become: zeros, mean, blur, or a number.")


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions:
    """Which regions of a data set are drawn."""

    method: str = option("cam", "See [b]lucidcam methods[/b]; gradcam where cam cannot.")
    target: list[str] | None = option(
        None,
        TARGET_HELP,
        "--target",
        "-t",
    )
    top: int = option(8, "Regions per class.", min=1)
    threshold: float = option(0.5, "A region is above this share of its peak: 0.5 finds parts, 0.2 whole things.")


@dataclass(frozen=True, kw_only=True)
class ExplainQueryOptions:
    """The methods, and what is explained of an image."""

    method: list[str] | None = option(None, "Repeatable; see [b]lucidcam methods[/b]. [dim]default: gradcam[/dim]")
    target: list[str] | None = option(
        None, "Label or class id, top5, all. Repeatable. [dim]default: the predicted class[/dim]", "--target", "-t", "--class"
    )
    against: str | None = option(None, "Why the target rather than this label?")
    probability: bool = option(False, "Explain the probability instead of the logit.")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is explained of a model that does more than tell classes."""

    caption: str | None = option(None, "Why this sentence? own: the model's own.", panel=TASK_PANEL, metavar="TEXT|own")
    word: list[str] | None = option(None, "Why this word of it? all: each. Repeatable.", panel=TASK_PANEL)
    question: str | None = option(None, "Why the answer to this?", panel=TASK_PANEL)
    answer: list[str] | None = option(None, "Why this answer? Repeatable.", panel=TASK_PANEL)
    prompt: list[str] | None = option(None, "What fits this text? Repeatable.", panel=TASK_PANEL)
    box: list[str] | None = option(None, "Why the detection at x1,y1,x2,y2 (photo's pixels)? Repeatable.", panel=TASK_PANEL)
    region: Path | None = option(None, "Why the class there? A mask of the photo: white is meant.", panel=TASK_PANEL)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Where explanations are written, and how they look."""

    out: Path = option(Path("lucidcam-out"), "Folder to write to.", "--out", "-o")
    format: list[str] | None = option(
        None, "png, jpg, webp, tiff, bmp, gif, html, npz, json. Repeatable. [dim]default: png, of clips gif[/dim]"
    )
    colormap: str = option("turbo", "Any matplotlib colormap.")
    alpha: float = option(0.5, "Share of the heatmap in the overlay, 0 to 1.")
    threshold: float = option(0.2, "Boxes enclose what is above this share of the maximum.")
    boxes: bool = option(False, "Draw the boxes.")


@dataclass(frozen=True, kw_only=True)
class WordsOptions:
    """Whether an explanation is also given in words, and by which concepts."""

    in_words: bool = option(False, "Also say why in words: concepts that the network's channels see.", "--words")
    concepts: str | None = option(
        None, "For --words: names.json of [b]lucidcam concepts[/b], or a bank's folder. [dim]default: built in[/dim]"
    )
