"""Vision models of transformers (`hf:REPO` or `hf:FOLDER`), with their own processors, tokenizers and labels: one file per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lucidcam.errors import ModelError, OptionError, unknown
from lucidcam.models.hf import captions, classifiers, dense, prompts, questions
from lucidcam.models.hf._repository import Repository
from lucidcam.registry import sources
from lucidcam.tasks import Captions, Detections, Prompts, Questions, Segments
from lucidcam.types import Model
from lucidcam.utils.optional import import_transformers

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """What models can do.

    Attributes:
        name: the task in words.
        short: what else it may be called.
        autos: which of transformers' `AutoModelFor…` know such models.
        build: loads one.
        types: the types of configuration that are known here; None: all that transformers knows.
    """

    name: str
    short: tuple[str, ...]
    autos: tuple[str, ...]
    build: Callable[..., Model]
    types: frozenset[str] | None = None

    def auto(self, transformers: Any, config: Any, architecture: str | None = None) -> str | None:
        """Which auto class builds a network of this configuration (and of this class, where it is given); None: this is not its task."""
        if self.types is not None and config.model_type not in self.types:
            return None
        for auto in self.autos:
            known = getattr(getattr(transformers, auto, None), "_model_mapping", {})
            found = known.get(type(config), ())
            made = found if isinstance(found, (tuple, list)) else (found,)
            if made and (architecture is None or architecture in [each.__name__ for each in made]):
                return auto
        return None


KINDS = (
    Kind("image classification", ("classification", "classify", "classes"), ("AutoModelForImageClassification",), classifiers.load),
    Kind(
        Prompts.name,
        ("prompts", "prompt", "similarity", "zero shot image classification", "zero shot"),
        ("AutoModelForZeroShotImageClassification",),
        prompts.load,
        prompts.TYPES,
    ),
    Kind(
        Captions.name,
        ("captions", "caption", "image to text"),
        ("AutoModelForImageTextToText", "AutoModelForVision2Seq"),
        captions.load,
        captions.TYPES,
    ),
    Kind(
        Questions.name,
        ("questions", "question", "vqa", "visual question answering"),
        ("AutoModelForVisualQuestionAnswering",),
        questions.load,
        questions.TYPES,
    ),
    Kind(Detections.name, ("detections", "detection", "detect"), ("AutoModelForObjectDetection",), dense.detector, dense.DETECTORS),
    Kind(
        Segments.name,
        ("segments", "segmentation", "segment", "image segmentation"),
        ("AutoModelForSemanticSegmentation", "AutoModelForUniversalSegmentation", "AutoModelForInstanceSegmentation"),
        dense.segmenter,
        dense.SEGMENTERS,
    ),
)


@sources.register("hf")
def load(
    name: str,
    *,
    pretrained: bool = True,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    prompt: str = prompts.PROMPT,
    tokenizer: str | None = None,
    **options: Any,
) -> Model:
    """Load a vision model of transformers. Code that comes with a repository is never run.

    Args:
        name: a repository of the Hugging Face hub, or a folder.
        pretrained: False: random weights for the repository's configuration.
        preprocess: instead of the repository's image processor.
        task: "image classification", "image-text similarity" (CLIP, SigLIP), "captioning" (BLIP, GIT, ViT-GPT2), "question answering"
            (BLIP, ViLT), "object detection" (DETR, RT-DETR, …) or "semantic segmentation" (SegFormer, Mask2Former, UPerNet, …), or a short
            word for it; None: what the configuration says.
        labels: for CLIP and its kin: classes in words, to make a classifier of it.
        prompt: what is written about a photo of the class "{}", for `labels`.
        tokenizer: a repository or folder whose tokenizer reads the texts; None: its own.
        options: of transformers' `from_pretrained`: `revision`, `subfolder`, `attn_implementation`, … .

    Raises:
        MissingExtraError: transformers is not installed.
        OptionError: no name is given, or an unknown task or option.
        ModelError: the model cannot be downloaded, or does nothing of the kind.
    """
    if not name:
        raise OptionError("expected a repository or folder after 'hf:', for instance 'hf:microsoft/resnet-50'.")
    asked = None if task is None else _named(task)
    transformers = import_transformers(f"'hf:{name}'")
    repository = Repository(transformers, name, pretrained, options, preprocess, tokenizer)
    config = repository.config()
    zero_shot = KINDS[1]
    if labels is not None and (asked is None or asked is KINDS[0]):
        asked = zero_shot
    kind = _kind(repository, config, asked)
    auto = kind.auto(transformers, config)
    assert auto is not None, "a kind is chosen among those that can build the network"
    if kind is zero_shot:
        return prompts.load(repository, config, auto, labels, prompt)
    if labels is not None:
        raise OptionError(f"labels=… makes a classifier of a model of {zero_shot.name}; '{repository.spec}' is loaded for {kind.name}.")
    return kind.build(repository, config, auto)


def _named(task: str) -> Kind:
    """The task that is meant.

    Raises:
        OptionError: there is none, with the nearest ones.
    """
    words = {word: kind for kind in KINDS for word in (kind.name, *kind.short)}
    wanted = " ".join(str(task).casefold().replace("-", " ").replace("_", " ").split())
    plain = {word.replace("-", " "): kind for word, kind in words.items()}
    if wanted not in plain:
        raise OptionError(unknown("task", str(task), words))
    return plain[wanted]


def _kind(repository: Repository, config: Any, asked: Kind | None) -> Kind:
    """What the repository's network does: what is asked, or what its architecture is for.

    Raises:
        ModelError: it cannot do that, or nothing that is known here.
    """
    offered = [kind for kind in KINDS if kind.auto(repository.transformers, config)]
    kind = type(config).__name__
    if not offered:
        tasks = ", ".join(each.name for each in KINDS)
        raise ModelError(f"'{repository.spec}' has a {kind}, which is not known here for any of: {tasks}.")
    if asked is not None:
        if asked not in offered:
            raise ModelError(
                f"'{repository.spec}' has a {kind}, which is not known for {asked.name}, but for "
                f"{', '.join(each.name for each in offered)}."
            )
        return asked
    for architecture in getattr(config, "architectures", None) or ():
        for each in offered:
            if each.auto(repository.transformers, config, architecture):
                return each
    return offered[0]
