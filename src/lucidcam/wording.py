"""Words in sentences: lists, counts, figures, labels without their synonyms."""

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


def figure(value: float, digits: int = 2, signed: bool = False) -> str:
    """A number with as many digits after the point; what rounds to zero has no minus.

    Args:
        value: the number.
        digits: after the point.
        signed: write a plus before what is not negative.

    >>> figure(-0.004), figure(-0.25), figure(-0.004, signed=True), figure(0.25, 1, signed=True)
    ('0.00', '-0.25', '+0.00', '+0.2')
    """
    text = f"{value:{'+' * signed}.{digits}f}"
    if text.startswith("-") and not text.strip("-0."):
        return "+" * signed + text[1:]
    return text


def short(label: str) -> str:
    """A label without its synonyms.

    >>> short("tiger cat, Felis tigrina")
    'tiger cat'
    """
    return label.split(",")[0]
