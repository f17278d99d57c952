"""The labels of a run in the formats that were asked for. What somebody corrected in them by hand is not written over."""

from __future__ import annotations

from collections.abc import Iterable

from lucidcam import registry
from lucidcam.errors import OptionError
from lucidcam.io.ownership import check_owned, listed
from lucidcam.io.storage import Folder, json_text, parsed_json
from lucidcam.pipeline.labels import labels
from lucidcam.pipeline.ledger import EXPORTED


def check_labels(store: Folder, formats: Iterable[str], restart: bool) -> None:
    """Refuse to write labels where there are other files, or labels that were changed since they were written.

    Args:
        store: of the run.
        formats: names of exporters; each has a folder of its name.
        restart: whether all that the run wrote is to be replaced, changed or not.

    Raises:
        OptionError: there are some.
    """
    known = {} if restart else _digests(store)
    for name in formats:
        check_owned(store.root / name)
        changed = [
            file
            for file, digest in known.get(name, {}).items()
            if (store.root / name / file).is_file() and store.digest(f"{name}/{file}") != digest
        ]
        if changed:
            others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise OptionError(
                f"{str(store.root / name / changed[0])!r}{others} was changed since lucidcam wrote it, and would be replaced: move the "
                f"folder {name!r} elsewhere, or restart the run (restart=True, --restart)."
            )


def export(name: str, store: Folder) -> None:
    """Put the labels of all units together in one format, and keep the digest of each file."""
    folder, known = store.root / name, _digests(store)
    if known.pop(name, None) is not None:
        store.write(EXPORTED, _document(known))
    with registry.exporters[name](folder, overwrite=True) as exporter:
        for labelled in labels(store):
            exporter.write(labelled)
    files = [file for file in listed(folder) if not (folder / file).is_symlink()]
    digests = {file: digest for file in files if (digest := store.digest(f"{name}/{file}")) is not None}
    store.write(EXPORTED, _document({**known, name: digests}))


def _document(digests: dict[str, dict[str, str]]) -> bytes:
    return (json_text(digests, indent=1, sort_keys=True) + "\n").encode()


def _digests(store: Folder) -> dict[str, dict[str, str]]:
    """The digests of label files by format and name.

    Raises:
        OptionError: their file is damaged.
    """
    try:
        content = parsed_json(store.read(EXPORTED).decode())
        return {format_: {str(file): str(digest) for file, digest in files.items()} for format_, files in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise OptionError(
            f"{EXPORTED} in {store} is not as lucidcam wrote it, so that labels which were corrected by hand cannot be told from others: "
            "choose another folder, or restart it (restart=True, --restart)."
        ) from error
