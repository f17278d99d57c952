"""ImageNet's localisation challenge: images with XML boxes, classes as synset ids (`ilsvrc`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidcam.data._base import Dataset, Format, register
from lucidcam.data._files import IMAGE_FOLDERS, folder_in, once, option_folder, path_of
from lucidcam.data._voc import Layout, first_xml, layout_of, parse, samples, with_images, xmls_in
from lucidcam.errors import DataError
from lucidcam.samples import Problem, Sample

SYNSET = re.compile(r"n\d{8}")


@register("ilsvrc")
@dataclass(frozen=True, kw_only=True)
class ILSVRC(Format):
    """ILSVRC CLS-LOC (Russakovsky et al. 2015): `Annotations/CLS-LOC/val/*.xml` and `Data/CLS-LOC/val/*.JPEG`.

    Also a folder with the XML files in one folder and the images in another, flat or in folders by synset id. Images of the training set
    without an XML file (more than half of them) have the label of their folder and no objects.

    The XML is Pascal VOC's, but pixels count from 0: over the validation set coordinates start at 0 and end at width − 1. The last pixel
    belongs to the box, so that a box becomes (xmin, ymin, xmax + 1, ymax + 1). The file's own numbers stay in `Object.corners`: the
    published evaluation of MaxBoxAcc takes them as they stand.

    Attributes:
        split: "val" or "train"; where the folder has no such parts it is not used.
        images: the folder of the images, where it is not beside the annotations; "": found.
    """

    about = "ILSVRC CLS-LOC, images with XML boxes of synset ids"
    precedence = 20

    split: str = "val"
    images: str = ""

    def recognises(self, source: Any) -> bool:
        """A CLS-LOC folder, or XML files whose objects are synset ids."""
        if not isinstance(source, Path):
            return False
        if _official(source) is not None:
            return True
        layout = layout_of(source)
        xml = None if layout is None else first_xml(layout.annotations)
        try:
            objects = () if xml is None else parse(xml, 0)[2]
        except DataError:
            return False
        return bool(objects) and SYNSET.fullmatch(objects[0].label) is not None

    def open(self, source: Any) -> Dataset:
        """See `Format.open`."""
        root = path_of(source, "ilsvrc", "a folder with Annotations/CLS-LOC and Data/CLS-LOC")
        layout = self._layout(root)
        if layout is None:
            wanted = f"Annotations/CLS-LOC/{self.split}/*.xml, annotations/*.xml and *.xml"
            raise DataError(f"ilsvrc: no annotations are in {str(root)!r}; looked for {wanted}.")
        if self.images:
            layout = with_images(layout, option_folder(self.images, "ilsvrc", "images"))

        count = len(xmls_in(layout.annotations)) if self.split == "val" else None  # most images of the training set have no XML file
        return Dataset(root.resolve().name, "ilsvrc", lambda: once(samples(layout, 0, unannotated=_by_folder)), count)

    def _layout(self, root: Path) -> Layout | None:
        annotations = _official(root)
        if annotations is None:
            return layout_of(root)
        part = folder_in(annotations, self.split)
        data = folder_in(folder_in(root, "Data"), "CLS-LOC")
        pictures = folder_in(data, self.split) or folder_in(root, self.split, *IMAGE_FOLDERS)
        return None if part is None else Layout(root, part, pictures or root)


def _official(root: Path) -> Path | None:
    return folder_in(folder_in(root, "Annotations"), "CLS-LOC")


def _by_folder(name: str, path: Path) -> Sample | Problem:
    """An image of the training set without boxes is no problem: its folder tells its class."""
    synset = path.parent.name
    if SYNSET.fullmatch(synset) is None:
        return Problem(name, "it has no XML file, and lies in no folder called by a synset id.")
    return Sample(path, name, (synset,))
