"""Pascal VOC's XML and the folders it lies in: what `voc` and `ilsvrc` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lucidcam.data._files import IMAGE_FOLDERS, box_of, by_stem, declared_size, doubled, files_with, folder_in, folders_in, name_in, stem_in
from lucidcam.errors import DataError, first_line
from lucidcam.io.ownership import Written
from lucidcam.samples import Object, Problem, Sample, composed, labels_of

ANNOTATION_FOLDERS = ("Annotations", "annotation", "xmls", "xml", "labels", "bbox")
"""Names of the folder that holds the XML files, the most telling first."""


LARGEST_XML = 3_000_000
"""Bytes of an annotation file at most: ten thousand objects."""

_UNANNOTATED = "it has no XML file; write one (without objects, if there are none), or take the image away."


@dataclass(frozen=True)
class Layout:
    """Where things are: `annotations` holds XML files and `images` images under the same paths, suffixes aside."""

    root: Path
    annotations: Path
    images: Path


def xmls_in(folder: Path) -> list[Path]:
    """Return all XML files below a folder by path; hidden ones, and labels that lucidcam wrote beside others, aside."""
    found = (path for path in folder.rglob("*.xml") if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(Written(folder).without(found))


def first_xml(folder: Any) -> Path | None:
    """Return one XML file of a folder or its sub-folders, without listing all; None: there is none."""
    inside = files_with(folder, ".xml")
    return inside[0] if inside else next((xml for each in folders_in(folder)[:3] for xml in [first_xml(each)] if xml is not None), None)


def layout_of(root: Path) -> Layout | None:
    """Return the layout of a folder that holds XML files: in a folder beside the images' one, or among the images."""
    annotations = folder_in(root, *ANNOTATION_FOLDERS)
    if annotations is not None and first_xml(annotations) is not None:
        return Layout(root, annotations, folder_in(root, *IMAGE_FOLDERS) or root)
    if files_with(root, ".xml"):
        return Layout(root, root, folder_in(root, *IMAGE_FOLDERS) or root)
    return None


def parse(path: Path, first: int) -> tuple[str, tuple[int, int] | None, tuple[Object, ...]]:
    """Read an annotation file.

    Args:
        path: of the XML file.
        first: the number of the first pixel, 1 in Pascal VOC and 0 in ILSVRC; the last pixel belongs to the box in both, so a box is
            (xmin − first, ymin − first, xmax − first + 1, ymax − first + 1).

    Returns:
        The image's file name, "" where it has none; its declared (width, height), or None; and the objects.

    Raises:
        DataError: the file cannot be read or is cut off, or an object has no name, or a box without four numbers.
    """
    tree = _tree(path)
    objects = tuple(_object(each, f"{path.name}, object {i}", first) for i, each in enumerate(tree.iter("object"), start=1))
    size = declared_size(tree.findtext("size/width"), tree.findtext("size/height"))
    return (tree.findtext("filename") or "").strip(), size, objects


