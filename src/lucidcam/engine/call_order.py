"""The order of the calls of submodules in a pass that is made anyway: it tells whether what is remembered still holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as of_modules
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from lucidcam.engine.inputs import Inputs
from lucidcam.engine.module_state import Identity
from lucidcam.engine.thread_state import Restored
from lucidcam.targets import tensors_of

FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that call their parts or not, by who watches."""

Ended = tuple[nn.Module, "Shape | None"]
Shape = tuple[int, ...]


@contextmanager
def noted_calls(module: nn.Module) -> Iterator[list[Ended]]:
    """Note which modules are called in this thread, in the order in which their calls end, and the shapes of their outputs.

    One hook for all modules, which changes the ways of none: a transformer layer of torch with hooks of its own takes another.

    Args:
        module: of its own outputs all shapes are noted.
    """
    thread = threading.get_ident()
    ended: list[Ended] = []

    def note(part: nn.Module, _: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            if part is module:
                ended.extend((part, tensor.shape) for tensor in tensors_of(output))
            else:
                ended.append((part, output.shape if isinstance(output, Tensor) else None))

    with Restored() as undone:
        handle = RemovableHandle(of_modules._global_forward_hooks)
        undone.undo(handle.remove)
        of_modules._global_forward_hooks[handle.id] = note
        yield ended


@contextmanager
def noted_changes(modules: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """Note which modules have forward hooks that change what goes in or comes out, rather than look on.

    Args:
        modules: those with hooks.
    """
    thread = threading.get_ident()
    changed: list[nn.Module] = []
    before: list[Any] = []

    def first(part: nn.Module, *values: Any) -> None:
        if threading.get_ident() == thread:
            before.append(_marked(values))

    def last(part: nn.Module, *values: Any) -> None:
        if threading.get_ident() == thread and before and before.pop() != _marked(values):
            changed.append(part)

    def first_output(part: nn.Module, _: Any, output: Any) -> None:
        first(part, output)

    def last_output(part: nn.Module, _: Any, output: Any) -> None:
        last(part, output)

    with ExitStack() as stack:
        for part in modules:
            stack.callback(part.register_forward_pre_hook(first, prepend=True, with_kwargs=True).remove)
            stack.callback(part.register_forward_pre_hook(last, with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(first_output, prepend=True).remove)
            stack.callback(part.register_forward_hook(last_output).remove)
        yield changed


def _marked(values: Any) -> list[tuple[int, int]]:
    """The very objects among values, and how often tensors were changed; the values live while this is compared."""
    leaves = tree_leaves(values)
    return [(id(leaf), -1 if not isinstance(leaf, Tensor) or leaf.is_inference() else leaf._version) for leaf in leaves]


@dataclass(frozen=True)
class CallOrder:
    """The calls of one pass.

    Attributes:
        module: the network.
        modules: those that ended, in that order.
        shapes: of their outputs.
        batch: images that went in.
    """

    module: Identity
    modules: tuple[Identity, ...]
    shapes: tuple[Shape | None, ...]
    batch: int

    @classmethod
    def of(cls, module: nn.Module, ended: Sequence[Ended], inputs: Inputs) -> CallOrder:
        """The order of what was noted; of several passes, that of the last one."""
        ends = [i for i, (part, _) in enumerate(ended) if part is module]
        last = next((i + 1 for i, after in zip(reversed(ends[:-1]), reversed(ends)) if after - i > 1), 0)
        calls = ended[last:]
        shapes = tuple(None if shape is None else tuple(shape) for _, shape in calls)
        return cls(Identity(module), tuple(Identity(part) for part, _ in calls), shapes, inputs.batch)

    def agrees(self, other: CallOrder) -> bool:
        """Whether two passes, of any numbers of images, went the same way."""
        return self._equals(other) or self._outside()._equals(other._outside())

    def _equals(self, other: CallOrder) -> bool:
        return self.modules == other.modules and all(
            one == two or self._agree(one, two, other.batch) for one, two in zip(self.shapes, other.shapes, strict=True)
        )

    def _agree(self, one: Shape | None, two: Shape | None, batch: int) -> bool:
        """Whether shapes differ by the number of images only; the first axis may hold whatever was found in them."""
        if one is None or two is None or len(one) != len(two):
            return False
        return all(a == b or a * batch == b * self.batch for a, b in zip(one[1:], two[1:], strict=True))

    def _outside(self) -> CallOrder:
        """The calls outside of modules that call their parts or not."""
        module = self.module.referent
        inside = {Identity(part) for part in _inside_fast_paths(module)} if isinstance(module, nn.Module) else set()
        pairs = [(part, shape) for part, shape in zip(self.modules, self.shapes, strict=True) if part not in inside]
        return replace(self, modules=tuple(part for part, _ in pairs), shapes=tuple(shape for _, shape in pairs))

    def goes_by(self, module: nn.Module, traced: Sequence[str]) -> bool:
        """Whether the pass went the way of a traced one.

        Args:
            module: the network.
            traced: names of the calls that were traced.
        """
        hidden = set(_inside_fast_paths(module))
        names = {Identity(part): name for name, part in module.named_modules() if name and part not in hidden}
        known = set(names.values())
        return [names[part] for part in self.modules if part in names] == [name for name in traced if name in known]


def _inside_fast_paths(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        if isinstance(part, FAST_PATHS):
            yield from (child for child in part.modules() if child is not part)
