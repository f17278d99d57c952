"""The data set that words of the command line name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidcam.errors import DataError, OptionError
from lucidcam.options.groups import SourceOptions

if TYPE_CHECKING:
    from lucidcam.data import Dataset


def open_words(words: Sequence[str], source: SourceOptions) -> Dataset:
    """The data set that one word names, or the images that several do."""
    from lucidcam.data import generated, open_data
    from lucidcam.io.images import SUFFIXES, find
    from lucidcam.io.remote import is_url

    options = source.reader_options()
    there = len(words) == 1 and Path(words[0]).expanduser().exists() and Path(words[0]).suffix.lower() not in SUFFIXES
    if there or (len(words) == 1 and generated(words[0])):
        return open_data(words[0], source.data_format, **options)
    if not words:
        raise OptionError("expected a data set: a folder, an annotation file, tar files, or images; paths or addresses (s3://…).")
    sources: list[Any] = []
    for word in words:
        if is_url(word) or word.lower().endswith(".tar"):
            sources.append(word)
            continue
        found, problems = find([word])
        if problems:
            raise DataError(problems[0])
        sources += found
    one = len(words) == len(sources) == 1 and isinstance(sources[0], str)
    return open_data(sources[0] if one else list(dict.fromkeys(sources)), source.data_format, **options)
