"""What objects say of themselves: every public object in one line under 200 characters, whatever it holds."""

from __future__ import annotations

import collections.abc
import contextlib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from lucidcam import errors, registry
from lucidcam.engine.run import open_run
from lucidcam.evaluation import Report, Row
from lucidcam.imaging.explanation_list import Explanations
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.imaging.provenance import Weights
from lucidcam.nn import Memory
from lucidcam.reprs import LONGEST, OneLineRepr, brief, one_line
from lucidcam.targets import Spoken, Target
from nets import FunctionalGAP, build

MODULES = (
    "auditing", "benchmark", "data", "dissection", "evaluation", "imaging.explanation", "imaging.explanation_list", "imaging.preprocess",
    "imaging.provenance", "io.video", "localization", "methods", "metrics", "nn", "pipeline", "samples", "study", "targets", "tasks",
    "train", "types",
)  # fmt: skip
"""Modules that users import from, beside `lucidcam` itself."""

LONG = "a long\nname, with a line's end; " * 20


def classes_of(hint: Any) -> Iterator[type]:
    """The classes of lucidcam in a type hint."""
    if inspect.isclass(hint) and hint.__module__.startswith("lucidcam"):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_of(part)


def hints_of(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing)
    except (NameError, TypeError):  # imported for type checkers alone
        return {}


def returned(function: Any) -> Iterator[type]:
    for each in (function, *typing.get_overloads(function)):
        if "return" in getattr(each, "__annotations__", {}):
            module = importlib.import_module(each.__module__)
            with contextlib.suppress(NameError):
                yield from classes_of(eval(str(each.__annotations__["return"]), dict(vars(module))))


def public() -> list[type]:
    """Every class that users meet: named by a module, returned by a function, or held by one of those."""
    found: dict[type, None] = {}
    waiting: list[type] = []
    for module in (lucidcam, *(importlib.import_module(f"lucidcam.{name}") for name in MODULES)):
        own = (name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__)
        here = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
        for thing in (getattr(module, name) for name in here):
            if inspect.isclass(thing) and thing.__module__.startswith("lucidcam"):
                waiting.append(thing)
            elif inspect.isfunction(thing) and thing.__module__.startswith("lucidcam"):
                waiting += returned(thing)
    for each in (registry.methods, registry.metrics, registry.formats):
        waiting += each.values()
    while waiting:
        kind = waiting.pop()
        if kind in found or kind.__name__.startswith("_"):
            continue
        found[kind] = None
        if is_dataclass(kind):
            hints = hints_of(kind)
            waiting += [each for one in fields(kind) if one.repr and one.name in hints for each in classes_of(hints[one.name])]
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def filled(hint: Any, depth: int = 0) -> Any:
    """A value of a type that is as long as it can be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return filled(next(each for each in args if each is not type(None)), depth)
    if origin is typing.Literal:
        return args[0]
    if origin in (tuple, list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        kind = list if origin is list else tuple
        if origin is tuple and args[-1:] != (...,):
            return tuple(filled(each, depth + 1) for each in args)
        return kind(filled(args[0] if args else str, depth + 1) for _ in range(30))
    if origin in (dict, collections.abc.Mapping):
        return {f"{LONG}{i}": filled(args[1], depth + 1) for i in range(30)}
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return lambda: None
    if hint in (str, Any):
        return LONG
    if hint in (int, float, bool):
        return {int: 10**15, float: 1e15 / 7, bool: True}[hint]
    if inspect.isclass(hint):
        if issubclass(hint, torch.Tensor):
            return torch.rand(5, 5)
        if issubclass(hint, nn.Module):
            return nn.Sequential(*[nn.Linear(2, 2) for _ in range(20)])
        if issubclass(hint, Image.Image):
            return Image.new("RGB", (3, 3))
        if issubclass(hint, Path):
            return Path(LONG)
        if is_dataclass(hint) and not inspect.isabstract(hint) and depth < 4:
            return of_fields(hint, depth)
    return np.random.default_rng(0).random((20, 3)) if "ndarray" in str(hint) else LONG


def of_fields(kind: type, depth: int = 0) -> Any:
    """An object with every field filled; what it checks when it is made is passed over."""
    made = object.__new__(kind)
    hints = hints_of(kind)
    for each in fields(kind):
        object.__setattr__(made, each.name, filled(hints.get(each.name, Any), depth + 1))
    return made


def explanations() -> Explanations:
    model = lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(20, 28)), [f"{LONG}{i}" for i in range(5)], name=LONG)
    prepared = model.prepare([Image.new("RGB", (30, 20), (i, 0, 0)) for i in range(3)])
    for each in prepared:
        object.__setattr__(each, "name", LONG)
    return lucidcam.explain(model, prepared, target="all")


def a_run() -> lucidcam.Run:
    targets = lucidcam.Several([lucidcam.Contrast(i, 4) for i in range(4)] * 20)
    with open_run(build(FunctionalGAP), torch.rand(3, 3, 20, 28).double(), targets, ["conv1", "conv2"]) as run:
        return run


def a_report() -> Report:
    rows = tuple(Row(f"{LONG}{i}", f"{LONG}{i}", 0.0, 0.0, 0.0, 1) for i in range(20))
    return Report(rows, {f"{LONG}{i}": None for i in range(20)}, (), {})  # type: ignore[misc]


def some_results(folder: Path) -> lucidcam.Results:
    for i in range(2):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(folder / f"{i}.png")
    model = lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(20, 20)), list("abcde"))
    return lucidcam.run(model, folder, out=folder / ("deep" * 40) / ("deep" * 40), progress=False)


MADE: dict[type, Callable[[Path], Any]] = {
    lucidcam.Explanation: lambda folder: explanations()[0],
    Explanations: lambda folder: explanations(),
    lucidcam.Model: lambda folder: lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(20, 28)), layer="conv2", name=LONG),
    lucidcam.Run: lambda folder: a_run(),
    Report: lambda folder: a_report(),
    lucidcam.Results: some_results,
    lucidcam.LucidcamError: lambda folder: lucidcam.LucidcamError(LONG),
    Weights: lambda folder: Weights.of(build(FunctionalGAP)),
    Memory: lambda folder: Memory(3, 4, (2, 2), 5),
}
"""Those that are more than their fields."""


def is_made(kind: type) -> bool:
    """Whether users have objects of this very class: no abstract one, protocol, module of torch, or kind of type."""
    if inspect.isabstract(kind) or getattr(kind, "_is_protocol", False) or issubclass(kind, (type, tuple, str, nn.Module)):
        return kind in MADE
    if issubclass(kind, BaseException):
        return issubclass(kind, lucidcam.LucidcamError)
    return kind not in (lucidcam.Method, Target, Spoken)


@pytest.mark.parametrize("kind", [each for each in public() if is_made(each)], ids=lambda kind: kind.__qualname__)
def test_every_public_object_says_what_it_is_in_one_line(kind: type, tmp_path: Path) -> None:
    made = MADE.get(kind)
    if made is None and issubclass(kind, lucidcam.LucidcamError):
        made = lambda folder: kind(LONG)  # noqa: E731
    if made is None:
        assert is_dataclass(kind), f"{kind.__qualname__} is public: say here how one is made"
    line = repr(of_fields(kind) if made is None else made(tmp_path))
    assert line.startswith(kind.__qualname__)
    assert len(line) < 200
    assert line.isprintable()


def test_the_walk_meets_what_the_library_gives() -> None:
    names = {each.__qualname__ for each in public()}
    assert {
        "Model",
        "Explanation",
        "Explanations",
        "Results",
        "Run",
        "Report",
        "Audit",
        "Finding",
        "Findings",
        "Contrast",
        "Several",
    } <= names
    assert {"Frame", "Prepared", "LayerInfo", "Labels", "Discovery", "Names", "Costs", "Sample", "GradCAM", "RISE", "Trained"} <= names
    assert len(names) > 150


def test_subclasses_of_users_have_it_too() -> None:
    @dataclass(frozen=True)
    class Mine(Target):
        """The user's own."""

        ids: Any

        def bind(self, outputs: Any, batch: int) -> Any:
            raise NotImplementedError

    assert repr(Mine(torch.rand(40, 40))).endswith("Mine(ids=Tensor float32 [40, 40])")
    assert len(repr(Mine("x" * 1000))) < 200


