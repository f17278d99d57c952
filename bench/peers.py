"""The other libraries' methods, called as their documentation says, each on a copy of the network of its own."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.utils.optional import import_torchvision

Step = Callable[[], object]
LIBRARIES = {"pytorch-grad-cam": "pytorch_grad_cam", "torchcam": "torchcam.methods", "captum": "captum.attr"}
"""By what they are called here, the modules to import."""


def available(told: Callable[[str], None]) -> dict[str, Any]:
    """Import the libraries; one that is not there, or does not import, is told of and left out."""
    import_torchvision("the benchmark")  # pytorch-grad-cam imports it too, and cannot where its compiled operators do not load
    found = {}
    for name, module in LIBRARIES.items():
        try:
            found[name] = importlib.import_module(module)
        except Exception as error:
            told(f"{name} is left out: {type(error).__name__}: {error}")
    return found


def steps(library: str, api: Any, network: nn.Module, layer: str, inputs: Tensor, classes: Tensor) -> dict[str, Step]:
    """What a library offers of the methods compared, by lucidcam's names.

    Args:
        library: a key of `LIBRARIES`.
        api: its imported module.
        network: is copied: some of them leave hooks and `.grad` behind.
        layer: dotted name of the layer to explain.
        inputs: `[B, C, H, W]`.
        classes: `[B, 5]`, for the step named "gradcam, 5 classes".
    """
    network = copy.deepcopy(network)
    at = network.get_submodule(layer)
    if library == "pytorch-grad-cam":
        target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
        wanted = [[target(c) for c in column] for column in classes.T.tolist()]

        def run(kind: Any, targets: list[Any] | None = None) -> object:
            with kind(model=network, target_layers=[at]) as cam:
                return cam(input_tensor=inputs, targets=targets)

        def several() -> object:
            with api.GradCAM(model=network, target_layers=[at]) as cam:
                return [cam(input_tensor=inputs, targets=targets) for targets in wanted]

        kinds = {"gradcam": api.GradCAM, "gradcam++": api.GradCAMPlusPlus, "hirescam": api.HiResCAM, "layercam": api.LayerCAM}
        return {
            **{name: lambda kind=kind: run(kind) for name, kind in kinds.items()},
            "gradcam, 5 classes": several,
            "eigencam": lambda: run(api.EigenCAM),
        }
    if library == "torchcam":

        def extract(kind: Any) -> object:
            with kind(network, at) as extractor:
                scores = network(inputs)
                return extractor(scores.argmax(1).tolist(), scores)

        kinds = {"gradcam": api.GradCAM, "gradcam++": api.GradCAMpp, "layercam": api.LayerCAM}
        return {name: lambda kind=kind: extract(kind) for name, kind in kinds.items()}
    if library == "captum":
        first = classes[:, 0].contiguous()  # it has no predicted class: that is given, which spares it nothing but an argmax
        return {"gradcam": lambda: api.LayerGradCam(network, at).attribute(inputs, target=first, relu_attributions=True)}
    raise ValueError(f"no library is called {library!r}.")


def scorecam(library: str, api: Any, network: nn.Module, layer: str, image: Tensor, number: int, batch: int) -> Step | None:
    """Score-CAM of one image `[1, C, H, W]` for one class, or None where the library has none."""
    network = copy.deepcopy(network)
    at = network.get_submodule(layer)
    if library == "pytorch-grad-cam":
        target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(number)

        def masked() -> object:
            with api.ScoreCAM(model=network, target_layers=[at]) as cam, contextlib.redirect_stderr(io.StringIO()):
                cam.batch_size = batch
                return cam(input_tensor=image, targets=[target])

        return masked
    if library == "torchcam":

        def extract() -> object:
            with api.ScoreCAM(network, at, batch_size=batch) as extractor, torch.inference_mode():
                network(image)
                return extractor(class_idx=number)

        return extract
    return None


def ablationcam(library: str, api: Any, network: nn.Module, layer: str, image: Tensor, number: int, batch: int) -> Step | None:
    """Ablation-CAM of one image `[1, C, H, W]` for one class, or None where the library has none."""
    if library != "pytorch-grad-cam":
        return None
    network = copy.deepcopy(network)
    target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(number)

    def ablated() -> object:
        with (
            api.AblationCAM(model=network, target_layers=[network.get_submodule(layer)], batch_size=batch) as cam,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return cam(input_tensor=image, targets=[target])

    return ablated
