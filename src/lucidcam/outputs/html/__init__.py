"""Pages: one HTML file that holds all it shows, and that asks for nothing beyond itself.

What stands on a page is said in blocks, which know nothing of what they show; `lucidcam.reports` makes them from results. A page is read
without scripts, by keyboard, by screen readers, on a phone, in the dark and on paper. Everything given is text: no markup passes through.
"""

from __future__ import annotations

from lucidcam.outputs.html.blocks import (
    Bar,
    Bars,
    Cell,
    Curves,
    Facts,
    Fold,
    Gallery,
    Grid,
    Page,
    Part,
    Section,
    Shot,
    Table,
    Text,
)
from lucidcam.outputs.html.charts import fixed
from lucidcam.outputs.html.explanation import write as write_explanation
from lucidcam.outputs.html.page import check_page, render, write

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Curves",
    "Facts",
    "Fold",
    "Gallery",
    "Grid",
    "Page",
    "Part",
    "Section",
    "Shot",
    "Table",
    "Text",
    "check_page",
    "fixed",
    "render",
    "write",
    "write_explanation",
]
