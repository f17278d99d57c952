"""The flags of `lucidcam explain` for models that do more than tell classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from lucidcam.errors import InputError, OptionError
from lucidcam.options.groups import TaskOptions

if TYPE_CHECKING:
    from lucidcam import Model

OWN = "own"
"""The caption that means: the one that the model itself writes."""

FLAGS = {
    "captioning": "caption",
    "question answering": "question",
    "image-text similarity": "prompt",
    "object detection": "box",
    "semantic segmentation": "region",
}
"""The flag of each task (`lucidcam.tasks`)."""

Make = Callable[[Any], Any]
"""From a word, answer, prompt or class to a target."""


@dataclass(frozen=True)
class TaskQuery:
    """What is explained of a model that does more than tell classes."""

    options: TaskOptions

    def targets(self, model: Model, classes: Sequence[str] | None, against: str | None) -> list[Any]:
        """The targets that the flags mean; none where none was given.

        Args:
            model: whose task they must fit.
            classes: of the detections or of the region.
            against: what every target is compared with: another word, answer, prompt or class.

        Raises:
            OptionError: the model does not do that, or flags that do not belong together.
        """
        from lucidcam.targets import Contrast

        kind = self._kind(model)
        if kind is None:
            return []
        if classes and kind not in ("box", "region"):
            raise OptionError(f"--target goes with --box and --region, not with --{kind}.")
        make = getattr(self, f"_{kind}")()
        values: Any = {"caption": self.options.word, "question": self.options.answer, "prompt": self.options.prompt}.get(kind, classes) or [
            None
        ]
        return [one(value) if against is None else Contrast(one(value), one(against)) for one, value in product(make, values)]

    def _kind(self, model: Model) -> str | None:
        """Which of the flags says what is asked."""
        given = [name for name, value in asdict(self.options).items() if value not in (None, [], ())]
        for part, whole in (("word", "caption"), ("answer", "question")):
            if getattr(self.options, whole) == "":
                raise OptionError(f"--{whole} expects words; got an empty text.")
            if part in given and whole not in given:
                raise OptionError(f"--{part} goes with --{whole}.")
        kinds = [each for each in given if each not in ("word", "answer")]
        if len(kinds) > 1:
            raise OptionError(f"one of these at a time: {', '.join(f'--{each}' for each in kinds)}.")
        task = "classification" if model.task is None else model.task.name
        if kinds and FLAGS.get(task) != kinds[0]:
            takes = "--target" if model.task is None else f"{model.task.takes} (--{FLAGS.get(task, 'target')})"
            doers = next(name for name, flag in FLAGS.items() if flag == kinds[0])
            raise OptionError(f"--{kinds[0]} is for {doers}; {model.name} does {task} and takes {takes}.")
        return kinds[0] if kinds else None

    def _caption(self) -> list[Make]:
        from lucidcam.targets import Caption

        text = None if self.options.caption == OWN else self.options.caption
        return [lambda word: Caption(text, int(word) if word and word.isdigit() else word)]

    def _question(self) -> list[Make]:
        from lucidcam.targets import Question

        return [lambda answer: Question(str(self.options.question), answer)]

    def _prompt(self) -> list[Make]:
        from lucidcam.targets import Prompt

        return [lambda text: Prompt(str(text))]

    def _box(self) -> list[Make]:
        from lucidcam.targets import Detection

        return [partial(Detection, _sides(box)) for box in self.options.box or ()]

    def _region(self) -> list[Make]:
        from lucidcam.io import images
        from lucidcam.targets import Segmentation

        try:
            mask = images.read_grey(self.options.region)  # type: ignore[arg-type]
        except InputError as error:
            raise OptionError(f"--region {self.options.region} cannot be read as a picture: {error}") from None
        return [lambda label: Segmentation(label, mask)]


def _sides(text: str) -> tuple[float, ...]:
    try:
        sides = tuple(float(side) for side in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) != 4 or not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise OptionError(f"--box expects left,top,right,bottom in the photo's pixels, with left < right and top < bottom; got {text!r}.")
    return sides