@pytest.mark.parametrize(
    ("thing", "line"),
    [
        (lucidcam.Contrast("tabby", 4), "Contrast(target='tabby', against=4)"),
        (lucidcam.Classes(torch.tensor([1, 2])), "Classes(ids=[1, 2])"),
        (lucidcam.Classes(torch.zeros(100, 2).long()), "Classes(ids=Tensor int64 [100, 2])"),
        (lucidcam.Several([1, 2]), "Several(targets=(1, 2))"),
        (lucidcam.All(), "All()"),
        (lucidcam.methods()["smoothgradcam++"](), "SmoothGradCAMPlusPlus(samples=8, noise=0.15)"),
        (Preprocess(size=(9, 9)), None),
        (errors.OptionError("no"), "OptionError('no')"),
        (Explanations(), "Explanations(0 maps)"),
        (Explanations([1]), "Explanations([1])"),
    ],
    ids=str,
)
def test_short_ones_are_whole(thing: Any, line: str | None) -> None:
    assert line is None or repr(thing) == line
    assert "…" not in repr(thing)


@pytest.mark.parametrize("length", [*range(1, 400, 7)])
def test_lines_are_cut_at_their_end_alone(length: int) -> None:
    line = one_line("Thing", [("name", "x" * length), ("", "y" * length)])
    assert len(line) <= LONGEST
    assert line.endswith(")")
    assert brief("x" * length, 10) == (repr("x" * length) if length <= 8 else "'xxxxxxx…'")


def test_an_object_that_cannot_be_written_is_no_error() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("broken")

    assert brief(Broken()) == "Broken(…)"


def test_it_stands_for_dataclasses_and_leaves_others_a_name() -> None:
    class Plain(OneLineRepr):
        pass

    assert repr(Plain()).endswith("Plain()")
