"""Pascal VOC: an XML file per image, and index images of the masks."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from lucidcam.outputs._labels import Exporter, Labels, append_line, free_stem, numbered, write_index_image, write_text
from lucidcam.registry import exporters
from lucidcam.utils.text import printable


@exporters.register("voc")
class Voc(Exporter):
    """`Annotations/NAME.xml`, `JPEGImages/`, `SegmentationClass/` and `SegmentationObject/NAME.png`, `ImageSets/*/trainval.txt`.

    Boxes are one-based with right and bottom inclusive, as in VOC; `confidence` is the score. Images are links to where they were,
    and stay what they are, JPEG or not. Values in SegmentationClass are as in `labels.txt`, in SegmentationObject the object's place in
    the XML file.
    """

    name = "voc"
    about = "an XML file per image, masks as palette PNG"
    images = "JPEGImages"

    def write(self, labels: Labels) -> None:
        """See `Exporter.write`."""
        stem = free_stem(labels.name, self.folder / "Annotations", ".xml")
        placed = self.place(labels, stem)
        masked = any(thing.mask is not None for thing in labels.objects)
        if masked:
            write_index_image(
                self.file(f"SegmentationClass/{stem}.png"), labels, [self.number(thing.label) + 1 for thing in labels.objects]
            )
            write_index_image(self.file(f"SegmentationObject/{stem}.png"), labels, range(1, len(labels.objects) + 1))
        write_text(self.file(f"Annotations/{stem}.xml"), self._xml(labels, placed, masked))
        for kind in ("Main", "Segmentation") if masked else ("Main",):
            append_line(self.file(f"ImageSets/{kind}/trainval.txt"), stem)

    def announce(self) -> None:
        """See `Exporter.announce`."""
        write_text(self.file("labels.txt"), numbered(self.classes))

    def _xml(self, labels: Labels, placed: Path, masked: bool) -> str:
        root = ElementTree.Element("annotation")
        add = ElementTree.SubElement

        def told(parent: ElementTree.Element, **values: object) -> None:
            for name, value in values.items():
                add(parent, name).text = str(value)

        told(root, folder=self.images, filename=placed.name, path=printable(str(labels.path or placed)))
        told(add(root, "source"), database="lucidcam localize")
        told(add(root, "size"), width=labels.width, height=labels.height, depth=3)
        told(root, segmented=int(masked))
        for thing in labels.objects:
            self.number(thing.label)
            entry = add(root, "object")
            told(entry, name=thing.label, pose="Unspecified", truncated=0, difficult=0, confidence=f"{thing.score:.6f}")
            left, top, right, bottom = thing.box
            told(add(entry, "bndbox"), xmin=_plain(left + 1), ymin=_plain(top + 1), xmax=_plain(right), ymax=_plain(bottom))
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode") + "\n"


def _plain(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
