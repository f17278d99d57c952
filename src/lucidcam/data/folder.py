"""Image folders: the sub-folder is the class (`folder`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidcam import images
from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import IMAGE_FOLDERS, SPLITS, folder_in, folders_in, images_in, name_in, path_of
from lucidcam.errors import DataError
from lucidcam.samples import Problem, Sample


@register("folder")
@dataclass(frozen=True, kw_only=True)
class Folder(Format):
    """A folder of images; the name of the sub-folder they lie in, at any depth, is their class (ImageNet's layout, names or synset ids).

    Images directly in the folder have no label. A single sub-folder called "images" is no class.

    Attributes:
        split: a sub-folder to take instead: "train", "val", …; "": the folder itself.
    """

    about = "a folder of images, one sub-folder per class"
    precedence = 90

    split: str = ""

    def recognises(self, source: Any) -> bool:
        """Any folder."""
        return isinstance(source, Path) and source.is_dir()

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        given = root = path_of(source, "folder", "a folder of images")
        if self.split:
            found = folder_in(root, self.split)
            if found is None:
                raise DataError(f"folder: {str(root)!r} has no sub-folder {self.split!r}; give split='' or one of its sub-folders.")
            root = found
        files = images_in(root) if root.is_dir() else []
        if not files:
            raise DataError(f"no images are in {str(root)!r}; looked for {', '.join(sorted(images.SUFFIXES))} in it and its sub-folders.")
        while _is_shell(root, files):
            root = root / files[0].relative_to(root).parts[0]
        used = {parts[0] for path in files if len(parts := path.relative_to(root).parts) > 1}
        if used and {each.casefold() for each in used} <= SPLITS and all(len(path.relative_to(root).parts) > 2 for path in files):
            raise DataError(f"folder: {str(root)!r} holds the parts {', '.join(sorted(used))}; give one of them with split=….")
        classes = tuple(each.name for each in folders_in(root))

        def stream() -> Iterator[Sample | Problem]:
            for path in files:
                parts = path.relative_to(root).parts
                yield Sample(path, name_in(root, path), parts[:1] if len(parts) > 1 else ())

        return Dataset(given.resolve().name, "folder", stream, len(files), classes or None)


def _is_shell(root: Path, files: list[Path]) -> bool:
    """Whether all that is in a folder is one sub-folder that is called "images" or the like."""
    first = files[0].relative_to(root).parts
    inner = {name.casefold() for name in IMAGE_FOLDERS}
    return len(first) > 1 and first[0].casefold() in inner and all(path.relative_to(root).parts[0] == first[0] for path in files)
