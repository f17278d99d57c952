"""One watched forward pass: which submodules ran, in which order, and how their outputs hold a spatial map."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lucidcam.engine.draws import repeated_draws
from lucidcam.engine.foreign import fixed_batch, in_transform, is_foreign, reason_of, says_nothing
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layout import Layout, is_plain, layout_of
from lucidcam.engine.lineage import COLOURS, RECURRENT, Lineage, Mark
from lucidcam.engine.module_memory import memory_of as memory_of
from lucidcam.engine.module_memory import remembered as remembered
from lucidcam.engine.module_memory import signature as signature
from lucidcam.engine.rule_autograd import walk_from
from lucidcam.engine.scaling import with_autocast
from lucidcam.engine.session import hooks, session
from lucidcam.engine.thread_state import Mode
from lucidcam.errors import InputError, LucidcamError, ModelError
from lucidcam.targets import dense, logits, part
from lucidcam.targets import tensors_of as tensors_of
from lucidcam.utils.rollback import SharedChange, closes_scopes, raised_by_handler

ROUNDING = 16
"""Units in the last place, of the largest value, by which equal outputs may differ."""


@dataclass(frozen=True)
class Call:
    """One call of a submodule, in the order in which calls end.

    Attributes:
        name: dotted name of the submodule.
        type: its class name.
        shape: shape of its (first) output tensor for one image, or None.
        layout: how it holds a spatial map, or None when it holds none (vectors, 1×1 maps) or nobody knows.
        candidates: layouts that a sequence of unknown origin could have by its length; `settled` tries them.
        pooled: its output came straight out of a pooling operation.
        passive: it only hands its input on (dropout, identity).
        norm: it is a normalisation layer.
        branch: its output was only added to something: one summand of a residual stream.
        depends: it changes with the explained image; tried where there are other inputs, and where nothing it works on came from the image.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    layout: Layout | None
    pooled: bool
    passive: bool
    norm: bool
    candidates: tuple[Layout, ...] = ()
    branch: bool = False
    depends: bool = True


@dataclass(frozen=True)
class Event:
    """An operation that matters.

    Attributes:
        kind: "conv", "linear", "attention", "recurrent", or "part": most of a map's places were left out.
        at: how many calls of submodules had ended before.
        shape: of its output.
        point: it is a 1×1 convolution.
    """

    kind: str
    at: int
    shape: tuple[int, ...]
    point: bool


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Attributes:
        calls: of submodules, in execution order.
        events: the operations that matter.
        classes: how many the network tells apart in an image, where it does.
        everywhere: how many scores it gives for each place or query: classes, or features of a network without a head.
        axes: the image's, as for `Inputs`; None: nothing with weights was seen to read it.
        problem: why they cannot be told; empty: nothing speaks against them.
        batch: images that went in.
    """

    calls: tuple[Call, ...]
    events: tuple[Event, ...]
    classes: int | None
    everywhere: int | None = None
    axes: tuple[int, int | None] | None = None
    problem: str = ""
    batch: int = 1

    def branch(self, name: str) -> Trace:
        """What happened while the submodule `name` ran."""
        inside = [i for i, call in enumerate(self.calls) if call.name == name or call.name.startswith(f"{name}.")]
        if not inside:
            return Trace((), (), self.classes, self.everywhere)
        start, end = inside[0], inside[-1]
        events = [replace(event, at=event.at - start) for event in self.events if start <= event.at <= end]
        return Trace(self.calls[start : end + 1], tuple(events), self.classes, self.everywhere)

    @property
    def last_conv(self) -> int:
        """Position (in `calls`) of the last convolution that makes a map; −1: there is none."""
        return max((event.at for event in self._spatial() if event.kind == "conv"), default=-1)

    @property
    def attentions(self) -> list[int]:
        """Positions of attention operations."""
        return [event.at for event in self.events if event.kind == "attention"]

    def leaves_out(self, call: int) -> bool:
        """Whether a sequence is read from a call's output on, or most of a map is left out: the score may not see all its places."""
        return any(event.kind in ("recurrent", "part") and event.at >= call for event in self.events)

    @property
    def is_recurrent(self) -> bool:
        """Whether a recurrent layer ran."""
        return any(event.kind == "recurrent" for event in self.events)

    @property
    def last_spatial_linear(self) -> int:
        """Position of the last linear operation on more than vectors."""
        return max((event.at for event in self.events if event.kind == "linear" and len(event.shape) > 2), default=-1)

    def head(self, everywhere: bool = False) -> int | None:
        """Position of the operation on a map that makes class scores, or None.

        Args:
            everywhere: scores of each place or query are meant, which any convolution or linear layer may make. Else those of an image:
                a 1×1 convolution makes them, after which no linear layer comes.
        """
        last_linear = max((event.at for event in self.events if event.kind == "linear"), default=-1)

        def makes_scores(event: Event) -> bool:
            conv = event.kind == "conv"
            if not everywhere:
                return conv and event.point and event.shape[1] == self.classes and event.at > last_linear
            tokens = event.kind == "linear" and len(event.shape) > 2
            return (conv and event.shape[1] == self.everywhere) or (tokens and event.shape[-1] == self.everywhere)

        return max((event.at for event in self._spatial() if makes_scores(event)), default=None)

    def _spatial(self) -> list[Event]:
        return [event for event in self.events if len(event.shape) < 3 or prod(event.shape[2:]) > 1]


