"""What in a network is no eager Python module: TorchScript, exported and quantised programs, sharded or absent weights.

All of it is recognised by its type, before anything runs, so that a method either works on it or is refused in one sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from lucidcam.errors import ModelError, first_line
from lucidcam.utils.rollback import raised_by_handler

GRADIENT_FREE = "occlusion or rise, which need the scores alone"
"""What to use where no gradient flows and no layer is seen."""


class GradientError(ModelError):
    """Autograd refuses a network that runs without gradients."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory, of a GPU or of the host, did not suffice."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate memory" in text


def says_nothing(error: BaseException) -> bool:
    """Whether an error says nothing about the network: the memory ended, or a signal's handler raised it (a timeout)."""
    return out_of_memory(error) or raised_by_handler(error)


def gradient(outputs: Any, inputs: Any, seeds: Any = None, **options: Any) -> tuple[Any, ...]:
    """`torch.autograd.grad`, whose refusals are a `GradientError`.

    Raises:
        GradientError: an operation has no derivative, or what it needs was changed in place or is gone.
    """
    try:
        found: tuple[Any, ...] = torch.autograd.grad(outputs, inputs, seeds, **options)
        return found
    except RuntimeError as error:
        if says_nothing(error):
            raise
        raise GradientError(f"no gradient can be taken of this network ({reason_of(error)}); use {GRADIENT_FREE}.") from error


def totals(scores: Tensor) -> Iterator[Tensor]:
    """The sum over images of each target's scores `[B, T]`: images do not see each other, so its gradient holds every image's own.

    They are taken one by one. Had `unbind` made them, each one's gradient would begin with a tensor for every other: T² of them.
    """
    for i in range(scores.shape[1]):
        with torch.enable_grad():
            if i == 0:
                summed = scores.sum(0)
            total = summed[i]
        yield total


def in_transform(tensor: Tensor) -> bool:
    """Whether a tensor belongs to a transform of torch.func (vmap, grad) that runs just now, and is gone after it."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def reason_of(error: BaseException) -> str:
    """What an error says, in one line without a full stop. TorchScript says it in its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines and isinstance(error, torch.jit.Error) else first_line(error)
    return text[:200].rstrip(".:")


def _kind(module: nn.Module) -> str:
    """What hides the layers inside a module, in words; empty where its children run as Python modules."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript"
    if isinstance(module, torch.fx.GraphModule):
        calls = (module.get_submodule(str(node.target)) for node in module.graph.nodes if node.op == "call_module")
        return "" if any(type(child).__name__ != "GuardsFn" for child in calls) else "an exported program, one flat graph"
    return ""


def hidden_part(module: nn.Module) -> tuple[str, nn.Module, str] | None:
    """The first part of a network whose layers run out of Python's sight: its name, the part, and what it is; None: there is none."""
    for name, part in module.named_modules():
        kind = _kind(part)
        if kind:
            return name, part, kind
    return None


def holder_of(module: nn.Module, name: str) -> tuple[str, str] | None:
    """The name of the part that hides the layer `name` of a network, and what that part is; None: none does."""
    steps = name.split(".") if name else []
    for i in range(len(steps)):
        outer = ".".join(steps[:i])
        kind = _kind(module.get_submodule(outer))
        if kind:
            return outer, kind
    return None


def is_foreign(module: nn.Module) -> bool:
    """Whether a part of a network is TorchScript, exported or quantised: its errors are torch's, not those of the user's code."""
    return any(_kind(part) or ".quantized" in type(part).__module__ or _placeholders(part) for part in module.modules())


def _placeholders(module: nn.Module) -> list[Any]:
    """The inputs of an exported program, each with an example's shape; none for other modules."""
    graph = getattr(module, "graph", None)
    if isinstance(module, torch.jit.ScriptModule) or not isinstance(graph, torch.fx.Graph):
        return []
    return [node for node in graph.nodes if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)]


def fixed_batch(module: nn.Module, values: Sequence[Any], position: int) -> int | None:
    """How many images an exported program takes at a time; None: any number, or it is none.

    Args:
        module: the network.
        values: the arguments of its forward call.
        position: which of them holds the images.
    """
    inputs = _placeholders(module)
    if len(inputs) != len(values):
        return None
    size = inputs[position].meta["val"].shape[0]
    return size if isinstance(size, int) else None


