"""The command line, run in the test's own process."""

from __future__ import annotations

import sys

import pytest

from lucidcam.cli import main


def run(*words: object, code: int = 0) -> None:
    """Run `lucidcam`; it must end with `code`."""
    old = sys.argv
    sys.argv = ["lucidcam", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
    finally:
        sys.argv = old
