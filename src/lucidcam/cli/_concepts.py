"""What `lucidcam explain --words` does beside the pictures: names channels where that is due, and says why in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidcam.errors import DataError, OptionError
from lucidcam.io.storage import json_text, write_whole

if TYPE_CHECKING:
    from lucidcam import Bank, Model, Names
    from lucidcam.io.ownership import OwnedFiles
    from lucidcam.types import Prepared

KEPT = "names.json"
"""Where names are kept in the folder of results."""


def bank_of(model: Model, folder: str | None) -> Bank:
    """The bank in a folder; by default the built-in one, as large as the network's input."""
    from lucidcam import Bank
    from lucidcam.dissection.naming import bank_for

    return bank_for(model) if folder is None else Bank.of(folder)


@dataclass
class Speaker:
    """Says why in words, image by image.

    Attributes:
        model: the network.
        names: what its channels are called.
        owned: the files of the folder to write to.
        stem: makes a file's name, each but once, of an image's, of what the picture is, and of a class.
        entries: what was said so far.
    """

    model: Model
    names: Names
    owned: OwnedFiles
    stem: Callable[[str, str, str], str]
    entries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls, model: Model, concepts: str | None, layers: Sequence[str] | None, owned: OwnedFiles, stem: Callable[[str, str, str], str]
    ) -> Speaker:
        """Name the channels, or read their names.

        Args:
            model: the network.
            concepts: a file of names, or a bank; None: the built-in bank.
            layers: as given to the command.
            owned: the files of the folder of results; names that are made now are kept there, and taken from there the next time.
            stem: names pictures.

        Raises:
            OptionError: several layers; names of another network or layer.
        """
        import lucidcam

        if layers and len(layers) > 1:
            raise OptionError("--words needs one --layer: channels belong to one.")
        layer = layers[0] if layers else None
        if concepts is not None and concepts.endswith(".json"):
            return cls(model, lucidcam.Names.load(concepts), owned, stem)
        bank = bank_of(model, concepts)
        kept = _kept(owned.folder / KEPT, model, bank, layer)
        if kept is None:
            kept = lucidcam.concepts(model, bank, layer)
            kept.save(owned.path(KEPT))
        return cls(model, kept, owned, stem)

    def say(self, prepared: Sequence[Prepared], ids: Sequence[int | None], asked: Any) -> None:
        """Say why for each class of a photo, or for what was asked where that is no class; write a picture of each."""
        import lucidcam

        [photo] = prepared
        for one in dict.fromkeys(ids):
            found = lucidcam.words(self.model, photo, asked if one is None else one, names=self.names)
            path = found.save(self.owned.path(f"{self.stem(found.name, 'words', found.label.split(',')[0])}.png"))
            self.entries.append({**found.to_dict(), "file": str(path)})

    def write(self) -> None:
        """Write words.json."""
        text = json_text(self.entries, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.owned.path("words.json"), text.encode())

    def show(self) -> None:
        """Print what was said."""
        from lucidcam.cli._screen import out as screen

        for entry in self.entries:
            screen.print(f"\n{Path(entry['image']).name}: {entry['text']}", markup=False)


def _kept(path: Path, model: Model, bank: Bank, layer: str | None) -> Names | None:
    """Names that were kept, where they are of this network, layer and bank."""
    from lucidcam import Names
    from lucidcam.dissection.activations import layer_of
    from lucidcam.dissection.channel_names import network_of

    if not path.is_file():
        return None
    try:
        found = Names.load(path)
    except DataError:
        return None
    same = (
        found.fingerprint == model.fingerprint()
        and found.network in ("", network_of(model))
        and found.layer == layer_of(model, layer)
        and found.identity == bank.identity()
    )
    return found if same else None
