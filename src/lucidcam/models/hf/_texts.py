"""Texts as token ids, and what models that write are fed with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.session import session
from lucidcam.errors import TargetError
from lucidcam.tasks import Written
from lucidcam.utils.rollback import closes_scopes

MOST_NEW_TOKENS = 20
"""How long captions and answers may get that a model writes, where its repository does not say: as long as transformers' default."""


@dataclass(frozen=True)
class Sentence:
    """From a text to the tokens that a decoder is fed with.

    Attributes:
        tokenizer: a fast one, which knows where in the text each token lies.
        before: the ids that begin a sentence.
        after: the ids that end it.
        most: how many tokens the decoder takes; None: any number.
    """

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    most: int | None = None

    def __call__(self, text: str) -> Written:
        """Return ids, and which words they are of.

        Raises:
            TargetError: the text is too long.
        """
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, places = list(found["input_ids"]), list(found["offset_mapping"])
        check_length(len(self.before) + len(ids) + len(self.after), self.most, text)
        words = []
        for word in re.finditer(r"\S+", text):
            own = [i for i, (start, stop) in enumerate(places) if start < word.end() and stop > word.start() and stop > start]
            if own:
                words.append((word.group(), tuple(len(self.before) + i for i in own)))
        return Written((*self.before, *ids, *self.after), tuple(words))


@dataclass(frozen=True)
class Ids:
    """From a question to its token ids `[1, L]`, with those that begin and end it.

    Attributes:
        tokenizer: the model's.
        most: how many tokens the model takes; None: any number.
    """

    tokenizer: Any
    most: int | None = None

    def __call__(self, text: str) -> Tensor:
        """Return the ids.

        Raises:
            TargetError: the text is too long.
        """
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        check_length(len(ids), self.most, text)
        return torch.tensor([ids])


def check_length(count: int, most: int | None, text: str) -> None:
    """Refuse a text of more tokens than a model takes.

    Raises:
        TargetError: it is too long.
    """
    if most is not None and count > most:
        raise TargetError(f"the text {text[:40]!r}… has {count} tokens; the model takes {most} at most.")


@dataclass(frozen=True)
class WithText:
    """The inputs of a captioning model: images and the caption's tokens, the same for all.

    Attributes:
        key: what the network calls the tokens.
    """

    key: str = "input_ids"

    def __call__(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments for images `[B, C, h, w]` and ids `[L]`."""
        return {"pixel_values": images, self.key: ids.expand(len(images), -1)}


@dataclass(frozen=True)
class Writes:
    """The text that a model generates, greedily.

    Attributes:
        module: the network.
        tokenizer: its own.
    """

    module: nn.Module
    tokenizer: Any

    @closes_scopes
    def __call__(self, images: Tensor, **inputs: Tensor) -> str:
        """Return the text for one image `[1, C, h, w]`."""
        at = next(self.module.parameters()).device
        inputs = {key: value.to(at) for key, value in inputs.items()}
        with session(self.module):
            ids = self.module.generate(pixel_values=images.to(at), do_sample=False, **self._length(), **inputs)  # type: ignore[operator]
        text: str = self.tokenizer.decode(ids[0], skip_special_tokens=True)
        return text.strip()

    def _length(self) -> dict[str, int]:
        """How long a text may get, where the repository does not say."""
        told: Any = getattr(getattr(self.module, "text_decoder", self.module), "generation_config", None)
        known = any(getattr(told, name, None) is not None for name in ("max_length", "max_new_tokens"))
        return {} if known else {"max_new_tokens": MOST_NEW_TOKENS}
