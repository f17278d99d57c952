"""Whose fault an error is: of one sample, which is left out, or of what is asked for, which ends the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from lucidcam.attribution import on_any_image
from lucidcam.errors import (
    DataError,
    InputError,
    LucidcamError,
    MissingExtraError,
    ModelError,
    OptimizedCopyError,
    OptionError,
    TargetError,
    TargetNotFoundError,
    first_line,
)
from lucidcam.samples import Problem, Sample
from lucidcam.types import Model, Prepared
from lucidcam.utils.rollback import raised_by_handler

T = TypeVar("T")
R = TypeVar("R")

CLIP = 32
"""Images of a clip of noise."""


def isolate_failures(
    items: Sequence[T],
    work: Callable[[Sequence[T]], list[R]],
    lost: Callable[[T, Exception], None],
    check: Callable[[T, Exception], None] | None = None,
) -> list[R]:
    """Work on items together; where that fails, one by one, so that only the bad ones are lost.

    Args:
        items: what to work on.
        work: from some of them to results.
        lost: told of each item that fails by itself, and why.
        check: asked about each such item first; it raises what would be wrong with any item.

    Raises:
        OptionError, TargetError, MissingExtraError: what is asked for is wrong, whatever the items.
        LucidcamError: what `check` raises.
    """
    if not items:
        return []
    try:
        return work(items)
    except OptimizedCopyError:  # the network as it is has taken its place
        return isolate_failures(items, work, lost, check)
    except Exception as error:
        if is_general(error):
            raise
        if len(items) == 1:
            if check is not None:
                check(items[0], error)
            lost(items[0], error)
            return []
        return [result for item in items for result in isolate_failures([item], work, lost, check)]


def is_general(error: Exception) -> bool:
    """Whether an error says that what is asked for is wrong, whatever the image: an option, a target, a library that is missing.

    So does one that a signal's handler raised, a timeout: it ends the work.
    """
    about_all = isinstance(error, (OptionError, TargetError, MissingExtraError)) and not isinstance(error, TargetNotFoundError)
    return about_all or raised_by_handler(error)


def prepare(model: Model, sample: Sample) -> Prepared | Problem:
    """A sample's image, ready for the network; or what is wrong with it.

    Raises:
        ModelError: the model has no preprocessing at all, or one that fails on every image.
        OptionError, MissingExtraError: what is asked for is wrong, whatever the image.
    """
    try:
        return replace(model.prepare([sample.image])[0], name=sample.name)
    except ModelError:
        raise
    except Exception as error:
        check_general(model, error)
        return Problem.of(sample.name, error)


def check_general(model: Model, error: Exception, ask: Callable[[Prepared], object] | None = None) -> None:
    """Raise an error that is not of the image it came with: it says that the question is wrong, or an image of noise fails alike.

    So what concerns a model or a method as such is told once, not once per image.

    Args:
        model: that was asked.
        error: what an image ended with.
        ask: asks the same of a prepared image; None: the error came before anything was asked.

    Raises:
        ModelError: the model fails on every image, with an error that is not ours.
        LucidcamError: the error itself, where it is ours.
    """
    if is_general(error):
        raise error
    try:
        prepared = prepared_noise(model)
    except Exception as other:
        if type(other) is type(error):  # the example's: the image may have been unreadable besides
            with on_any_image(model):
                raise
        return
    if ask is None or isinstance(error, (InputError, DataError, TargetNotFoundError)):
        return
    try:
        ask(prepared)
    except Exception as other:
        if type(other) is not type(error):
            return
        if isinstance(error, LucidcamError) or first_line(other) == first_line(error):
            with on_any_image(model):
                raise error from None


def prepared_noise(model: Model) -> Prepared:
    """An image of noise, ready for the network, which nothing is wrong with; for a model of clips, a clip of such images."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    clip = callable(getattr(model.preprocess, "numbers", None))
    return model.prepare([pixels] * CLIP if clip else pixels)[0]
