"""Computations that visitors wait for: worked on by a few threads, told of while they run, ended when the visitor leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from lucidcam.errors import LucidcamError
from lucidcam.io.storage import json_text
from lucidcam.server.logs import log
from lucidcam.server.middleware import FAULT, Message, Receive, Scope, Send
from lucidcam.utils.progress import Listener
from lucidcam.utils.text import printable
from lucidcam.web.actions import File
from lucidcam.web.errors import NoRoomError, PhotoGoneError, StoppedError, TooBusyError, WeightsChangedError
from lucidcam.web.limits import Limits

TELL_EVERY = 0.2
"""Seconds between two messages of how far a computation is."""

LINES = "application/x-ndjson"
"""What a program accepts that wants to know how far a computation is: one JSON object a line, the last with the result or the error."""

STATUS: dict[type[LucidcamError], int] = {
    PhotoGoneError: 410,
    NoRoomError: 507,
    TooBusyError: 503,
    StoppedError: 503,
    WeightsChangedError: 409,
}
"""Of answers that tell an error; others are 422."""

T = TypeVar("T")


class Workers:
    """A few threads, and a queue before them that has an end.

    Args:
        limits: how many.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pool = ThreadPoolExecutor(limits.together, thread_name_prefix="lucidcam-app")
        self._lock = threading.Lock()
        self._under_way = 0
        self.closing = threading.Event()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have something done.

        Raises:
            TooBusyError: too much waits already.
        """
        with self._lock:
            if self._under_way >= self.limits.waiting + self.limits.together or self.closing.is_set():
                raise TooBusyError(f"{self._under_way} actions run or wait already; try again in a minute.")
            self._under_way += 1
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # closed meanwhile
            self._done(None)
            raise TooBusyError("the server is ending.") from None
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """End what runs at its next step, and begin nothing more."""
        self.closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, _: Any) -> None:
        with self._lock:
            self._under_way -= 1


class Work:
    """An answer that is computed: JSON or a file; with messages of how far it is where the visitor asks for them.

    Args:
        workers: who compute it.
        action: what is computed; it tells how far it is, and ends when telling raises.
        unseen: what is done where the visitor gets no answer of the action's.
        in_lines: messages may be asked for; not where the answer is a file.
    """

    def __init__(
        self,
        workers: Workers,
        action: Callable[[Listener], dict[str, Any] | File],
        unseen: Callable[[], None] = lambda: None,
        in_lines: bool = True,
    ) -> None:
        self.workers, self.action, self.unseen, self.in_lines = workers, action, unseen, in_lines
        self._stop = threading.Event()
        self._share: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        in_lines = self.in_lines and LINES in accepted
        try:
            future = self.workers.submit(self._compute)
        except TooBusyError as error:
            self.unseen()
            await _answer_json(send, *error_answer(error))
            return
        if in_lines:
            await send(_start(200, LINES))
        result = await self._wait(future, receive, send, in_lines)
        if result is None:  # the visitor has left
            self.unseen()
            return
        status, content = result
        if in_lines:
            line = {"result": content} if status == 200 else {**_dict(content), "status": status}
            await send({"type": "http.response.body", "body": _line(line), "more_body": False})
        elif isinstance(content, File):
            disposition = f'attachment; filename="{content.name}"'.encode("ascii")
            await send(_start(status, content.type, len(content.content), (b"content-disposition", disposition)))
            await send({"type": "http.response.body", "body": content.content})
        else:
            await _answer_json(send, status, content)

    async def _wait(
        self, future: Future[tuple[int, dict[str, Any] | File]], receive: Receive, send: Send, in_lines: bool
    ) -> tuple[int, dict[str, Any] | File] | None:
        """The result; None where the visitor left before it was there, which ends the work."""
        result, left = asyncio.wrap_future(future), asyncio.create_task(_left(receive))
        both: set[asyncio.Future[Any]] = {result, left}
        shown = None
        try:
            while True:
                done, _ = await asyncio.wait(both, timeout=TELL_EVERY, return_when=asyncio.FIRST_COMPLETED)
                if left in done:
                    return None
                if result in done:
                    return result.result()
                if in_lines and self._share != shown:
                    shown = self._share
                    await send({"type": "http.response.body", "body": _line({"progress": shown}), "more_body": True})
        except asyncio.CancelledError:  # the server ends, and with it what is computed
            return error_answer(TooBusyError("the server is ending."))
        finally:
            self._stop.set()
            left.cancel()
            future.cancel()

    def _compute(self) -> tuple[int, dict[str, Any] | File]:
        began = time.monotonic()

        def tell(share: float | None) -> None:
            if self._stop.is_set() or self.workers.closing.is_set():
                raise StoppedError("stopped.")
            if time.monotonic() - began > self.workers.limits.seconds:
                raise StoppedError(f"ended after {self.workers.limits.seconds:g} s: choose a quicker method or smaller options.")
            if share is not None:
                self._share = round(share, 3)

        try:
            tell(None)
            return 200, self.action(tell)
        except LucidcamError as error:
            return error_answer(error)
        except Exception:
            log.exception("an action failed")
            return 500, {"error": {"type": "Fault", "message": f"{FAULT}."}}


def error_answer(error: LucidcamError) -> tuple[int, dict[str, Any]]:
    """An error of ours as status and JSON."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 422)
    return status, {"error": {"type": type(error).__name__.removesuffix("Error"), "message": printable(" ".join(str(error).split("\n")))}}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json_text(content).encode()
    await send(_start(status, "application/json", len(body)))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, kind: str, length: int | None = None, *headers: tuple[bytes, bytes]) -> Message:
    told_length = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode()), *told_length, *headers]}


def _line(content: Any) -> bytes:
    return json_text(content).encode() + b"\n"


def _dict(content: dict[str, Any] | File) -> dict[str, Any]:
    assert isinstance(content, dict)
    return content
