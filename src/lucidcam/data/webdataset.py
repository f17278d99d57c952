"""Tar files of samples as WebDataset lays them out (`webdataset`)."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import files_with, whole_number
from lucidcam.data._prefetch import in_order
from lucidcam.data._tars import Member, Tar, members_of, opened, what_is_wrong
from lucidcam.errors import DataError, OptionError, first_line
from lucidcam.io import images, remote
from lucidcam.io.remote import Stored, is_url
from lucidcam.io.storage import parsed_json
from lucidcam.samples import ClassId, Problem, Sample

THREADS = 8
"""Tars of a storage that are listed at a time: the requests' delays overlap."""

LARGEST_LABEL = 2**20
"""Longer members, in bytes, are no labels."""

FIELDS = ("label", "labels", "class", "category")
"""Keys of a JSON member that may hold the class."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


@register("webdataset")
@dataclass(frozen=True, kw_only=True)
class WebDataset(Format):
    """Tar files. Members that share their path up to the first dot of the file's name make a sample: `0001.jpg` and `0001.cls`.

    The source is a tar, a folder of tars, a pattern (`shards-{000..127}.tar`, `shards-*.tar`), or a list of those; paths or addresses
    that fsspec knows. Listing reads headers and labels, an image's bytes are read when it is decoded, perhaps in another process. Samples
    are called `shards-000.tar/0001`.

    Hidden members, those between double underscores (`__meta__`) and those without a suffix are no samples. A tar that is cut off or
    damaged is a problem with its name; the samples that are surely whole stay, and the next tar follows. Compressed tars are refused: to
    reach one of their images all bytes before it would have to be read again.

    Attributes:
        image: the suffix of the image's member, "left.jpg" for instance; "": the first that is an image's.
        label: the suffix of the member that holds the class: "cls" (a class id, or text), "txt" (text), "json", or "json:species" for
            another key of it than `label`, `labels`, `class` or `category`. "": `cls`, else `json`, where they are.
    """

    about = "tar files with members 0001.jpg, 0001.cls, … (shards-{000..127}.tar)"
    precedence = 5

    image: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if self.label and self.label.partition(":")[0].lstrip(".").lower().rpartition(".")[2] not in ("cls", "txt", "json"):
            raise OptionError(f"webdataset: expected label 'cls', 'txt', 'json' or 'json:key'; got {self.label!r}.")

    def recognises(self, source: Any) -> bool:
        """A tar's name, a pattern or list of such names, or a folder with tars and neither images nor sub-folders."""
        if isinstance(source, (list, tuple)):
            return bool(source) and all(isinstance(each, (str, os.PathLike)) and _is_tar(os.fspath(each)) for each in source)
        if isinstance(source, Path):
            return _only_tars(source) if source.is_dir() else _is_tar(str(source)) and source.is_file()
        if not isinstance(source, str):
            return False
        return _is_tar(source) or (is_url(source) and not _suffix(source) and _only_tars_at(source))

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        given = list(source) if isinstance(source, (list, tuple)) else [source]
        if not given or not all(isinstance(each, (str, os.PathLike)) for each in given):
            raise DataError(f"webdataset: expected tar files, or a folder, pattern or list of them; got {_shown(source)}.")
        files = [file for each in given for file in _files(os.fspath(each))]
        tars = [Tar(file, name) for file, name in zip(files, _names([file.file for file in files]))]
        threads = THREADS if any(is_url(file.file) for file in files) else 1
        jobs = [partial(self._samples, tar) for tar in tars]
        title = PurePosixPath(remote.without_query(os.fspath(given[0]))).name if len(given) == 1 else ""
        return Dataset(title or "webdataset", "webdataset", lambda: in_order(jobs, threads))

    def _samples(self, tar: Tar) -> Iterator[Sample | Problem]:
        """What is in a tar: samples in its order; the last may be what went wrong."""
        seen: set[str] = set()
        try:
            with opened(tar.file) as (file, size, stamp):
                for key, group in groupby(members_of(file, size), lambda each: each.key):
                    members = list(group)
                    if key in seen:
                        told = (
                            "its members are not together, or the key comes twice; only the first ones count: write the tar anew, sorted."
                        )
                        yield Problem(f"{tar.name}/{key}", f"'{tar.name}/{key}': {told}")
                        continue
                    seen.add(key)
                    yield self._sample(tar, key, _first_of_each(members), file, stamp)
                    if twice := [suffix for suffix, count in Counter(each.suffix for each in members).items() if count > 1]:
                        yield Problem(f"{tar.name}/{key}", f"'{tar.name}/{key}' has .{twice[0]} more than once; only the first counts.")
        except Exception as error:  # tarfile, the file system and each storage's library have errors of their own
            yield Problem(tar.name, what_is_wrong(tar, error, len(seen)))

    def _sample(self, tar: Tar, key: str, members: dict[str, Member], file: IO[bytes], stamp: str) -> Sample | Problem:
        name = f"{tar.name}/{key}"
        image = _image_of(members, self.image.lstrip(".").lower())
        if image is None:
            wanted = f".{self.image.lstrip('.')}" if self.image else "image"
            return Problem(name, f"{name!r} has no {wanted}, only {', '.join(f'.{each}' for each in members)}.")
        try:
            labels = tuple(self._labels(members, file))
        except (ValueError, DataError) as error:
            return Problem(name, f"{name!r}: {first_line(error).rstrip('.')}.")
        return Sample(Stored(tar.file.file, image.offset, image.size, image.name, stamp), name, labels)

    def _labels(self, members: dict[str, Member], file: IO[bytes]) -> Iterator[str]:
        suffix, _, field = self.label.partition(":")
        suffix = suffix.lstrip(".").lower() or next((each for each in ("cls", "json") if each in members), "")
        if suffix not in members:
            return
        member = members[suffix]
        if member.size > LARGEST_LABEL:
            raise DataError(f"{member.name} has {member.size} bytes; expected a label of at most {LARGEST_LABEL}")
        file.seek(member.offset)
        text = file.read(member.size).decode("utf-8-sig").strip()
        if not suffix.endswith("json"):
            if text:
                number = whole_number(text) if suffix.endswith("cls") else None
                yield text if number is None else ClassId(number)
            return
        try:
            content = parsed_json(text)
        except ValueError as error:
            raise DataError(f"{member.name} is no JSON ({error})") from None
        found = content
        if isinstance(content, dict):
            found = content.get(field or next((each for each in FIELDS if each in content), ""))
        words: dict[str, None] = {}
        for each in found if isinstance(found, list) else [found]:
            if isinstance(each, str):
                words[each] = None
            elif (number := whole_number(each)) is not None:
                words[ClassId(number)] = None
            elif each is not None:
                raise DataError(f"{member.name}: expected a class as text or number; got {str(each)[:40]}")
        yield from words


