"""What visitors are told beside the library's own errors; each has a status of HTTP, see `work.STATUS`."""

from __future__ import annotations

from lucidcam.errors import InputError, LucidcamError


class StoppedError(LucidcamError):
    """A computation that was ended before it was done."""


class WeightsChangedError(LucidcamError):
    """A network's weights are others than those that a question is about."""


class TooBusyError(LucidcamError):
    """So much is computed or waits already that no more is taken on."""


class PhotoGoneError(InputError):
    """A photo that is no longer on the server, or never was; it has to be uploaded again."""


class NoRoomError(LucidcamError):
    """Everything that may be uploaded at a time is being uploaded, or the disk is full."""
