"""Pascal VOC, and any folder with XML files in its format (`voc`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import files_with, folder_in, folders_in, lines_of, once, option_folder, path_of, read_values, spelled
from lucidcam.data._voc import Layout, layout_of, samples, with_images, xmls_in
from lucidcam.errors import DataError
from lucidcam.samples import Mask, Object, Problem, Sample

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Pascal VOC's classes in the order of the values 1…20 in SegmentationClass."""

VOID = 255
"""The value of pixels at borders and of things too hard to tell."""


@register("voc")
@dataclass(frozen=True, kw_only=True)
class VOC(Format):
    """Pascal VOC (Everingham et al. 2010): `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt`.

    Also any folder with `annotations/` and `images/`, or with XML files among the images. VOC counts pixels from 1 and the last pixel
    belongs to the box, so that a box becomes (xmin − 1, ymin − 1, xmax, ymax).

    Where an image has a mask in `SegmentationObject/`, value i there is the mask of the i-th object of the XML file. With a mask in
    `SegmentationClass/` only, an object's mask is that of its class, cut to its box: the union over a class's objects is the class's
    mask. Void pixels (255) are ignored in both cases.

    Attributes:
        split: the name of a list in `ImageSets/Main` ("train", "val", "cat_val": images with the flag −1 are left out), or a path in
            `ImageSets` ("Segmentation/val"); "": everything.
        images: the folder of the images, where they are not beside the annotations; "": found.
    """

    about = "Pascal VOC XML files with their images"
    precedence = 30

    split: str = ""
    images: str = ""

    def recognises(self, source: Any) -> bool:
        """A folder with XML files where VOC or labelling tools put them."""
        return isinstance(source, Path) and any(layout_of(root) is not None for root in (source, *_editions(source)))

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        root = path_of(source, "voc", "a folder with Annotations/ and JPEGImages/")
        editions = [] if layout_of(root) is not None else _editions(root)
        if len(editions) > 1:
            raise DataError(f"voc: {str(root)!r} holds {', '.join(each.name for each in editions)}; give one of these folders.")
        layout = layout_of(editions[0] if editions else root)
        if layout is None:
            raise DataError(f"voc: no XML files are in {str(root)!r}; looked for Annotations/*.xml, annotations/*.xml and *.xml.")
        if self.images:
            layout = with_images(layout, option_folder(self.images, "voc", "images"))
        stems = _listed(layout.root, self.split) if self.split else None
        classes, instances = (folder_in(layout.root, name) for name in ("SegmentationClass", "SegmentationObject"))

        def stream() -> Iterator[Sample | Problem]:
            for each in once(samples(layout, 1, stems)):
                yield _segmented(each, classes, instances) if isinstance(each, Sample) else each

        count = len(xmls_in(layout.annotations) if stems is None else stems)
        return Dataset(layout.root.resolve().name, "voc", stream, count, _classes(layout))


def _editions(root: Path) -> list[Path]:
    """VOCdevkit's folders VOC2007, VOC2012."""
    outer = folder_in(root, "VOCdevkit") or root
    return [each for each in folders_in(outer) if each.name.upper().startswith("VOC") and layout_of(each) is not None]


def _classes(layout: Layout) -> tuple[str, ...] | None:
    return CLASSES if folder_in(layout.root, "JPEGImages") is not None and folder_in(layout.root, "ImageSets") is not None else None


def _listed(root: Path, split: str) -> list[str]:
    sets = folder_in(root, "ImageSets")
    places = [] if sets is None else [sets / "Main" / f"{split}.txt", sets / f"{split}.txt"]
    path = next((each for each in places if each.is_file()), None)
    if path is None:
        known = sorted(each.stem for each in files_with(sets and sets / "Main", ".txt") if "_" not in each.stem)
        raise DataError(
            f"voc: {str(root)!r} has no split {split!r}: expected ImageSets/Main/{split}.txt"
            + (f"; there are {', '.join(known)}." if known else "; give split='' for all images.")
        )
    lines = (line.split() for _, line in lines_of(path))
    return list(dict.fromkeys(words[0] for words in lines if words[1:] != ["-1"]))


def _segmented(sample: Sample, classes: Path | None, instances: Path | None) -> Sample:
    file = f"{Path(sample.image).stem}.png"
    if instances is not None and (path := spelled(instances / file)).is_file():
        objects = tuple(replace(each, mask=_equal(path, i)) for i, each in enumerate(sample.objects, start=1))
        return replace(sample, objects=objects, ignore=_equal(path, VOID))
    if classes is not None and (path := spelled(classes / file)).is_file():
        return replace(sample, objects=tuple(_of_class(each, path) for each in sample.objects), ignore=_equal(path, VOID))
    return sample


def _of_class(thing: Object, path: Path) -> Object:
    if thing.label not in CLASSES or thing.box is None:
        return thing
    return replace(thing, mask=_equal(path, CLASSES.index(thing.label) + 1, thing.box))


def _equal(path: Path, value: int, box: tuple[float, float, float, float] | None = None) -> Callable[[], Mask]:
    def mask() -> Mask:
        found: Mask = read_values(path) == value
        if box is not None:
            left, top, right, bottom = (max(0, round(edge)) for edge in box)
            inside = found[top:bottom, left:right].copy()
            found[:] = False
            found[top:bottom, left:right] = inside
        return found

    return mask
