"""Any backbone as a network of class activation mapping (Zhou et al., CVPR 2016): cut, one more convolution, pooled, one linear layer."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lucidcam.engine import layers
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import hook_until, hooks, session
from lucidcam.engine.sharing import settled_inputs
from lucidcam.engine.token_layout import layout_at
from lucidcam.engine.trace import first_tensor, run_forward
from lucidcam.errors import LayerError, OptionError, unknown
from lucidcam.utils.rollback import Scope, closes_scopes

Pooling = Literal["gap", "gmp", "lse"]
SHARPNESS = 5.0
"""r of the log-sum-exp pooling: towards 0 it is the mean, towards ∞ the maximum (Pinheiro & Collobert, CVPR 2015)."""


class Trunk(nn.Module):
    """A backbone up to one of its layers; what comes after is not run, and what is never run is taken out.

    Args:
        module: the backbone. It is copied, the user's own stays as it is.
        at: dotted name of the layer whose output is wanted; None: the default layer (see `lucidcam.layers`).
        inputs: an example of what the backbone takes; it is run on it once.

    Attributes:
        module: the copy; modules that never ran are `nn.Identity`.
        at: the layer's name.
        channels: of its output.

    Raises:
        LayerError: the layer does not exist, does not run, or holds no spatial map.
    """

    @closes_scopes
    def __init__(self, module: nn.Module, at: str | None, inputs: Any) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        with session(self.module):
            given = settled_inputs(self.module, Inputs.of(inputs))
        found = layers.default(self.module, given) if at is None else layers.find(self.module, at)
        self.at = found.name
        ran: set[nn.Module] = set()
        with session(self.module), hooks([(each, lambda child, *_: ran.add(child)) for each in self.module.modules()]):
            output = self._cut(lambda: run_forward(self.module, given))
        tensor = first_tensor(output)
        layout = None if tensor is None else layout_at(self.module, given, found, tuple(tensor.shape))
        if tensor is None or layout is None:
            raise LayerError(f"the layer {self.at!r} holds no spatial map{layers.suggestion(self.module, given)}.")
        self._layout = layout
        self.channels = int(layout.to_maps(tensor).shape[1])
        ran.update(parent for name, parent in self.module.named_modules() if self.at == name or self.at.startswith(f"{name}.") or not name)
        _take_out_idle(self.module, ran)

    def forward(self, *args: Any) -> Tensor:
        """Return maps `[B, K, h, w]`."""
        tensor = first_tensor(self._cut(lambda: self.module(*args)))
        assert tensor is not None
        return self._layout.to_maps(tensor)

    @closes_scopes
    def _cut(self, run: Any) -> Any:
        """What the layer gives. The hook comes last, so that whoever watches the layer has seen its output."""
        with Scope() as scope:
            hook_until(scope, self.module.get_submodule(self.at), _reached)
            try:
                run()
            except _Reached as reached:
                return reached.output
        raise LayerError(f"the layer {self.at!r} does not run; choose one that does (lucidcam layers).")


class _Reached(Exception):  # noqa: N818 - no error: it ends the pass
    def __init__(self, output: Any) -> None:
        super().__init__("the layer was reached")
        self.output = output


def _reached(module: nn.Module, args: Any, output: Any) -> None:
    raise _Reached(output)


def _take_out_idle(module: nn.Module, ran: set[nn.Module]) -> None:
    """Replace submodules that never ran, and nothing of which ran, by identities: their weights would be ballast."""
    for name, child in module.named_children():
        if not any(each in ran for each in child.modules()):
            setattr(module, name, nn.Identity())
        else:
            _take_out_idle(child, ran)


class GlobalPool(nn.Module):
    """From maps `[B, K, h, w]` to features `[B, K]`.

    Attributes:
        kind: "gap": the mean; "gmp": the maximum; "lse": `1/r · log(1/Z · Σ exp(r·x))`, between the two.
    """

    def __init__(self, kind: Pooling) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[B, K]`."""
        if self.kind == "gap":
            return F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.kind == "gmp":
            return F.adaptive_max_pool2d(x, 1).flatten(1)
        pixels = x.flatten(2)
        return (torch.logsumexp(SHARPNESS * pixels, -1) - math.log(pixels.shape[-1])) / SHARPNESS

    def extra_repr(self) -> str:
        """For printing."""
        return self.kind


