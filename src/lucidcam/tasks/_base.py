"""What the tasks share: finding out what is asked, and words as tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import numpy as np
from torch import Tensor

from lucidcam.errors import ModelError, TargetError
from lucidcam.reprs import OneLineRepr
from lucidcam.targets import Several, Target, as_target, by_word, leaves
from lucidcam.targets.words import Spoken
from lucidcam.types import Model

S = TypeVar("S", bound=Spoken)


@dataclass(frozen=True)
class Written(OneLineRepr):
    """A text as a model reads it.

    Attributes:
        ids: its tokens, with those that begin and end a sentence.
        words: each word with the positions of its tokens in `ids`.
    """

    ids: Sequence[int]
    words: Sequence[tuple[str, Sequence[int]]]

    @property
    def positions(self) -> list[int]:
        """Where all the words' tokens are."""
        return [position for _, places in self.words for position in places]

    def find(self, word: str | int) -> int:
        """Which word is meant: by its position, or the first that is written so, case and punctuation aside.

        Raises:
            TargetError: there is no such word.
        """
        if isinstance(word, int):
            if not 0 <= word < len(self.words):
                raise TargetError(f"word {word} is out of range: the sentence has {len(self.words)} words, 0 to {len(self.words) - 1}.")
            return word
        wanted = _bare(word)
        for i, (text, _) in enumerate(self.words):
            if _bare(text) == wanted:
                return i
        raise TargetError(f"the sentence has no word {word!r}; its words are: {', '.join(text for text, _ in self.words)}.")


def _bare(word: str) -> str:
    return word.casefold().strip(".,;:!?\"'()") or word


def split(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation: how small models of one's own may read.

    >>> split("A red circle, left of a square.")
    ['a', 'red', 'circle', 'left', 'of', 'a', 'square']
    """
    return [word for each in text.casefold().split() if (word := each.strip(".,;:!?\"'()"))]


def spoken(target: Any, kind: type[S]) -> list[S]:
    """The spoken targets that a target is made of."""
    return [leaf for leaf in leaves(target) if isinstance(leaf, kind)]


def of_outputs(value: Any) -> TypeGuard[Target]:
    """Whether a target reads any outputs by itself: it needs no words to be translated, nor names a place as only some tasks can."""
    return isinstance(value, Target) and not isinstance(value, Spoken) and not value.local


class OfImages(OneLineRepr):
    """What the tasks share whose module takes the image by itself."""

    def alone(self, target: Any) -> bool:
        """See `lucidcam.types.Task`."""
        return False

    def example(self, images: Tensor, model: Model) -> Any:
        """See `lucidcam.types.Task`."""
        return images


def by_class(value: Any, model: Model, of: Callable[[Any], Target], kind: type[Target], how: str) -> Target:
    """What a user wrote as a target where classes have places: a label or id, nothing, a target of that kind, or one of any outputs.

    Args:
        value: what was written.
        model: which knows the labels.
        of: from a class id, or None, to a target of the kind.
        kind: its class.
        how: an example of what may be written, for the error.
    """

    def one(value: Any) -> Target:
        if isinstance(value, kind) or of_outputs(value):
            return value.labelled(model.find_label)
        if value is None or isinstance(value, (str, int)):
            return of(None if value is None else model.find_label(value))
        raise expected(model, value, how)

    return asked(value, one)


def translated(target: Any, change: Callable[[Any], Any]) -> Target:
    """A target with every spoken one that it is made of translated."""
    if isinstance(target, Spoken):
        found: Target = change(target)
        return found
    return as_target(target).over(lambda each: translated(each, change))


def asked(value: Any, one: Callable[[Any], Target]) -> Target:
    """What a user wrote as a target: `one` says what a single thing means; several, and targets made of others, are made of these."""
    if isinstance(value, (list, tuple)):
        return Several([asked(each, one) for each in value])
    if isinstance(value, (np.integer, Tensor)) and value.ndim == 0:
        value = int(value)
    if callable(value) and not isinstance(value, Target):
        return as_target(value)
    if isinstance(value, str) and by_word(value) is not None:
        raise TargetError(f"{value!r} is about the classes of an image; this model is asked one thing, or a list of several.")
    if isinstance(value, Target) and leaves(value) != [value]:
        return value.over(lambda each: asked(each, one))
    return one(value)


def expected(model: Model, value: Any, example: str) -> TargetError:
    """The error that says what a model with a task can be asked."""
    got = "nothing" if value is None else f"{value!r}"
    return TargetError(f"{model.name} does {model.task.name if model.task else 'classification'}: give {example} as target; got {got}.")


def rows_of(make: Callable[[Tensor], Any], images: Tensor, name: str) -> Any:
    """What `make` gives for images `[B, C, h, w]`; every tensor in it must have one row per image, as seen on a single one.

    Raises:
        ModelError: one has not: methods that mask could not tell a sentence of B words from B rows.
    """
    one = make(images[:1])
    values = one.values() if isinstance(one, Mapping) else one if isinstance(one, (tuple, list)) else (one,)
    wrong = [list(value.shape) for value in values if isinstance(value, Tensor) and value.ndim and len(value) != 1]
    if wrong:
        raise ModelError(
            f"the inputs of {name}'s task need one row per image, text too (ids.expand(len(images), -1)); for one image came {wrong[0]}."
        )
    return make(images) if len(images) > 1 else one
