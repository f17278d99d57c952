"""Image and text in one space (CLIP, SigLIP): how well a photo fits a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lucidcam.targets import Prompt, Similarity, Target
from lucidcam.tasks._base import OfImages, asked, expected, of_outputs, spoken, translated
from lucidcam.types import Model


@dataclass(frozen=True)
class Prompts(OfImages):
    """Why an image fits a text: the similarity of the image's embedding, the module's output, with the text's.

    Attributes:
        encode: from texts to their embeddings `[T, D]`.
        scale: what similarities are multiplied by: CLIP's temperature, say.
    """

    encode: Callable[[list[str]], Tensor]
    scale: float = 1.0

    name: ClassVar[str] = "image-text similarity"
    takes: ClassVar[str] = "a prompt, or several"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a text is a prompt."""

        def one(value: Any) -> Target:
            if isinstance(value, Prompt) or of_outputs(value):
                return value
            if isinstance(value, str) and value.strip():
                return Prompt(value)
            raise expected(model, value, "a text or Prompt('…')")

        return asked(value, one)

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        texts = list(dict.fromkeys(each.text for each in spoken(target, Prompt)))
        embeddings = dict(zip(texts, self.encode(texts), strict=True)) if texts else {}
        return images, translated(target, lambda each: Similarity(embeddings[each.text], self.scale, [each.text]))
