"""What the formats share: finding folders and images, reading annotation files, and one-line errors for both."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lucidcam.errors import DataError, InputError, first_line
from lucidcam.io import images, remote
from lucidcam.io.ownership import is_result
from lucidcam.io.remote import Stored
from lucidcam.io.storage import parsed_json
from lucidcam.samples import DegenerateError, Mask, Problem, Sample, composed
from lucidcam.utils.optional import import_optional
from lucidcam.utils.rollback import closes_scopes

IMAGE_FOLDERS = ("JPEGImages", "images", "imgs", "img", "image")
"""Names of the folder that holds a data set's images, the most telling first."""

LONGEST = 255
"""Bytes of a file's name at most, on any usual file system."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that are parts of a data set, not classes."""


def path_of(source: Any, name: str, expected: str) -> Path:
    """Return the path that a format was given.

    Raises:
        DataError: it is no path, or nothing is there.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(f"{name}: expected {expected}; got a {type(source).__name__}.")
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{name}: {str(path)!r} does not exist; expected {expected}.")
    return path


def option_folder(given: str, name: str, option: str) -> Path:
    """Return the folder an option names.

    Raises:
        DataError: there is no such folder.
    """
    path = Path(given).expanduser()
    if not path.is_dir():
        raise DataError(f"{name}: {option}={given!r} is no folder; check the path.")
    return path


def folder_in(root: Any, *names: str) -> Path | None:
    """Return the first folder in `root` with one of these names, also in lower, upper or title case; the earlier name wins.

    Nothing is listed: a flat folder may hold a million images.
    """
    spellings = (spelling for name in names for spelling in (name, name.lower(), name.capitalize(), name.upper()))
    return next((path for path in _inside(root, spellings) if path.is_dir()), None)


def file_in(root: Any, *names: str) -> Path | None:
    """Return the first file in `root` with one of these names; the earlier name wins."""
    return next((path for path in _inside(root, names) if path.is_file()), None)


def files_with(folder: Any, *suffixes: str) -> list[Path]:
    """Return the files of a folder, not of its sub-folders, with one of these suffixes, by name; hidden ones aside."""
    try:
        with os.scandir(folder) as found:
            names = sorted(each.name for each in found if each.name.lower().endswith(suffixes) and not each.name.startswith("."))
    except (OSError, TypeError, ValueError):
        return []
    return [path for path in _inside(folder, names) if path.is_file()]


def folders_in(root: Any) -> list[Path]:
    """Return the sub-folders of a folder by name; hidden ones, and results of lucidcam beside anything else, aside."""
    try:
        with os.scandir(root) as found:
            visible = [(each.name, each.is_dir()) for each in found if not each.name.startswith(".")]
        folders = sorted(name for name, is_folder in visible if is_folder)
        results = {name for name in folders if is_result(Path(root, name))}
        return _inside(root, folders if len(results) == len(visible) else [name for name in folders if name not in results])
    except (OSError, TypeError, ValueError):
        return []


def _inside(root: Any, names: Iterable[str]) -> list[Path]:
    return [] if root is None else [Path(root, name) for name in names if name]


def images_in(folder: Path) -> list[Path]:
    """Return all images below a folder in natural order, hidden ones aside."""
    return images.find([folder])[0]


def images_at(url: str) -> dict[PurePath, Stored]:
    """Return all images below a folder behind an address by their paths in it, in natural order, hidden ones aside.

    Raises:
        DataError: the storage cannot list it, or it is a file.
    """
    found: dict[PurePath, Stored] = {}
    for name, each in remote.below(url).items():
        path = PurePosixPath(name)
        if not name:
            raise DataError(f"{url!r} is a file; expected a folder of images, or give the image with format='images'.")
        if path.suffix.lower() in images.SUFFIXES and not any(part.startswith(".") for part in path.parts):
            found[path] = each
    return {path: found[path] for path in sorted(found, key=images.natural)}


def by_stem(folder: Path) -> tuple[dict[str, Path], dict[Path, Path]]:
    """Return the images below a folder by their path in it without suffix (accents composed), in natural order.

    Returns:
        The first image of each such path; and the others of the same path, each with the first: `p.png` with `p.jpg`.
    """
    first: dict[str, Path] = {}
    doubles: dict[Path, Path] = {}
    for path in images_in(folder):
        kept = first.setdefault(stem_in(folder, path), path)
        if kept != path:
            doubles[path] = kept
    return first, doubles


def doubled(root: Path, path: Path, kept: Path, what: str) -> Problem:
    """Return the problem of an image that shares its name, but for the suffix, with one that is taken."""
    return Problem(
        name_in(root, path),
        f"{kept.name} lies beside it, and the {what} of both would be called {path.stem}; only {kept.name} is taken. "
        f"Rename one with its {what}, or take it away.",
    )


def stem_in(folder: Path, path: Path) -> str:
    """Return a file's path in a folder without its suffix, accents composed: what pairs an image with its annotation."""
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def is_file(path: Path) -> bool:
    """Return whether a file is at a path; no file is where the name is longer than any can be."""
    try:
        return path.is_file()
    except OSError:
        return False


