"""What a study asks, of whom and about which pictures: a TOML file, or a mapping of the same shape."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from lucidcam.errors import OptionError, first_line, unknown
from lucidcam.reprs import OneLineRepr
from lucidcam.utils.optional import import_optional

CONSENT = """\
You will be shown pictures that explain what a computer program looked at in photos, and be asked a short question about each.

Taking part is voluntary. You can stop at any time and go on later with the same browser, and you can withdraw: then everything you \
answered is deleted.

No personal data is stored: no name, no e-mail address, no network address, nothing about your device or browser. Your browser keeps one \
cookie with a random number, so that your answers stay together. Stored are your answers, how many seconds each one took, and the order in \
which the questions came. They are used for research on explanations, and may be published."""
"""What participants agree to, unless the study says otherwise; a blank line parts paragraphs."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WhichClass(OneLineRepr):
    """Asks which of two classes a picture is about (Grad-CAM, section 5.1): the map of one of the two classes of a photo is shown.

    Attributes:
        images: photos with exactly two classes that are explained, at most.
        items: questions of each participant.
        checks: questions with an obvious answer among them.
        join: put two photos of one class each side by side, for data that has no photos of exactly two classes.
        model: whose maps; "": the first.
        methods: which of the study's; none named: all.
        photo: show the photo beside the explanation, too.
        ask: the question.
        help: a line below it.
    """

    images: int = 30
    items: int = 20
    checks: int = 3
    join: bool = False
    model: str = ""
    methods: tuple[str, ...] = ()
    photo: bool = False
    ask: str = "What do you see?"
    help: str = "The picture shows what a network looked at when it was asked for one of the two. Choose the one it was asked for."


@dataclass(frozen=True, kw_only=True)
class Trust(OneLineRepr):
    """Asks which of two is more reliable, from −2 to +2 (Grad-CAM, section 5.2): both explain the same right prediction.

    Attributes:
        images: photos that are explained, at most: those that both models get right.
        items: questions of each participant.
        checks: questions with an obvious answer among them.
        between: "models": two models, by each method; "methods": each pair of methods, on one model.
        similar: the two models' probabilities differ by no more.
        models: the two, or with `between = "methods"` the one; none named: the first.
        methods: which of the study's; none named: all.
        better: the model that is known to be more accurate; "": the one that is on these photos, which must not be by chance.
        photo: show the photo beside the explanations, too.
        ask: the question; "": one that suits `between`.
        help: a line below it; "": likewise.
    """

    images: int = 30
    items: int = 20
    checks: int = 3
    between: Literal["models", "methods"] = "models"
    similar: float = 0.2
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    better: str = ""
    photo: bool = True
    ask: str = ""
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Config(OneLineRepr):
    """A study.

    Attributes:
        data: a folder, an annotation file, or whatever `lucidcam.data.open_data` takes.
        models: by name, what `lucidcam.load` takes: `load` is the model's name, the rest are options; or a `Model`. With `class_map`
            where one model's classes are called otherwise.
        methods: by name, options of the method, with `method` where the name is not the method's, and `layer`.
        which_class: None: not asked.
        trust: None: not asked.
        title: on every page.
        consent: what participants agree to.
        format: the data's; "": found out.
        split: of formats that have some.
        data_root: where files that the data's lists name may lie, beside the data's own folder.
        class_map: the data's classes in the models', as for `lucidcam evaluate`.
        limit: photos that are looked at, drawn from all that have labels; 0: all.
        seed: of the choice of photos.
        passed: the share of a question's checks that a participant has to pass, for the answers to it to count.
        participants: no more are let in.
        root: what paths are relative to.
    """

    data: Any
    models: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"gradcam": {}})
    which_class: WhichClass | None = None
    trust: Trust | None = None
    title: str = "What does the network see?"
    consent: str = CONSENT
    format: str = ""
    split: str = ""
    data_root: str = ""
    class_map: Any = None
    limit: int = 0
    seed: int = 0
    passed: float = 0.75
    participants: int = 1000
    root: Path = Path()

    def __post_init__(self) -> None:
        if self.which_class is None and self.trust is None:
            raise OptionError("a study needs a question: give it [which_class], [trust] or both.")
        if not self.models or not self.methods:
            raise OptionError("a study needs at least one of [models] and one of [methods].")
        if not 0 <= self.passed <= 1 or self.limit < 0 or self.participants < 1:
            raise OptionError(
                f"expected 0 ≤ passed ≤ 1, limit ≥ 0, participants ≥ 1; got {self.passed}, {self.limit}, {self.participants}."
            )
        for name, asked in (("which_class", self.which_class), ("trust", self.trust)):
            if asked is None:
                continue
            if asked.images < 1 or asked.items < 1 or asked.checks < 0:
                raise OptionError(f"{name}: expected images ≥ 1, items ≥ 1, checks ≥ 0; got {asked.images}, {asked.items}, {asked.checks}.")
            for each in asked.methods:
                if each not in self.methods:
                    raise OptionError(f"{name}: {unknown('method of the study', each, self.methods)}")
        for each in self._models_named():
            if each not in self.models:
                raise OptionError(unknown("model of the study", each, self.models))
        self._check_trust()

    def _models_named(self) -> list[str]:
        named = [self.which_class.model] if self.which_class is not None and self.which_class.model else []
        return named + ([*self.trust.models, *([self.trust.better] if self.trust.better else [])] if self.trust is not None else [])

    def _check_trust(self) -> None:
        if self.trust is None:
            return
        if not 0 <= self.trust.similar <= 1:
            raise OptionError(f"trust: expected 0 ≤ similar ≤ 1, a difference of probabilities; got {self.trust.similar}.")
        if self.trust.between == "models" and len(self.compared) != 2:
            raise OptionError(f'trust: two models are compared; got {len(self.compared)}: name two in models, or between = "methods".')
        if self.trust.between == "methods" and len(self.trust.methods or self.methods) < 2:
            raise OptionError('trust: between = "methods" needs at least two methods.')
        if self.trust.better and self.trust.better not in self.compared:
            raise OptionError(f"trust: better names {self.trust.better!r}, which is not one of the two that are compared.")

    @property
    def compared(self) -> tuple[str, ...]:
        """The models that trust is asked about."""
        assert self.trust is not None
        return (self.trust.models or tuple(self.models))[: 2 if self.trust.between == "models" else 1]