def _first_of_each(members: list[Member]) -> dict[str, Member]:
    """The members of a sample by their suffixes, in order; the first of several that share one."""
    first: dict[str, Member] = {}
    for member in members:
        first.setdefault(member.suffix, member)
    return first


def _image_of(members: dict[str, Member], wanted: str) -> Member | None:
    """The member asked for; else the first whose whole suffix is an image's, else whose last one is: "jpg" before "mask.png"."""
    if wanted:
        return members.get(wanted)
    fits = (f".{suffix}" in images.SUFFIXES for suffix in members)
    last = (f".{suffix.rpartition('.')[2]}" in images.SUFFIXES for suffix in members)
    return next((member for each in (fits, last) for member, fit in zip(members.values(), each) if fit), None)


def _files(text: str) -> list[Stored]:
    """The tars that one word means, in natural order.

    Raises:
        DataError: there are none, or they are compressed.
    """
    found = [file for each in braces(text) for file in _matching(each)]
    if not any(is_url(file.file) or Path(file.file).exists() for file in found):
        raise DataError(f"webdataset: no tar file is at {text!r}; expected a tar, a folder of tars, or a pattern: shards-{{000..127}}.tar.")
    if any(_is_compressed(file.file) for file in found):
        raise DataError(f"webdataset: {text!r} is compressed; unpack it (to .tar): parts of a compressed file cannot be read alone.")
    return found


def _matching(text: str) -> list[Stored]:
    if is_url(text):
        if glob.has_magic(remote.without_query(text)):
            found = remote.matching(text)
        elif _is_tar(text):
            return [Stored(text)]
        else:
            listed = remote.directly_in(text)
            found = [file for file in listed if _suffix(file.file) == ".tar"] or [file for file in listed if _is_compressed(file.file)]
        return sorted(found, key=lambda file: images.natural(PurePosixPath(file.file)))
    path = Path(text).expanduser()
    if path.is_dir():
        tars = files_with(path, ".tar") or files_with(path, *_COMPRESSED)
    elif glob.has_magic(text) and not path.exists():
        tars = [Path(each) for each in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob refuses absolute patterns
    else:
        tars = [path]  # one of many that is missing is a problem of its own
    return [Stored(str(each.absolute())) for each in sorted(tars, key=images.natural)]  # other processes may work in another folder


def braces(pattern: str) -> list[str]:
    """Expand braces as shells do.

    >>> braces("a-{08..11}.tar"), braces("{train,val}-{0..1}.tar")
    (['a-08.tar', 'a-09.tar', 'a-10.tar', 'a-11.tar'], ['train-0.tar', 'train-1.tar', 'val-0.tar', 'val-1.tar'])
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        words = listed.split(",")
    else:
        padded = any(number.startswith("0") and number != "0" for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        words = [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
    return list(dict.fromkeys(found for word in words for found in braces(pattern[: match.start()] + word + pattern[match.end() :])))


def _names(files: list[str]) -> list[str]:
    """What tars are called: their names; where two share one, their paths below the folder that all are in.

    Raises:
        DataError: one is given twice.
    """
    paths = [remote.without_query(file).split("/") for file in files]
    names = [path[-1] for path in paths]
    if len(set(names)) < len(names):
        shared = next(i for i, parts in enumerate(zip(*paths)) if len(set(parts)) > 1 or i == min(map(len, paths)) - 1)
        names = ["/".join(path[shared:]) for path in paths]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"webdataset: the tar {name!r} is given {count} times; give each once.")
    return names


def _suffix(text: str) -> str:
    return PurePosixPath(remote.without_query(text)).suffix.lower()


def _is_tar(text: str) -> bool:
    return _suffix(text) == ".tar" or _is_compressed(text)


def _is_compressed(text: str) -> bool:
    return remote.without_query(text).lower().endswith(_COMPRESSED)


def _only_tars(folder: Path) -> bool:
    """Stops at the first image or sub-folder: a flat folder may hold a million images."""
    try:
        with os.scandir(folder) as entries:
            return _tars_alone("." if each.is_dir() and not each.name.startswith(".") else each.name for each in entries)
    except OSError:
        return False


def _only_tars_at(url: str) -> bool:
    try:
        return _tars_alone(each.file for each in remote.directly_in(url))
    except DataError:
        return False  # the format that is asked last tells what is wrong


def _tars_alone(names: Iterable[str]) -> bool:
    found = False
    for name in names:
        if name == "." or _suffix(name) in images.SUFFIXES:
            return False
        found = found or _is_tar(name)
    return found


def _shown(source: Any) -> str:
    return "an empty list" if isinstance(source, (list, tuple)) and not source else f"a {type(source).__name__}"
