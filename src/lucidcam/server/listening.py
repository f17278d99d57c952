"""A port that is listened on, by uvicorn, which gives nobody a connection that does nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from lucidcam.errors import OptionError
from lucidcam.server.logs import log
from lucidcam.utils.optional import import_optional

HEAD_SECONDS = 10.0
"""Within which the head of a request has to be there, from the first byte of the connection, or of the next request on it."""

IDLE_SECONDS = 15
"""A connection without a request is kept for."""

REST_SECONDS = 5.0
"""In which the rest of a request has to come that was answered (refused, say) before it was there."""

CONNECTIONS = 500
"""That are open at a time; requests on more are answered with 503."""

TOLD = 50
"""More connections whose visitors are answered so; those beyond are closed at once."""

CLOSING_SECONDS = 2
"""That requests under way are given when the server ends."""

WRITING_SECONDS = 60.0
"""After which it is looked whether a visitor reads the answer."""

SLOWEST_READER = 10_000
"""Bytes a second that a visitor has to read of an answer that waits; else the connection is given up."""

STARTING_SECONDS = 30.0


class Listening:
    """An ASGI application that is served from a thread of its own.

    Args:
        app: what is served.
        host: address or name of this machine to listen on.
        port: 0 takes a free one.
        extra: which extra of lucidcam brings uvicorn.
        purpose: what it is for, in words.

    Raises:
        OptionError: the port is taken, or the host is none of this machine's.
        MissingExtraError: uvicorn is not installed.
    """

    def __init__(self, app: Any, host: str, port: int, extra: str, purpose: str) -> None:
        uvicorn = import_optional("uvicorn", extra, purpose)
        self.app = app
        self.socket = _bound(host, port)
        self.port = int(self.socket.getsockname()[1])
        self.url = f"http://{_shown(host)}:{self.port}/"
        config = uvicorn.Config(
            app,
            http=_protocol(),
            ws="none",
            lifespan="auto",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who the visitor is, the gate decides
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Serve; returns when visitors are answered.

        Raises:
            OptionError: the server does not start.
        """
        self._thread = threading.Thread(target=self._run, name=f"lucidcam-server-{self.port}", daemon=True)
        self._thread.start()
        waited = 0.0
        while not self._server.started and not self._ended.wait(0.02):
            waited += 0.02
            if waited > STARTING_SECONDS:
                break
        if not self._server.started:
            self.close()
            raise OptionError(f"the server at {self.url} did not start.")

    def run(self) -> None:
        """Serve until the process is interrupted."""
        self.start()
        self.wait()

    def wait(self) -> None:
        """Until the server is closed, or the process is told to end, which closes it."""
        with _ending(self._ended.set) as signalled:
            try:
                while not self._ended.wait(0.5):  # a wait without an end cannot be interrupted everywhere
                    pass
            finally:
                self.close()
        for number in signalled:  # what the process is to die of
            signal.raise_signal(number)

    def close(self) -> None:
        """End it; may be called again."""
        self._server.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSING_SECONDS + 3)
        self.socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self.socket])
        except SystemExit:  # uvicorn's way to tell that an application does not start
            log.error("the application did not start")
        finally:
            self._ended.set()

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextmanager
def _ending(end: Callable[[], None]) -> Iterator[list[int]]:
    """While the block runs, signals that end the process end the server first; gives the list that those which came go to."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before: dict[int, Any] = {}

    def handle(number: int, _: Any) -> None:
        came.append(number)
        end()

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, handle)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens, so that who reads the address can visit it at once."""
    listener = None
    try:
        if not 0 <= port <= 65_535:
            raise OverflowError("ports go from 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError, OverflowError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host.") from None
    return listener


def _shown(host: str) -> str:
    """A host as addresses write it; a server on all addresses is shown under this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{host}]" if address.version == 6 else host


def _protocol() -> type:
    """The protocol for HTTP/1.1: uvicorn's, which waits without an end for whatever the visitor has to do, with ends to that."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    seconds = {"head": HEAD_SECONDS, "rest": REST_SECONDS, "next": IDLE_SECONDS, "reading": WRITING_SECONDS}

    class BoundedProtocol(H11Protocol):
        """Closes connections whose visitor does not go on with what it is waited for: see `_expected`."""

        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **named)
            self.logger = log
            self._awaited: str | None = None
            self._end: asyncio.TimerHandle | None = None
            self._unread = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > CONNECTIONS + TOLD:
                transport.abort()
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._look()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_for(None)
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
                if self.cycle is not None and not self.cycle.response_complete:  # this was its answer
                    self.cycle.disconnected = True
                    self.cycle.message_event.set()
            else:  # what is no HTTP came behind a request that is answered already
                self.transport.abort()

        def _unsupported_upgrade_warning(self) -> None:
            """Nothing: visitors may ask for what there is not."""

        def _expected(self) -> str | None:
            """What the visitor has to do next; None: it is our turn, or the page's, which bounds what it reads."""
            if self.transport.get_write_buffer_size():
                return "reading"
            if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
                return "rest"
            if self.conn.their_state is h11.IDLE:
                return "head" if self.cycle is None or self.conn.trailing_data[0] else "next"
            return None

        def _look(self) -> None:
            expected = self._expected()
            if expected != self._awaited:
                self._wait_for(expected)

        def _wait_for(self, expected: str | None) -> None:
            if self._end is not None:
                self._end.cancel()
            self._awaited, self._unread = expected, self.transport.get_write_buffer_size()
            self._end = None if expected is None else self.loop.call_later(seconds[expected], self._too_late)

        def _too_late(self) -> None:
            unread = self.transport.get_write_buffer_size()
            if self._awaited == "reading" and self._unread - unread >= min(self._unread, SLOWEST_READER * WRITING_SECONDS):
                self._wait_for(self._expected())
            else:
                self.transport.abort()

    return BoundedProtocol