def read(config: Any) -> Config:
    """Read a study's config.

    Args:
        config: the path of a TOML file, a mapping of the same shape, or a `Config`, which is returned.

    Raises:
        OptionError: with what was expected, and where.
        MissingExtraError: Python 3.10 without tomli.
    """
    if isinstance(config, Config):
        return config
    root = Path()
    if isinstance(config, (str, os.PathLike)):
        path = Path(config).expanduser()
        config, root = _toml(path), path.parent
    if not isinstance(config, Mapping):
        raise OptionError(f"expected a TOML file or a mapping as a study's config; got {type(config).__name__}.")
    given = {key: value for key, value in config.items() if key not in ("which_class", "trust")}
    questions = {name: _built(kind, config[name], name) for name, kind in (("which_class", WhichClass), ("trust", Trust)) if name in config}
    return _built(Config, {**given, **questions, "root": root}, "study")


def _toml(path: Path) -> Mapping[str, Any]:
    toml = import_optional("tomllib" if sys.version_info >= (3, 11) else "tomli", "study", "reading a study's config")
    try:
        found: Mapping[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise OptionError(f"{path} is no TOML: {first_line(error)}") from None
    return found


def _built(kind: type[T], given: Any, where: str) -> T:
    """A dataclass from a table, with names and plain types checked."""
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise OptionError(f"{where}: expected a table; got {given!r}.")
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            raise OptionError(f"{where}: {unknown('setting', name, names)}")
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise OptionError(f"{where}: it needs {each.name!r}.")
    return kind(**{name: _typed(value, hints[name], f"{where}: {name}") for name, value in given.items()})


def _typed(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise OptionError(f"{where} expects {' or '.join(map(repr, get_args(hint)))}; got {value!r}.")
    elif get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
            raise OptionError(f"{where} expects a list of names; got {value!r}.")
        return tuple(value)
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, float, str, bool) and type(value) is not hint:
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise OptionError(f"{where} expects {words[hint]}; got {value!r}.")
    elif get_origin(hint) is Mapping and not isinstance(value, Mapping):
        raise OptionError(f"{where} expects a table; got {value!r}.")
    return value
