"""Index images: the class of every pixel, a PNG per image."""

from __future__ import annotations

from lucidcam.outputs._labels import Exporter, Labels, free_stem, numbered, write_index_image, write_text
from lucidcam.registry import exporters


@exporters.register("masks")
class Masks(Exporter):
    """`masks/NAME.png` (0 background, others as in `classes.txt`, 255 unused), `images/` and `classes.txt`.

    Images are links to where they were. Where regions overlap, the surest is on top; a thing without a mask is its box.
    """

    name = "masks"
    about = "a palette PNG per image: the class of every pixel"

    def write(self, labels: Labels) -> None:
        """See `Exporter.write`."""
        stem = free_stem(labels.name, self.folder / "masks", ".png")
        self.place(labels, stem)
        values = [self.number(thing.label) + 1 for thing in labels.objects]
        write_index_image(self.file(f"masks/{stem}.png"), labels, values)

    def announce(self) -> None:
        """See `Exporter.announce`."""
        write_text(self.file("classes.txt"), numbered(self.classes))
