"""What a visitor asks, checked: which method with which options, about which classes."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from lucidcam import registry
from lucidcam.errors import OptionError, TargetError, unknown
from lucidcam.methods._base import Method
from lucidcam.methods.settings import resolve_method
from lucidcam.targets import Contrast
from lucidcam.utils.progress import Listener
from lucidcam.utils.text import printable
from lucidcam.web.errors import WeightsChangedError
from lucidcam.web.fields import LONGEST, Fields, shown

if TYPE_CHECKING:
    from lucidcam.web.service import Served, Studio

QUESTION = ("photo", "model", "weights", "layer", "methods", "options", "classes", "against")
"""Fields of a question."""

TIMES = 4
"""A number may be so many times its default at most: nobody may keep the server busy for hours."""

WITHOUT_DEFAULT = 256
"""The most of a whole number whose default is 0, "no limit" (budgets)."""

LARGEST_BASELINE = 100.0
"""The most, above and below zero, of a number that stands for hidden pixels, as the network gets them."""


@dataclass(frozen=True, eq=False)
class Question:
    """What a visitor asks, checked.

    Attributes:
        photo: its id.
        served: the model.
        weights: the fingerprint of its weights at this moment.
        layer: its name.
        methods: names, each once.
        options: of each method, those that were given.
        classes: ids, each once; none: the likeliest one is meant.
        against: the class rather than which they are; None: they are explained for themselves.
    """

    photo: str
    served: Served
    weights: str
    layer: str
    methods: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    classes: tuple[int, ...]
    against: int | None = None

    @property
    def targets(self) -> list[Any]:
        """Class ids, or contrasts of them with the other class."""
        if self.against is None:
            return list(self.classes)
        return [Contrast(class_id, self.against) for class_id in self.classes if class_id != self.against]

    def to_dict(self) -> dict[str, Any]:
        """The question as `read` takes it, with nothing left out."""
        return {
            "photo": self.photo,
            "model": self.served.name,
            "weights": self.weights,
            "layer": self.layer,
            "methods": list(self.methods),
            "options": {name: dict(self.options.get(name, {})) for name in self.methods},
            "classes": list(self.classes),
            "against": self.against,
        }


@dataclass(frozen=True)
class Choice:
    """One option of a method, as something to be set.

    Attributes:
        name: of the field.
        kind: bool, int, float, str or "one of".
        default: of the field.
        low: the least value of a number.
        high: the largest value of a number.
        among: what can be chosen.
    """

    name: str
    kind: Literal["bool", "int", "float", "str", "one of"]
    default: Any
    low: float | None = None
    high: float | None = None
    among: tuple[str, ...] = ()

    def checked(self, value: Any) -> Any:
        """A value within its bounds.

        Raises:
            OptionError: it is outside them.
        """
        if self.kind in ("int", "float") and isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.kind == "int" and isinstance(value, float) and value.is_integer():
                value = int(value)
            if not (self.low or 0) <= value <= (self.high or 0):
                raise OptionError(f"expected {self.name} between {self.low:g} and {self.high:g} here; got {shown(value)}.")
        if self.kind == "str" and len(str(value)) > 20:
            raise OptionError(f"expected a short text as {self.name}; got {len(str(value))} letters.")
        if self.kind == "one of" and value not in self.among:
            raise OptionError(unknown(self.name, shown(value), self.among))
        if self.kind == "str" and isinstance(value, (int, float)) and not abs(value) <= LARGEST_BASELINE:
            raise OptionError(
                f"expected a number between {-LARGEST_BASELINE:g} and {LARGEST_BASELINE:g} as {self.name}; got {shown(value)}."
            )
        return value


def choices(method: str) -> list[Choice]:
    """The options of a method that a visitor may set."""
    kind: type[Method] = registry.methods[method]
    hints = get_type_hints(kind)
    return [_choice(field, hints[field.name]) for field in fields(kind)]


def _choice(field: Field[Any], hint: Any) -> Choice:
    if get_origin(hint) is Literal:
        return Choice(field.name, "one of", field.default, among=tuple(map(str, get_args(hint))))
    if get_origin(hint) in (Union, types.UnionType) or hint is str:
        return Choice(field.name, "str", field.default)
    if hint is bool:
        return Choice(field.name, "bool", field.default)
    usual: Any = field.default
    if hint is int:
        return Choice(field.name, "int", usual, 0, TIMES * usual or WITHOUT_DEFAULT)
    return Choice(field.name, "float", usual, 0.0, max(1.0, TIMES * usual))


def options(given: Mapping[str, Any], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each method, from `{"scorecam": {"budget": 64}}`, checked; those of other methods do not matter.

    Raises:
        OptionError: for an option or value that there is not.
    """
    checked = {}
    for method in methods:
        values = given.get(method) or {}
        if not isinstance(values, Mapping):
            raise OptionError(f'expected the options of {method} as a JSON object, {{"{method}": {{…}}}}; got {shown(values)}.')
        choice_of = {choice.name: choice for choice in choices(method)}
        for name in values:
            if name not in choice_of:
                raise OptionError(f"{method}: {unknown('option', printable(name[:LONGEST]), choice_of)}")
        checked[method] = {name: choice_of[name].checked(_typed(choice_of[name], value)) for name, value in values.items()}
        resolve_method(method, checked[method])
    return checked


