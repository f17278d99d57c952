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

from lucidcam.compat import import_optional
from lucidcam.errors import OptionError
from lucidcam.server.logs import log

HEAD_SECONDS = 10.0
"""Within which the head of a request has to be there, from the first byte of the connection, or of the next request on it."""

IDLE_SECONDS = 15
"""A connection without a request is kept for."""

CONNECTIONS = 500
"""That are open at a time; requests on more are answered with 503."""

CLOSING_SECONDS = 2
"""That requests under way are given when the server ends."""

WRITING_SECONDS = 60.0
"""A visitor may leave an answer unread for; then the connection is given up."""

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
    """The protocol for HTTP/1.1: uvicorn's, which waits for a request's head for ever, with an end to that."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedProtocol(H11Protocol):
        """Closes connections on which no whole head of a request comes, or no answer is read."""

        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **named)
            self.logger = log
            self._head: asyncio.TimerHandle | None = None
            self._unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._cancel()
            elif self.conn.trailing_data[0]:  # the next request has begun
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            self.resume_writing()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(WRITING_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _expect_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

        def _cancel(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _give_up(self) -> None:
            self._head = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.abort()

    return BoundedProtocol
