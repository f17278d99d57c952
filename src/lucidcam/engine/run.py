"""What a method works with: one call's module, inputs, target and layer, and the ways to ask the module something."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lucidcam.engine import layers as layers_
from lucidcam.engine.activation_cache import Memory, carries_all, memory, recalled
from lucidcam.engine.attention import Attention, Wants, attend
from lucidcam.engine.call_order import CallOrder, noted_calls, noted_changes
from lucidcam.engine.capture import Copies, Done, ForceGrad, cut, follow, gradients_of
from lucidcam.engine.copies import give_up, original_of
from lucidcam.engine.foreign import GRADIENT_FREE, GradientError, gradient, out_of_memory, reason_of, says_nothing, totals
from lucidcam.engine.head import Head, HeadHook, HeadWatch, head_of, owner
from lucidcam.engine.inputs import Inputs, Key
from lucidcam.engine.layers import LayerSpec
from lucidcam.engine.masked import Stream, Substitute
from lucidcam.engine.mixing import check_apart, mixes
from lucidcam.engine.module_memory import ModuleMemory, memory_of, remembered, signature
from lucidcam.engine.output_activation import is_probability_output
from lucidcam.engine.pooling import same
from lucidcam.engine.rule_autograd import Waypoint, depends_on
from lucidcam.engine.rules import Rule, refuse
from lucidcam.engine.scaling import differentiate_scaled, needs_scale, without_autocast
from lucidcam.engine.session import hooks, plain, session
from lucidcam.engine.sharing import settled_inputs
from lucidcam.engine.thread_state import Restored
from lucidcam.engine.trace import ForeignError, Layer, batch_of, run_forward, tensors_of, trace
from lucidcam.errors import LayerError, LucidcamError, ModelError, OptimizedCopyError, TargetError
from lucidcam.reprs import OneLineRepr, one_line
from lucidcam.targets import Bound, Target, as_target, local, logits, sound
from lucidcam.utils.class_scores import ClassScores, ScoreReader
from lucidcam.utils.rollback import closes_scopes, raised_by_handler

T = TypeVar("T")

CPU_NUMBERS = 2**20
"""Numbers in a batch of masked images on a CPU."""

MASKED_NUMBERS = 2**26
"""Numbers in a batch of masked images at most, unless a single image has more: 256 MB in float32; four times as many on a GPU."""


@dataclass(frozen=True)
class Capture:
    """What a cut forward pass gives a method.

    Attributes:
        activations: `[B, 1, C, *grid]`, at least float32.
        gradients: `[B, T, C, *grid]`, d score / d activation; only when asked for.
    """

    activations: Tensor
    _gradients: Tensor | None = None

    @property
    def gradients(self) -> Tensor:
        """Gradients `[B, T, C, *grid]`."""
        assert self._gradients is not None, "capture(gradients=True) gives gradients"
        return self._gradients


@dataclass(frozen=True)
class Note(OneLineRepr):
    """What must be known to read some maps.

    Attributes:
        text: a clause without a full stop.
        targets: of which of the targets.
        where: which of those maps `[B, T]`; None: all.
    """

    text: str
    targets: slice
    where: Tensor | None = None

    def concerns(self, image: int, target: int) -> bool:
        """Whether it is about the map of an image and target."""
        column = target - (self.targets.start or 0)
        inside = column >= 0 and (self.targets.stop is None or target < self.targets.stop)
        return inside and (self.where is None or bool(self.where[image, column]))


@dataclass
class _Pass:
    """The forward passes over one set of inputs and the target bound to them, shared by every view of a run."""

    module: nn.Module
    inputs: Inputs
    original: Inputs
    asked: Target
    specs: tuple[LayerSpec, ...]
    layers: tuple[Layer, ...]
    stated: ClassScores = field(default_factory=ClassScores)
    bound: Bound | None = None
    done: dict[bool, Done] = field(default_factory=dict)
    above: dict[int, Substitute] = field(default_factory=dict)
    memory: Memory | None = None
    copies: bool = False
    batch: int | None = None
    mixing: bool | None = None
    recalls: bool = False
    compared: bool = False

    @property
    def by_default(self) -> bool:
        """Whether no layer was named."""
        return not self.specs

    def apart(self) -> bool:
        """Whether masked images must go through the module one by one."""
        if self.mixing is None:
            self.mixing = mixes(self.module, self.inputs)
        return self.mixing

    @property
    def local(self) -> bool:
        """Whether the target names a place in the image."""
        return local(self.asked)

    def choose_layer(self) -> tuple[Layer, ...]:
        """The layers; where none was named, the default one from now on."""
        if not self.layers:
            self.layers = self.resolved()
        return self.layers

    def outputs(self) -> Any:
        """The module's outputs for the clean inputs, from whatever pass was made already."""
        for done in self.done.values():
            return done.outputs
        return self.cut(gradients=False).outputs

    def cut(self, gradients: bool) -> Done:
        """A pass cut at the layers; one that keeps gradients serves for both."""
        kept = self.done.get(True) or self.done.get(gradients)
        if kept is None or len(kept.cuts) != len(self.layers):
            kept = self.done[gradients] = self._cut(gradients)
        return kept

    def _cut(self, gradients: bool) -> Done:
        try:
            return self.clean(lambda: self._run(gradients))
        except LayerError as error:
            hint = "" if self.by_default else layers_.suggestion(self.module, self.inputs)
            raise LayerError(f"{error}{hint}") from None

    def clean(self, work: Callable[[], T]) -> T:
        """Make a pass over the clean images; where it shows that what was remembered is no longer so, forget that and make it again.

        Args:
            work: the pass, which asks for the layers itself.
        """
        if self.compared or self.memory is not None:
            return work()
        self.compared = True
        memory, key = memory_of(self.module, self.inputs), ("calls", signature(self.inputs))
        try:
            while True:
                known: CallOrder | None = memory.findings.get(key)
                problem: LayerError | None = None
                hooked = [part for part in (reference() for reference in memory.hooked) if part is not None]
                with noted_calls(self.module) as ended, noted_changes(hooked) as changed:
                    try:
                        result = work()
                    except LayerError as error:
                        problem = error
                order = CallOrder.of(self.module, ended, self.inputs)
                outdated = self.recalls if problem is not None else bool(changed) or (known is not None and not known.agrees(order))
                apart = problem is not None or (known is None and not self._goes_as_traced(order))
                if outdated:
                    self._look_again(memory)
                elif apart and order.batch > 1 and not memory.together:
                    self._look_again(memory, together=True)
                elif problem is not None:
                    raise problem
                else:
                    memory.findings[key], memory.hooked = order, []
                    return result
        except LayerError:
            memory.forget()
            raise

    def _look_again(self, memory: ModuleMemory, together: bool = False) -> None:
        """Forget what was remembered, and find it out again."""
        self.recalls = False
        memory.forget()
        memory.together = together
        inputs = settled_inputs(self.module, self.original)
        if (inputs.axes, inputs.shared) != (self.inputs.axes, self.inputs.shared):
            raise ModelError(
                f"this {type(self.module).__name__} reads its inputs in another way than at the last call (a setting outside of it was "
                "changed?): explain again, or say axes= and shared=."
            )
        if self.layers:
            self.layers = self.resolved()

    def _goes_as_traced(self, order: CallOrder) -> bool:
        """Whether all images together go the way of the one that was traced."""
        known = memory_of(self.module, self.inputs).findings.get(("trace", signature(self.inputs)))
        return known is None or order.goes_by(self.module, [call.name for call in known.calls])

    def resolved(self) -> tuple[Layer, ...]:
        """The layers that were named, or the default one."""
        if self.by_default:
            return (layers_.default(self.module, self.inputs, everywhere=self.local),)
        return tuple(layers_.resolve(self.module, spec, self.inputs, self.local) for spec in self.specs)

    def _run(self, gradients: bool) -> Done:
        if self.memory is not None and not self.copies:
            return recalled(self.memory, self.module, self.inputs, self.layers, gradients)
        return cut(self.module, self.inputs, self.layers, gradients, copies=self.copies)

    def cut_by_force(self) -> Done:
        """The same where the model turns gradients off by itself."""
        kept = self.done[True] = self.clean(
            lambda: cut(self.module, self.inputs, self.layers, gradients=True, force=True, copies=self.copies)
        )
        return kept

    def bind(self, outputs: Any) -> Bound:
        """The target, bound to the first clean outputs that were seen."""
        if self.bound is None:
            self.bound = self.asked.reading(self.reader(outputs)).bind(outputs, self.inputs.batch)
        return self.bound

    def reader(self, outputs: Any) -> ScoreReader:
        """What finds the meaning of class scores among the module's outputs."""

        def is_probability(columns: Tensor) -> bool | None:
            return is_probability_output(self.module, self.inputs, outputs, columns)

        return ScoreReader(self.stated, is_probability, bool(getattr(self.module, "multi_label", False)), self.inputs.size)


