"""Captioning: a sentence about the image, and its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.reprs import OneLineRepr
from lucidcam.targets import Caption, Target, Tokens
from lucidcam.tasks._base import Written, asked, expected, rows_of, spoken, translated
from lucidcam.types import Model

EXAMPLE = "a"


@dataclass(frozen=True)
class Captions(OneLineRepr):
    """Why a sentence, or a word of it (Selvaraju 2017, § 8.1): the log-probability of its tokens, with the sentence as the module's input.

    Attributes:
        encode: from a text to its tokens.
        inputs: from images `[B, C, h, w]` and token ids `[L]` to what the module takes: a tuple of arguments, or a mapping by name;
            every tensor with one row per image.
        write: from one image `[1, C, h, w]` to the model's own caption; None: a caption must be given.
        shift: how far the logits run ahead, see `lucidcam.targets.Tokens`.
    """

    encode: Callable[[str], Written]
    inputs: Callable[[Tensor, Tensor], Any]
    write: Callable[[Tensor], str] | None = None
    shift: int = 1

    name: ClassVar[str] = "captioning"
    takes: ClassVar[str] = "a caption, or a word of one"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a text is a caption, None the model's own."""

        def one(value: Any) -> Target:
            if isinstance(value, Caption):
                if value.text is not None and value.word not in (None, "all"):
                    self.encode(value.text).find(value.word)  # a word that is not there is told before any work
                return value
            if value is None or (isinstance(value, str) and value.strip()):
                return Caption(value)
            raise expected(model, value, "Caption('…'), Caption('…', word='…'), or None for the caption that the model writes")

        return asked(value, one)

    def alone(self, target: Any) -> bool:
        """See `lucidcam.types.Task`: each image has its own caption."""
        return any(each.text is None for each in spoken(target, Caption))

    def example(self, images: Tensor, model: Model) -> Any:
        """See `lucidcam.types.Task`."""
        return self.ask(images, Caption(None if self.write else EXAMPLE), model)[0]

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        own = self._own(images, model) if self.alone(target) else ""
        texts = {own if each.text is None else each.text for each in spoken(target, Caption)}
        if len(texts) != 1:
            raise TargetError(f"one caption at a time: got {', '.join(map(repr, sorted(texts)))}; several words of one are possible.")
        [text] = texts
        written = self.encode(text)
        if not written.words:
            raise TargetError(f"the caption {text!r} has no words that {model.name} can read.")
        ids = torch.as_tensor(written.ids, device=model.device)
        inputs = rows_of(lambda rows: self.inputs(rows, ids), images, model.name)
        return inputs, translated(target, lambda each: self._tokens(replace(each, text=text), written))

    def _own(self, images: Tensor, model: Model) -> str:
        if self.write is None:
            raise TargetError(f"{model.name} does not write captions by itself; give one.")
        return self.write(images)

    def _tokens(self, wanted: Caption, written: Written) -> Tokens:
        if wanted.word is None:
            return Tokens(written.ids, written.positions, self.shift, [wanted.text or ""])
        if wanted.word == "all":
            return Tokens(written.ids, [list(places) for _, places in written.words], self.shift, [word for word, _ in written.words])
        word, places = written.words[written.find(wanted.word)]
        return Tokens(written.ids, list(places), self.shift, [word])
