"""Networks in which the images of a batch influence each other, so that an image must go through them alone.

Normalisation by the batch's own statistics, attention between images, a division by the batch's largest value, dynamic quantisation: in
evaluation mode as well, such networks give an image other scores among others than alone. Masked copies of an image would be scored by
what the other masks leave. That is seen by value: an image goes through the network behind one that is much like it, before one that is
not, and alone.

Where the code decides by a value that was computed from all images (`if confidence.max() > 0.9: return early`), one way is taken for all of
them, which no trial with other images shows: such a network takes each image alone, too. Values that are read for each image apart are no
such, nor are those of checks: the code raises, or does the same, if they say the contrary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.draws import draws_numbers
from lucidcam.engine.foreign import says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import session
from lucidcam.engine.trace import FollowsImage, batch_of, remembered, run_forward, signature, tensors_of
from lucidcam.errors import ModelError
from lucidcam.utils.rollback import closes_scopes

EQUAL = {torch.float64: 1e-10, torch.float32: 5e-6}
"""Largest difference, as a share of the largest value, of an image's outputs beside one image and another: the same operations ran."""
EQUAL_IN_HALF = 2e-3

ALONE = {torch.float64: 1e-3, torch.float32: 2e-2}
"""The same of an image alone: other algorithms may run, on a GPU in a lower precision."""
ALONE_IN_HALF = 0.1

READING = frozenset(
    "__array__ __bool__ __complex__ __contains__ __float__ __index__ __int__ allclose equal is_nonzero item numpy tolist".split()  # noqa: SIM905
)
"""Functions of torch that give values of tensors to Python."""
MOST_CHECKS = 8
"""Truth values of which it is tried whether the network decides by them; of one that reads more it is taken for granted."""
SCRIPT_READING = ("aten::Bool", "aten::Float", "aten::Int", "aten::IntImplicit", "aten::FloatImplicit", "aten::item", "aten::is_nonzero")
"""The same in graphs of TorchScript."""


class MixingError(ModelError):
    """Several images at once, for a network in which they influence each other; whoever can does them one by one.

    Attributes:
        inputs: all of them.
    """

    def __init__(self, message: str, inputs: Inputs) -> None:
        super().__init__(message)
        self.inputs = inputs


@closes_scopes
def mixes(module: nn.Module, inputs: Inputs) -> bool:
    """Whether an image's outputs depend on what else is in the batch, or on random numbers. Remembered per module and input size."""
    cache, key = remembered(module, inputs), ("mixes", signature(inputs))
    if key not in cache:
        with session(module):
            cache[key] = _influenced(module, inputs) or draws_numbers(module)
    answer: bool = cache[key]
    return answer


def check_apart(module: nn.Module, inputs: Inputs) -> None:
    """Refuse several images for a network in which they influence each other.

    Raises:
        MixingError: they do.
    """
    if inputs.batch > 1 and mixes(module, inputs):
        raise MixingError(
            f"the images of a batch influence each other in this {type(module).__name__} ({_reason(module)}); got {inputs.batch}: "
            "give one image at a time.",
            inputs,
        )


