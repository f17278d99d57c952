"""A list of explanations that notebooks show as a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload

from PIL import Image

from lucidcam.imaging import notebook, render
from lucidcam.imaging.explanation import Explanation
from lucidcam.reprs import one_line
from lucidcam.utils.text import counted


class Explanations(list[Explanation]):
    """What `lucidcam.explain` returns: a list, one explanation per image and target, image by image.

    Slices and sums are `Explanations`, too. A notebook shows images in rows, and methods or classes in columns where there are several.

    >>> Explanations()
    Explanations(0 maps)
    """

    __slots__ = ()

    @overload
    def __getitem__(self, index: SupportsIndex) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanations: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Explanation | Explanations:
        found = super().__getitem__(index)
        return Explanations(found) if isinstance(found, list) else found

    def __add__(self, other: list[Any]) -> Explanations:  # type: ignore[override]
        return Explanations([*self, *other]) if isinstance(other, list) else NotImplemented

    def __radd__(self, other: list[Any]) -> Explanations:
        return Explanations([*other, *self]) if isinstance(other, list) else NotImplemented

    def copy(self) -> Explanations:
        """A list of the same explanations."""
        return Explanations(self)

    def __repr__(self) -> str:
        if not all(isinstance(each, Explanation) for each in self):
            return one_line("Explanations", [("", list(self))])
        images = len({each.name for each in self})
        kinds = {"of": [each.short_label for each in self], "by": [each.method for each in self]}
        count = counted(len(self), "map") + (f" of {counted(images, 'image')}" if len(self) > images > 1 else "")
        shown = [(name, _once(values)) for name, values in kinds.items() if values]
        return one_line("Explanations", shown).replace("(", f"({count}{', ' if shown else ''}", 1)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown = [each for each in self if isinstance(each, Explanation)][: notebook.MOST]
        if not shown:
            return notebook.empty("no explanations")
        more = len(self) - len(shown)
        scales = list(dict.fromkeys(each.colours for each in shown))
        made = {id(each): text for each, text in zip(shown, _made(shown), strict=True)}
        if len(set(made.values())) == 1:
            scales.insert(0, notebook.Scale(made[id(shown[0])], "", ""))
            said = dict.fromkeys(made, "")
        else:
            said = made
        groups = _by_image(shown)
        if all(len(group) == 1 for group in groups):
            return notebook.flow([each.figure(notebook.SIDE, made=said[id(each)]) for each in shown], more, scales)
        rows = []
        for group in groups:
            figures = [each.figure(notebook.SIDE, made=said[id(each)], with_name=False) for each in group]
            rows.append(notebook.Row(Path(group[0].name).name, render.reduced(_image(group[0]), notebook.SIDE), figures))
        return notebook.table(rows, _heads(groups, made), more, scales)


def _once(values: Iterable[str]) -> Any:
    """The different values; by itself, where there is but one."""
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else different


def _by_image(explanations: Iterable[Explanation]) -> list[list[Explanation]]:
    """Explanations of one image together, in the order in which the images come."""
    groups: dict[tuple[str, bytes], list[Explanation]] = {}
    digests: dict[int, bytes] = {}
    for each in explanations:
        image = _image(each)
        if id(image) not in digests:
            digests[id(image)] = _digest(image)
        groups.setdefault((each.name, digests[id(image)]), []).append(each)
    return list(groups.values())


def _image(explanation: Explanation) -> Image.Image:
    """The photo; of a clip its first frame, as maps for several classes may be about different ones."""
    return explanation.film[0].image if explanation.film else explanation.image


def _digest(image: Image.Image) -> bytes:
    """What tells an image from another of its name."""
    return hashlib.blake2b(render.reduced(image, notebook.SIDE).tobytes() + repr(image.size).encode(), digest_size=16).digest()


def _made(explanations: Sequence[Explanation]) -> list[str]:
    """How each was made: method and layer, and the options by which it differs from others of its method."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for each in explanations:
        by_method.setdefault(each.method, []).append({} if each.provenance is None else each.provenance.options)
    texts = []
    for each in explanations:
        options = {} if each.provenance is None else each.provenance.options
        differing = [name for name in options if any(other.get(name) != options[name] for other in by_method[each.method])]
        texts.append(", ".join([f"{each.method} at {each.layer}", *(f"{name}: {options[name]}" for name in differing)]))
    return texts


def _heads(groups: list[list[Explanation]], made: Mapping[int, str]) -> list[str]:
    """What is above the columns, where each says the same of all images: the method and the class, or one of both; else nothing.

    Args:
        groups: the explanations of each image.
        made: how each was made, by its identity. It stands for the method where a method made several.
    """
    methods = [[each.method for each in group] for group in groups]
    if any(len({made[id(each)] for group in groups for each in group if each.method == method}) > 1 for method in set(methods[0])):
        methods = [[made[id(each)] for each in group] for group in groups]
    labels = [[each.short_label for each in group] for group in groups]
    same_methods = all(each == methods[0] for each in methods)
    same_labels = all(each == labels[0] for each in labels)
    several = len(set(methods[0])) > 1
    if same_methods and same_labels and several and len(set(labels[0])) > 1:
        return [f"{method}: {label}" for method, label in zip(methods[0], labels[0], strict=True)]
    if same_methods and several:
        return methods[0]
    return labels[0] if same_labels else []
