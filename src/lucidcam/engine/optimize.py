"""A faster private copy of a network; the user's module is never changed.

Batch normalisation is folded into the convolution before it, weights take the channels-last layout, on a CPU 1×1 convolutions become matrix
products, and on request the rest runs under autocast to bfloat16 or float16. The result is checked against the original on real numbers.
Layer names stay what they were. Whoever works with a copy falls back to the network as it is wherever that fails (`engine.copies`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.weak import WeakTensorKeyDictionary

from lucidcam.engine.copies import note_copy
from lucidcam.engine.foreign import says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import hooks, plain, session
from lucidcam.engine.thread_state import Mode
from lucidcam.engine.trace import run_forward, tensors_of, trace
from lucidcam.errors import ModelError, OptionError
from lucidcam.targets import kind_of
from lucidcam.utils.rollback import closes_scopes

LOOSE = {None: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest accepted difference of the outputs, relative to their largest magnitude, by precision."""

Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@closes_scopes
def optimize(module: nn.Module, inputs: Any, dtype: torch.dtype | None = None, others: Sequence[Any] = ()) -> nn.Module:
    """Return a faster copy that gives the same outputs.

    Args:
        module: the network; it is left as it is.
        inputs: an example of what it takes; the copy is checked on it, and on two of it at once.
        dtype: run in `torch.bfloat16` or `torch.float16` by autocast; None keeps the precision.
        others: more examples, of other sizes say, that the copy is checked on where the network takes them.

    Returns:
        A copy in evaluation mode, with the same layer names, for `attribute` and `explain`.

    Raises:
        OptionError: for another dtype.
        ModelError: when the module cannot be copied, or the copy does not run, or its outputs differ from the module's.
        torch.OutOfMemoryError: when there is no room for a copy.
    """
    if dtype not in LOOSE:
        raise OptionError(f"expected dtype torch.bfloat16, torch.float16 or None; got {dtype}.")
    module = plain(module)
    given = Inputs.of(inputs)
    with session(module):
        expected = [(given, _compared(module, given))]
        for example in [_twice(given), *map(Inputs.of, others)]:
            with _suppressed():  # the network itself may take one image alone, or one size
                expected.append((example, _compared(module, example)))
    try:
        private = _faster(module, given, dtype)
        with session(private):
            differences = [_difference(_compared(private, example), outputs) for example, outputs in expected]
    except Exception as error:
        if says_nothing(error):
            raise
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ModelError(
            f"an optimised copy of {type(module).__name__} cannot be made or run ({type(error).__name__}: {reason}); use the module as it "
            "is (optimized=False, --exact)."
        ) from error
    if not max(differences) <= LOOSE[dtype]:
        raise ModelError(
            f"the optimised copy's outputs differ by {max(differences):.1e} of their size (allowed: {LOOSE[dtype]:.0e}); "
            "use the module as it is (optimized=False, --exact)" + (", or another dtype." if dtype is not None else ".")
        )
    note_copy(private, module)
    return private


@closes_scopes
def _faster(module: nn.Module, given: Inputs, dtype: torch.dtype | None) -> nn.Module:
    with session(module):
        private = copy.deepcopy(module)
        private = private if private is module else private.eval()
    parts: list[Any] = [*module.modules(), *module.parameters(), *module.buffers()]
    own = {id(part) for part in parts}
    if any(id(part) in own for part in (*private.modules(), *private.parameters())):
        raise ModelError("its copy shares modules or weights with it")
    _fold(private, given)
    _channels_last(private)
    if given.image.device.type == "cpu":
        _pointwise(private, given)
    if dtype is not None:
        _autocast(private, given.image.device.type, dtype)
    return private


def _twice(inputs: Inputs) -> Inputs:
    """Two images at once: the first, and the same the other way round."""
    rows = inputs.rows(torch.zeros(2, dtype=torch.long, device=inputs.image.device))
    return rows.with_image(torch.cat([rows.image[:1], rows.image[1:].flip(-1)]))


@contextmanager
def _suppressed() -> Iterator[None]:
    """Let every error of a network pass, except that the memory ended."""
    try:
        yield
    except Exception as error:
        if says_nothing(error):
            raise


