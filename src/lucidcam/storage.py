"""Files that are written whole or not at all, and folders that belong to one run, which may be killed and go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lucidcam.errors import DataError, OptionError

SETTINGS = "settings.json"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whatever happens meanwhile.

    Raises:
        DataError: when it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; mend that and run again: what was written before is kept."
        ) from error


def claim(folder: Path, settings: Mapping[str, Any], what: str, restart: bool = False) -> None:
    """Make a folder for a run, or find that it holds the same one.

    Args:
        folder: where the run keeps things.
        settings: of the run; one with others must not go on here.
        what: is going on, for messages: "an evaluation".
        restart: forget the settings of an earlier run; its files are the caller's to forget.

    Raises:
        OptionError: the folder holds a run with other settings, or cannot be made.
        DataError: the settings cannot be written.
    """
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    told = folder / SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if told.exists() and not restart:
            old, new = json.loads(told.read_text(encoding="utf-8")), json.loads(text)
            changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            if changed:
                raise OptionError(
                    f"{folder} holds {what} with other settings ({', '.join(sorted(changed))}); choose another folder, or restart it "
                    "(restart=True, --restart)."
                )
        else:
            write_whole(told, text.encode())
    except OSError as error:
        raise OptionError(f"cannot keep results in {folder}: {error.strerror or error}.") from None
    except json.JSONDecodeError as error:
        raise OptionError(f"{told} cannot be read ({error}); take it away, or restart (restart=True, --restart).") from None
