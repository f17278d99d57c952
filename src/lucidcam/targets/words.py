"""What is asked of a model in words. The model's task turns these into its inputs and a target on its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lucidcam.errors import TargetError
from lucidcam.targets._base import Bound, Target


class Spoken(Target):
    """A target in words, which means something to models with the right task only."""

    needs: ClassVar[str]

    def bind(self, outputs: Any, batch: int) -> Bound:
        """Refuse: nobody has turned the words into something that outputs can be asked.

        Raises:
            TargetError: always.
        """
        raise TargetError(
            f"a {type(self).__name__} is asked of {self.needs}: lucidcam.explain(model, …) with a model of lucidcam.load, or of "
            "lucidcam.wrap(…, task=…)."
        )


@dataclass(frozen=True)
class Caption(Spoken):
    """Why a captioning model writes a sentence, or a word of it.

    Args:
        text: the sentence; None: the one that the model itself writes.
        word: one of its words (the first that fits, whatever its case), a word's position from 0, or "all" for a target of each word;
            None: the whole sentence.
    """

    text: str | None = None
    word: str | int | None = None
    needs: ClassVar[str] = "a model that writes captions"


@dataclass(frozen=True)
class Question(Spoken):
    """Why a model gives an answer to a question about the image.

    Args:
        text: the question.
        answer: None: the one that the model itself gives. Else a label or class id, for models that choose among answers, or any words, for
            models that write them.
    """

    text: str
    answer: str | int | None = None
    needs: ClassVar[str] = "a model that answers questions"


@dataclass(frozen=True)
class Prompt(Spoken):
    """How well an image fits a text, by a model that embeds both.

    Args:
        text: any words, "a photo of a cat" say.
    """

    text: str
    needs: ClassVar[str] = "a model that compares images with texts"
