"""What every request passes before a page sees it: whose name it was sent to, from which page, how large it is, how long it takes.

Plain ASGI: it knows addresses, headers and times, and none of the pages.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from lucidcam.errors import OptionError
from lucidcam.io.storage import json_text
from lucidcam.server.logs import log
from lucidcam.utils.text import printable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

BODY = 64_000
"""Bytes of a request that is no upload."""

PATH = 1024
"""Letters of an address."""

PATIENCE = 20.0
"""Seconds to wait for the next part of a request."""

SLOWEST = 20_000
"""Bytes a second that a visitor has to send; a request takes `PATIENCE` more at most."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine, as seen by itself."""

HOST = re.compile(r"(?P<name>\[[0-9a-f.]*:[0-9a-f:.]*\]|[a-z0-9._-]+?)\.?(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)

HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",  # without any, browsers keep the origin of forms back, too
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
    b"cache-control": b"no-store",
}
"""Sent with every answer that does not say otherwise: the browser itself then loads and runs nothing but our own files."""


FAULT = "this went wrong on the server; its log tells why"
"""What a visitor is told of our own faults."""


class RefusedError(Exception):
    """A request that is not let in.

    Attributes:
        status: of the answer.
        reason: in one line.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, *headers: Header) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass(frozen=True)
class Names:
    """The names that a server answers to.

    A request under another name means that a page from elsewhere has made the visitor's browser ask (DNS rebinding).

    Attributes:
        known: host names and addresses, in lower case.
        addresses: any IP address does as well: no foreign page can have one as its name.
        others: every other name, too: for pages that anybody may see.
    """

    known: frozenset[str]
    addresses: bool = False
    others: bool = False

    @classmethod
    def of(cls, host: str, more: Iterable[str] = ()) -> Names:
        """The names of a server that listens on a host.

        Args:
            host: 127.0.0.1 and its like: this machine alone. Others: every address, and the names that this machine has for itself.
            more: names that it is reached by besides.

        Raises:
            OptionError: one of them is no host name.
        """
        extra_names = {_name(name) for name in more}
        if host.lower() in LOOPBACK:
            return cls(LOOPBACK | extra_names)
        machine = socket.gethostname().lower()
        return cls(LOOPBACK | extra_names | {host.lower(), machine, f"{machine.partition('.')[0]}.local"}, addresses=True)

    def know(self, host: str) -> bool:
        """Whether a `Host` header, with or without a port, names this server."""
        match = HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().strip("[]")
        if name in self.known or self.others:
            return True
        if not self.addresses:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class Visitor:
    """Who asks, as far as the connection and the headers tell.

    Attributes:
        address: of the machine, for throttles; "" where it is not known.
        host: the name that the server was called by, with the port where one was given.
        secure: over HTTPS.
        headers: of the request, names in lower case; of several alike the last.
    """

    address: str
    host: str
    secure: bool
    headers: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope, behind_proxy: bool) -> Visitor:
        """Read a request's headers; those that a proxy adds count only where there is one."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address, host, secure = (scope.get("client") or ("",))[0], headers.get("host", ""), scope.get("scheme") == "https"
        if behind_proxy:
            host = _last(headers.get("x-forwarded-host", "")) or host
            address = _last(headers.get("x-forwarded-for", "")) or address
            secure = _last(headers.get("x-forwarded-proto", "")).lower() == "https" or secure
        return cls(address, host, secure, headers)

    @property
    def from_elsewhere(self) -> bool:
        """Whether the browser tells that a page of another server asks; that server may be another port of this machine."""
        site = self.headers.get("sec-fetch-site")
        if site is not None:  # no page can change it; browsers leave it out over plain HTTP, and older ones always
            return site not in ("same-origin", "none")
        origin, scheme = self.headers.get("origin"), "https" if self.secure else "http"
        own_host = _host(self.host, scheme)
        return origin is not None and (own_host is None or _authority(origin, scheme) != own_host)


