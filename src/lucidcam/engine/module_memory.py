"""What is remembered of a module from one call to the next, and when it is forgotten.

Findings (the traced pass, the default layer, what the outputs mean, …) are kept as long as the module is what it was
(`engine.module_state`), under a key that names all arguments. What no description can see (a setting in another file, a way that depends on
the image's values) shows in the pass that is made anyway: its calls of submodules are compared with those of the pass that was made when
the findings were new. Where the order is another one, everything is forgotten, and the pass is made once more.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.module_state import Description, ModuleState, Slot

MOST_FINDINGS = 32
"""Findings about inputs of ever new sizes and values; of more, the older half is forgotten."""
MOST_VALUES = 2**14
"""Numbers in a tensor of integers beside the image up to which all are compared; of larger ones, as many that lie evenly."""
MOST_NUMBERS = 64
"""Numbers in a tensor beside the image up to which they are compared, when they are no integers."""


class ModuleMemory:
    """What is remembered of one module.

    Attributes:
        findings: by what they are about.
        fixed: numbers of images that the module takes and no other, as trials have shown.
        together: whether all images are traced together, because one alone takes another way.
        hooked: submodules with hooks that were added since the findings were made.
    """

    def __init__(self, module: nn.Module, set_by_forward: set[Slot]) -> None:
        self.module = weakref.ref(module)
        self.findings: dict[Any, Any] = {}
        self.fixed: set[int] = set()
        self.together = False
        self.hooked: list[weakref.ref[nn.Module]] = []
        self._set_by_forward = set_by_forward
        self._steady = False
        self._state = ModuleState(module, set_by_forward)

    @classmethod
    def of(cls, module: nn.Module, looks: bool = False) -> ModuleMemory:
        """The memory of a module, which is empty if the module was changed since.

        Args:
            module: the module.
            looks: whoever asks looks whether forward hooks that were added (`hooked`) change anything.
        """
        known = _memories.get(module)
        hooked: list[nn.Module] = []
        if known is None or (known.hooked and not looks) or not known._state.holds(hooked if looks else None):
            known = _memories[module] = cls(module, set() if known is None else known._set_by_forward)
        elif hooked:
            known.hooked = [*known.hooked, *map(weakref.ref, hooked)]
            known._steady, known._state = False, ModuleState(module, known._set_by_forward)
        return known

    def forget(self) -> None:
        """Forget everything."""
        self.findings.clear()
        self.fixed.clear()
        self.together, self.hooked = False, []

    def settle(self) -> None:
        """Take over what the module's own forward passes changed since the memory was asked for: buffers, attributes, counters.

        Only as long as they do change something.
        """
        module = self.module()
        if self._steady or module is None:
            return
        self._steady = self._state.holds()
        if not self._steady:
            state = ModuleState(module, self._set_by_forward)
            slots, weights = state.changing(self._state)
            if weights:  # somebody else's work
                return
            if not slots <= self._set_by_forward:
                self._set_by_forward = self._set_by_forward | slots
                state = ModuleState(module, self._set_by_forward)
            self._state = state


_memories: weakref.WeakKeyDictionary[nn.Module, ModuleMemory] = weakref.WeakKeyDictionary()


def memory_of(module: nn.Module, inputs: Inputs, looks: bool = False) -> ModuleMemory:
    """The memory that a run on these inputs works with, or else that of the module as it is now; `looks` as for `ModuleMemory.of`."""
    known = inputs.memory
    if isinstance(known, ModuleMemory) and known.module() is module:
        return known
    return ModuleMemory.of(module, looks)


def remembered(module: nn.Module, inputs: Inputs, forget: bool = False) -> dict[Any, Any]:
    """What is remembered of a module, as long as it is what it was."""
    memory = memory_of(module, inputs)
    if forget:
        memory.forget()
    findings = memory.findings
    if len(findings) > MOST_FINDINGS:
        for key in list(findings)[: MOST_FINDINGS // 2]:
            findings.pop(key, None)
    return findings


def signature(inputs: Inputs) -> tuple[Any, ...]:
    """What of the inputs decides which layers run, and what of them is the image.

    That is every argument by its place or name: shapes and types of tensors, without the batch, values of integers (tokens, masks, lengths)
    and of a few numbers, all that is no tensor by value.
    """
    known = vars(inputs).get("signature")
    if known is None:
        batch = 0 if inputs.axes is None else inputs.axes[0]
        image = tuple(n for i, n in enumerate(inputs.raw.shape) if i != batch)
        describe = Description()
        others = tuple((key, _argument(value, inputs.batch, describe)) for key, value in inputs.by_key.items() if key != inputs.key)
        known = inputs.key, inputs.axes, image, str(inputs.raw.dtype), inputs.raw.device.type, others
        vars(inputs)["signature"] = known
    return known


def _argument(value: Any, batch: int, describe: Description) -> Any:
    if isinstance(value, Tensor):
        first = "batch" if value.ndim and len(value) == batch else len(value) if value.ndim else None
        return (str(value.dtype), first, tuple(value.shape[1:]), _values(value))
    if type(value) in (list, tuple):
        return (type(value).__name__, *(_argument(item, batch, describe) for item in value))
    if type(value) is dict:
        return ("dict", *((str(key), _argument(item, batch, describe)) for key, item in value.items()))
    return type(value).__name__, _Held.of(describe(value))


class _Held:
    """A description in a key: found again when it is equal, whether or not it can be hashed."""

    def __init__(self, token: Any) -> None:
        self.token = token

    @classmethod
    def of(cls, token: Any) -> Any:
        try:
            hash(token)
        except TypeError:
            return cls(token)
        return token

    def __eq__(self, other: object) -> bool:
        return type(other) is _Held and bool(self.token == other.token)

    def __hash__(self) -> int:
        return 0


def _values(tensor: Tensor) -> str:
    """A digest of values: of integers, and of a few numbers; empty for pictures and features."""
    integers = not (tensor.is_floating_point() or tensor.is_complex())
    if tensor.layout != torch.strided or tensor.is_meta or (not integers and tensor.numel() > MOST_NUMBERS) or tensor.is_quantized:
        return ""
    flat = tensor.detach().reshape(-1)
    if len(flat) > MOST_VALUES:
        flat = torch.cat([flat[:: len(flat) // MOST_VALUES + 1], flat.sum(dtype=torch.int64).reshape(1).to(flat.dtype)])
    flat = flat.float() if flat.dtype == torch.bfloat16 else flat
    return hashlib.blake2b(flat.cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