@dataclass(frozen=True)
class Layer:
    """A layer to look at: its name, its module, and which of its calls counts (None: the last)."""

    name: str
    module: nn.Module
    call: int | None = None


def trace(module: nn.Module, inputs: Inputs) -> Trace:
    """Run the module once on the first image and record its calls. Remembered per module and inputs, see `module_memory.signature`."""
    cache, key = remembered(module, inputs), ("trace", signature(inputs))
    if key not in cache:
        cache[key] = _traced(module, inputs)
        if inputs.axes is None:
            seen = replace(inputs, axes=cache[key].axes or (0, 1))
            if seen.axes != (0, 1):  # what happened before the axes were known
                cache[key] = _trace(module, seen)
            cache["trace", signature(seen)] = cache[key]
    found: Trace = cache[key]
    return found


def _traced(module: nn.Module, inputs: Inputs) -> Trace:
    """The trace; a module that runs on all images but not on one of them (its code holds their number) takes as many from now on."""
    try:
        return _trace(module, inputs)
    except Exception as error:
        if says_nothing(error) or inputs.batch == 1 or batch_of(module, inputs) is not None:
            raise
        memory = memory_of(module, inputs)
        memory.fixed.add(inputs.batch)
        try:
            return _trace(module, inputs)
        except Exception as other:
            memory.fixed.discard(inputs.batch)
            raise other if raised_by_handler(other) else error from None