class Guard(Protocol):
    """What decides who may ask for what; see `lucidcam.server.Login`."""

    async def admit(self, scope: Scope, visitor: Visitor, body: bytes) -> Answer | None:
        """None lets the request in; an answer is given in the page's place.

        Args:
            scope: of ASGI.
            visitor: who asks.
            body: of the request where it is no upload.
        """

    def open(self, path: str) -> bool:
        """Whether a path belongs to the guard itself, so that its request is read for it."""


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        status: of HTTP.
        body: its content.
        headers: besides those of every answer.
    """

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


class Gate:
    """Lets in what is allowed.

    Args:
        app: behind the gate.
        names: that the server answers to.
        guard: asks for a password; None: nobody is asked.
        uploads: paths whose requests the app reads itself, in parts, and bounds.
        pages: paths that other pages may link to.
        behind_proxy: `X-Forwarded-Host`, `-For` and `-Proto` are believed.
        refuse: makes the answer to a request that is not let in; as JSON by default.
    """

    def __init__(
        self,
        app: App,
        names: Names,
        guard: Guard | None = None,
        uploads: frozenset[str] = frozenset(),
        pages: frozenset[str] = frozenset({"/", "/login"}),
        behind_proxy: bool = False,
        refuse: Callable[[RefusedError], Answer] | None = None,
    ) -> None:
        self.app, self.names, self.guard, self.uploads, self.pages = app, names, guard, uploads, pages
        self.behind_proxy, self.refuse = behind_proxy, refuse or refused_as_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = ended = False

        async def marked(message: Message) -> None:
            nonlocal started, ended
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                started = True
                headers = list(message.get("headers", []))
                header_names = {name.lower() for name, _ in headers}
                message = {
                    **message,
                    "headers": [*headers, *((name, value) for name, value in HEADERS.items() if name not in header_names)],
                }
            await send(message)

        try:
            await self._pass(scope, receive, marked)
        except RefusedError as refused:
            await _give(marked, self.refuse(refused))
        except asyncio.CancelledError:
            if started:
                raise
            await _give(marked, self.refuse(RefusedError(503, "the server is ending")))
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:80])
            if started and not ended:
                raise  # the connection is closed, so that half an answer is not taken for a whole one
            if not started:
                await _give(marked, self.refuse(RefusedError(500, FAULT)))

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = Visitor.of(scope, self.behind_proxy)
        if not self.names.know(visitor.host):
            raise RefusedError(403, "this server does not answer to that name; it is given more names with --name")
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "this page cannot be asked for in this way", (b"allow", b"GET, HEAD, POST"))
        if len(path) > PATH or not path.isprintable() or ".." in path.split("/"):
            raise RefusedError(404, "there is nothing here")
        if visitor.from_elsewhere and (method == "POST" or path not in self.pages):
            raise RefusedError(403, "this was asked for by a page of another server")
        body, again = b"", receive
        if method != "POST":
            pass
        elif path in self.uploads and not (self.guard is not None and self.guard.open(path)):
            length(visitor.headers)
            again = _patient(receive, PATIENCE)
        else:
            body = await _body(receive, length(visitor.headers))
            again = _again(body, receive)
        answer = None if self.guard is None else await self.guard.admit(scope, visitor, body)
        if answer is not None:
            await _give(send, answer)
            return
        scope["visitor"] = visitor
        await self.app(scope, again, send)


def length(headers: Mapping[str, str]) -> int | None:
    """The length that a request says it has, or None where it says none.

    Raises:
        RefusedError: it is no number.
    """
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RefusedError(400, "the length of the request is no number")
    return int(text)


def refused_as_json(refused: RefusedError) -> Answer:
    """A refusal as `{"error": {"type": …, "message": …}}`."""
    content = json_text({"error": {"type": "Refused", "message": refused.reason}}).encode()
    return Answer(refused.status, content, ((b"content-type", b"application/json"), *refused.headers))


def refused_as_text(refused: RefusedError) -> Answer:
    """A refusal as one line of plain text."""
    words = f"{refused.reason[:1].upper()}{refused.reason[1:]}.\n"
    return Answer(refused.status, words.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *refused.headers))


async def _give(send: Send, answer: Answer) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _body(receive: Receive, promised: int | None) -> bytes:
    """A whole request.

    Raises:
        RefusedError: it is too long, or takes too long.
    """
    if (promised or 0) > BODY:
        raise RefusedError(413, f"expected a request of at most {BODY} bytes")
    body, next_part = b"", _patient(receive, PATIENCE)
    while True:
        message = await next_part()
        if message["type"] != "http.request":
            raise RefusedError(408, "the request did not come in time")
        body += bytes(message.get("body", b""))
        if len(body) > BODY:
            raise RefusedError(413, f"expected a request of at most {BODY} bytes")
        if not message.get("more_body", False):
            return body


def _patient(receive: Receive, seconds: float) -> Receive:
    """Receive, but who is too slow counts as gone."""
    began, sent, whole = time.monotonic(), 0, False

    async def receive_in_time() -> Message:
        nonlocal sent, whole
        if whole:
            return await receive()
        left = began + seconds + sent / SLOWEST - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, min(seconds, left)))
        except asyncio.TimeoutError:
            return {"type": "http.disconnect"}
        sent += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message

    return receive_in_time


def _again(body: bytes, receive: Receive) -> Receive:
    """Give what was read once more, then whatever follows (that the visitor has left)."""
    is_sent = False

    async def once() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _last(words: str) -> str:
    """The last of several, which the nearest proxy has added."""
    return words.rpartition(",")[2].strip()


def _authority(origin: str, scheme: str) -> str | None:
    """An origin's host and port; None for one of another scheme, or one that is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    if origin != f"{scheme}://{parts.netloc}":
        return None
    return _host(parts.netloc, scheme)


def _host(host: str, scheme: str) -> str | None:
    """A host without the port that is usual for the scheme; None for one that is none."""
    match = HOST.fullmatch(host)
    if match is None:
        return None
    name, port = match["name"].lower(), match["port"]
    return name if port in (None, {"http": "80", "https": "443"}[scheme]) else f"{name}:{port}"


def _name(text: str) -> str:
    """A host name that somebody has written down."""
    match = HOST.fullmatch(text)
    if match is None or match["port"] is not None:
        raise OptionError(f"expected a host name without a scheme or a port, such as maps.example.org; got {printable(text[:100])!r}.")
    return match["name"].lower().strip("[]")
