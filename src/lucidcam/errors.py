"""Every error that lucidcam raises by itself.

All of them are a [`LucidcamError`][lucidcam.errors.LucidcamError]; each is also the built-in error a caller would expect, so that
`except ValueError` keeps working. A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from lucidcam.reprs import one_line


class LucidcamError(Exception):
    """Base of every error raised by lucidcam."""

    def __repr__(self) -> str:
        return one_line(type(self).__qualname__, [("", str(self))])


class InputError(LucidcamError, ValueError):
    """An image or a tensor that cannot be explained."""


class TargetError(LucidcamError, ValueError):
    """A target that the model's output cannot answer."""


class TargetNotFoundError(TargetError):
    """A target that this image's outputs have nothing of: no such detection, no pixel of the class. Other images may.

    Attributes:
        image: number of the image in the batch that was asked; None: not known.
    """

    def __init__(self, message: str, image: int | None = None) -> None:
        super().__init__(message)
        self.image = image


class LayerError(LucidcamError, ValueError):
    """A layer that does not exist, does not run, or gives no spatial map."""


class OptionError(LucidcamError, ValueError):
    """An unknown name (method, option, model, format) or a value outside its range."""


class ModelError(LucidcamError, RuntimeError):
    """A model that cannot be loaded, cannot run on these inputs, or gives unusable numbers."""


class OptimizedCopyError(ModelError):
    """An optimised copy that fails where the network itself works; that takes its place from now on, so that a second try succeeds."""


class DataError(LucidcamError, ValueError):
    """A data set that cannot be read, has nothing usable, or lacks what was asked for (classes, boxes, masks)."""


class DamagedFileError(DataError):
    """A file of results that is gone, or does not hold what was written to it."""


class RuleError(LucidcamError, RuntimeError):
    """A network that a backpropagation rule (guided, deconvnet, excitation) is not defined for."""


class SignedLayerWarning(UserWarning):
    """A method for activations that are not negative was used at a layer where some are, and divides by a sum that is zero or near it."""


class MissingExtraError(LucidcamError, ImportError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed: pip install 'lucidcam[{extra}]'.")
        self._made_of = library, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), self._made_of


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the names closest to `name`, best first: for did-you-mean messages.

    >>> nearest("grad-cam", ["gradcam", "rise", "scorecam"])
    ['gradcam', 'scorecam']
    """
    folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), folded, n=count, cutoff=cutoff)
    inside = [k for k in folded if name and name.casefold() in k and k not in close]
    return [folded[k] for k in (close + inside)[:count]]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not one of `known`.

    >>> unknown("method", "gradcm", ["gradcam", "rise"])
    "no method is called 'gradcm'; did you mean 'gradcam'?"
    >>> unknown("method", "zzz", ["gradcam", "rise"])
    "no method is called 'zzz'; known: gradcam, rise."
    """
    known = list(known)
    close = nearest(name, known)
    if close:
        return f"no {kind} is called {name!r}; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(known[:30]) + (f", … ({len(known)} in all)" if len(known) > 30 else "")
    return f"no {kind} is called {name!r}; known: {shown}."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
