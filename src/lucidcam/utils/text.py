"""Words in sentences: lists, counts, figures, labels without their synonyms, names that can be printed."""

from __future__ import annotations

import unicodedata
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


def printable(text: str) -> str:
    r"""Return a text whose characters can all be printed, on one line and in UTF-8: others become escapes, as in Python.

    Files may be called anything; a name goes into tables, JSON, CSV and terminals.

    >>> printable("two\nlines"), printable("café")
    ('two\\nlines', 'café')
    """
    if not isinstance(text, str) or text.isprintable():
        return text
    return "".join(each.encode("unicode_escape").decode("ascii") if _is_escaped(each) else each for each in text)


def printable_lines(text: str) -> str:
    r"""Return a text of several lines whose characters can all be printed.

    >>> printable_lines("one\n\x1b[31mtwo")
    'one\n\\x1b[31mtwo'
    """
    return "\n".join(map(printable, text.split("\n")))


def _is_escaped(character: str) -> bool:
    """Control characters, what ends lines, halves of characters, and what turns the direction of writing; no spaces or joiners."""
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