def _typed(choice: Choice, value: Any) -> Any:
    """A text that is a number as one, where an option may be either (baselines); nothing but numbers, short texts, true and false."""
    if not isinstance(value, (str, int, float)) or (isinstance(value, str) and len(value) > LONGEST):
        raise OptionError(f"expected a number, true, false or a short text as {choice.name}; got {shown(value)}.")
    if choice.kind == "str" and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"expected a number that is finite as {choice.name}; got {value}.")
    return value


def read(body: Any, studio: Studio, tell: Listener) -> Question:
    """A question as a visitor sends it, checked against the models that there are.

    How many maps it asks for is counted before anything is looked up.

    Args:
        body: the JSON.
        studio: the models.
        tell: what is told, again and again, that the work goes on; what it raises ends it.

    Raises:
        LucidcamError: with what was expected.
    """
    fields = Fields(body, QUESTION, "a question")
    served = studio.model(fields.text("model", next(iter(studio.served)), longest=1000))
    weights = served.weights
    if fields.text("weights", weights) != weights:
        raise WeightsChangedError(f"the weights of {served.name} are others than when this map was made; explain the photo again.")
    most = studio.limits.maps
    methods = tuple(dict.fromkeys(map(str, fields.several("methods", most)))) or ("gradcam",)
    classes = fields.several("classes", most)
    if len(methods) * max(1, len(classes)) > most:
        raise OptionError(
            f"expected at most {most} maps side by side; got {len(methods)} methods × {len(classes)} classes: choose fewer of them."
        )
    for method in methods:
        if method not in served.methods:
            raise OptionError(unknown("method", printable(method), served.methods))
    layer = served.place(fields.text("layer", served.default.name, longest=1000)).name
    chosen = options(fields.mapping("options"), methods)
    ids = []
    for word in classes:
        tell(None)
        ids.append(served.model.find_label(word))
    against = fields.class_name("against")
    other = None if against is None else served.model.find_label(against)
    ids = list(dict.fromkeys(ids))
    if other is not None and ids == [other]:
        raise TargetError(f"{served.model.label(other)!r} rather than itself cannot be explained; choose another class.")
    return Question(fields.text("photo"), served, weights, layer, methods, chosen, tuple(ids), other)


def read_one(body: Any, studio: Studio, tell: Listener) -> Question:
    """The question of one map, as answers have it at each of their maps.

    Raises:
        LucidcamError: with what was expected, also where it asks for several maps or for none.
    """
    question = read(body, studio, tell)
    if len(question.methods) != 1 or len(question.classes) != 1:
        raise OptionError("expected the question of one map: one method and one class.")
    return question
