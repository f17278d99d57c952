"""What stands before the app: only what the page and its interface need is let in, and nothing leads out.

A plain ASGI layer that knows addresses, headers and JSON, and no Gradio: what a later version of that adds stays closed until it is named
here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lucidcam.web.room import occupied

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
        folder_bytes: that may lie in the folder at a time; uploads beyond them are refused.
        hosts: names the server is called by; empty: any. Where it listens on this machine alone, other names in a request mean that a
            page from elsewhere has made the browser ask (DNS rebinding).
        auth: name and password that every request must bring (HTTP basic authentication); None: nobody is asked.
    """

    def __init__(
        self,
        app: App,
        folder: Path,
        file_bytes: int,
        folder_bytes: int,
        hosts: frozenset[str] = frozenset(),
        auth: tuple[str, str] | None = None,
    ) -> None:
        self.app, self.folder, self.hosts, self.auth = app, folder.resolve(), hosts, auth
        self.file_bytes, self.folder_bytes = file_bytes, folder_bytes

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
        if self.hosts and _split(f"//{host}").hostname not in self.hosts:
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
        if length and not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RefusedError(400, "the length of the request is no number")
        if path.rstrip("/") == "/gradio_api/upload":
            if not length or "transfer-encoding" in headers:  # the web server holds a request to its length, where it tells one
                raise RefusedError(411, "expected an upload that tells its length")
            if int(length) > self.file_bytes + FORM:
                raise RefusedError(413, f"expected a file of at most {self.file_bytes / 1e6:g} MB")
            if await asyncio.to_thread(occupied, self.folder) + int(length) > self.folder_bytes:
                raise RefusedError(507, "there is no more room for photos on the server; try again in an hour")
            return receive
        body = await _body(receive, int(length or 0))
        check_body(body, host, self.folder)
        return _again(body, receive)

    async def _check_password(self, given: str) -> None:
        assert self.auth is not None
        kind, _, words = given.partition(" ")
        try:
            name, _, password = base64.b64decode(words, validate=True).decode().partition(":")
        except ValueError:  # not base64, not ASCII, or not UTF-8 inside
            name = password = ""
        same = [secrets.compare_digest(mine.encode(), theirs.encode()) for mine, theirs in zip((name, password), self.auth, strict=True)]
        if kind.lower() != "basic" or not all(same):
            if given:
                await asyncio.sleep(PATIENCE)
            raise RefusedError(401, "a name and a password are needed", (b"www-authenticate", b'Basic realm="lucidcam", charset="UTF-8"'))

    def _check_file(self, name: str) -> None:
        if SCHEME.match(name) or not _lies_in(self.folder, name, strict=True):
            raise RefusedError(404, "there is no such file")


def check_body(body: bytes, host: str, folder: Path) -> None:
    """Refuse a request that names a file by its address, or one that was not uploaded: the server fetches nothing, and tells nothing.

    Args:
        body: JSON.
        host: the name this server was called by; addresses of its uploads are allowed.
        folder: where uploads lie.

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
            if isinstance(path, str) and "meta" in thing and not _lies_in(folder, path):
                raise RefusedError(400, "expected an uploaded photo; got a path that no upload has: upload the file")
            if isinstance(url, str) and SCHEME.match(url) and not _is_upload(_split(url.strip()), host):
                raise RefusedError(400, "expected an uploaded photo; addresses are not fetched: upload the file")


def _lies_in(folder: Path, name: str, strict: bool = False) -> bool:
    try:
        return Path(name).resolve(strict=strict).is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # not there, no path at all, a link to itself
        return False


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise RefusedError(400, "expected addresses as hosts and browsers write them") from None


def _is_upload(address: SplitResult, host: str) -> bool:
    return address.scheme in ("http", "https") and address.netloc == host and address.path.startswith(FILE)


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