def with_axes(module: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs with the image's axes: those that were said, or else as the network reads them.

    A picture of few colours that goes into a network whose first layer is a convolution of as many channels has the usual axes, and nothing
    is run for it.

    Raises:
        InputError: they cannot be told.
    """
    if inputs.axes is not None:
        return inputs
    shape = tuple(inputs.raw.shape)
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.Embedding)
    first = next((child for child in module.modules() if isinstance(child, kinds)), None)
    usual = isinstance(first, nn.modules.conv._ConvNd) and first.weight.ndim == len(shape) > 3 and first.in_channels == shape[1]
    if usual and shape[1] <= COLOURS < min(shape[2:]):
        return replace(inputs, axes=(0, 1))
    try:
        seen = trace(module, inputs)
        axes, problem = seen.axes, seen.problem
    except Exception as error:  # a program for so many images, say; what else may be wrong shows in the pass that is asked for
        if says_nothing(error):
            raise
        axes, problem = None, ""
    if axes is None and not problem and (_has_colours_elsewhere(shape) if len(shape) > 3 else shape[1] > shape[2]):
        problem = "nothing is seen to read them"
    if problem:
        example = {3: "BCL or BLC", 4: "BCHW or BHWC", 5: "BTCHW or BCTHW"}.get(len(shape), "BCHW")
        raise InputError(
            f"which axes of the input {list(shape)} hold channels, space and time cannot be told ({problem}): say axes=, a letter for "
            f"each, as in {example}."
        )
    return replace(inputs, axes=axes or (0, 1))


def _has_colours_elsewhere(shape: tuple[int, ...]) -> bool:
    """Whether a single axis is as short as one of colours, and it is not the one that usually holds channels."""
    return shape[1] > COLOURS and sum(length in (1, 3, COLOURS) for length in shape[2:]) == 1


class FollowsImage(Mode):
    """Follows what is computed from the image through every operation of a forward pass.

    Attributes:
        touched: the tensors that were computed from it, and itself.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.touched = WeakTensorKeyDictionary()
        self.touched[image] = True

    def follow(self, args: Any, kwargs: Any, output: Any) -> bool:
        """Note what came out of an operation, which may also have changed what it was given; whether it took anything of the image."""
        taken = _tensors_in([*args, *kwargs.values()])
        if not any(tensor in self.touched for tensor in taken):
            return False
        for tensor in (*_tensors_in([output]), *taken[:1]):
            self.touched[tensor] = True
        return True


class _Watch(FollowsImage):
    """Notes pooling, convolution, linear and attention operations, functional or in modules, and follows maps through all of them."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs.raw)
        self.ended = 0  # module calls that have ended so far
        self.lineage = Lineage(inputs)
        self.pooled = WeakTensorKeyDictionary()
        self.norms: Any = WeakTensorKeyDictionary()  # outputs of normalisations: the position of the call
        self.added: set[int] = set()
        self.used: set[int] = set()
        self.events: list[Event] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        self.follow(args, kwargs, output)
        self.lineage.note(func, args, kwargs, output)
        if self.lineage.dropped:
            self.events.append(Event("part", self.ended, (), False))
            self.lineage.dropped = False
        self._note_use(name, args, output)
        if "pool" in name and isinstance(output, Tensor):
            self.pooled[output] = True
        elif "conv" in name and isinstance(output, Tensor):
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if isinstance(weight, Tensor):
                self.events.append(Event("conv", self.ended, tuple(output.shape), prod(weight.shape[2:]) == 1))
        elif name == "linear" and isinstance(output, Tensor):
            self.events.append(Event("linear", self.ended, tuple(output.shape), False))
        elif name in RECURRENT:
            self.events.append(Event("recurrent", self.ended, (), False))
        elif "attention" in name or (name == "softmax" and isinstance(output, Tensor) and output.ndim >= 3):
            self.events.append(Event("attention", self.ended, (), False))
        return output

    def _note_use(self, name: str, args: Any, output: Any) -> None:
        """What becomes of a normalisation's output: added to something, or worked on."""
        for value in args:
            position = self.norms.get(value) if isinstance(value, Tensor) else None
            if position is None or name == "__get__" or not isinstance(output, (Tensor, tuple)):
                continue  # nothing is computed
            if "dropout" in name:
                self.norms[output] = position
            else:
                (self.added if "add" in name.strip("_") else self.used).add(position)


def example(module: nn.Module, inputs: Inputs) -> Inputs:
    """The first image, or as many as a module takes that was made for a fixed number, or all where one takes another way than several."""
    if memory_of(module, inputs).together:
        return inputs
    return inputs.rows(slice(0, batch_of(module, inputs) or 1))


def batch_of(module: nn.Module, inputs: Inputs) -> int | None:
    """How many images a module takes at a time, as an exported program says or a trial has shown; None: any number."""
    names = [*range(len(inputs.args)), *inputs.kwargs]
    exported = fixed_batch(module, [*inputs.args, *inputs.kwargs.values()], names.index(inputs.key))
    return inputs.batch if exported is None and inputs.batch in memory_of(module, inputs, looks=True).fixed else exported


@closes_scopes
def _trace(module: nn.Module, inputs: Inputs) -> Trace:
    one = example(module, inputs)
    names = {child: name for name, child in module.named_modules()}
    watch = _Watch(one)
    lineage = watch.lineage
    calls: list[Call] = []
    early: list[tuple[int, Mark]] = []  # before the image's axes were known
    kept: list[Tensor | None] = []

    def note(child: nn.Module, _: Any, output: Any) -> None:
        found = _first(output)
        layout: Layout | None = None
        candidates: tuple[Layout, ...] = ()
        if found is not None and in_transform(found):
            found = None
        if found is not None:
            shape = tuple(found.shape)
            mark = lineage.marks.get(found)
            if mark is not None and not lineage.read:
                early.append((len(calls), mark))
            else:
                plain = mark is None or lineage.plain(mark)
                layout = lineage.of(found) or (_by_shape(shape, lineage.inputs, child) if plain else None)
                candidates = lineage.candidates(shape) if layout is None and plain else ()
        norm = next(child.children(), None) is None and type(child).__name__.lower().endswith("norm")
        if norm and found is not None:
            watch.norms[found] = len(calls)
        calls.append(
            Call(
                name=names[child],
                type=type(child).__name__,
                shape=None if found is None else tuple(found.shape),
                layout=layout,
                pooled=found is not None and found in watch.pooled,
                passive=isinstance(child, (nn.Identity, nn.modules.dropout._DropoutNd)),
                norm=norm,
                candidates=candidates,
            )
        )
        alone = found is not None and (bool(one.others) or found not in watch.touched)
        kept.append(found.detach().clone() if alone and found is not None else None)
        watch.ended += 1

    with session(module), hooks([(child, note) for child in names]), watch:
        outputs = run_forward(module, one)
    for i, mark in early:
        shape = calls[i].shape or ()
        layout = lineage.layout(mark, shape) or _by_shape(shape, lineage.inputs, module.get_submodule(calls[i].name))
        calls[i] = replace(calls[i], layout=layout)
    if any(tensor is not None for tensor in kept):
        calls = _of_image(module, replace(one, axes=lineage.inputs.axes), calls, kept)
    branches = watch.added - watch.used
    calls = [replace(call, branch=i in branches) for i, call in enumerate(calls)]
    axes = lineage.inputs.axes if lineage.read else None
    return Trace(tuple(calls), tuple(watch.events), *_classes(outputs, one.batch), axes=axes, problem=lineage.problem, batch=one.batch)


def _tensors_in(values: Any) -> list[Tensor]:
    """The tensors among arguments, and in lists and tuples of them."""
    nested = (value if isinstance(value, (list, tuple)) else (value,) for value in values)
    return [tensor for items in nested for tensor in items if isinstance(tensor, Tensor)]


def _by_shape(shape: tuple[int, ...], inputs: Inputs, module: nn.Module) -> Layout | None:
    """The layout that a shape alone tells; None where it leaves it open."""
    return layout_of(shape, inputs, module) if len(inputs.size) > 1 or is_plain(shape, inputs, module) else None


@closes_scopes
def _of_image(module: nn.Module, one: Inputs, calls: list[Call], kept: list[Tensor | None]) -> list[Call]:
    """Which calls change with the image: those that do not hold no map of it. The module is run once more, on noise in its place."""
    image = one.image
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(image)
    other = image.mean() + noise * (image.std() if float(image.std()) > 0 else 1)
    names = {child: name for name, child in module.named_modules()}
    found: list[Call] = []

    def compare(child: nn.Module, _: Any, output: Any) -> None:
        if len(found) < len(calls) and calls[len(found)].name == names[child]:
            call, before, after = calls[len(found)], kept[len(found)], first_tensor(output)
            same = before is not None and after is not None and _same(before, after)
            found.append(replace(call, depends=False, layout=None, candidates=()) if same else call)

    with session(module), hooks([(child, compare) for child in names]), _Unwatched():  # on the ways that the watched pass took
        run_forward(module, one.with_image(other))
    return found if len(found) == len(calls) else calls  # another way through the network: nothing can be compared


def _same(before: Tensor, after: Tensor) -> bool:
    """Whether two outputs are equal, up to what the order of sums changes."""
    loose = ROUNDING * torch.finfo(before.dtype).eps
    return before.shape == after.shape and bool(((before - after).abs() <= loose * before.abs().amax()).all()) if before.numel() else True


def _classes(outputs: Any, batch: int) -> tuple[int | None, int | None]:
    """How many classes there are scores of: of the image, or of each place or query."""
    with suppress(LucidcamError):
        return logits(outputs, batch).shape[1], None
    with suppress(LucidcamError):
        return None, dense(outputs).shape[1]
    queries = None if isinstance(outputs, Tensor) else part(outputs, "logits", "pred_logits")
    return None, queries.shape[-1] if isinstance(queries, Tensor) and part(outputs, "pred_boxes") is not None else None


ABOUT_SHAPES = (
    "channels",
    "shapes cannot be multiplied",
    "size mismatch",
    "same dtype",
    "should be the same",
    "positional argument",
    "D input (got",
    "Kernel size can't be greater",
    "Output size is too small",
    "image height",
    "image width",
    "Input height",
    "Input width",
    "doesn't match model",
)
"""What errors of torch, torchvision, timm and transformers say when an input has the wrong shape or type."""


def run_forward(module: nn.Module, inputs: Inputs) -> Any:
    """Call the module on copies of the inputs; where torch's message is about shapes, say what was put in.

    Raises:
        ModelError: when the module does not take inputs of this shape or type. Any other error of the module passes unchanged.
    """
    handed = inputs.map(torch.clone)  # preprocessing inside a network may be in place (x.div_(255)); the clone costs a fraction of the pass
    try:
        with (
            _InOrder() if _has_words(inputs) else nullcontext(),
            _differentiable(module, inputs),
            with_autocast(),
            repeated_draws(module, inputs.raw.device),
        ):
            outputs = module(*handed.args, **handed.kwargs)
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as error:
        if isinstance(error, LucidcamError) or says_nothing(error):
            raise
        text = str(error).splitlines()[0].rstrip(".") if str(error) else ""
        if type(error) in (RuntimeError, TypeError, ValueError, AssertionError) and any(part in text for part in ABOUT_SHAPES):
            batch = "A single picture needs a batch axis: image[None]. " if inputs.image.ndim == 3 else ""
            raise ModelError(
                f"the model does not take an input of shape {list(inputs.image.shape)} and type {str(inputs.image.dtype)[6:]} on "
                f"{inputs.image.device}: {text}. {batch}Prepare inputs as in its training (channels, size, dtype, device)."
            ) from error
        if isinstance(error, torch.jit.Error) or is_foreign(module):
            raise ForeignError(
                f"this {type(module).__name__}, a program that was compiled, exported or quantised, fails on an input of shape "
                f"{list(inputs.image.shape)} and type {str(inputs.image.dtype)[6:]}: {reason_of(error)}. Give it what it was made for, or "
                "explain the eager network."
            ) from error
        raise
    if inputs.batch == 1:
        _mend_norms(outputs)
    return outputs


class ForeignError(ModelError):
    """A program, rather than code of the user's, does not run."""


def _differentiable(module: nn.Module, inputs: Inputs) -> AbstractContextManager[None]:
    """Recurrent layers as torch writes them out: those of cuDNN have no gradient in evaluation mode."""
    recurrent = inputs.raw.is_cuda and any(isinstance(child, nn.RNNBase) for child in module.modules())
    return _NO_CUDNN.held() if recurrent else nullcontext()


def _without_cudnn() -> None:
    torch._C._set_cudnn_enabled(False)


# As `torch.backends.cudnn.flags(enabled=False)`, which is not safe among threads.
_NO_CUDNN = SharedChange(torch._C._get_cudnn_enabled, _without_cudnn, torch._C._set_cudnn_enabled)


def _mend_norms(outputs: Any) -> None:
    """Correct the gradient of batch normalisations, which torch (2.13 on a CPU, in evaluation mode) gets wrong for a single image.

    That is when what follows flattens and transposes: the gradient then has the strides of channels-last, but for the axis of one image.
    The graph tells of all of them, in modules, functions, TorchScript and exported programs alike.
    """
    roots = [tensor.grad_fn for tensor in tensors_of(outputs) if tensor.grad_fn is not None]
    for node in walk_from(roots):
        if "BatchNorm" in node.name():
            node.register_prehook(_restrided)


def _restrided(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    first = gradients[0]
    return gradients if first is None else (first.as_strided(first.shape, (first.numel(), *first.stride()[1:])), *gradients[1:])


class _Unwatched(Mode, BaseTorchFunctionMode):
    """Changes nothing; torch takes the ways that it takes under any mode."""


class _InOrder(Mode):
    """Where a module draws all of n things without putting any back (ViLT its patches), that is some order of them: here, their own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "multinomial":
            values = dict(zip(("input", "num_samples", "replacement"), args), **(kwargs or {}))
            weights = values["input"]
            every = values["num_samples"] == weights.shape[-1] and not values.get("replacement") and "out" not in values
            if every and bool((weights > 0).all()):  # nothing is drawn, so the network counts as one that draws nothing
                return torch.arange(weights.shape[-1], device=weights.device).expand(weights.shape).clone()
        return func(*args, **(kwargs or {}))


def _has_words(inputs: Inputs) -> bool:
    """Whether there are integers beside the image; alone, images are spared the watching of every operation."""
    others = [*inputs.args, *inputs.kwargs.values()]
    return len(others) > 1 and any(isinstance(t, Tensor) and not t.is_floating_point() for t in others)


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a layer's output stands for: itself, or the first of a tuple or list (Hugging Face blocks); quantised ones as numbers."""
    found = _first(output)
    return found.dequantize() if found is not None and found.is_quantized else found


def _first(output: Any) -> Tensor | None:
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and (output.is_floating_point() or output.is_quantized) else None


def replace_first(output: Any, tensor: Tensor) -> Any:
    """Put `tensor` where `first_tensor` found one, quantised as that one is."""
    replaced = _first(output)
    if replaced is not None and replaced.is_quantized and not tensor.is_quantized:
        tensor = torch.quantize_per_tensor(tensor, replaced.q_scale(), replaced.q_zero_point(), replaced.dtype)
    if isinstance(output, Tensor):
        return tensor
    rest = output[1:]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(tensor, *rest)
    return type(output)((tensor, *rest))
