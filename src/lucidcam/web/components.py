"""Gradio's components, where the page needs them otherwise: nothing is decoded or fetched before it is checked."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta

from lucidcam.web.photos import Upload


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Keep Gradio from writing a stub file (.pyi) beside every module that derives a component."""
    write = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write


LARGEST = 1e300
"""JSON has larger whole numbers, and also NaN and Infinity."""


def checked(payload: Any) -> float:
    """A number that was sent.

    Raises:
        gr.Error: it is something else, which Gradio would tell in the log alone.
    """
    if isinstance(payload, bool) or not isinstance(payload, (int, float)) or not -LARGEST < payload < LARGEST:
        raise gr.Error(
            f"Expected a number; got {html.escape(str(payload)[:80], quote=False)}.", title="Not possible", print_exception=False
        )
    return payload


with _without_stubs():

    class Photo(gr.Image):  # type: ignore[misc]
        """An upload that is not decoded before it is checked."""

        is_template = True

        def preprocess(self, payload: Any) -> Upload | None:
            """Where the file lies; nothing of it is read."""
            return None if payload is None or not payload.path else Upload(Path(payload.path), str(payload.orig_name or "photo"))

        def example_value(self) -> Any:
            """Nothing that would have to be fetched."""
            return None

        def example_payload(self) -> Any:
            """Nothing that would have to be fetched."""
            return None

    class Classes(gr.CheckboxGroup):  # type: ignore[misc]
        """Classes to choose from; any class of the model may be asked for, also those that are not among them."""

        is_template = True

        def preprocess(self, payload: Any) -> list[str]:
            """The chosen ids as text; what they mean is checked later, with the model."""
            return [str(each) for each in (payload if isinstance(payload, list) else [] if payload is None else [payload])]

        def api_info(self) -> dict[str, Any]:
            """Class ids as text."""
            return {"type": "array", "items": {"type": "string"}}

    class Layer(gr.Slider):  # type: ignore[misc]
        """A layer's number; how many there are depends on the model, and is checked with it."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            """What was sent."""
            return payload

    class Number(gr.Number):  # type: ignore[misc]
        """A number, and nothing else."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            """The number."""
            return super().preprocess(checked(payload))

    class Slider(gr.Slider):  # type: ignore[misc]
        """A number within its bounds, and nothing else."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            """The number."""
            return super().preprocess(checked(payload))

    class Viewer(gr.HTML):  # type: ignore[misc]
        """The photo with its maps, drawn by the browser."""

        def api_info(self) -> dict[str, Any]:
            """What `showing.viewed` returns."""
            return {
                "type": "object",
                "description": "photo, width, height, box, columns, cells (label, id, probability, method, layer, map)",
            }
