"""Which of the network's classes a data set means by its words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidcam.data._files import lines_of, read_json, start_of
from lucidcam.errors import OptionError, TargetError
from lucidcam.reprs import OneLineRepr
from lucidcam.samples import ClassId
from lucidcam.types import Model, fold, without_zeros

Given = Mapping[str, int | str] | str | Path | Sequence[str] | None
"""Class by class: `{"kangaroo": 104}`, "kangaroo=wallaby", a file, or a list of such texts and files.

A file is a JSON object, or lines `name=class`.
"""


@dataclass(eq=False)
class ClassMap(OneLineRepr):
    """From the data set's words to the network's class ids; what was met is kept, for reports.

    A word is looked up in this order: what the user gave; a number, as the label of that very name, else as class id; the network's synset
    ids; the network's labels, whole or one of their synonyms: "fork" is not taken for a forklift. What a data set marks as an id
    (`lucidcam.samples.ClassId`) is never compared with labels.

    Attributes:
        model: the network.
        given: class ids by folded word.
        matched: the words met that were found, with their ids, in order.
        reasons: the words met that were not, and why.
    """

    model: Model
    given: dict[str, int] = field(default_factory=dict)
    matched: dict[str, int] = field(default_factory=dict, init=False)
    reasons: dict[str, str] = field(default_factory=dict, init=False)
    _ids: dict[tuple[str, bool], int | None] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, model: Model, given: Given = None) -> ClassMap:
        """Make a class map.

        Args:
            model: the network.
            given: the user's own, see `Given`. A class is an id, a synset id or a label; the text "10" is the class called "10", where
                there is one, the int 10 always an id.

        Raises:
            OptionError: a class that the network does not have, or a text that is not `name=class`.
            DataError: the file cannot be read.
        """
        found: dict[str, int] = {}
        for name, wanted in _pairs(given):
            if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
                raise OptionError(f"classes: expected a class id or label for {name!r}; got {wanted!r}.")
            try:
                found[fold(name)] = model.find_label(wanted)
            except TargetError as error:
                raise OptionError(f"classes: {name!r}: {error}") from error
        return cls(model, found)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The words met that could not be matched, in order."""
        return tuple(self.reasons)

    def resolve(self, name: str) -> int | None:
        """Return the class id that is meant by a word of the data set; None, and a reason, where there is none."""
        is_id = isinstance(name, ClassId)
        if (name, is_id) in self._ids:
            return self._ids[name, is_id]
        self._ids[name, is_id] = self._find(name)
        return self._ids[name, is_id]

    def _find(self, name: str) -> int | None:
        try:
            wanted = int(name) if isinstance(name, ClassId) else name
            given = next((self.given[key] for key in (fold(name), without_zeros(fold(name))) if key in self.given), None)
            self.matched[name] = self.model.find_label(wanted, exact=True) if given is None else given
        except TargetError as error:
            self.reasons[name] = str(error)
            return None
        return self.matched[name]


def _pairs(given: Given) -> list[tuple[str, Any]]:
    """Commas separate pairs, and also a label's synonyms: only one that a further `=` follows separates pairs."""
    if given is None:
        return []
    if not isinstance(given, (Mapping, Path, str, list, tuple)):
        raise OptionError(f"classes: expected texts like 'kangaroo=104', a mapping or a file; got {given!r}.")
    if isinstance(given, Mapping):
        return [(str(name), wanted) for name, wanted in given.items()]
    if isinstance(given, Path) or (isinstance(given, str) and "=" not in given):
        return _from_file(Path(given).expanduser())
    if isinstance(given, str):
        return [_pair(text, "classes") for text in re.split(r",(?=[^,=]*=)", given)]
    return [pair for each in given for pair in _pairs(each)]


def _pair(text: str, where: str) -> tuple[str, str]:
    name, equals, wanted = text.rpartition("=")
    if not equals or not name.strip() or not wanted.strip():
        raise OptionError(f"{where}: expected 'name=class', for instance 'kangaroo=104'; got {text!r}.")
    return name.strip(), wanted.strip()


def _from_file(path: Path) -> list[tuple[str, Any]]:
    if not path.is_file():
        raise OptionError(f"classes: expected 'name=class', or a file of such lines; got {str(path)!r}, which does not exist.")
    if start_of(path).lstrip().startswith("{"):
        return list(read_json(path).items())
    return [_pair(line, f"{path.name}, line {number}") for number, line in lines_of(path) if not line.startswith("#")]
