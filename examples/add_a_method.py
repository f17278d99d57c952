"""A new method in one file: element-wise Grad-CAM, with an option of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from torch import Tensor

import lucidcam
from lucidcam import Method, Run, register
from lucidcam.errors import OptionError

CHANNELS = 2


@register("elementwise")
@dataclass(frozen=True, kw_only=True)
class ElementwiseGradCAM(Method):
    """Positive products of gradients and activations: `Σ_k ReLU(g_k ⊙ A_k)^p`.

    Attributes:
        power: p; larger values favour few strong channels over many weak ones.
    """

    kind = "gradient"
    paper = "this example"

    power: float = 1.0

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise OptionError(f"expected power > 0; got {self.power}.")

    def maps(self, run: Run) -> Tensor:
        """Return `[B, T, *grid]` from activations `[B, 1, C, *grid]` and gradients `[B, T, C, *grid]`."""
        c = run.capture(gradients=True)
        return ((c.gradients * c.activations).relu() ** self.power).sum(CHANNELS)


def main(folder: str | Path = "out/add_a_method") -> list[Path]:
    """Use it as any other method, by its name."""
    model = lucidcam.load("demo")
    photo = Image.fromarray(np.asarray(data.chelsea()))
    written = []
    for power in (1.0, 2.0):
        (explanation,) = lucidcam.explain(model, photo, "elementwise", target="Egyptian cat", power=power)
        written.append(explanation.save(Path(folder) / f"power-{power:g}.png"))
    return written


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
