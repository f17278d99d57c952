"""Image and text in one space: CLIP, SigLIP and their kin, asked by prompts, or as classifiers of labels of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam.engine.session import session
from lucidcam.errors import OptionError
from lucidcam.models.hf._repository import Repository
from lucidcam.models.hf._texts import check_length
from lucidcam.tasks import Prompts
from lucidcam.types import Model
from lucidcam.utils.class_scores import OutputKind
from lucidcam.utils.rollback import closes_scopes

TYPES = frozenset({"clip", "siglip", "chinese_clip", "metaclip_2", "altclip"})
PROMPT = "a photo of a {}"


def load(repository: Repository, config: Any, auto: str, labels: Sequence[str] | None = None, prompt: str = PROMPT) -> Model:
    """Load a model of image-text similarity, or a classifier made of it.

    Args:
        repository: where it comes from.
        config: its configuration.
        auto: which of transformers' `AutoModelFor…` reads it.
        labels: classes: their similarities are the logits, and photos are explained as by any classifier.
        prompt: what is written about a photo of the class "{}".

    Raises:
        OptionError: `labels` are no texts, or `prompt` has no place for one.
    """
    module, tokenizer = repository.module(auto, config), repository.words()
    texts = Texts(module, tokenizer, *_length(config, tokenizer))
    pictures = repository.pictures(config)
    if labels is None:
        scale = float(_number(module, "logit_scale").detach().double().exp())
        return Model(Images(module).eval(), pictures, None, None, repository.spec, task=Prompts(texts, scale))
    words = _checked(labels, prompt)
    classifier = Labelled(module, texts([prompt.format(word) for word in words]))
    outputs: OutputKind = "sigmoid" if classifier.multi_label else "softmax"
    return Model(classifier.eval(), pictures, words, None, repository.spec, outputs=outputs)


class Images(nn.Module):
    """The image's way through a model of images and texts.

    Args:
        model: transformers' `CLIPModel`, `SiglipModel`, …
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return embeddings `[B, D]` of images `[B, 3, h, w]`."""
        return _embedded(self.model.get_image_features(pixel_values=pixel_values))  # type: ignore[operator]


class Labelled(nn.Module):
    """A classifier: of each image, how similar it is to the texts of the classes.

    Attributes:
        multi_label: whether each class has a probability of its own, as SigLIP was trained, rather than a share of one.

    Args:
        model: transformers' `CLIPModel`, `SiglipModel`, …
        texts: the classes' embeddings `[K, D]`.
    """

    texts: Tensor

    def __init__(self, model: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.model = model
        self.multi_label = hasattr(model, "logit_bias")
        self.register_buffer("texts", F.normalize(texts, dim=1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits `[B, K]`, `scale · cos(image, text) + bias`."""
        image = F.normalize(_embedded(self.model.get_image_features(pixel_values=pixel_values)), dim=1)  # type: ignore[operator]
        logits = image @ self.texts.T * _number(self.model, "logit_scale").exp()
        return logits + _number(self.model, "logit_bias") if self.multi_label else logits


@dataclass(frozen=True)
class Texts:
    """From texts to their embeddings.

    Attributes:
        module: the network.
        tokenizer: its own.
        padding: how texts are made equally long.
        most: how many tokens the network takes.
    """

    module: nn.Module
    tokenizer: Any
    padding: str
    most: int

    @closes_scopes
    def __call__(self, texts: list[str]) -> Tensor:
        """Return embeddings `[T, D]`.

        Raises:
            TargetError: a text is too long.
        """
        for text in texts:
            check_length(len(self.tokenizer(text, verbose=False)["input_ids"]), self.most, text)
        with session(self.module):
            device = next(self.module.parameters()).device
            tokens = self.tokenizer(texts, padding=self.padding, max_length=self.most, return_tensors="pt").to(device)
            return _embedded(self.module.get_text_features(**tokens))  # type: ignore[operator]


def _embedded(found: Any) -> Tensor:
    """The embeddings by themselves (transformers 4) or with what they were made of (5)."""
    embeddings: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embeddings


def _number(module: nn.Module, name: str) -> Tensor:
    found = getattr(module, name)
    assert isinstance(found, Tensor)
    return found


def _length(config: Any, tokenizer: Any) -> tuple[str, int]:
    """How texts are padded, and how many tokens there may be: SigLIP was trained with texts of full length."""
    text = config.text_config
    most = min(text.max_position_embeddings, tokenizer.model_max_length)
    return ("max_length" if config.model_type == "siglip" else "longest"), most


def _checked(labels: Sequence[str], prompt: str) -> tuple[str, ...]:
    words = () if isinstance(labels, str) else tuple(labels)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise OptionError(f"expected labels as a list of texts; got {labels!r}.")
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise OptionError(f"expected prompt as a text with one {{}} where the label belongs ({PROMPT!r}); got {prompt!r}.")
    return words