def not_a_module(value: Any) -> str:
    """The sentence for a thing that was to be a torch module and is none."""
    got = type(value).__name__
    if got == "ExportedProgram":
        return "expected a torch.nn.Module; got an ExportedProgram: give torch.export.unflatten(program), which keeps its layers."
    if hasattr(value, "module"):
        return f"expected a torch.nn.Module; got {got}; of a lucidcam Model that is model.module. Names and files go to lucidcam.load."
    if hasattr(value, "_torchdynamo_orig_callable"):
        return (
            "expected a torch.nn.Module; got a compiled function, as torch.compile makes of a function, and of a module that is compiled "
            "already: give the module, compiled once or not at all."
        )
    if callable(value):
        return (
            f"expected a torch.nn.Module; got {got}: call it in the forward of a module of your own, from a tensor to a tensor; "
            f"then use {GRADIENT_FREE}."
        )
    return f"expected a torch.nn.Module; got {got}. Names and files go to lucidcam.load."


def check_weights(module: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Refuse a network whose weights are not all there.

    Args:
        module: the network.
        parts: it and all of its submodules.

    Raises:
        ModelError: weights have no shape yet (lazy modules), no values (the meta device), or are shared out over processes (FSDP).
    """
    sharded = _sharded_kinds()
    for part in parts:
        if sharded and isinstance(part, sharded):
            raise ModelError(
                f"{_name_of(module, part)} is sharded over processes, which must all run it at the same time: load the whole weights into "
                "the network as it was before FSDP, and explain that."
            )
        for tensor in _tensors(part):
            if not tensor.is_meta and type(tensor) not in _LAZY:
                continue
            if type(tensor) in _LAZY:
                name = next(key for key, value in module.state_dict(keep_vars=True).items() if value is tensor)
                raise ModelError(f"the parameter {name!r} has no shape yet: run the lazy module once on an example before explaining it.")
            if not any(hasattr(other, "_hf_hook") for other in parts):  # accelerate brings offloaded weights itself
                raise ModelError(
                    f"{_name_of(module, part)} has weights on the meta device, which hold no values: load them first "
                    "(module.to_empty(device='cpu'), then load_state_dict)."
                )


def own_parameters(parts: Sequence[nn.Module]) -> set[tuple[nn.Module, str]]:
    """The parameters that modules have of their own: the module, and its name for one."""
    eager = (part for part in parts if not isinstance(part, torch.jit.ScriptModule))
    return {(part, name) for part in eager for name, parameter in part._parameters.items() if parameter is not None}


def check_growth(module: nn.Module, parameters: set[tuple[nn.Module, str]]) -> None:
    """Refuse what was made of a network that built itself meanwhile: the new weights are random, and were in training mode.

    Args:
        module: the network.
        parameters: those that it had before it ran.

    Raises:
        ModelError: its forward added parameters.
    """
    added = own_parameters(list(module.modules())) - parameters
    if added:
        known = {part for part, _ in parameters}
        name = next(
            name if name and part not in known else f"{name}.{key}".lstrip(".")
            for name, part in module.named_modules()
            for key in part._parameters
            if (part, key) in added
        )
        raise ModelError(
            f"the forward of this {type(module).__name__} built {name!r} just now, with random weights: load its weights and explain "
            "again (run such a network once on an example before loading them)."
        )


_LAZY = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)


def _tensors(part: nn.Module) -> list[Tensor]:
    """A module's own parameters and buffers; those of TorchScript are there."""
    if isinstance(part, torch.jit.ScriptModule):
        return []
    return [tensor for tensor in (*part._parameters.values(), *part._buffers.values()) if tensor is not None]


def _sharded_kinds() -> tuple[type, ...]:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported means nothing is sharded
    return () if fsdp is None else tuple(getattr(fsdp, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(fsdp, name))


def _name_of(module: nn.Module, part: nn.Module) -> str:
    name = next((name for name, child in module.named_modules() if child is part), "")
    return f"{name!r} ({type(part).__name__})" if name else f"this {type(part).__name__}"
