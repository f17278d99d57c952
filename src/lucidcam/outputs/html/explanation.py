"""The writer: one explanation as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lucidcam.imaging.explanation import Explanation
from lucidcam.outputs.html.blocks import Facts, Gallery, Page, Section, Shot
from lucidcam.outputs.html.page import write as write_page
from lucidcam.registry import writers


@writers.register("html")
def write(explanation: Explanation, path: Path, *, colormap: str = "turbo", alpha: float = 0.5, threshold: float = 0.2) -> None:
    """Write the photo, the method's picture and what is known of it as a page by itself; `lucidcam.report` puts many on one."""
    write_page(page(explanation, colormap, alpha, threshold), path)


def page(explanation: Explanation, colormap: str = "turbo", alpha: float = 0.5, threshold: float = 0.2) -> Page:
    """One explanation as a page."""
    known = explanation.to_dict(threshold)
    origin: dict[str, Any] = {name: known.pop(name) for name in ("target", "options", "model", "versions") if name in known}
    box, boxes, seen = known.pop("box"), known.pop("boxes"), known.pop("input")
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
        "part that the network saw": ", ".join(f"{side:g}" for side in seen.pop("box")) + "".join(f", {turn}" for turn in seen),
        "box": "nothing speaks for the target" if box is None else ", ".join(map(str, box)),
        "regions": len(boxes),
    }
    sections = [Section("Map", (Gallery((shot,)),)), Section("What is known", (Facts(facts),))]
    if origin:
        sections.append(Section("Where it comes from", (Facts(_flat(origin)),)))
    return Page(f"{name}: {explanation.label}", lead, tuple(sections))


def _flat(origin: dict[str, Any]) -> dict[str, object]:
    """What a map comes from, each part of the network, the options and the versions under its own name."""
    flat: dict[str, object] = {"target": origin["target"]}
    for part in ("model", "options", "versions"):
        flat |= {f"{part}: {name}": value for name, value in origin[part].items()}
    return flat