def spelled(path: Path) -> Path:
    """Return the path under which a file is there: as it is written, or with its accents composed or apart (macOS); else the path.

    Folders and the file itself may differ in how their accents are written.
    """
    if is_file(path) or str(path).isascii():
        return path
    there = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if len(part.encode(errors="replace")) > LONGEST:
            return path
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = next((there / form for form in forms if (there / form).exists()), there / part)
    return there if is_file(there) else path


def whole_number(value: Any) -> int | None:
    """Return a whole number, also one that a table of floating-point columns wrote as 3.0 or "3.0"; None for anything else.

    >>> whole_number(3.0), whole_number("3.0"), whole_number("3.5"), whole_number(True), whole_number("cat")
    (3, 3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def numbered_names(names: Mapping[Any, Any]) -> dict[int, str]:
    """Return classes by their numbers, which may be texts ("1", "1.0").

    Raises:
        ValueError: a key is no whole number.
    """
    numbered = {whole_number(number): str(name) for number, name in names.items()}
    if None in numbered:
        raise ValueError("a class has no number")
    return {number: name for number, name in numbered.items() if number is not None}


def declared_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return the (width, height) that an annotation declares; None where it declares none, or zeros as some tools write."""
    sides = whole_number(width), whole_number(height)
    return None if sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1 else (sides[0], sides[1])


def name_in(root: Path, path: Path) -> str:
    """Return what a file is called in reports: its path in `root`, or the whole path when it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def missing(name: str, path: Path) -> Problem:
    """Return the problem of an image that is listed and not there."""
    return Problem(name, f"the image {str(path)!r} does not exist; copy it there, or take it out of the annotations.")


def once(stream: Iterable[Sample | Problem]) -> Iterator[Sample | Problem]:
    """Yield a problem in the place of each sample whose name came before: reports go by names."""
    seen: set[str] = set()
    for each in stream:
        if isinstance(each, Sample) and each.name in seen:
            yield Problem(each.name, "the data set lists this image more than once; only the first counts.")
            continue
        seen.add(each.name)
        yield each


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        DataError: it cannot be opened, or is no UTF-8 text.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{str(path)!r} is no text (UTF-8); expected an annotation file.") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    if "\0" in text:
        raise DataError(f"{str(path)!r} is no text (it holds zero bytes); expected an annotation file.")
    return text


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers from 1. Names may hold what Unicode takes for ends of lines.

    Raises:
        DataError: see `read_text`.
    """
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path)), start=1):
        if line.strip():
            yield number, line.strip()


def start_of(path: Path, size: int = 4096) -> str:
    """Return how a file begins, as text; "" where it cannot be read. For recognising formats."""
    try:
        with path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", errors="ignore")
    except OSError:
        return ""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it cannot be read, or is cut off or otherwise no JSON, with the line.
    """
    try:
        return parsed_json(read_text(path))
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no JSON: {error}; is the file cut off?") from error


LARGEST_YAML = 2_000_000
"""Characters of a YAML file of classes at most: PyYAML reads about a hundred thousand in a second."""


def read_yaml(path: Path, purpose: str) -> Any:
    """Read a YAML file of lists, mappings and texts; numbers, "no" and "007" stay the texts they are, since a class may be called so.

    Raises:
        DataError: it cannot be read, or is no YAML, with the place.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = import_optional("yaml", "data", purpose)
    text = read_text(path)
    if len(text) > LARGEST_YAML:
        raise DataError(f"{str(path)!r} has {len(text)} characters; expected a YAML file of at most {LARGEST_YAML}.")
    try:
        return yaml.load(text, _text_loader(yaml))
    except RecursionError:
        raise DataError(f"{str(path)!r} is no YAML that can be read: it is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise DataError(f"{str(path)!r} is no YAML: {getattr(error, 'problem', None) or first_line(error)}{where}.") from error


def _text_loader(yaml: Any) -> Any:
    """A YAML loader that makes a text of every scalar but null."""

    class TextLoader(yaml.SafeLoader):  # type: ignore[misc]
        """PyYAML reads "no" as False, "007" as 7 and a date as a date: classes would lose their names."""

    keep = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    TextLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in keep]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return TextLoader


