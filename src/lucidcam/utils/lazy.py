"""Names of a package that are imported when they are first asked for (PEP 562), so that importing the package brings no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], aliases: Mapping[str, tuple[str, str]] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`.

    Modules of the package are attributes, too, whether they are imported already or not.

    Args:
        package: its `__name__`.
        homes: the module of each name: module → names.
        aliases: names that their module calls otherwise: name → (module, what it is called there).
    """
    sources = {name: (module, name) for module, names in homes.items() for name in names} | dict(aliases or {})

    def getattribute(name: str) -> Any:
        if name in sources:
            module, attribute = sources[name]
            value = getattr(importlib.import_module(module), attribute)
            setattr(sys.modules[package], name, value)
            return value
        if name.isidentifier() and not name.startswith("_"):
            module = f"{package}.{name}"
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:  # the module is there, and something that it needs is not
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *sources})

    return getattribute, names
