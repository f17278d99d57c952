"""A network of your own: photos through `wrap`, and two inputs with a dictionary of outputs through `attribute`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn

import lucidcam
from lucidcam.imaging.preprocess import Preprocess


def features() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())


class Classifier(nn.Module):
    """Photos in, class scores out."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = features()
        self.head = nn.Linear(32, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores `[B, classes]`."""
        return self.head(self.features(image).mean((2, 3)))


class Diagnosis(nn.Module):
    """A photo and a patient's age in, several answers out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features()
        self.risk = nn.Linear(32 + 1, 1)
        self.kind = nn.Linear(32 + 1, 4)

    def forward(self, image: Tensor, age: Tensor) -> dict[str, Tensor]:
        """Scores of the risk `[B, 1]` and of four kinds `[B, 4]`."""
        seen = torch.cat([self.features(image).mean((2, 3)), age], dim=1)
        return {"risk": self.risk(seen), "kind": self.kind(seen)}


def main(folder: str | Path = "out/own_model") -> list[Path]:
    """Write one picture of each network (both untrained here) and return where they are."""
    out = Path(folder)
    torch.manual_seed(0)
    photo = Image.fromarray(np.asarray(data.chelsea()))
    preprocess = Preprocess(size=(128, 128), fit="squash")

    # Photos and labels: wrap the module, then explain.
    model = lucidcam.wrap(Classifier(3), preprocess, labels=["cat", "dog", "cup"], name="mine")
    (first,) = lucidcam.explain(model, photo, "layercam", target="cat")

    # Several inputs, several outputs: attribute takes what the module takes; a callable says which score is meant.
    module = Diagnosis()
    inputs = {"image": preprocess(photo)[None], "age": torch.tensor([[0.63]])}
    risk = lucidcam.attribute(module, inputs, "hirescam", target=lambda outputs: outputs["risk"][:, 0])
    assert risk.shape == (1, 15, 15)

    # The same with photos: a module that fills in the other inputs.
    class AtAge(nn.Module):
        def __init__(self, module: Diagnosis, age: float) -> None:
            super().__init__()
            self.module, self.age = module, age

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return self.module(image, image.new_full((len(image), 1), self.age))

    second_model = lucidcam.wrap(AtAge(module, 0.63), preprocess, layer="module.features.3")
    (second,) = lucidcam.explain(second_model, photo, "gradcam", target=lambda outputs: outputs["kind"][:, 2])

    return [first.save(out / "cat.png"), second.save(out / "kind.png")]


if __name__ == "__main__":
    for path in main(*sys.argv[1:]):
        print(f"wrote {path}")
