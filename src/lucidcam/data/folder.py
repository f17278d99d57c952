"""Image folders: the sub-folder is the class (`folder`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import IMAGE_FOLDERS, SPLITS, folder_in, folders_in, images_at, images_in, path_of
from lucidcam.errors import DataError
from lucidcam.io import images, remote
from lucidcam.io.remote import is_url
from lucidcam.samples import Problem, Sample


@register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(Format):
    """A folder of images; the name of the sub-folder they lie in, at any depth, is their class (ImageNet's layout, names or synset ids).

    A path, or an address that fsspec knows ("s3://bucket/photos"); images there are read when they are decoded.

    Images directly in the folder have no label. A single sub-folder called "images" is no class.

    Attributes:
        split: a sub-folder to take instead: "train", "val", …; "": the folder itself.
    """

    about = "a folder of images, one sub-folder per class"
    precedence = 90

    split: str = ""

    def recognises(self, source: Any) -> bool:
        """Any folder; any address that no other format has taken."""
        return is_url(source) or (isinstance(source, Path) and source.is_dir())

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        found = _at(source, self.split) if is_url(source) else _in(path_of(source, "folder", "a folder of images"), self.split)
        files = found.files
        if not files:
            raise DataError(f"no images are in {found.root!r}; looked for {', '.join(sorted(images.SUFFIXES))} in it and its sub-folders.")
        shell = PurePath()
        while _is_shell(files):
            shell /= files[0].parts[0]
            files = [path.relative_to(path.parts[0]) for path in files]
        used = {path.parts[0] for path in files if len(path.parts) > 1}
        if used and {each.casefold() for each in used} <= SPLITS and all(len(path.parts) > 2 for path in files):
            raise DataError(f"folder: {found.root!r} holds the parts {', '.join(sorted(used))}; give one of them with split=….")

        def stream() -> Iterator[Sample | Problem]:
            for path in files:
                yield Sample(found.image(shell / path), path.as_posix(), path.parts[:1] if len(path.parts) > 1 else ())

        classes = found.classes(shell) or tuple(sorted(used))
        return Dataset(found.name, "folder", stream, len(files), classes or None)


@dataclass(frozen=True)
class _Found:
    """What is in a folder.

    Attributes:
        name: what the data set is called.
        root: the folder, for errors.
        files: its images' paths in it, in natural order.
        image: from such a path to what reads it.
        classes: from a folder in it to that one's sub-folders, where empty ones are known too.
    """

    name: str
    root: str
    files: list[PurePath]
    image: Callable[[PurePath], Any]
    classes: Callable[[PurePath], tuple[str, ...]]


def _in(given: Path, split: str) -> _Found:
    root = given
    if split:
        found = folder_in(given, split)
        if found is None:
            raise DataError(f"folder: {str(given)!r} has no sub-folder {split!r}; give split='' or one of its sub-folders.")
        root = found
    files: list[PurePath] = [path.relative_to(root) for path in images_in(root)] if root.is_dir() else []
    return _Found(given.resolve().name, str(root), files, partial(Path, root), lambda inner: _names(root / inner))


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(each.name for each in folders_in(folder))


def _at(given: str, split: str) -> _Found:
    root = remote.child(given, split) if split else given
    images_there = images_at(root)
    name = PurePosixPath(remote.filesystem(given)[1]).name or given
    return _Found(name, root, list(images_there), images_there.__getitem__, lambda _: ())


def _is_shell(files: list[PurePath]) -> bool:
    """Whether all that is in a folder is one sub-folder that is called "images" or the like."""
    first = files[0].parts
    inner = {name.casefold() for name in IMAGE_FOLDERS}
    return len(first) > 1 and first[0].casefold() in inner and all(path.parts[0] == first[0] for path in files)
