"""Who is judged, and by what: methods and trivial baselines, metrics, each with its options and a label of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from lucidcam import registry
from lucidcam.attribution import spatial_maps
from lucidcam.engine.run import Run, open_run
from lucidcam.errors import OptionError
from lucidcam.evaluation.baselines import TRIVIAL, Trivial
from lucidcam.methods._base import Method
from lucidcam.methods.settings import Settings, resolve_method
from lucidcam.metrics import Figure, Metric
from lucidcam.types import Model


@dataclass(frozen=True, eq=False)
class Contender:
    """A method, or a trivial baseline, that makes maps to be judged.

    Attributes:
        label: what it is called in the report.
        method: None for a trivial baseline.
        settings: of the method.
        trivial: None for a method.
        layer: for methods that look at one.
    """

    label: str
    method: Method | None
    settings: Settings
    trivial: Trivial | None = None
    layer: Any = None

    def open(self, model: Model, inputs: Tensor, ids: Tensor, module: nn.Module | None = None) -> AbstractContextManager[Run]:
        """A run about the classes `ids`, `[B]` or `[B, T]`, of the model's module or of another one with the same outputs."""
        settings = self.settings
        return open_run(
            model.module if module is None else module,
            inputs,
            ids,
            self.layer,
            batch_size=settings.batch_size,
            seed=settings.seed,
            progress=False,
            stated=settings.class_scores(model.class_scores),
        )

    def maps(self, run: Run, names: Sequence[str]) -> Tensor:
        """Raw maps `[B, T, h, w]` whose zero is "no evidence"."""
        if self.trivial is not None:
            return self.trivial(run.image, names, self.settings.seed)[:, None].expand(-1, run.count, -1, -1)
        assert self.method is not None
        found = spatial_maps(run, self.method, self.settings)
        return found - found.amin((-2, -1), keepdim=True) if self.method.ranged else found

    def described(self) -> dict[str, Any]:
        """For the report's settings."""
        if self.method is None:
            return {"method": self.label, "trivial": True}
        own = {**_options(self.method), **self.method.identity()}
        return {"method": self.method.name, **own, **_options(self.settings), "layer": _name(self.layer)}


@dataclass(frozen=True, eq=False)
class Judge:
    """A metric with its options.

    Attributes:
        label: the metric's name, with the options that are not the default.
        metric: what is measured.
    """

    label: str
    metric: Metric

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What it gives, under the names of the report."""
        suffix = self.label.partition(":")[1] + self.label.partition(":")[2]
        return tuple(replace(each, name=f"{each.name}{suffix}") for each in self.metric.figures)

    def described(self) -> dict[str, Any]:
        """For the report's settings."""
        return {"metric": self.metric.name, **_options(self.metric, every=True)}


def contenders(methods: Any, baselines: str | Iterable[str] | None, layer: Any, model: Model, general: Settings) -> list[Contender]:
    """Methods, then trivial baselines.

    Args:
        methods: names, method objects, or (name, options) pairs; one of them or several; or a mapping from labels of your own to them.
            Options are the method's own, those every method has, and `layer`.
        baselines: names of trivial baselines; None: all of them.
        layer: for methods that look at a layer.
        model: whose maps they make.
        general: batch size and seed of the run.

    Raises:
        OptionError: for a name that does not exist, or for two contenders of one label.
    """
    found = []
    pairs = [*methods.items()] if isinstance(methods, Mapping) else [(None, each) for each in _several(methods, Method)]
    for label, given in pairs:
        name, options = given if isinstance(given, tuple) else (given, {})
        shared = {"seed": general.seed, "batch_size": general.batch_size}
        method, settings = resolve_method(name, {**shared, **{key: value for key, value in options.items() if key != "layer"}})
        own = None if method.layered == "never" else method.layer_of(model.module, options.get("layer", layer), model.layer)
        found.append(Contender(label or _label(method.name, {**_options(method), **options}), method, settings, layer=own))
    for each in TRIVIAL if baselines is None else [baselines] if isinstance(baselines, str) else baselines:
        if each not in TRIVIAL:
            raise OptionError(f"no trivial baseline is called {each!r}; known: {', '.join(TRIVIAL)}.")
        found.append(Contender(each, None, general, TRIVIAL[each]))
    _distinct([each.label for each in found], "method")
    return found


def judges(metrics: Any) -> list[Judge]:
    """Metrics: names, metric objects or (name, options) pairs; one or several.

    Raises:
        OptionError: for a name or option that does not exist.
    """
    found = []
    for given in _several(metrics, Metric):
        name, options = given if isinstance(given, tuple) else (given, {})
        if isinstance(name, Metric):
            metric = name
        else:
            kind = registry.metrics[name]
            try:
                metric = kind(**options)
            except TypeError:
                known = ", ".join(each.name for each in fields(kind)) or "none"
                raise OptionError(f"{name}: no such option among {', '.join(options)}; known: {known}.") from None
        found.append(Judge(_label(metric.name, _options(metric)), metric))
    _distinct([each.label for each in found], "metric")
    return found


def _several(given: Any, kind: type) -> list[Any]:
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
    if isinstance(given, (str, kind)) or pair:
        return [given]
    if not isinstance(given, Iterable):
        raise OptionError(f"expected names or objects as {kind.__name__.lower()}s; got {given!r}.")
    return list(given)


def _label(name: str, options: Mapping[str, Any]) -> str:
    return f"{name}:{','.join(f'{key}={value}' for key, value in options.items())}" if options else name


def _options(thing: Any, every: bool = False) -> dict[str, Any]:
    """A dataclass's fields, those that are not at their default unless `every` one is asked for."""
    return {each.name: getattr(thing, each.name) for each in fields(thing) if every or getattr(thing, each.name) != _default(each)}


def _default(field: Field[Any]) -> Any:
    return None if field.default is MISSING else field.default


def _name(layer: Any) -> Any:
    return type(layer).__name__ if isinstance(layer, nn.Module) else layer


def _distinct(labels: list[str], what: str) -> None:
    slugs = [slug(label) for label in labels]
    for label in labels:
        if slugs.count(slug(label)) > 1:
            raise OptionError(f"the {what} {label!r} is asked for twice; each once, with different options, or under another label.")


def slug(label: str) -> str:
    """A label as part of a file's name.

    >>> slug("scorecam:weights=softmax")
    'scorecam_weights=softmax'
    """
    return re.sub(r"[^\w.=+-]+", "_", label)
