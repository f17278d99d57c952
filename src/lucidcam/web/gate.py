"""What stands before the app: only what the page and its interface need is let in, and nothing leads out.

A plain ASGI layer that knows addresses, headers and JSON, and no Gradio: what a later version of that adds stays closed until it is named
here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY = 1_000_000
"""Bytes of a request that is no upload; photos come as uploads."""

FORM = 1_000_000
"""Bytes that an upload may have beyond its file."""

READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?"
    r"|/(assets|static|svelte)/[\w./@+-]*"
    r"|/gradio_api/(info|openapi\.json|app_id|user|token|queue/data|queue/status|upload_progress|startup-events|theme\.css)/?"
    r"|/gradio_api/heartbeat/\w+"
    r"|/gradio_api/call/[\w-]+/\w+"
    r"|/gradio_api/file=.*",
    re.DOTALL,
)
"""Addresses that may be read."""

WRITE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset|run/predict)/?|/gradio_api/call/[\w-]+/?")
"""Addresses that may be sent to. `run/predict` is for the actions without a queue: taking an example, and stopping."""

OPEN = "/gradio_api/startup-events"
"""What Gradio asks itself, without a password, when it starts; it tells nothing."""

PATIENCE = 1.0
"""Seconds that a wrong password waits for its answer."""

FILE = "/gradio_api/file="

SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        b"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; connect-src 'self'; font-src 'self' data:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Sent with every answer: the browser itself then refuses to load anything from elsewhere."""


class RefusedError(Exception):
    """A request that is not let in: the status, one line, and headers of the answer."""

    def __init__(self, status: int, told: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(told)
        self.status, self.told, self.headers = status, told, headers


class Gate:
    """Lets in what is allowed.

    Args:
        app: behind the gate.
        folder: the only one files are read from.
        file_bytes: of an upload.
        hosts: names the server is called by; empty: any. Where it listens on this machine alone, other names in a request mean that a
            page from elsewhere has made the browser ask (DNS rebinding).
        auth: name and password that every request must bring (HTTP basic authentication); None: nobody is asked.
    """

    def __init__(
        self, app: App, folder: Path, file_bytes: int, hosts: frozenset[str] = frozenset(), auth: tuple[str, str] | None = None
    ) -> None:
        self.app, self.folder, self.file_bytes, self.hosts, self.auth = app, folder.resolve(), file_bytes, hosts, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            receive = await self._checked(scope, receive)
        except RefusedError as refused:
            await _answer(marked, refused)
            return
        await self.app(scope, receive, marked)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the app is to read the request from.

        Raises:
            RefusedError: the request is not let in.
        """
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
            raise RefusedError(403, "this server answers for this machine alone")
        method, path = scope["method"], scope["path"]
        if self.auth is not None and path != OPEN:
            await self._check_password(headers.get("authorization", ""))
        known = {"GET": READ, "HEAD": READ, "POST": WRITE, "OPTIONS": WRITE}.get(method)
        if known is None or not known.fullmatch(path):
            raise RefusedError(404, "there is nothing here")
        if path.startswith(FILE):
            self._check_file(path.removeprefix(FILE))
        elif ".." in path.split("/") or b"deep_link" in scope.get("query_string", b""):
            raise RefusedError(404, "there is nothing here")
        if method != "POST":
            return receive
        length = headers.get("content-length", "")
        if length and not length.isdigit():
            raise RefusedError(400, "the length of the request is no number")
        if path.rstrip("/") == "/gradio_api/upload":
            if int(length or 0) > self.file_bytes + FORM:
                raise RefusedError(413, f"expected a file of at most {self.file_bytes / 1e6:g} MB")
            return receive
        body = await _body(receive, int(length or 0))
        check_body(body, host)
        return _again(body, receive)

    async def _check_password(self, given: str) -> None:
        assert self.auth is not None
        kind, _, words = given.partition(" ")
        try:
            name, _, password = base64.b64decode(words, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            name = password = ""
        same = [secrets.compare_digest(mine.encode(), theirs.encode()) for mine, theirs in zip((name, password), self.auth, strict=True)]
        if kind.lower() != "basic" or not all(same):
            if given:
                await asyncio.sleep(PATIENCE)
            raise RefusedError(401, "a name and a password are needed", (b"www-authenticate", b'Basic realm="lucidcam", charset="UTF-8"'))

    def _check_file(self, name: str) -> None:
        try:
            found = not SCHEME.match(name) and Path(name).resolve(strict=True).is_relative_to(self.folder)
        except (OSError, ValueError):
            found = False
        if not found:
            raise RefusedError(404, "there is no such file")


def check_body(body: bytes, host: str) -> None:
    """Refuse a request that names a file by its address: the server fetches nothing.

    Args:
        body: JSON.
        host: the name this server was called by; addresses of its own are allowed where the file lies here.

    Raises:
        RefusedError: with why.
    """
    try:
        waiting = [json.loads(body or b"{}")]
    except (ValueError, RecursionError):
        raise RefusedError(400, "expected JSON") from None
    while waiting:
        thing = waiting.pop()
        waiting += thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
        if isinstance(thing, dict):
            path, url = thing.get("path"), thing.get("url")
            if isinstance(path, str) and SCHEME.match(path):
                raise RefusedError(400, "expected an uploaded photo; addresses are not fetched: upload the file")
            if isinstance(url, str) and SCHEME.match(url) and urlsplit(url.strip()).netloc != host:
                raise RefusedError(400, "expected an uploaded photo; addresses are not fetched: upload the file")


async def _body(receive: Receive, length: int) -> bytes:
    if length > BODY:
        raise RefusedError(413, f"expected a request of at most {BODY} bytes; photos go to /gradio_api/upload")
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > BODY:
            raise RefusedError(413, f"expected a request of at most {BODY} bytes; photos go to /gradio_api/upload")
        if message["type"] != "http.request" or not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Give what was read once more, then whatever follows (that the visitor has left)."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _answer(send: Send, refused: RefusedError) -> None:
    content = json.dumps({"detail": refused.told}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *refused.headers]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
