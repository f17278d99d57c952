"""Words in sentences: lists, counts, labels without their synonyms."""

from __future__ import annotations

from collections.abc import Sequence


def listed(words: Sequence[str]) -> str:
    """Words with commas, and "and" before the last.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "image"), counted(3, "class", "classes")
    ('1 image', '3 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", "\u202f")


def short(label: str) -> str:
    """A label without its synonyms.

    >>> short("tiger cat, Felis tigrina")
    'tiger cat'
    """
    return label.split(",")[0]
