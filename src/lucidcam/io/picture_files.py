"""Pictures are written whole or not at all: Pillow does not tell where a disk took only a part of one."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from lucidcam.io.storage import write_whole


def save_picture(picture: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a picture in the format that its name says, in upper or lower case.

    Args:
        picture: what is written.
        path: where to; the folder is there.
        options: of Pillow's encoder, and `format` where the name is not to say it.

    Raises:
        DataError: when it cannot be written: a full disk, say.
    """
    path = Path(path)
    content = io.BytesIO()
    format = options.pop("format", None) or Image.registered_extensions()[path.suffix.lower()]
    picture.save(content, format, **options)
    write_whole(path, content.getvalue())


def save_figure(figure: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a figure of matplotlib, which leaves PNG to Pillow, in the format that its name says.

    Raises:
        DataError: when it cannot be written: a full disk, say.
    """
    path = Path(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lstrip(".").lower(), **options)
    write_whole(path, content.getvalue())
