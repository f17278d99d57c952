"""What visitors can do: each action takes the JSON of a request, and gives what is answered as JSON, or a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lucidcam.errors import InputError, OptionError, unknown
from lucidcam.imaging import render
from lucidcam.imaging.explanation import Explanation
from lucidcam.options import catalogue
from lucidcam.outputs import npz, text
from lucidcam.utils.progress import Listener
from lucidcam.utils.text import short
from lucidcam.web import map_metrics, payload, pixels, validation
from lucidcam.web.errors import WeightsChangedError
from lucidcam.web.examples import Example
from lucidcam.web.fields import Fields
from lucidcam.web.service import Seen, Served, Studio, is_long
from lucidcam.web.store import Store, Upload
from lucidcam.web.uploads import FORMATS
from lucidcam.web.validation import Question

TYPES = {"png": "image/png", "npz": "application/octet-stream", "json": "application/json"}
"""What a map is saved as."""

CHANNEL_SIDE = 120
"""Pixels across of a channel's picture."""


@dataclass(frozen=True)
class File:
    """A file to be downloaded.

    Attributes:
        name: plain letters.
        type: of its content.
        content: bytes.
    """

    name: str
    type: str
    content: bytes


Action = Callable[[Any, Listener], "dict[str, Any] | File"]


class Actions:
    """What visitors can do.

    Args:
        studio: the models.
        store: the photos.
        examples: photos to begin with, by name.
    """

    def __init__(self, studio: Studio, store: Store, examples: Mapping[str, Example]) -> None:
        self.studio, self.store, self.examples = studio, store, examples

    # -------------------------------------------------------------------------------------------------- what there is

    @cached_property
    def about(self) -> dict[str, Any]:
        """The models with their layers and methods, the limits, the examples."""
        limits, entries = self.studio.limits, catalogue.methods()
        return {
            "models": [self._model(served) for served in self.studio.served.values()],
            "methods": {
                name: _method(name, entries[name])
                for name in sorted({method for served in self.studio.served.values() for method in served.methods})
            },
            "colormaps": payload.palettes(),
            "examples": list(self.examples),
            "formats": [format.lower() for format in FORMATS],
            "limits": {"megabytes": limits.megabytes, "megapixels": limits.megapixels, "maps": limits.maps},
            "steps": {"usual": map_metrics.STEPS, "most": map_metrics.MOST_STEPS},
        }

    def labels(self, model: str) -> dict[str, Any]:
        """The labels of a model's classes, by id; none where it has none.

        Raises:
            OptionError: there is no such model.
        """
        return {"labels": list(self.studio.model(model).model.class_labels or ())}

    @staticmethod
    def _model(served: Served) -> dict[str, Any]:
        return {
            "name": served.name,
            "layers": [{"name": layer.name, "channels": layer.channels, "grid": list(layer.grid)} for layer in served.places],
            "layer": served.default.name,
            "methods": list(served.methods),
            "classes": len(served.model.class_labels or ()) or None,
        }

    # ------------------------------------------------------------------------------------------------------- photos

    def check_photo(self, upload: Upload, tell: Listener) -> dict[str, Any]:
        """Look whether an upload is a photo; one that is none is let go at once, and so is one whose visitor has left.

        Raises:
            InputError: it is none.
        """
        try:
            photo = self.studio.photo(upload, tell)
            tell(None)
        except BaseException:
            self.store.remove(upload.id)
            raise
        return {"photo": upload.id, "name": photo.name, "width": photo.size[0], "height": photo.size[1]}

    def take_example(self, body: Any, tell: Listener) -> dict[str, Any]:
        """One of the examples, as if it had been uploaded."""
        name = Fields(body, ("example",)).text("example")
        if name not in self.examples:
            raise OptionError(unknown("example", name, self.examples))
        return self.check_photo(self.store.add(self.examples[name].content, f"{name}.jpg"), tell)

    def forget(self, body: Any, tell: Listener) -> dict[str, Any]:
        """Let a photo go."""
        self.store.remove(Fields(body, ("photo",)).text("photo"))
        return {}

    # --------------------------------------------------------------------------------------------------------- maps

    def explain(self, body: Any, tell: Listener) -> dict[str, Any]:
        """The likeliest classes of a photo, and the maps of every method and class that are asked for, or of the likeliest class."""
        question, seen = self._question(validation.read(body, self.studio, tell), tell)
        maps: list[Explanation] = []
        for number, method in enumerate(question.methods):

            def report_share(share: float | None, number: int = number) -> None:
                tell(None if share is None else (number + share) / len(question.methods))

            maps += self._maps(question, seen, method, question.targets, report_share)
        columns = len(question.targets)
        classes = [class_id for class_id in question.classes if class_id != question.against]
        if question.served.weights != question.weights:
            raise WeightsChangedError(f"the weights of {question.served.name} changed meanwhile; ask again.")
        queries = [
            replace(question, methods=(method,), classes=(class_id,)).to_dict() for method in question.methods for class_id in classes
        ]
        return {
            "question": question.to_dict(),
            "scores": [asdict(score) for score in self.studio.top(seen, question.served)],
            "columns": columns,
            **payload.viewed(maps, queries),
        }

    def pixel(self, body: Any, tell: Listener) -> dict[str, Any]:
        """One place of a map: its value, and the channels behind it; x and y are shares of the photo's width and height."""
        fields = Fields(body, ("map", "x", "y"))
        x, y = fields.number("x", None, 0, 1), fields.number("y", None, 0, 1)
        question, seen, explanation = self._one(fields, tell)
        width, height = explanation.frame.width, explanation.frame.height
        x, y = min(x * width, width - 1), min(y * height, height - 1)
        with self.studio.same_weights(question.served):
            place, activations = pixels.pixel(question.served.model, seen.prepared, explanation, question.targets[0], x, y)
        size = (CHANNEL_SIDE, max(1, round(CHANNEL_SIDE * height / width)))
        pictures = [
            render.data_address(render.overlay(explanation.image, pixels.channel_map(activation, explanation)).resize(size), "PNG")
            for activation in activations
        ]
        channels = [{**asdict(channel), "picture": picture} for channel, picture in zip(place.channels, pictures, strict=True)]
        return {**asdict(place), "channels": channels, "maximum": float(explanation.raw.max())}

    def judge(self, body: Any, tell: Listener) -> dict[str, Any]:
        """How far one map can be believed: average drop, increase in confidence, deletion and insertion."""
        fields = Fields(body, ("map", "steps"))
        steps = fields.whole("steps", map_metrics.STEPS, 1, map_metrics.MOST_STEPS)
        question, seen, explanation = self._one(fields, tell)
        with self.studio.turn(question.served, True, tell) as (model, report_share), self.studio.same_weights(question.served):
            verdicts = map_metrics.judge(model, seen.prepared, explanation, report_share, steps)
        return {"metrics": [asdict(verdict) for verdict in verdicts]}

    def save(self, body: Any, tell: Listener) -> File:
        """One map with all of the photo's pixels: as a picture (png), an array (npz), or numbers and words (json)."""
        fields = Fields(body, ("map", "format", "colormap", "opacity", "threshold", "boxes", "hide"))
        format, colormap = fields.text("format", "png"), fields.text("colormap", "turbo")
        if format not in TYPES:
            raise OptionError(unknown("format", format, TYPES))
        if colormap not in payload.COLORMAPS:
            raise OptionError(unknown("colormap", colormap, payload.COLORMAPS))
        opacity, threshold = fields.number("opacity", 0.5, 0, 1), fields.number("threshold", 0.2, 0, 1)
        boxes, hide = fields.flag("boxes", True), fields.flag("hide", False)
        question, _, explanation = self._one(fields, tell)

        def write(full: Explanation) -> bytes:
            content = io.BytesIO()
            if format == "png":
                payload.picture(full, colormap, opacity, threshold, boxes, hide).save(content, "PNG")
            elif format == "npz":
                npz.write_to(content, full, threshold)
            else:
                content.write(text.text(full, threshold).encode())
            return content.getvalue()

        content = self.studio.save(explanation, self.store.get(question.photo), question.served, write, tell)
        return File(f"{stem(explanation)}.{format}", TYPES[format], content)

    # ------------------------------------------------------------------------------------------------------ the steps

    def _question(self, question: Question, tell: Listener) -> tuple[Question, Seen]:
        """A question with its photo as the model gets it; where no class was named, the likeliest is."""
        seen = self.studio.see(self.store.get(question.photo), question.served, tell)
        if not question.classes:
            candidates = [score.id for score in self.studio.top(seen, question.served) if score.id != question.against]
            if not candidates:
                raise InputError("expected a network with two classes at least, to explain one rather than the other.")
            question = replace(question, classes=(candidates[0],))
        return question, seen

    def _one(self, fields: Fields, tell: Listener) -> tuple[Question, Seen, Explanation]:
        """The map that a request is about."""
        question, seen = self._question(validation.read_one(fields.mapping("map"), self.studio, tell), tell)
        return question, seen, self._maps(question, seen, question.methods[0], question.targets, tell)[0]

    def _maps(self, question: Question, seen: Seen, method: str, targets: Sequence[Any], tell: Listener) -> list[Explanation]:
        return self.studio.explain(seen, question.served, question.layer, method, question.options[method], targets, tell)


def _method(name: str, entry: catalogue.Entry) -> dict[str, Any]:
    """A method with its options, as the page shows them."""
    meanings = {option.name: option.meaning for option in entry.options}
    return {
        "summary": entry.paragraphs[0] if entry.paragraphs else "",
        "paper": entry.paper,
        "cost": entry.columns[-1],
        "long": is_long(name, {}),
        "options": [{**asdict(option), "meaning": meanings.get(option.name, "")} for option in validation.choices(name)],
    }


def stem(explanation: Explanation) -> str:
    """A name for a file about a map, of plain letters."""
    words = "-".join((Path(explanation.name).stem, explanation.method.replace("+", "p"), short(explanation.label)))
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in words)[:80]
