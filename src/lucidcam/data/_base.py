"""What every data format is, and how one is found for what a user hands over."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lucidcam import registry
from lucidcam.data._bounds import Bounds
from lucidcam.data._files import option_folder
from lucidcam.errors import DataError, LucidcamError, first_line, unknown
from lucidcam.io.remote import is_url, local
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import DegenerateError, Problem, Sample, composed, left_out


@dataclass(frozen=True, kw_only=True)
class Format(OneLineRepr, ABC):
    """A way to write down a data set. Subclasses are final; their fields are the format's options.

    Class attributes:
        name: the registered name.
        about: what it is, in one line, for the documentation and for error messages.
        precedence: formats are tried in this order, lowest first; those that are easily taken for others come last.
        generated: there is nothing to read: the source is the format's name, with options: "synthetic:count=500,seed=1".

    Attributes:
        data_root: a folder in which files that the data set's lists name may lie, beside the data set's own; "": they lie in that.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    precedence: ClassVar[int] = 50
    generated: ClassVar[bool] = False

    data_root: str = ""

    @abstractmethod
    def recognises(self, source: Any) -> bool:
        """Whether `source` looks like this format. Quick: names of files and the first lines. Never raises."""

    def bounds(self, *folders: Path) -> Bounds:
        """The folders in which files that lists name may lie: these, and `data_root`.

        Raises:
            DataError: `data_root` is no folder.
        """
        allowed = [option_folder(self.data_root, self.name, "data_root")] if self.data_root else []
        return Bounds((*folders, *allowed))

    @abstractmethod
    def open(self, source: Any) -> Dataset:
        """Return the data set.

        Raises:
            DataError: when what is there is not this format; one line that says what was expected, what came and what to do.
        """


@dataclass(frozen=True, eq=False)
class Dataset(OneLineRepr):
    """Samples, one after the other, as often as asked.

    Attributes:
        name: what it is called in reports.
        format: the format's registered name.
        stream: starts from the beginning; yields samples, and problems in the place of samples that cannot be used.
        count: how many samples there are, where that is known without reading them all.
        classes: the classes' names, where the format lists them.
    """

    name: str
    format: str
    stream: Callable[[], Iterator[Sample | Problem]] = field(repr=False)
    count: int | None = None
    classes: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", None if self.classes is None else tuple(map(composed, self.classes)))

    def __iter__(self) -> Iterator[Sample | Problem]:
        done = 0
        try:
            for each in self.stream():
                if isinstance(each, Sample):
                    yield from without_empty_boxes(each)
                else:
                    yield each
                done += 1
        except LucidcamError:
            raise
        except Exception as error:
            raise DataError(f"{self.name}: reading failed after {done} samples ({first_line(error)}); try again.") from error

    def first(self, limit: int | None) -> Dataset:
        """The data set's first samples, at most `limit`; None: all."""
        if limit is None:
            return self
        count = limit if self.count is None else min(limit, self.count)
        return replace(self, stream=lambda: islice(self.stream(), limit), count=count)


def without_empty_boxes(sample: Sample) -> Iterator[Sample | Problem]:
    """Yield a sample without the objects whose boxes have no area, and a problem for each of them: one does not discard its image."""
    empty = {i: each for i, each in enumerate(sample.objects, start=1) if each.box is not None and _is_empty(each.box)}
    if not empty:
        yield sample
        return
    yield replace(sample, objects=tuple(each for i, each in enumerate(sample.objects, start=1) if i not in empty))
    for i, each in empty.items():
        numbers = ", ".join(f"{edge:g}" for edge in each.box or ())
        error = DegenerateError(f"the box ({numbers}) of {each.label!r} is empty: expected left < right and top < bottom, in pixels")
        yield left_out(sample.name, f"object {i}", error)


def _is_empty(box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    return left >= right or top >= bottom


F = TypeVar("F", bound=type[Format])


def register(name: str) -> Callable[[F], F]:
    """Register a data format under `name`."""
    return registry.formats.register_class(name)


def open_data(source: Any, format: str | None = None, **options: Any) -> Dataset:
    """Open a data set.

    Args:
        source: a folder, an annotation file, a list of samples, a list of images (paths, PIL images, arrays), a Hugging Face data set,
            a `Dataset`, which is returned as it is, or the name of a generated one ("synthetic:count=500"). For folders of images and tar
            files also a pattern ("shards-{000..127}.tar"), or an address that fsspec knows ("s3://bucket/photos").
        format: a name of `lucidcam.registry.formats`; None: the first that recognises the source.
        options: the format's own, `split="val"` for instance; and of every format `data_root`, a folder outside of the data set's in which
            files that its lists name may lie.

    Raises:
        OptionError: for a format or option that does not exist.
        DataError: when no format recognises the source, or it is not what its format promises.
    """
    if isinstance(source, Dataset):
        return source
    if generated(source):
        format, _, given = str(source).partition(":")
        source, options = format, {**_written(registry.formats[format], given), **options}
    elif isinstance(source, (str, os.PathLike)):
        source = _place(source)
    kind = registry.formats[format] if format is not None else _recognised(source, options)
    known = [each.name for each in fields(kind)]
    for name in options:
        if name not in known:
            raise DataError(f"{kind.name}: {unknown('option', name, known)}")
    opened: Dataset = kind(**options).open(source)
    return opened


def _place(source: str | os.PathLike[str]) -> Path | str:
    """A path that exists; or the text of an address or pattern, which some formats know."""
    if is_url(source):
        path = local(str(source))
        if path is None:
            return str(source)
        source = path
    path = os.fspath(source)
    found = Path(path).expanduser()
    if found.exists():
        return found
    if any(sign in path for sign in "{*?["):
        return path
    raise DataError(f"the data set {path!r} does not exist; give a folder of images, or an annotation file.")


def generated(source: Any) -> bool:
    """Whether a text asks for data that is generated, "synthetic:count=500" for instance, and not for a file."""
    name = str(source).partition(":")[0] if isinstance(source, (str, os.PathLike)) else ""
    return name in registry.formats and bool(registry.formats[name].generated) and not Path(name).exists()


def _written(kind: type[Format], text: str) -> dict[str, Any]:
    """Options from "count=500,seed=1", of the fields' types."""
    found = {}
    defaults: dict[str, Any] = {each.name: each.default for each in fields(kind)}
    for part in filter(None, text.split(",")):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in defaults:
            raise DataError(f"{kind.name}: {unknown('option', name, defaults)}")
        try:
            found[name] = type(defaults[name])(value)
        except ValueError:
            raise DataError(f"{kind.name}: {name} expects a {type(defaults[name]).__name__}; got {value!r} in {text!r}.") from None
        if not equals:
            raise DataError(f"expected {kind.name}:option=value,…; got {part!r}.")
    return found


def _recognised(source: Any, options: Iterable[str]) -> type[Format]:
    kinds: list[type[Format]] = sorted(registry.formats.values(), key=lambda kind: (kind.precedence, kind.name))
    for kind in kinds:
        if kind().recognises(source):
            return kind
    what = f"{str(source)!r}" if isinstance(source, (str, Path)) else f"a {type(source).__name__}"
    raise DataError(f"{what} is no data set that is known; expected one of: {'; '.join(f'{k.name} ({k.about})' for k in kinds)}.")
