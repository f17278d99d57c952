"""Pictures: the overlay, or the signed colours of guided maps."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lucidcam.imaging import render
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.maps import Box
from lucidcam.io.picture_files import save_picture
from lucidcam.outputs.map_archive import Pack, Packable
from lucidcam.registry import packs, writers


@writers.register("png")
@writers.register("jpg")
@writers.register("jpeg")
@writers.register("webp")
@writers.register("tif")
@writers.register("tiff")
@writers.register("bmp")
def write(explanation: Explanation, path: Path, *, colormap: str = "turbo", alpha: float = 0.5, boxes: Sequence[Box] = ()) -> None:
    """Write the method's picture, with boxes (xyxy) if given; Pillow chooses the encoder by the suffix.

    It has the original image's size; of images of more than `lucidcam.imaging.explanation.LARGEST_DRAWN` pixels it is smaller, see
    `Explanation.reduced`.
    """
    picture = explanation.drawn(colormap, alpha)
    size = picture.height, picture.width
    if size != explanation.size:
        boxes = [explanation.box_in(size, box) for box in boxes]
    save_picture(render.draw_boxes(picture, boxes) if boxes else picture, path)


@packs.register_class("png")
class PicturePack(Pack):
    """`pictures/000012.tar`: the overlays as PNG, under the image's name and the class."""

    about = "overlays as PNG, one tar file per unit"
    pictures = True
    keeps = False

    def files(self, number: int, maps: Sequence[Packable]) -> Iterator[tuple[str, bytes]]:
        """See `Pack.files`."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for each in maps:
                assert each.picture is not None, "a pack of pictures asks for them"
                member = tarfile.TarInfo(f"{each.name}.png")
                member.size = len(each.picture)
                tar.addfile(member, io.BytesIO(each.picture))
        yield f"pictures/{number:06d}.tar", content.getvalue()
