"""Visitors of an ASGI application: requests as raw as a test wants them, answered in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

App = Callable[..., Awaitable[None]]


@dataclass
class Answered:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        body: all parts together.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, which has to be one line."""
        told = self.json["error"]
        assert set(told) == {"type", "message"}
        assert told["message"] == " ".join(told["message"].split()), told["message"]
        assert "Traceback" not in told["message"]
        return told["message"]


@dataclass
class Visitor:
    """Somebody who asks an application.

    Attributes:
        app: that is asked.
        headers: of every request; those of one request go before them, and None takes one away.
        address: of the visitor's machine.
        scheme: http or https.
    """

    app: App
    headers: dict[str, str] = field(default_factory=lambda: {"host": "127.0.0.1:7860"})
    address: str = "127.0.0.1"
    scheme: str = "http"

    def get(self, path: str, **more: Any) -> Answered:
        return self.ask("GET", path, **more)

    def post(self, path: str, content: Any = b"", **more: Any) -> Answered:
        """Post bytes, or JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **more.pop("headers", {})}
        return self.ask("POST", path, [content], headers=headers, **more)

    def ask(
        self,
        method: str,
        path: str,
        parts: Iterable[bytes] = (b"",),
        *,
        headers: dict[str, str | None] | None = None,
        query: dict[str, str] | None = None,
        pause: float = 0.0,
        whole: bool = True,
        stays: float = 60.0,
    ) -> Answered:
        """Ask once.

        Args:
            method: of HTTP.
            path: without the query.
            parts: of the request's body, one at a time.
            headers: besides the visitor's own.
            query: parsed.
            pause: seconds before each part after the first.
            whole: the last part ends the request; else nothing more comes.
            stays: seconds until the visitor leaves.
        """
        given = {name: value for name, value in {**self.headers, **(headers or {})}.items() if value is not None}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": b"",
            "root_path": "",
            "query_string": urlencode(query or {}).encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
            "client": (self.address, 50_000),
            "server": ("127.0.0.1", 7860),
            "scheme": self.scheme,
        }
        return asyncio.run(self._asked(scope, list(parts), pause, whole, stays))

    async def _asked(self, scope: dict[str, Any], parts: list[bytes], pause: float, whole: bool, stays: float) -> Answered:
        sent: list[dict[str, Any]] = []
        began, count = time.monotonic(), len(parts)

        async def receive() -> dict[str, Any]:
            if parts:
                if len(parts) < count:
                    await asyncio.sleep(pause)
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts) or not whole}
            await asyncio.sleep(max(0.0, began + stays - time.monotonic()))
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if not sent:
            return Answered(0, {}, b"")
        assert sent[0]["type"] == "http.response.start"
        assert all(each["type"] == "http.response.body" for each in sent[1:])
        assert [each.get("more_body", False) for each in sent[1:]] == [True] * (len(sent) - 2) + [False]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answered(sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]))


def end(app: App) -> None:
    """Begin and end an application, as a server does around its requests."""

    async def lived() -> None:
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            assert message["type"].endswith(".complete"), message

        await app({"type": "lifespan", "state": {}}, receive, send)

    asyncio.run(lived())


@contextmanager
def logged(bounded: bool = False) -> Iterator[list[logging.LogRecord]]:
    """What the servers' log is told, and asyncio's; also what is left out of it where it is bounded."""
    from lucidcam.server.logs import log

    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    filters = list(log.filters)
    if not bounded:
        log.filters.clear()
    for each in (log, logging.getLogger("asyncio")):
        each.addHandler(handler)
    try:
        yield found
    finally:
        for each in (log, logging.getLogger("asyncio")):
            each.removeHandler(handler)
        log.filters[:] = filters
