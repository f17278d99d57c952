"""Visual question answering: by choosing among answers, or by writing one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lucidcam.errors import TargetError
from lucidcam.reprs import OneLineRepr
from lucidcam.targets import Bound, Classes, Question, Target, Tokens
from lucidcam.targets._base import Label
from lucidcam.tasks._base import Written, asked, expected, rows_of, spoken, translated
from lucidcam.types import Model

_ASKED = "Question('…'), or Question('…', answer='…')"
EXAMPLE = "what is the colour"


@dataclass(frozen=True)
class Questions(OneLineRepr):
    """Why one of the answers that a model knows (Selvaraju 2017, § 8.2): its logit, with the question as the module's input.

    The answers are the model's labels.

    Attributes:
        inputs: from images `[B, C, h, w]` and a question to what the module takes: a tuple of arguments, or a mapping by name; every
            tensor with one row per image.
    """

    inputs: Callable[[Tensor, str], Any]

    name: ClassVar[str] = "question answering"
    takes: ClassVar[str] = "a question, with or without its answer"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a text is a question."""
        found = _question(value, model)
        for each in spoken(found, Question):
            if each.answer is not None:
                model.find_label(each.answer)  # an answer that it does not know is told before any work
        return found

    def alone(self, target: Any) -> bool:
        """See `lucidcam.types.Task`: the same question goes to every image."""
        return False

    def example(self, images: Tensor, model: Model) -> Any:
        """See `lucidcam.types.Task`."""
        return self.inputs(images, EXAMPLE)

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        text = _one(target)

        def answer(each: Question) -> Target:
            chosen = each.answer if each.answer is None else model.find_label(each.answer)
            return _Answered(text, Classes(chosen))

        return rows_of(lambda rows: self.inputs(rows, text), images, model.name), translated(target, answer)


@dataclass(frozen=True)
class OpenQuestions(OneLineRepr):
    """Why an answer in words: the log-probability of its tokens, with question and answer as the module's input.

    Attributes:
        encode: from an answer to its tokens.
        inputs: from images `[B, C, h, w]`, a question and the answer's token ids `[L]` to what the module takes; every tensor with
            one row per image.
        write: from one image `[1, C, h, w]` and a question to the model's own answer; None: an answer must be given.
        shift: how far the logits run ahead, see `lucidcam.targets.Tokens`.
    """

    encode: Callable[[str], Written]
    inputs: Callable[[Tensor, str, Tensor], Any]
    write: Callable[[Tensor, str], str] | None = None
    shift: int = 1

    name: ClassVar[str] = "question answering"
    takes: ClassVar[str] = "a question, with or without its answer"

    def target(self, value: Any, model: Model) -> Target:
        """See `lucidcam.types.Task`: a text is a question."""
        return _question(value, model)

    def alone(self, target: Any) -> bool:
        """See `lucidcam.types.Task`: each image has its own answer."""
        return any(each.answer is None for each in spoken(target, Question))

    def example(self, images: Tensor, model: Model) -> Any:
        """See `lucidcam.types.Task`."""
        return self.ask(images, Question(EXAMPLE, None if self.write else "yes"), model)[0]

    def ask(self, images: Tensor, target: Any, model: Model) -> tuple[Any, Target]:
        """See `lucidcam.types.Task`."""
        text = _one(target)
        own = self._own(images, text, model) if self.alone(target) else ""
        answers = {str(own if each.answer is None else each.answer) for each in spoken(target, Question)}
        if len(answers) != 1:
            raise TargetError(f"{model.name} writes its answers: one at a time; got {', '.join(map(repr, sorted(answers)))}.")
        [answer] = answers
        written = self.encode(answer)
        if not written.words:
            raise TargetError(f"the answer {answer!r} has no words that {model.name} can read.")
        tokens = Tokens(written.ids, written.positions, self.shift, [f"{text} {answer}"])
        ids = torch.as_tensor(written.ids, device=model.device)
        inputs = rows_of(lambda rows: self.inputs(rows, text, ids), images, model.name)
        return inputs, translated(target, lambda each: tokens)

    def _own(self, images: Tensor, question: str, model: Model) -> str:
        if self.write is None:
            raise TargetError(f"{model.name} does not write answers by itself; give one.")
        return self.write(images, question)


@dataclass(frozen=True)
class _Answered(Target):
    """An answer that is called by its question, too."""

    question: str
    answer: Classes

    def bind(self, outputs: Any, batch: int) -> Bound:
        """See `Target.bind`."""
        inner = self.answer.bind(outputs, batch)

        def say(image: int, target: int, label: Label) -> str:
            return f"{self.question} {inner.name(image, target, label)}"

        return replace(inner, say=say)


def _question(value: Any, model: Model) -> Target:
    def one(value: Any) -> Target:
        if isinstance(value, Question):
            return value
        if isinstance(value, str) and value.strip():
            return Question(value)
        raise expected(model, value, _ASKED)

    return asked(value, one)


def _one(target: Any) -> str:
    """The question that is asked."""
    texts = {each.text for each in spoken(target, Question)}
    if len(texts) != 1:
        raise TargetError(f"one question at a time; got {', '.join(map(repr, sorted(texts)))}.")
    return texts.pop()
