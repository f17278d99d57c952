"""Things found by name: methods, metrics, data formats, model sources, writers.

A registry imports every module of its package the first time it is asked, so that adding one file is all it takes to add a thing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from lucidcam.errors import OptionError, unknown
from lucidcam.utils.locks import new_lock

T = TypeVar("T")
K = TypeVar("K", bound=type[Any])


class Registry(Mapping[str, T]):
    """A mapping from name to registered thing, filled by importing all modules of one package."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._things: dict[str, T] = {}
        self._lock = new_lock()
        self._filled = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def decorate(thing: T) -> T:
            old = self._things.get(name)
            if old is not None and _origin(old) != _origin(thing):
                raise OptionError(f"the {self.kind} name {name!r} is taken by {_origin(old)}; choose another name.")
            self._things[name] = thing
            return thing

        return decorate

    def register_class(self, name: str) -> Callable[[K], K]:
        """Return a decorator that registers a class and writes its `name` on it."""

        def decorate(kind: K) -> K:
            kind.name = name
            self.register(name)(kind)  # type: ignore[arg-type]
            return kind

        return decorate

    def _fill(self) -> dict[str, T]:
        if not self._filled:
            with self._lock:
                package = importlib.import_module(self._package)
                for info in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{info.name}")
                self._filled = True
        return self._things

    def __getitem__(self, name: str) -> T:
        things = self._fill()
        if name not in things:
            raise OptionError(unknown(self.kind, name, things))
        return things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fill()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._fill()))

    def __len__(self) -> int:
        return len(self._fill())


def _origin(thing: Any) -> tuple[str, str]:
    return getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing))


methods: Registry[type[Any]] = Registry("method", "lucidcam.methods")
metrics: Registry[type[Any]] = Registry("metric", "lucidcam.metrics")
formats: Registry[type[Any]] = Registry("data format", "lucidcam.data")
sources: Registry[Callable[..., Any]] = Registry("model source", "lucidcam.models")
writers: Registry[Callable[..., Any]] = Registry("output format", "lucidcam.outputs")
exporters: Registry[type[Any]] = Registry("label format", "lucidcam.outputs")
packs: Registry[type[Any]] = Registry("map format", "lucidcam.outputs")