def _difference(outputs: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest magnitude; infinite where one is NaN or the shapes differ."""
    if outputs.shape != expected.shape:
        return math.inf
    difference = float((outputs.float() - expected.float()).abs().max()) / max(float(expected.abs().max()), 1e-12)
    return math.inf if math.isnan(difference) else difference


def _fold(module: nn.Module, inputs: Inputs) -> None:
    """Fold each batch normalisation into the convolution whose output it is the only one to read."""
    pairs = _Pairs.found(module, inputs)
    parents = {child: (parent, name) for parent in module.modules() for name, child in parent.named_children()}
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
        parent, name = parents[norm]
        setattr(parent, name, _after(norm))


def _after(norm: nn.Module) -> nn.Module:
    """What is left of a folded normalisation: nothing, or the activation that timm's BatchNormAct keeps inside."""
    inside = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    if not inside:
        return nn.Identity()
    return inside[0] if len(inside) == 1 else nn.Sequential(*inside)


def _channels_last(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            child.weight.data = child.weight.data.contiguous(memory_format=torch.channels_last)


class _Pointwise(nn.Conv2d):
    """A 1×1 convolution as one matrix product over all pixels, in the channels-last layout.

    On a CPU and for small batches torch sends 1×1 convolutions to a slow path with copies (`docs/decisions/optimize.md`). `addmm`
    rather than `linear`, so that nothing takes it for a classifier.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, K, H', W']`."""
        rows, columns = self.stride
        pixels = x.permute(0, 2, 3, 1)[:, ::rows, ::columns]
        flat, weight = pixels.reshape(-1, x.shape[1]), self.weight.flatten(1).t()
        found = flat @ weight if self.bias is None else torch.addmm(self.bias, flat, weight)
        return found.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)


def _pointwise(module: nn.Module, inputs: Inputs) -> None:
    """Turn 1×1 convolutions into matrix products; one that makes class scores stays what it is."""
    seen = trace(module, inputs)
    at = seen.head()
    head = None if at is None else seen.calls[at].name
    for name, child in module.named_modules():
        pointwise = type(child) is nn.Conv2d and child.kernel_size == (1, 1) and child.padding == (0, 0) and child.groups == 1
        if pointwise and name != head:
            child.__class__ = _Pointwise


def _autocast(module: nn.Module, device: str, dtype: torch.dtype) -> None:
    module.forward = _Cast(module, device, dtype)  # an attribute of this private copy; layer names stay


@dataclass
class _Cast:
    """A module's own forward under autocast; copies and pickles follow the module."""

    module: nn.Module
    device: str
    dtype: torch.dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device, self.dtype):
            return type(self.module).forward(self.module, *args, **kwargs)


def _compared(module: nn.Module, inputs: Inputs) -> Tensor:
    """What tells whether a copy computes the same: the (first) output, or a detector's last map.

    A detector's lists may be empty, or of another order when a score changes by a hair.
    """
    outputs = run_forward(module, inputs)
    if isinstance(outputs, (tuple, list)) and outputs and all(isinstance(each, Mapping) for each in outputs):
        calls = trace(module, inputs).calls
        maps = {call.name: call for call in calls if call.layout is not None and call.name}
        kept: list[Tensor] = []
        with hooks([(module.get_submodule(list(maps)[-1]), lambda _, __, output: kept.append(tensors_of(output)[0]))]):
            run_forward(module, inputs)
        return kept[-1]
    found = tensors_of(outputs)
    if not found or not found[0].numel():
        raise ModelError(f"cannot check an optimised copy of a model that returns {kind_of(outputs)}.")
    return found[0]


class _Pairs(Mode):
    """Finds, by running the network, (convolution, normalisation) pairs that nothing comes between and nobody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Any = WeakTensorKeyDictionary()  # a convolution's output: that convolution
        self.reads: dict[nn.Module, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if _flat((output,)):  # .shape, .dim() and the like read no values
            for value in _flat(args) + _flat(tuple((kwargs or {}).values())):
                conv = self.made.get(value)
                if conv is not None:
                    self.reads[conv] = self.reads.get(conv, 0) + 1
        return output

    @classmethod
    @closes_scopes
    def found(cls, module: nn.Module, inputs: Inputs) -> list[tuple[Any, Any]]:
        watch = cls()
        calls: dict[nn.Module, int] = {}
        pairs: dict[nn.Module, nn.Module] = {}

        def after_conv(child: nn.Module, _: Any, output: Any) -> None:
            calls[child] = calls.get(child, 0) + 1
            if isinstance(output, Tensor):
                watch.made[output] = child

        def after_norm(child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[child] = calls.get(child, 0) + 1
            conv = watch.made.get(args[0]) if args and isinstance(args[0], Tensor) else None
            if conv is not None:
                pairs[conv] = child

        convs = [(m, after_conv) for m in module.modules() if isinstance(m, Conv) and _foldable(m)]
        norms = [(m, after_norm) for m in module.modules() if isinstance(m, Norm) and isinstance(m.running_mean, Tensor) and _foldable(m)]
        with session(module), hooks([*convs, *norms]), watch:
            run_forward(module, inputs)
        readers = list(pairs.values())
        return [
            (conv, norm)
            for conv, norm in pairs.items()
            if calls[conv] == calls[norm] == 1 and readers.count(norm) == 1 and watch.reads[conv] == 1
        ]


def _foldable(module: nn.Module) -> bool:
    """Whether nobody else has a hand in a module: no hooks, no parametrisation."""
    return not (module._forward_hooks or module._forward_pre_hooks or is_parametrized(module))


def _flat(values: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [v for v in value if isinstance(v, Tensor)]
    return found
