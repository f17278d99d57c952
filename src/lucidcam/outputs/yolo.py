"""YOLO: a text file of normalised boxes per image, and data.yaml."""

from __future__ import annotations

import json

from lucidcam.outputs._labels import Exporter, Labels, append_line, free_stem, write_text
from lucidcam.registry import exporters


@exporters.register("yolo")
class Yolo(Exporter):
    """`labels/NAME.txt` (class number, centre x and y, width, height, as shares of the image), `images/`, `images.txt` and `data.yaml`.

    Images are links to where they were; `images.txt` lists those that have labels. The format has no room for scores and masks.
    """

    name = "yolo"
    about = "text files of boxes, and data.yaml; no masks, no scores"

    def write(self, labels: Labels) -> None:
        """See `Exporter.write`."""
        stem = free_stem(labels.name, self.folder / "labels", ".txt")
        lines = []
        for thing in labels.objects:
            left, top, right, bottom = thing.box
            across, down = labels.width, labels.height
            shares = ((left + right) / 2 / across, (top + bottom) / 2 / down, (right - left) / across, (bottom - top) / down)
            lines.append(f"{self.number(thing.label)} {' '.join(f'{share:.9g}' for share in shares)}\n")
        placed = self.place(labels, stem)
        write_text(self.file(f"labels/{stem}.txt"), "".join(lines))
        append_line(self.file("images.txt"), f"./{self.images}/{placed.name}")

    def announce(self) -> None:
        """See `Exporter.announce`."""
        names = "".join(f"  {i}: {_quoted(label)}\n" for i, label in enumerate(self.classes)) or "  {}\n"
        write_text(
            self.file("data.yaml"), f"path: {_quoted(str(self.folder.resolve()))}\ntrain: images.txt\nval: images.txt\nnames:\n{names}"
        )


def _quoted(text: str) -> str:
    """Text in double quotes is the same in JSON and YAML."""
    return json.dumps(text, ensure_ascii=False)