@closes_scopes
def read_values(path: Path) -> npt.NDArray[np.int64]:
    """Read a mask image's values `[H, W]`: palette indices, grey values, or the one value of equal colour channels.

    Raises:
        InputError: the file cannot be read, holds colours or fractions, keeps its mask in the transparency, or is a JPEG with values that
            its compression made.
    """
    alpha = None
    with images.quiet():
        try:
            with images.opened(path) as file:
                images.check(file, str(path))
                image: Image.Image = file
                lossy = file.format == "JPEG"
                if image.mode in ("LA", "RGBA"):
                    alpha = np.asarray(image.getchannel("A"))
                if image.mode in ("LA", "RGBA", "La", "RGBa"):
                    image = image.convert("L" if image.mode.startswith("L") else "RGB")
                values = np.asarray(image)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the mask {str(path)!r} cannot be read ({first_line(error)}); copy it again.") from error
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise InputError(f"the mask {str(path)!r} holds colours; expected one value per pixel (a grey or palette PNG).")
        values = values[..., 0]
    if alpha is not None and (values == values.flat[0]).all() and not (alpha == alpha.flat[0]).all():
        raise InputError(f"the mask {str(path)!r} differs from pixel to pixel in its transparency only; expected the mask as grey values.")
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        raise InputError(f"the mask {str(path)!r} holds fractions or NaN; expected whole numbers, one value per pixel.")
    if lossy and not np.isin(values, (0, 255)).all():
        raise InputError(
            f"the mask {str(path)!r} is a JPEG, whose compression changes values; save a PNG, a binary one as 0 up to 127 and 255 above."
        )
    return values.astype(np.int64)


def outline(numbers: Any) -> npt.NDArray[np.float64] | None:
    """Return a polygon's points `[n, 2]` from its coordinates x, y, x, y, …; None for one without area (under three points, or a line).

    Raises:
        DegenerateError: an odd number of coordinates.
    """
    if len(numbers) % 2:
        raise DegenerateError(f"expected a polygon as pairs x, y; got {len(numbers)} numbers")
    points = np.array(numbers, np.float64).reshape(-1, 2)
    if len(points) < 3:
        return None
    spread = points - points.mean(0)
    # A figure of eight has no signed area, but pixels inside: only points on one line have none.
    return points if np.linalg.matrix_rank(spread, tol=1e-9 * max(1.0, float(np.abs(points).max()))) == 2 else None


def fit_mask(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask by the nearest pixel, for data sets whose masks are not in their images' size."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), bool)


def box_of(numbers: Any) -> tuple[float, float, float, float]:
    """Return four finite numbers as a tuple.

    Raises:
        ValueError: they are not.
    """
    if isinstance(numbers, (str, bytes)) or not hasattr(numbers, "__len__") or len(numbers) != 4:
        raise ValueError(f"expected a box of 4 numbers; got {numbers!r}")
    try:
        a, b, c, d = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"expected a box of 4 numbers; got {numbers!r}") from None
    if not np.isfinite((a, b, c, d)).all():
        raise ValueError(f"expected a box of 4 finite numbers; got {numbers!r}")
    return a, b, c, d


def from_xywh(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """From (left, top, width, height) to (left, top, right, bottom).

    >>> from_xywh((10.0, 20.0, 30.0, 40.0))
    (10.0, 20.0, 40.0, 60.0)

    Raises:
        ValueError: its right or bottom is no finite number.
    """
    left, top, width, height = box
    return box_of((left, top, left + width, top + height))
