"""Groups of options: keywords of functions, flags of commands."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from lucidcam.utils.flags import takes


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large.

    Attributes:
        width: in pixels.
        height: in pixels;
            0: as wide.
    """

    width: int = 4
    height: int = 0


@takes(size=Size)
def area(name: str, *, size: Size, unit: str = "px") -> str:
    """Say it.

    Args:
        name: of it.
        size: keywords, the fields of `Size`.
        unit: of length.
    """
    return f"{name} {size.width}x{size.height} {unit}"


def test_fields_are_keywords_with_their_defaults() -> None:
    assert area("a") == "a 4x0 px"
    assert area("a", height=3, unit="m") == "a 4x3 m"
    assert str(inspect.signature(area)) == "(name: 'str', *, width: 'int' = 4, height: 'int' = 0, unit: 'str' = 'px') -> 'str'"


def test_an_unknown_keyword_is_refused_as_by_any_function() -> None:
    with pytest.raises(TypeError, match=r"area\(\) got an unexpected keyword argument 'depth'"):
        area("a", depth=1)


def test_help_lists_the_fields_in_the_place_of_their_group() -> None:
    assert (inspect.getdoc(area) or "").splitlines()[2:] == [
        "Args:",
        "    name: of it.",
        "    width: in pixels.",
        "    height: in pixels;",
        "        0: as wide.",
        "    unit: of length.",
    ]