def _tree(path: Path) -> ElementTree.Element:
    """The root of an XML file of limited size that declares no entities.

    Raises:
        DataError: it is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_XML + 1)
        if len(content) > LARGEST_XML:
            raise DataError(f"{path.name} has more than {LARGEST_XML // 10**6} MB; expected the annotations of one image.")
        if b"<!ENTITY" in content.replace(b"\0", b""):  # UTF-16 has a zero in every letter
            raise DataError(f"{path.name} declares entities, which may stand for other files or endless text; write them out.")
        return ElementTree.fromstring(content)
    except DataError:
        raise
    except ElementTree.ParseError as error:
        raise DataError(f"{path.name} is no XML ({error}); is the file cut off?") from error
    except (OSError, ValueError, LookupError, MemoryError) as error:
        raise DataError(f"{path.name} cannot be read: {first_line(error)}.") from error


def _object(element: ElementTree.Element, where: str, first: int) -> Object:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise DataError(f"{where}: it has no <name>.")
    box = element.find("bndbox")
    if box is None:
        return Object(label, difficult=_flag(element, "difficult"))
    try:
        left, top, right, bottom = box_of([box.findtext(tag) or "" for tag in ("xmin", "ymin", "xmax", "ymax")])
    except ValueError:
        found = ", ".join(f"{each.tag}={each.text}" for each in box)
        raise DataError(f"{where}: expected <bndbox> with numbers xmin, ymin, xmax, ymax; got {found or 'nothing'}.") from None
    corners = None if first else (left, top, right, bottom)
    exclusive = (left - first, top - first, right - first + 1, bottom - first + 1)
    return Object(label, exclusive, difficult=_flag(element, "difficult"), corners=corners)


def _flag(element: ElementTree.Element, tag: str) -> bool:
    return (element.findtext(tag) or "0").strip().lower() in ("1", "true")


def samples(
    layout: Layout,
    first: int,
    stems: list[str] | None = None,
    unannotated: Callable[[str, Path], Sample | Problem] | None = None,
) -> Iterator[Sample | Problem]:
    """Yield one sample per XML file, and something for each image that has none.

    Args:
        layout: where things are.
        first: see `parse`.
        stems: which files, by their path without suffix; None: all.
        unannotated: from the name and path of an image without XML file to what takes its place; None: a problem.
    """
    pictures, doubles = by_stem(layout.images)
    anywhere: dict[str, Path] = {}  # for images and XML files in unlike sub-folders
    several: dict[str, Path] = {}  # names that two of these images have
    for stem, path in pictures.items():
        if anywhere.setdefault(Path(stem).name, path) != path:
            several[Path(stem).name] = path
    base = layout.root if layout.images.is_relative_to(layout.root) else layout.images
    annotated = {stem_in(layout.annotations, path): path for path in xmls_in(layout.annotations)}
    if stems is None:  # in the images' natural order, then what has no image of the same name
        stems = [*(stem for stem in pictures if stem in annotated), *(stem for stem in annotated if stem not in pictures)]
        rest = dict.fromkeys(pictures.values())
        rest.update({path: None for path in doubles if stem_in(layout.images, path) not in annotated})
    else:
        stems = list(map(composed, stems))
        rest = {pictures[stem]: None for stem in stems if stem in pictures and stem not in annotated}
    for stem in stems:
        if stem not in annotated:
            if stem not in pictures:
                yield Problem(stem, f"neither {stem}.xml nor an image of this name is in {str(layout.root)!r}, but a list names it.")
            continue
        try:
            filename, size, objects = parse(annotated[stem], first)
        except DataError as error:
            rest.pop(pictures.get(stem, base), None)
            yield Problem(name_in(base, pictures[stem]) if stem in pictures else stem, str(error))
            continue
        # The XML file's own name decides: tools that rename images leave its <filename> behind. Between p.jpg and p.png, <filename> does.
        named = composed(Path(filename).name)
        for path, kept in list(doubles.items()):
            if kept == pictures.get(stem) and composed(path.name) == named:
                pictures[stem], doubles[kept] = path, path
                del doubles[path]
                rest[path] = None
                rest.pop(kept, None)
        names = (Path(stem).name, Path(named).stem, named)
        name = next((name for name in names if name in anywhere), "")
        picture = pictures.get(stem, anywhere.get(name))
        if stem not in pictures and name in several:
            paths = [name_in(base, each[name]) for each in (anywhere, several)]
            yield Problem(
                stem, f"{paths[0]} and {paths[1]} have this name; move the XML file into a folder {Path(paths[0]).parent.name!r}, say."
            )
            continue
        if picture is None:
            yield Problem(
                stem, f"no image {stem}.jpg, .png, … is in {str(layout.images)!r}; copy it there, or give its folder as images=…."
            )
            continue
        rest.pop(picture, None)
        yield Sample(picture, name_in(base, picture), labels_of(objects), objects, size=size)
    for picture, kept in doubles.items():
        if stem_in(layout.images, picture) in annotated and (stems is None or stem_in(layout.images, picture) in stems):
            yield doubled(base, picture, kept, "XML file")
    for picture in rest:
        name = name_in(base, picture)
        yield Problem(name, _UNANNOTATED) if unannotated is None else unannotated(name, picture)


def with_images(layout: Layout, images: Path) -> Layout:
    """The layout with the images' folder somewhere else."""
    return replace(layout, images=images)
