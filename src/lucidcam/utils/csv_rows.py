"""CSV of names that strangers chose: no cell is taken for a formula by a spreadsheet program, and every name can be read back.

Texts that begin with `=`, `+`, `-`, `@`, a tab or an end of line (also after apostrophes, or in full width) get an apostrophe before them.
Numbers stay as they are. See OWASP, "CSV Injection".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_ESCAPED = re.compile(rf"'{_FORMULA.pattern}")
_QUOTED = re.compile(r"[\",;\t\r\n]")


def write_rows(file: IO[str], rows: Iterable[Iterable[Any]], end: str = "\r\n") -> None:
    """Write rows of cells, the header among them.

    Args:
        file: open for text, with `newline=""`.
        rows: of texts, numbers, and None for an empty cell.
        end: of a line.
    """
    for row in rows:
        file.write(",".join(map(_cell, row)) + end)


def escape_cell(text: str) -> str:
    """A text that no spreadsheet program takes for a formula.

    >>> escape_cell("=1+1"), escape_cell("'=1+1"), escape_cell("cat"), escape_cell("'cat'")
    ("'=1+1", "''=1+1", 'cat', "'cat'")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def restore_cell(text: str) -> str:
    """The text that `escape_cell` was given.

    >>> restore_cell("'=1+1"), restore_cell("''=1+1"), restore_cell("'cat'")
    ('=1+1', "'=1+1", "'cat'")
    """
    return text[1:] if _ESCAPED.match(text) else text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = escape_cell(value)
    # A semicolon or tab separates cells for some programs; in quotes it does not.
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