class GAPNetwork(nn.Module):
    """Maps, global pooling, one linear layer; see `to_gap`.

    Attributes:
        trunk: the backbone, cut.
        convolution: the paper's 3×3 convolution and its ReLU, or an identity.
        pool: global pooling.
        head: the linear layer; row c holds the weights of class c's activation map.
        layer: dotted name of the layer that is pooled.
        multi_label: whether each class has a probability of its own, a sigmoid; else a softmax shares it out.
    """

    multi_label = False

    def __init__(self, trunk: Trunk, channels: int | None, pooling: Pooling, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.convolution: nn.Module = nn.Identity()
        if channels is not None:
            self.convolution = nn.Sequential(nn.Conv2d(trunk.channels, channels, 3, padding=1), nn.ReLU())
        self.pool = GlobalPool(pooling)
        self.head = nn.Linear(channels or trunk.channels, classes)
        self.layer = "trunk" if channels is None else "convolution"

    def features(self, x: Tensor) -> Tensor:
        """Return the maps that are pooled, `[B, K, h, w]`."""
        found: Tensor = self.convolution(self.trunk(x))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (logits) `[B, classes]`."""
        return self.scores(self.features(x))

    def scores(self, features: Tensor) -> Tensor:
        """Class scores `[B, classes]` of maps `[B, K, h, w]`."""
        found: Tensor = self.head(self.pool(features))
        return found

    def cams(self, features: Tensor) -> Tensor:
        """Class activation maps of all classes `[B, classes, h, w]`: `M_c = Σ_k w_k^c A_k` (Zhou 2016, Eq. 2)."""
        return F.conv2d(features, self.head.weight[:, :, None, None])


def to_gap(
    module: nn.Module,
    at: str | None = None,
    channels: int | None = 1024,
    pooling: Pooling = "gap",
    classes: int = 1000,
    inputs: Any = None,
) -> GAPNetwork:
    """Make a class activation mapping network of a backbone (Zhou et al. 2016, section 3).

    The backbone is cut at a layer, a 3×3 convolution of stride 1 with a ReLU is put on top, then global pooling and one linear layer. The
    backbone keeps its weights; what is new is random and has to be trained (`lucidcam train gap`).

    Args:
        module: any torch module with spatial layers, of torchvision, timm or your own; it is copied, not changed.
        at: the layer to cut at, "features.29" for instance; None: the default one, the last before pooling.
        channels: of the new convolution, 1024 in the paper; None: no convolution, as the paper does with networks that end in global
            average pooling already (ResNet, EfficientNet).
        pooling: "gap" (mean), "gmp" (maximum) or "lse" (between the two).
        classes: how many.
        inputs: an example of what the module takes; None: one picture of zeros `[1, 3, 224, 224]`.

    Raises:
        LayerError: there is no such layer, or it holds no spatial map.
        OptionError: another pooling, or numbers below 1.

    Example:
        >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 10))
        >>> net = to_gap(backbone, at="1", channels=16, classes=5, inputs=torch.zeros(1, 3, 32, 32))
        >>> net(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """
    if pooling not in get_args(Pooling):
        raise OptionError(unknown("pooling", str(pooling), get_args(Pooling)))
    if classes < 1 or (channels is not None and channels < 1):
        raise OptionError(f"expected classes ≥ 1 and channels ≥ 1 (or None); got {classes} and {channels}.")
    trunk = Trunk(module, at, torch.zeros(1, 3, 224, 224) if inputs is None else inputs)
    network = GAPNetwork(trunk, channels, pooling, classes)
    return network.train(module.training)
