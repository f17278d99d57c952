"""The models that are looked at, and all that is computed for the page; knows nothing of pages."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import nn

from lucidcam import registry
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.layers import describe
from lucidcam.engine.run import open_run
from lucidcam.engine.session import plain
from lucidcam.engine.token_layout import settled
from lucidcam.errors import ModelError, OptionError, unknown
from lucidcam.imaging.explanation import Explanation
from lucidcam.imaging.provenance import Weights, described_target
from lucidcam.methods.settings import resolve_method
from lucidcam.stream.explain import explain
from lucidcam.targets import Classes, Contrast, Several
from lucidcam.types import Frame, Model, Prepared
from lucidcam.utils.progress import Listener, listening
from lucidcam.utils.rollback import closes_scopes
from lucidcam.utils.text import printable
from lucidcam.web.cache import Shelf
from lucidcam.web.errors import TooBusyError, WeightsChangedError
from lucidcam.web.limits import Limits
from lucidcam.web.store import Upload
from lucidcam.web.uploads import Photo, decode

T = TypeVar("T")

PHOTOS, MAPS = 24, 128
"""How many photos and maps are kept in memory."""

READS_SERVER_FILES = frozenset({"mcam"})
"""Methods that read a file of the server, which the app does not offer."""

NO_IMAGE = Image.new("RGB", (1, 1))
"""In the place of the photo in maps that are kept: it is given with each question."""

DECODED = 2
"""Photos that are decoded at a time, in threads of their own: what memory allocators keep back for a thread is kept so many times."""

SAVED = 1
"""Photos with all of their pixels that are drawn or written at a time, likewise."""

LOOK_UP = 0.25
"""Seconds after which who waits for a turn sees whether the visitor is still there."""


@dataclass(frozen=True)
class Place:
    """A layer that can be looked at.

    Attributes:
        name: dotted.
        channels: how many maps it has.
        grid: (h, w) of each for the model's usual input.
    """

    name: str
    channels: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class Score:
    """A class and what the model gives it.

    Attributes:
        id: of the class.
        label: in words.
        value: what the model gives it.
        is_probability: whether that is one, in [0, 1]; else a score without bounds.
    """

    id: int
    label: str
    value: float
    is_probability: bool = True


@dataclass(frozen=True, eq=False)
class Seen:
    """A photo as one model gets it.

    Attributes:
        digest: of the photo.
        prepared: with the photo in the size that is shown.
        size: (width, height) of the whole photo.
    """

    digest: str
    prepared: Prepared
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Served:
    """A model that was named at start.

    Attributes:
        name: as it was named.
        model: itself.
        places: its layers, in execution order.
        default: the one of them that is looked at by default.
        methods: that can be asked.
    """

    name: str
    model: Model
    places: tuple[Place, ...]
    default: Place
    methods: tuple[str, ...]

    @classmethod
    def of(cls, name: str, model: Model) -> Served:
        """Look at a model.

        Raises:
            ModelError: it does not tell classes of photos.
        """
        model = replace(model, name=name)  # saved files name it as the page does
        if model.task is not None or callable(getattr(model.preprocess, "numbers", None)):
            what = model.task.name if model.task is not None else "clips"
            raise ModelError(f"the web app shows networks that tell classes of photos; {name} does {what}: use lucidcam explain.")
        noise = torch.rand(256, 320, 3, generator=torch.Generator().manual_seed(0)).numpy()
        example = model.prepare(noise)[0].tensor[None].to(model.device, model.dtype)
        infos = describe(model.module, example)
        trace = settled(plain(model.module), Inputs.of(example))
        layouts = {call.name: call.layout for call in trace.calls if call.layout is not None}
        places = [
            Place(layer_name, info.shape[layouts[layer_name].channels_axis], (info.grid[0], info.grid[1]))
            for layer_name, info in infos.items()
            if info.shape and info.grid is not None and len(info.grid) == 2 and max(info.grid) > 1 and not info.passive
        ]
        if not places:
            raise ModelError(f"no layer of {name} holds a spatial map, so there is nothing to look at.")
        usual = model.layer or next((layer_name for layer_name, info in infos.items() if info.default), places[-1].name)
        default = next((place for place in places if place.name == usual), places[-1])
        attends = bool(trace.attentions)
        methods = tuple(method for method in registry.methods if method not in READS_SERVER_FILES and (attends or not _attention(method)))
        return cls(name, model, tuple(places), default, methods)

    @property
    def weights(self) -> str:
        """The fingerprint of its weights at this moment; "" where it cannot be told."""
        return Weights.of(self.model.module).fingerprint or ""

    def place(self, name: str) -> Place:
        """A layer by its name.

        Raises:
            OptionError: there is no such layer, or it holds no spatial map.
        """
        for place in self.places:
            if place.name == name:
                return place
        raise OptionError(unknown("layer", printable(name[:100]), [place.name for place in self.places]))

    def layer_for(self, method: str, name: str) -> str | None:
        """Where a method looks: at the layer, or None where it goes down to the image."""
        place, layered = self.place(name), registry.methods[method].layered
        if layered == "never" or (layered == "optional" and place == self.default):
            return None
        return place.name


def _attention(method: str) -> bool:
    return "ViTs" in registry.methods[method].cost


def twin(module: nn.Module) -> nn.Module:
    """Another module with the very same parameters and buffers: it takes no memory, and has a lock of its own."""
    shared = {id(tensor): tensor for tensor in tensors(module)}
    try:
        return copy.deepcopy(module, shared)
    except Exception:  # what cannot be copied takes turns with itself
        return module


def is_long(method: str, chosen: Mapping[str, Any]) -> bool:
    """Whether a method takes many forward passes."""
    kind = registry.methods[method]
    return kind.kind == "perturbation" or "samples" in vars(resolve_method(method, dict(chosen))[0])


@dataclass(eq=False)
class Studio:
    """Models, and what was computed of them lately; for many visitors at once.

    Args:
        served: by name.
        limits: of what is asked.
    """

    served: Mapping[str, Served]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._seen: Shelf[Seen] = Shelf(PHOTOS)
        self._scores: Shelf[list[Score]] = Shelf(PHOTOS)
        self._maps: Shelf[Explanation] = Shelf(MAPS)
        self._decoding, self._saving = ThreadPoolExecutor(DECODED, "lucidcam-decode"), ThreadPoolExecutor(SAVED, "lucidcam-save")
        self._long = threading.BoundedSemaphore(self.limits.long)
        self._turns = {name: threading.Lock() for name in self.served}
        self._twins = {name: twin(served.model.module) for name, served in self.served.items()}

    @classmethod
    def of(cls, models: Mapping[str, Model], limits: Limits | None = None) -> Studio:
        """Look at every model.

        Raises:
            OptionError: there is none.
            ModelError: one of them does not tell classes of photos.
        """
        if not models:
            raise OptionError("expected at least one model to show; got none.")
        return cls({name: Served.of(name, model) for name, model in models.items()}, limits or Limits())

    def model(self, name: str) -> Served:
        """A model by its name: only those that were named at start.

        Raises:
            OptionError: with those there are.
        """
        if name not in self.served:
            raise OptionError(unknown("model", printable(name[:80]), self.served))
        return self.served[name]

    def photo(self, upload: Upload, tell: Listener, served: Served | None = None) -> Photo:
        """All of a photo, as the model's window of grey values shows it, where it has one.

        Raises:
            InputError: it cannot be used.
        """
        return _awaited(self._decoding, lambda: decode(upload, self.limits, None if served is None else served.model.window), tell)

    def save(
        self, explanation: Explanation, upload: Upload, served: Served, write: Callable[[Explanation], bytes], tell: Listener
    ) -> bytes:
        """Write an explanation down with all of the photo's pixels.

        Args:
            explanation: in the size that is shown.
            upload: its photo.
            served: its model.
            write: makes the file of the explanation in full size.
            tell: what it raises ends the waiting for a turn, and the work before it writes.

        Raises:
            InputError: the photo cannot be used.
        """

        def work() -> bytes:
            photo = decode(upload, self.limits, served.model.window)
            tell(None)
            return write(in_full(explanation, photo, served.model))

        return _awaited(self._saving, work, tell)

    def see(self, upload: Upload, served: Served, tell: Listener) -> Seen:
        """A photo as a model gets it.

        Raises:
            InputError: it cannot be used.
        """
        seen = self._seen.get((upload.digest, served.name))
        if seen is None:
            seen = _awaited(self._decoding, lambda: seen_by(served.model, decode(upload, self.limits, served.model.window)), tell)
            self._seen.put((upload.digest, served.name), seen)
        return replace(seen, prepared=replace(seen.prepared, name=upload.shown_name))

    def top(self, seen: Seen, served: Served, count: int = 5) -> list[Score]:
        """The classes of highest score, best first; with their probabilities where there are any, else with their scores."""
        about = seen.digest, served.name, served.weights, count
        scores = self._scores.get(about)
        if scores is None:
            with self.same_weights(served):
                scores = self._top(seen, served.model, count)
            self._scores.put(about, scores)
        return scores

    @closes_scopes
    def _top(self, seen: Seen, model: Model, count: int) -> list[Score]:
        inputs = seen.prepared.tensor[None].to(model.device, model.dtype)
        with open_run(model.module, inputs, Classes(), stated=model.class_scores) as run:
            columns, scores = run.class_columns(), run.class_scores()
            values = scores.of(columns)[0] if scores.kind == "none" else scores.probabilities(columns)[0]
            meant = scores.kind != "none"
            return [
                Score(class_id, model.label(class_id), float(values[class_id]), meant)
                for class_id in scores.order(columns)[0, :count].tolist()
            ]

    @closes_scopes
    def explain(
        self, seen: Seen, served: Served, layer: str, method: str, options: Mapping[str, Any], targets: Sequence[Any], tell: Listener
    ) -> list[Explanation]:
        """Maps of one method for several targets, in the size that is shown; those that are known are not made again.

        Args:
            seen: the photo.
            served: the model.
            layer: its name.
            method: one of the model's.
            options: the method's own.
            targets: class ids and contrasts.
            tell: how far it is; what it raises ends the work.

        Raises:
            WeightsChangedError: they did meanwhile, so that nobody knows which the maps would be of.
            LucidcamError: it cannot be done.
        """
        if method not in served.methods:
            raise OptionError(unknown("method", printable(method[:80]), served.methods))
        layer_name = served.layer_for(method, layer)
        key = (seen.digest, served.name, served.weights, method, tuple(sorted(options.items())), layer_name)
        explanations = [self._maps.get((*key, target)) for target in targets]
        missing = [target for target, explanation in zip(targets, explanations, strict=True) if explanation is None]
        if missing:
            long = is_long(method, options)
            with self.turn(served, long, tell) as (model, report_share), self.same_weights(served), listening(report_share):
                computed = explain(model, [seen.prepared], method, _together(missing), layer_name, progress=False, **options)
            fresh = {target: _asked_alone(explanation, target) for target, explanation in zip(missing, computed, strict=True)}
            if served.weights == key[2]:  # else they changed while a turn was waited for
                for target, explanation in fresh.items():
                    self._maps.put((*key, target), replace(explanation, image=NO_IMAGE))
            explanations = [
                fresh[target] if explanation is None else explanation for target, explanation in zip(targets, explanations, strict=True)
            ]
        # Copies: what they work out in the shown size (several MB each) is not kept with them.
        return [
            replace(explanation, image=seen.prepared.image, name=seen.prepared.name)
            for explanation in explanations
            if explanation is not None
        ]

    @contextmanager
    def same_weights(self, served: Served) -> Iterator[None]:
        """See that a model's weights stay the same while the block runs; also where they are exchanged and put back.

        Raises:
            WeightsChangedError: at the block's end, they did not.
        """
        noted = Weights.of(served.model.module)
        yield
        if not noted.hold_for(served.model.module):
            raise WeightsChangedError(f"the weights of {served.name} changed meanwhile; ask again.")

    @contextmanager
    def turn(self, served: Served, long: bool, tell: Listener) -> Iterator[tuple[Model, Listener]]:
        """Wait for a turn; gives the model to work with, and what to tell how far the work is.

        Raises:
            TooBusyError: too many long computations wait already.
        """
        if not long:
            yield served.model, tell
            return
        if not self._long.acquire(blocking=False):
            raise TooBusyError(f"{self.limits.long} long computations run or wait already; try again in a minute.")
        lock = self._turns[served.name]
        try:
            while not lock.acquire(timeout=LOOK_UP):
                tell(None)
            try:
                yield self._quiet(served), tell
            finally:
                lock.release()
        finally:
            self._long.release()

    def _quiet(self, served: Served) -> Model:
        """The model with another module of the same weights, for long computations: quick ones do not wait for them."""
        module, quiet = served.model.module, self._twins[served.name]
        current, copied = tensors(module), tensors(quiet)
        if len(current) != len(copied) or any(
            tensor is not other for tensor, other in zip(current, copied, strict=True)
        ):  # weights were exchanged
            quiet = self._twins[served.name] = twin(module)
        return replace(served.model, module=quiet)


def _awaited(threads: ThreadPoolExecutor, work: Callable[[], T], tell: Listener) -> T:
    """Have something done by other threads; what `tell` raises ends the waiting, and the work if it has not begun."""
    future = threads.submit(work)
    try:
        while not wait([future], LOOK_UP).done:
            tell(None)
    finally:
        future.cancel()
    return future.result()


def tensors(module: nn.Module) -> list[torch.Tensor]:
    """Its parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def seen_by(model: Model, photo: Photo) -> Seen:
    """A photo as a model gets it, the original replaced by the one that is shown."""
    prepared = model.prepare(photo.whole)[0]
    return Seen(photo.digest, replace(prepared, image=photo.shown, frame=scaled(prepared.frame, photo.shown.size)), photo.size)


def scaled(frame: Frame, size: tuple[int, int]) -> Frame:
    """Where the network's input lies in the same photo at another size (width, height)."""
    x, y = size[0] / frame.width, size[1] / frame.height
    left, top, right, bottom = frame.box
    return replace(frame, width=size[0], height=size[1], box=(left * x, top * y, right * x, bottom * y))


def in_full(explanation: Explanation, photo: Photo, model: Model) -> Explanation:
    """The same explanation with all of the photo's pixels."""
    return replace(explanation, image=photo.whole, frame=model.prepare(photo.whole)[0].frame, name=photo.name)


def _asked_alone(explanation: Explanation, target: Any) -> Explanation:
    """The same explanation, as if nothing else had been asked in its pass: that is what a file about it says."""
    assert explanation.provenance is not None
    return replace(explanation, provenance=replace(explanation.provenance, target=described_target(target)))


def _together(targets: Sequence[Any]) -> Any:
    """Several targets of one image in one pass."""
    return Several([target if isinstance(target, Contrast) else int(target) for target in targets])
