"""The house: which packages there are, and that imports go round in no circle, also those within functions, which import-linter's layers
see only between packages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lucidcam

ROOT = Path(lucidcam.__file__).parent
CHECKOUT = Path(__file__).parent.parent

LOOSE = {"__init__", "__main__", "attribution", "errors", "registry", "reprs", "samples", "types"}
"""Modules that stand in no package."""

KNOWN_CIRCLES = {
    frozenset({"targets._as", "targets._base", "targets.classes", "targets.function"}),
    frozenset({"benchmark.result", "benchmark.show"}),
    frozenset({"dissection.channels", "dissection.sheets"}),
    frozenset(f"dissection.{name}" for name in ("activations", "channel_names", "concept_explanation", "naming", "telling")),
    frozenset({"evaluation.plots", "evaluation.report", "evaluation.tables"}),
    frozenset({"study.analysis", "study.show"}),
}
"""Of modules that still import each other: results that draw themselves, and targets made of values. None may join them."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of lucidcam that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "lucidcam":
            package = node.module.removeprefix("lucidcam").removeprefix(".")
            for alias in node.names:
                inner = f"{package}.{alias.name}".removeprefix(".")
                yield inner if inner in modules else package
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("lucidcam.") for alias in node.names if alias.name.startswith("lucidcam."))


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    modules = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
    return {name: set(imports_of(path, modules)) & set(modules) - {name, ""} for name, path in modules.items()}


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of nodes each of which reaches all others of its set."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for node in graph.get(waiting.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return seen

    reach = {node: reached(node) for node in graph}
    return {frozenset(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset({"b", "c"})}


def test_no_modules_import_each_other_but_those_that_are_known(graph: dict[str, set[str]]) -> None:
    assert circles(graph) == KNOWN_CIRCLES


def test_no_packages_import_each_other(graph: dict[str, set[str]]) -> None:
    packages: dict[str, set[str]] = {}
    for name, imported in graph.items():
        if name:
            package = name.partition(".")[0]
            packages.setdefault(package, set()).update({other.partition(".")[0] for other in imported} - {package})
    try:
        TopologicalSorter(packages).prepare()
    except CycleError as error:
        pytest.fail(f"packages import each other: {' -> '.join(error.args[1])}")


def test_modules_stand_in_packages() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == LOOSE


def test_the_contributing_page_draws_every_package() -> None:
    page = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = page.split("src/lucidcam/\n", 1)[1].split("```", 1)[0]
    drawn = set(re.findall(r"\b([a-z]+)/", drawing)) - {"tests", "examples", "docs", "bench"}
    assert drawn == {path.parent.name for path in ROOT.glob("*/__init__.py")}
