"""Which of a network's outputs come out of a sigmoid or softmax of its own, seen in the operations that it runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.session import session
from lucidcam.engine.trace import example, remembered, run_forward, signature, tensors_of

LINEAR_OPERATIONS = ("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "addmv", "mv", "einsum")
PROBABILITY_OPERATIONS = ("sigmoid", "hardsigmoid", "softmax", "safe_softmax", "special_expit", "exp", "erf", "special_erf", "special_ndtr")


class _Descent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what comes out of sigmoids and softmaxes until a linear operation, in modules, functions and TorchScript alike."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []  # kept, so that no other tensor takes the id of one that is gone
        self.ids: set[int] = set()
        self.has_seen_operations = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2].strip("_")
        is_linear = name in LINEAR_OPERATIONS or name.startswith(("linear", "conv"))
        makes_probabilities = name in PROBABILITY_OPERATIONS
        self.has_seen_operations = True
        descends = any(id(leaf) in self.ids for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor))
        for tensor in tree_leaves(output):
            # the exponential of a parameter is a temperature
            if not isinstance(tensor, Tensor) or (name == "exp" and isinstance(args[0], nn.Parameter)):
                continue
            if makes_probabilities or (descends and not is_linear):
                self.tensors.append(tensor)
                self.ids.add(id(tensor))
            else:
                self.ids.discard(id(tensor))
        return output


def probability_outputs(module: nn.Module, inputs: Inputs) -> tuple[bool | None, ...]:
    """For each floating-point tensor among the outputs, whether no linear operation lies between it and a sigmoid or softmax.

    One pass of the first image, remembered per input size.

    Returns:
        One entry per tensor, in the order of `tensors_of`; None where no operation can be seen.
    """
    cache, key = remembered(module, inputs), ("probability outputs", signature(inputs))
    if key not in cache:
        descent = _Descent()
        with session(module), descent:
            outputs = run_forward(module, example(module, inputs))
        cache[key] = tuple(id(tensor) in descent.ids if descent.has_seen_operations else None for tensor in tensors_of(outputs))
    found: tuple[bool | None, ...] = cache[key]
    return found


def is_probability_output(module: nn.Module, inputs: Inputs, outputs: Any, columns: Tensor) -> bool | None:
    """Whether `columns`, one of the module's `outputs` or a view of one, comes out of a sigmoid or softmax; None: it cannot be seen."""
    storage = columns.untyped_storage().data_ptr()
    known = probability_outputs(module, inputs)
    tensors = tensors_of(outputs)
    entries = [entry for tensor, entry in zip(tensors, known) if tensor.untyped_storage().data_ptr() == storage]
    return entries[0] if entries and len(tensors) == len(known) else None