@dataclass(frozen=True)
class Run:
    """One call of `attribute`, or a view of it: at one of its layers, for some of its targets, on changed inputs.

    Attributes:
        module: the user's module, in a session.
        inputs: what the module takes.
        stream: batches of masked forward passes.
        seed: for every random draw.
        index: which of the layers this view is about.
        targets: which of the targets this view is about.
        errors: estimated errors `[B, T]` of the maps made so far, by all views alike; none: the maps are exact.
        notes: what was said of the maps made so far, by all views alike.
    """

    module: nn.Module
    inputs: Inputs
    stream: Stream
    seed: int
    _pass: _Pass
    index: int = 0
    targets: slice = field(default_factory=lambda: slice(None))
    errors: list[Tensor] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __repr__(self) -> str:
        layers = list(self._pass.specs) or "the default one"
        shown = [("", type(self.module).__name__), ("image", list(self.image.shape)), ("layers", layers), ("asked", self._pass.asked)]
        return one_line("Run", shown)

    # ------------------------------------------------------------------------------------------------------------- views

    def on(self, image: Tensor) -> Run:
        """The same question about changed images `[B, C, *spatial]`; the target stays what it was for the clean ones."""
        inputs = self.inputs.with_image(image)
        return replace(self, inputs=inputs, _pass=replace(self._pass, inputs=inputs, bound=self.bound, done={}, above={}, memory=None))

    def at(self, index: int) -> Run:
        """The same question at another of the layers asked for."""
        return replace(self, index=index)

    def only(self, targets: slice) -> Run:
        """The same question for some of the targets; forward passes are shared."""
        return replace(self, targets=targets)

    # --------------------------------------------------------------------------------------------------------- questions

    @property
    def image(self) -> Tensor:
        """The images `[B, C, *spatial]`."""
        return self.inputs.image

    @property
    def stated(self) -> ClassScores:
        """What is said of the meaning of the module's outputs."""
        return self._pass.stated

    @property
    def named_layers(self) -> int:
        """How many layers the user named; 0: the default one is meant."""
        return 0 if self._pass.by_default else len(self._pass.layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers asked for, or the default one."""
        return self._pass.choose_layer()

    @property
    def layer(self) -> Layer:
        """The layer this view is about."""
        return self.layers[self.index]

    @property
    def bound(self) -> Bound:
        """The target, fixed for these images."""
        return self._pass.bound or self._pass.bind(self._pass.outputs())

    @property
    def local(self) -> bool:
        """Whether the target names a place in the image."""
        return self._pass.local

    @property
    def count(self) -> int:
        """T, the number of targets of this view."""
        return len(range(*self.targets.indices(self.bound.count)))

    def clean_scores(self) -> Tensor:
        """Scores `[B, T]` of the clean images."""
        return self._read(self._pass.outputs())

    def outputs(self) -> Any:
        """What the module returns for the clean images."""
        return self._pass.outputs()

    def capture(self, gradients: bool = False) -> Capture:
        """Run the module once, cut at the layer; asked again, the same pass answers.

        Args:
            gradients: also the gradients of every target's score with respect to the layer's activations.
        """
        self._pass.choose_layer()
        found = self._differentiated(self._gradients) if gradients else None
        activations = _wide(self._pass.cut(gradients).cuts[self.index].maps).unsqueeze(1)
        return Capture(activations, found)

    def capture_rectified(self) -> Capture:
        """Activations and gradients after the ReLU, for methods that sums of activations are divided by in.

        Where no layer was named, and the default one has negative activations that a ReLU without a module of its own cuts off
        (DenseNet), these are its ReLU and the gradients there. That a ReLU follows is seen by value: the scores stay what they are when it
        is applied twice. Anywhere else this is `capture(gradients=True)`.
        """
        plain_capture = self.capture(gradients=True)
        if self.named_layers or not bool(plain_capture.activations.min() < 0):
            return plain_capture
        known = remembered(self.module, self.inputs)
        key = ("a ReLU follows", self.layer.name, self.layer.call, signature(self.inputs))
        rectified = self._rectified() if known.get(key, True) else None
        known[key] = rectified is not None
        return rectified or plain_capture

    def _rectified(self) -> Capture | None:
        kept = self._pass.cut(gradients=True).cuts[self.index]
        maps = kept.maps.relu()
        # Just above zero the gradient of a second ReLU is 1, so that it is that of the score behind the first.
        above = maps + torch.finfo(maps.dtype).eps * maps.abs().max()
        tensor = kept.layout.from_maps(above, kept.tensor.detach())
        calls = sum(call.name == kept.layer.name for call in trace(self.module, self.inputs).calls)
        layer = replace(kept.layer, call=calls - 1) if kept.layer.call is None and calls > 1 else kept.layer
        try:
            done = cut(self.module, self.inputs, (layer,), gradients=True, known=[tensor])
            with torch.enable_grad():
                scores = self._read(done.outputs)
                gradients = gradients_of(scores, done.cuts)[0].detach()
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if says_nothing(error):
                raise
            return None
        clean = self.clean_scores().detach()
        if scores.shape != clean.shape or not same(scores.detach(), clean):
            return None
        return Capture(_wide(maps).unsqueeze(1), _wide(gradients))

    def attention(self, wants: Wants) -> Attention:
        """Run the module once and keep the attention of its blocks; it must be a vision transformer.

        Args:
            wants: "matrices" alone, the score's "gradients" too, or those of every one of the "blocks" (`engine.attention.attend`).
        """

        def read(outputs: Any, rows: Tensor | None) -> Tensor:
            return self._read(outputs) if rows is None else sound(self._chosen(self.bound, outputs, rows))

        found = self._differentiated(lambda: self._pass.clean(lambda: attend(self.module, self.inputs, read, wants, self._pass.copies)))
        self._pass.done.setdefault(False, Done(found.outputs, ()))
        return found

    def graph_size(self) -> int:
        """Numbers in one target's gradient, all images together; makes the pass with gradients."""
        self._pass.choose_layer()
        return self._differentiated(lambda: self._pass.cut(gradients=True)).cuts[self.index].tensor.numel()

    def head(self) -> Head | None:
        """Make the pass over the clean images, and return the linear operation or 1×1 convolution whose output is the class scores.

        That is decided by value. None: no one operation gives them, or the outputs hold no class scores.
        """
        self._pass.choose_layer()
        return self._pass.clean(self._head)

    def _head(self) -> Head | None:
        layers, known = self._pass.layers, remembered(self.module, self.inputs)
        name = known.get("head")
        if name:
            hook = HeadHook(self.module.get_submodule(name))
            with hooks([(hook.module, hook)]):
                done = self._pass.done[False] = cut(self.module, self.inputs, layers, gradients=False)
            head = _head_in(hook.heads, done.outputs, self.inputs.batch)
            if head is not None:
                return head
        classes = trace(self.module, self.inputs).classes
        with Restored(), HeadWatch(classes) if classes is not None else nullcontext() as watch:
            done = self._pass.done[False] = cut(self.module, self.inputs, layers, gradients=False)
        head = None if watch is None else _head_in(watch.heads, done.outputs, self.inputs.batch)
        known["head"] = None if head is None else owner(self.module, head)
        return head

    def replaced(self, row: int, maps: Tensor, gradients: bool = False) -> Done:
        """Run a disturbed copy of the image `row` with other activations at the layer: scores then tell of these alone.

        Args:
            row: which image.
            maps: the activations to put there, `[1, C, *grid]`.
            gradients: keep a graph from the layer to the outputs.

        Raises:
            Exception: whatever a module raises that cannot run on such activations.
        """
        kept = self._pass.cut(gradients=False).cuts[self.index]
        generator = self.generator()
        single = self.inputs.rows(slice(row, row + 1)).map(lambda tensor: _disturbed(tensor, generator))
        own = kept.layout.rows(kept.tensor.detach(), slice(row, row + 1))
        tensor = kept.layout.from_maps(maps.to(kept.tensor.dtype), _disturbed(own, generator))
        calls = sum(call.name == kept.layer.name for call in trace(self.module, self.inputs).calls)
        layer = replace(kept.layer, call=calls - 1) if kept.layer.call is None and calls > 1 else kept.layer
        done = cut(self.module, single, (layer,), gradients, known=[tensor])
        if gradients and not any(depends_on(output, done.cuts[0].tensor) for output in tensors_of(done.outputs)):
            done = cut(self.module, single, (layer,), gradients, force=True, known=[tensor])
        return done

    def read(self, outputs: Any, row: int) -> Tensor:
        """Scores `[n, T]` of outputs whose n rows were all made from the image `row`."""
        return self._chosen(self.bound, outputs, torch.tensor([row], device=self.image.device))

    def _gradients(self) -> Tensor:
        done = self._pass.cut(gradients=True)
        with torch.enable_grad(), self._copying():
            scores = self._read(done.outputs)
            if not depends_on(scores, done.cuts[self.index].tensor):
                done = self._pass.cut_by_force()
                scores = self._read(done.outputs)
            return _wide(gradients_of(scores, [done.cuts[self.index]])[0].detach())

    def _differentiated(self, work: Callable[[], T]) -> T:
        """Do work that takes gradients; where torch refuses, once more with copies of what the network may change in place.

        Raises:
            GradientError: the network runs and gives scores, but not with gradients. What it raises without them too passes unchanged.
        """
        refused: Exception | None = None
        for copies in (False, True)[self._pass.copies :]:
            self._pass.copies = copies
            try:
                return work()
            except Exception as error:
                ours = isinstance(error, LucidcamError) and not isinstance(error, (GradientError, ForeignError))
                if ours or says_nothing(error):
                    raise
                refused = refused or error
                self._pass.done.pop(True, None)
        assert refused is not None
        self._pass.copies = False
        try:
            self._chosen(self.bound, run_forward(self.module, self.inputs), None)
        except Exception as error:
            raise error if raised_by_handler(error) else refused from None
        if isinstance(refused, GradientError):
            raise refused
        raise GradientError(
            f"this {type(self.module).__name__} runs, but not with gradients ({reason_of(refused)}); use {GRADIENT_FREE}."
        ) from (refused)

    def scores(self, image: Tensor, rows: Tensor) -> Tensor:
        """Scores `[n, T]` of images `[n, C, *spatial]`, row i made from the image `rows[i]`."""
        return sound(self._scores(image, rows))

    def _scores(self, image: Tensor, rows: Tensor) -> Tensor:
        bound = self.bound  # to the clean images, before any others are seen

        def run(image: Tensor, rows: Tensor) -> Tensor:
            return self._chosen(bound, run_forward(self.module, self.inputs.repeated(image, rows)), rows)

        def in_batches(size: int) -> Tensor:
            return _in_batches(lambda part: run(image[part], rows[part]), len(image), size, image.device)

        if len(image) > 1 and self._pass.apart():
            return in_batches(1)
        if self._pass.batch not in (None, len(image)):
            return in_batches(self._pass.batch or 1)
        try:
            return run(image, rows)
        except Exception as error:
            if says_nothing(error) or len(image) == self.inputs.batch:
                raise
            try:  # it may be made for this many images: a traced program, or code that holds their number
                found = in_batches(self.inputs.batch)
            except Exception as other:
                raise other if raised_by_handler(other) else error from None
            self._pass.batch = self.inputs.batch
            return found

    def as_probability(self) -> Run:
        """The same question about probabilities, where the target is a class score."""
        if not self.bound.logit:
            return self
        return replace(self, _pass=replace(self._pass, bound=self.bound.probability(self.class_scores().probabilities)))

    def class_columns(self) -> Tensor:
        """The columns `[B, K]` of class scores that the module returns for the clean images.

        Raises:
            TargetError: it returns none.
        """
        return logits(self._pass.outputs(), self.inputs.batch)

    def class_scores(self) -> ClassScores:
        """What the module's class scores mean, as stated or found by value.

        Raises:
            TargetError: it returns none.
        """
        return self._pass.reader(self._pass.outputs())(self.class_columns())

    def class_probabilities(self) -> Tensor | None:
        """The probability of every class for the clean images `[B, K]`; None where outputs are no class scores (`outputs="none"`)."""
        scores = self.class_scores()
        return None if scores.kind == "none" else scores.probabilities(self.class_columns())

    def class_probability(self, image: int, class_id: int) -> float | None:
        """The probability of one class for one of the clean images; None where outputs are no class scores."""
        probabilities = self.class_probabilities()
        return None if probabilities is None else float(probabilities[image, class_id])

    def about(self, target: Target) -> Run:
        """Another question about the same images; forward passes are shared."""
        return replace(self, _pass=replace(self._pass, asked=target, bound=None), targets=slice(None))

    def masked(self, count: int, make: Callable[[slice], tuple[Tensor, Tensor]]) -> Tensor:
        """Scores `[count, T]` of images made on the fly, in batches that fit the memory.

        Args:
            count: how many.
            make: for a slice of `range(count)`, the images `[n, C, *spatial]` and the rows `[n]` they were made from.
        """
        return sound(self.stream.run(count, lambda part: self._scores(*make(part))))

    def substituted(self, row: int, count: int, make: Callable[[slice], Tensor]) -> Tensor:
        """Scores `[count, T]` of the image `row` with the layer's activations replaced.

        Args:
            row: which image.
            count: how many replacements.
            make: for a slice of `range(count)`, activations `[n, C, *grid]`.
        """
        self._pass.choose_layer()
        kept = self._pass.cut(False).cuts[self.index]
        if self.index not in self._pass.above:
            self._pass.above[self.index] = Substitute(self.module, kept, self.inputs)
            if count > 1 and self._pass.apart():
                self._pass.above[self.index].fix_batch()
        above = self._pass.above[self.index]
        one, tensor = self.inputs.rows(slice(row, row + 1)), kept.layout.rows(kept.tensor.detach(), slice(row, row + 1))

        def run(maps: Tensor) -> Tensor:
            return self._chosen(self.bound, above.outputs(one, tensor, maps), torch.full((len(maps),), row, device=tensor.device))

        def step(part: slice) -> Tensor:
            maps = make(part).to(tensor.dtype)
            refused: Exception | None = None
            if above.batch is None:
                try:
                    return run(maps)
                except Exception as error:
                    if says_nothing(error):
                        raise
                    refused = error
                    above.fix_batch()
            try:
                return _in_batches(lambda part: run(maps[part]), len(maps), above.batch or 1, maps.device)
            except Exception as error:
                if refused is None or raised_by_handler(error):
                    raise
                raise refused from None

        if not count:
            return tensor.new_zeros(0, self.count)
        return sound(self.stream.run(count, step, above.times(one, tensor, make(slice(0, 1)).to(tensor.dtype))))

    def backpropagate(self, rule: Rule | None = None, to_layer: bool = False) -> Tensor:
        """Send each target's score down the whole network.

        Args:
            rule: what to do at each operation; None: the plain gradient.
            to_layer: stop at the layer rather than at the image. The rule still sees the whole network: what passes the layer by takes
                its share.

        Returns:
            `[B, T, C, *spatial]`, or `[B, T, C, *grid]` at the layer.
        """
        if rule is None and to_layer:
            return self.capture(gradients=True).gradients
        if rule is not None:
            refuse(self.module)
        found = self._differentiated(lambda: self._pass.clean(lambda: self._backpropagated(rule, to_layer, force=False)))
        if found is None:
            found = self._differentiated(lambda: self._pass.clean(lambda: self._backpropagated(rule, to_layer, force=True)))
        if found is None and to_layer and carries_all(self.module, self.inputs, (self.layer,)):
            found = self._differentiated(lambda: self._pass.clean(lambda: self._backpropagated(rule, to_layer, force=True, below=False)))
        if found is None:
            end = f"the layer {self.layer.name!r}, or that on the image," if to_layer else "the image"
            raise ModelError(
                f"the score does not depend on {end} by differentiable operations (detached, integer or quantised ones in between), so "
                "nothing flows back; use a CAM method at a layer above them, or scorecam, rise or occlusion, which need no gradients."
            )
        return _wide(found)

    def _backpropagated(self, rule: Rule | None, to_layer: bool, force: bool, below: bool = True) -> Tensor | None:
        """One try; None when nothing can flow back, because the model turns gradients off by itself, say.

        Args:
            rule: as for `backpropagate`.
            to_layer: likewise.
            force: keep gradients on where the model turns them off.
            below: start from the image; False: from the layer, which everything must go through.
        """
        with Restored(), torch.enable_grad(), rule or nullcontext(), ForceGrad() if force and below else nullcontext(), self._copying():
            leaf = self.image.detach().clone().requires_grad_()
            end: Waypoint | None = Waypoint.of(leaf)
            inputs = self.inputs.with_image(leaf.clone())
            if rule is not None:  # a second image has its share as well, and is no constant
                inputs = inputs.map(lambda t: t.detach().clone().requires_grad_() if _is_image(t, leaf) and not t.requires_grad else t)
            if not to_layer:
                outputs = run_forward(self.module, inputs)
            elif below:
                outputs, layer, end = follow(self.module, inputs, self.layer)
            else:
                done = cut(self.module, self.inputs, (self.layer,), gradients=True, force=force, copies=self._pass.copies)
                outputs, layer, end = done.outputs, done.cuts[0], Waypoint.of(done.cuts[0].tensor)
        with torch.enable_grad(), self._copying():
            scores = self._read(outputs)
            if end is None or not depends_on(scores, end):
                return None
            start = end

            def differentiate(scores: Tensor) -> list[Tensor]:
                if rule is not None:
                    return rule.backward(scores, [start])
                return [torch.stack([gradient(total, leaf, retain_graph=True)[0] for total in totals(scores)], dim=1)]

            if needs_scale(leaf, start.tensor, *tensors_of(outputs)[:1]):
                found = differentiate_scaled(scores, differentiate)[0]
                assert found is not None
            else:
                found = differentiate(scores)[0]
        return layer.layout.gradients(found) if to_layer else found

    def _copying(self) -> AbstractContextManager[object]:
        """What lets a network change what its backward pass needs, and a target hold tensors of inference mode, once that was seen."""
        return Copies() if self._pass.copies else nullcontext()

    def _read(self, outputs: Any) -> Tensor:
        return sound(self._chosen(self._pass.bind(outputs), outputs, None))

    def _chosen(self, bound: Bound, outputs: Any, rows: Tensor | None) -> Tensor:
        """Scores `[n, T]` of this view's targets, not yet known to be finite."""
        return _wide(bound.read(outputs, rows)[:, self.targets])

    def note_error(self, error: Tensor) -> None:
        """Keep the estimated relative error `[B, T]` of maps that were made with fewer passes than exact ones take."""
        self.errors.append(error)

    def note(self, text: str, where: Tensor | None = None) -> None:
        """Say what must be known to read maps of this view.

        Args:
            text: a clause without a full stop.
            where: which maps `[B, T]` it is about; None: all of this view.
        """
        self.notes.append(Note(text, self.targets, where))

    def noted(self, image: int, target: int) -> str:
        """What was said of the map of an image and target of this run."""
        return "; ".join(dict.fromkeys(note.text for note in self.notes if note.concerns(image, target)))

    def generator(self) -> torch.Generator:
        """A fresh random generator on the images' device, seeded with `seed`."""
        return torch.Generator(self.image.device).manual_seed(self.seed)


@contextmanager
def open_run(
    module: nn.Module,
    inputs: Any,
    target: Any = None,
    layer: LayerSpec | Sequence[LayerSpec] | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    title: str = "explaining",
    stated: ClassScores | None = None,
    explain_input: Key | None = None,
    axes: str | None = None,
    shared: Key | Sequence[Key] | None = None,
) -> Iterator[Run]:
    """Open a session on the module and yield a run on it.

    Args:
        module: the user's.
        inputs: what it takes.
        target: whatever `lucidcam.attribute` takes.
        layer: a layer, several, or None for the default one.
        batch_size: masked images at a time; None: by the device.
        seed: of every random draw.
        progress: whether long streams show a bar; None: in a terminal or notebook.
        title: what the bar says.
        stated: what is said of the meaning of the module's outputs (`Model.class_scores`); None: nothing, it is found by value.
        explain_input: which of several images is explained, as for `lucidcam.attribute`.
        axes: what the image's axes are, likewise; None: found by running the module, where anything is open.
        shared: which inputs are common to all images, likewise; None: found by running the module, where anything is open.

    Raises:
        OptimizedCopyError: whatever was done failed because the module is an optimised copy; its original takes its place from now on.
    """
    module = plain(module)
    with session(module), ExitStack() as stack:
        known = ModuleMemory.of(module, looks=True)
        recalls = bool(known.findings)
        given = original = replace(Inputs.of(inputs, explain_input, axes, shared), memory=known)
        stack.enter_context(without_autocast(given.image.device.type))
        batch = batch_of(module, given)
        if batch not in (None, given.batch):
            raise ModelError(
                f"this {type(module).__name__} was exported for {batch} images at a time; got {given.batch}: give it {batch}, or export it "
                "with dynamic_shapes."
            )
        specs: list[Any] = list(layer) if isinstance(layer, (list, tuple)) else [] if layer is None else [layer]
        if layer is not None and not specs:
            raise LayerError("expected at least one layer; got an empty list: give None for the default one.")
        asked = as_target(target)
        stream = Stream(batch_size or _batch(given.image), progress, title)
        try:
            given = settled_inputs(module, given)
            check_apart(module, given)
            found = tuple(layers_.resolve(module, spec, given, local(asked)) for spec in specs)
            yield Run(
                module,
                given,
                stream,
                seed,
                _Pass(
                    module,
                    given,
                    original,
                    asked,
                    tuple(specs),
                    found,
                    stated=stated or ClassScores(),
                    memory=memory(),
                    batch=batch,
                    recalls=recalls,
                ),
            )
            known.settle()
        except Exception as error:
            if not says_nothing(error) and _copy_fails(module, given, stream.batch):
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                give_up(module, reason)
                raise OptimizedCopyError(
                    f"the optimised copy fails on these inputs ({reason}); the network as it is takes its place from now on: try again."
                ) from error
            raise


def _copy_fails(module: nn.Module, inputs: Inputs, count: int) -> bool:
    """Whether the module is an optimised copy that cannot run what its original can: these inputs, or as many as are masked together."""
    original = original_of(module)
    if original is None:
        return False
    masked = inputs.rows(torch.arange(count, device=inputs.image.device) % inputs.batch)
    return any(_runs(original, example) and not _runs(module, example) for example in (inputs, masked))


@closes_scopes
def _runs(module: nn.Module, inputs: Inputs) -> bool:
    """Whether a module runs on inputs; memory that ends says nothing against it."""
    try:
        with session(module):
            run_forward(module, inputs)
    except Exception as error:
        if raised_by_handler(error):
            raise
        return out_of_memory(error)
    return True


def _is_image(tensor: Tensor, image: Tensor) -> bool:
    """Whether a tensor among the inputs may be an image, too."""
    return tensor.is_floating_point() and tensor.ndim == image.ndim


def _batch(image: Tensor) -> int:
    """Masked images at a time: on a GPU many; on a CPU about a million numbers, beyond which memory traffic costs more than it saves.

    On a CPU they are at least four, unless these have more than `MASKED_NUMBERS`.
    """
    numbers = image[0].numel()
    if image.device.type != "cpu":
        return max(1, min(128, 4 * MASKED_NUMBERS // numbers))
    return max(1, min(4, MASKED_NUMBERS // numbers), min(256, CPU_NUMBERS // numbers))


def _head_in(heads: Sequence[Head], outputs: Any, batch: int) -> Head | None:
    try:
        return head_of(heads, logits(outputs, batch))
    except TargetError:
        return None


def _disturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other numbers of the same signs and magnitudes; integers stay what they are."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator, device=generator.device, dtype=torch.float32).to(tensor)
    return tensor * (0.5 + noise) + 0.01 * noise


def _in_batches(run: Callable[[Tensor], Tensor], count: int, size: int, device: torch.device) -> Tensor:
    """Scores of `count` rows from a module that takes exactly `size` at a time: the last of them is repeated to fill a batch."""
    rows = torch.arange(-(-count // size) * size, device=device).clamp(max=count - 1)
    return torch.cat([run(rows[start : start + size]) for start in range(0, count, size)])[:count]


def _wide(tensor: Tensor) -> Tensor:
    """Half precision is for the network; sums over a map's pixels and channels are made in at least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
