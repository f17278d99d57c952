"""The writer: one explanation as a page."""

from __future__ import annotations

from pathlib import Path

from lucidcam.explanation import Explanation
from lucidcam.outputs.html.blocks import Facts, Gallery, Page, Section, Shot
from lucidcam.outputs.html.page import write as write_page
from lucidcam.registry import writers


@writers.register("html")
def write(explanation: Explanation, path: Path, *, colormap: str = "turbo", alpha: float = 0.5) -> None:
    """Write the photo, the method's picture and what is known of it as a page by itself; `lucidcam.report` puts many on one."""
    write_page(page(explanation, colormap, alpha), path)


def page(explanation: Explanation, colormap: str = "turbo", alpha: float = 0.5) -> Page:
    """One explanation as a page."""
    known = explanation.to_dict()
    box = known.pop("box")
    size = known.pop("size")
    name = Path(explanation.name).name
    chance = f" with probability {explanation.probability:.3f}" if explanation.probability is not None else ""
    lead = f"{explanation.method} at {explanation.layer}: where the network sees “{explanation.label}”{chance}."
    small = explanation.reduced()
    shot = Shot(
        (small.image, small.picture(colormap, alpha)),
        name,
        f"{name}: {explanation.label}",
        labels=("photo", explanation.method),
    )
    facts = {
        **known,
        "size": f"{size[0]} × {size[1]} pixels",
        "box": "nothing speaks for the target" if box is None else ", ".join(map(str, box)),
    }
    return Page(f"{name}: {explanation.label}", lead, (Section("Map", (Gallery((shot,)),)), Section("What is known", (Facts(facts),))))