def _reason(module: nn.Module) -> str:
    """What makes a network mix images, as far as its modules tell."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            return f"{name or type(part).__name__!r} normalises by the statistics of the batch"
    return "it draws random numbers" if draws_numbers(module) else "its code computes over the whole batch, or decides by its values"


def _influenced(module: nn.Module, inputs: Inputs) -> bool:
    if batch_of(module, inputs) is not None:
        return False  # no image can go through it alone
    if any(".quantized.dynamic" in type(part).__module__ for part in module.modules()):
        return True  # the batch is quantised as one, by its largest value
    if any(isinstance(part, torch.jit.ScriptModule) and _script_reads(part) for part in module.modules()):
        return True
    image = inputs.image[:1]
    rows = torch.zeros(2, dtype=torch.long, device=image.device)

    def pair(first: Tensor, second: Tensor) -> Inputs:
        return inputs.repeated(torch.cat([first, second]), rows)

    def outputs_of(images: Inputs) -> list[Tensor]:
        return tensors_of(run_forward(module, images))

    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(image)
    low, high = image.amin(), image.amax()
    near = 0.9 * image + 0.1 * (low + noise * torch.where(high > low, high - low, 1))
    strong = 3 * image.flip(-1) + torch.where(high > low, 0, 1)
    single, together = inputs.rows(slice(0, 1)), pair(near, image)
    try:
        with _Reads(single.raw) as reads:
            alone = outputs_of(single)
        with _Reads(together.raw) as reads_of_two:
            behind = _part(outputs_of(together), alone, last=True)
        if reads.count and reads_of_two.count != 2 * reads.count and _decides(module, single, reads, alone):
            return True
        try:
            before = _part(outputs_of(pair(image, strong)), alone, last=False)
        except Exception as error:  # it checks the range of values, say
            if says_nothing(error):
                raise
            before = _part(outputs_of(pair(image, 0.5 * (image.flip(-1) + image.mean()))), alone, last=False)
    except Exception as error:  # it takes no two; what is wrong with it shows in the pass that is asked for
        if says_nothing(error):
            raise
        return False
    return _differs(behind, before, alone)


class _Reads(FollowsImage):
    """Counts the values of the image, or of what was computed from it, that are given to Python.

    Args:
        image: that is followed.
        contrary: the number of a truth value, from 0, of which Python gets the contrary; None: of none.
    """

    def __init__(self, image: Tensor, contrary: int | None = None) -> None:
        super().__init__(image)
        self.contrary, self.count, self.truths = contrary, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not self.follow(args, kwargs or {}, output) or name not in READING:
            return output
        self.count += args[0].numel() if name == "tolist" else 1
        if name == "__bool__":
            self.truths += 1
            if self.truths - 1 == self.contrary:
                return not output
        return output


def _decides(module: nn.Module, single: Inputs, reads: _Reads, alone: list[Tensor]) -> bool:
    """Whether what comes out of a network hangs on the values that it reads: numbers are taken to decide, truth values are tried."""
    if reads.truths != reads.count or reads.truths > MOST_CHECKS:
        return True
    for number in range(reads.truths):
        try:
            with _Reads(single.raw, contrary=number):
                others = tensors_of(run_forward(module, single))
        except Exception as error:  # a check
            if says_nothing(error):
                raise
            continue
        if len(others) != len(alone) or any(a.shape != b.shape for a, b in zip(others, alone, strict=True)):
            return True
        if _differs(list(others), list(alone), alone):
            return True
    return False


def _script_reads(module: torch.jit.ScriptModule) -> bool:
    """Whether a scripted module, or a part of it, takes a value of a tensor to decide or count by."""
    graph = getattr(module, "inlined_graph", None)
    return graph is not None and any(
        next(iter(node.inputs())).type().kind() == "TensorType" for kind in SCRIPT_READING for node in graph.findAllNodes(kind, True)
    )


def _part(pair: list[Tensor], one: list[Tensor], last: bool) -> list[Tensor | None]:
    """What belongs to the first or the last image among the outputs for two, or None where that cannot be told."""
    if len(pair) == 2 * len(one):  # a list with an entry for each image
        return list(pair[len(one) :] if last else pair[: len(one)])
    if len(pair) != len(one):
        return [None] * len(one)
    parts: list[Tensor | None] = []
    for a, b in zip(pair, one, strict=True):
        other = [i for i, (n, m) in enumerate(zip(a.shape, b.shape, strict=False)) if n != m]
        fits = a.ndim == b.ndim and len(other) == 1 and a.shape[other[0]] == 2 * b.shape[other[0]]
        parts.append(a.narrow(other[0], b.shape[other[0]] if last else 0, b.shape[other[0]]) if fits else None)
    return parts


def _differs(behind: list[Tensor | None], before: list[Tensor | None], alone: list[Tensor]) -> bool:
    """Whether an image gives other outputs behind one image than before another, or alone."""
    for a, b, c in zip(behind, before, alone, strict=True):
        if a is None or b is None or not c.numel():
            continue
        if a.shape != b.shape or a.shape != c.shape:
            return True
        size = float(c.detach().abs().amax().double())
        equal, apart = (float((a - other).detach().abs().amax().double()) for other in (b, c))
        if equal > EQUAL.get(c.dtype, EQUAL_IN_HALF) * size or apart > ALONE.get(c.dtype, ALONE_IN_HALF) * size:
            return True
    return False
