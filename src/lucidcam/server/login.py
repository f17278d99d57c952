"""A name and a password: a page that asks for them, a cookie that remembers, and a throttle for those who guess."""

from __future__ import annotations

import base64
import hashlib
import html
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import parse_qsl

from lucidcam.io.storage import json_text
from lucidcam.server.middleware import Answer, Scope, Visitor
from lucidcam.server.rates import TokenBucket

GUESSES = 5
"""Wrong passwords in a row that one address has free."""

GUESS_SECONDS = 20.0
"""After which it has another one."""

ALL_GUESSES = 100
"""Wrong passwords in a row that all addresses together have free."""

ALL_SECONDS = 1.0

REMEMBERED = 10_000
"""Addresses whose guesses are remembered."""

SESSIONS = 1000
"""That are logged in at a time; the oldest goes first."""

SESSION_SECONDS = 12 * 3600.0

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center; color-scheme: light dark;
  background: Canvas; color: CanvasText; }
main { width: min(22rem, calc(100vw - 3rem)); }
h1 { font-size: 1.4rem; }
label { display: block; margin: 0.8rem 0; }
input { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: 0.5rem; margin-top: 0.2rem;
  border: 1px solid GrayText; border-radius: 6px; }
button { font: inherit; padding: 0.55rem 1.2rem; border: 0; border-radius: 6px; background: #4338ca; color: white; cursor: pointer; }
p[role=alert] { border-left: 4px solid #dc2626; padding-left: 0.7rem; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · lucidcam</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><main><h1>lucidcam</h1>{message}
<form method="post" action="login"><label>Name <input name="name" autocomplete="username" required autofocus maxlength="200"></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required maxlength="200"></label>
<button>Log in</button></form></main></body></html>
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Throttle:
    """How long somebody who guessed wrongly has to wait; no address is written anywhere.

    >>> throttle = Throttle(guesses=2, seconds=60)
    >>> [throttle.wait("203.0.113.9") > 0 for _ in range(3) if throttle.failed("203.0.113.9") is None]
    [False, True, True]
    >>> throttle.wait("203.0.113.10")
    0.0

    Args:
        guesses: wrong ones in a row that an address has free.
        seconds: after which it has another one.
    """

    def __init__(self, guesses: int = GUESSES, seconds: float = GUESS_SECONDS) -> None:
        self.guesses, self.seconds = guesses, seconds
        self._lock = threading.Lock()
        self._networks: OrderedDict[str, TokenBucket] = OrderedDict()
        self._everybody = TokenBucket(ALL_GUESSES, 1 / ALL_SECONDS)

    def wait(self, address: str) -> float:
        """Seconds until an address may try again; 0.0: now."""
        with self._lock:
            bucket = self._networks.get(_network(address))
        return max(0.0 if bucket is None else bucket.wait(), self._everybody.wait())

    def failed(self, address: str) -> None:
        """Count a wrong guess."""
        network = _network(address)
        with self._lock:
            bucket = self._networks.setdefault(network, TokenBucket(self.guesses, 1 / self.seconds))
            self._networks.move_to_end(network)
            while len(self._networks) > REMEMBERED:
                self._networks.popitem(last=False)
        bucket.take()
        self._everybody.take()

    def passed(self, address: str) -> None:
        """Forget an address's guesses: it knew the password."""
        with self._lock:
            self._networks.pop(_network(address), None)


class Login:
    """Asks every visitor for a name and a password; nothing but the page that asks can be seen without.

    Browsers get a page and a cookie, programs give both with each request (HTTP basic authentication).

    Args:
        name: that has to be given.
        password: that has to be given.
    """

    def __init__(self, name: str, password: str) -> None:
        self._expected = _digest(name), _digest(password)
        self.cookie = f"lucidcam-{secrets.token_hex(4)}"  # servers on other ports of this machine get our cookies, too
        self.throttle = Throttle()
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, float] = OrderedDict()

    def open(self, path: str) -> bool:
        """Whether a path is the login's own."""
        return path in ("/login", "/logout")

    async def admit(self, scope: Scope, visitor: Visitor, body: bytes) -> Answer | None:
        """Give the login page or an answer about it, or let the request in; see `lucidcam.server.middleware.Guard`."""
        path, method = scope["path"], scope["method"]
        token = _cookie(visitor.headers.get("cookie", ""), self.cookie)
        if path == "/login":
            if method == "POST":
                return self._log_in(visitor, body)
            return _page("")
        if path == "/logout" and method == "POST":
            with self._lock:
                self._sessions.pop(_digest(token), None)
            return _go("login", self._set_cookie(visitor, "", 0))
        if self._known(token):
            return None
        return self._by_header(visitor, path, method)

    def _by_header(self, visitor: Visitor, path: str, method: str) -> Answer | None:
        """Let a program in that brings name and password with the request."""
        authorization = visitor.headers.get("authorization", "")
        if not authorization:
            if method != "POST" and "text/html" in visitor.headers.get("accept", ""):
                return _go("/".join([".."] * (path.count("/") - 1)) + "/login" if path.count("/") > 1 else "login")
            return self._unknown(visitor)
        wait = self.throttle.wait(visitor.address)
        if wait:
            return _too_many(wait)
        kind, _, words = authorization.partition(" ")
        try:
            name, colon, password = base64.b64decode(words, validate=True).decode().partition(":")
        except ValueError:  # not base64, not ASCII, or not UTF-8 inside
            name = colon = password = ""
        if kind.lower() == "basic" and colon and self._right(name, password):
            self.throttle.passed(visitor.address)
            return None
        self.throttle.failed(visitor.address)
        return self._unknown(visitor)

    def _unknown(self, visitor: Visitor) -> Answer:
        content = json_text({"error": {"type": "Refused", "message": "a name and a password are needed"}}).encode()
        headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        if "sec-fetch-mode" not in visitor.headers:  # a browser would put a window of its own over the page
            headers.append((b"www-authenticate", b'Basic realm="lucidcam", charset="UTF-8"'))
        return Answer(401, content, tuple(headers))

    def _log_in(self, visitor: Visitor, body: bytes) -> Answer:
        wait = self.throttle.wait(visitor.address)
        if wait:
            page = _page(f"Too many wrong passwords: wait {math.ceil(wait)} seconds, then try again.", 429)
            return Answer(page.status, page.body, (*page.headers, _retry_after(wait)))
        try:
            fields = dict(parse_qsl(body.decode(), max_num_fields=8))
        except ValueError:
            fields = {}
        if not self._right(fields.get("name", ""), fields.get("password", "")):
            self.throttle.failed(visitor.address)
            return _page("This name and password do not belong together.", 401)
        self.throttle.passed(visitor.address)
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(token)] = time.monotonic() + SESSION_SECONDS
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return _go(".", self._set_cookie(visitor, token, int(SESSION_SECONDS)))

    def _set_cookie(self, visitor: Visitor, token: str, seconds: int) -> tuple[bytes, bytes]:
        secure = "; Secure" if visitor.secure else ""
        return b"set-cookie", f"{self.cookie}={token}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{secure}".encode()

    def _right(self, name: str, password: str) -> bool:
        digests = _digest(name), _digest(password)
        same = [secrets.compare_digest(digest, expected) for digest, expected in zip(digests, self._expected, strict=True)]
        return all(same)

    def _known(self, token: str) -> bool:
        key = _digest(token)
        with self._lock:
            ends = self._sessions.get(key)
            if ends is not None and ends < time.monotonic():
                del self._sessions[key]
                ends = None
        return bool(token) and ends is not None


def _page(message: str, status: int = 200) -> Answer:
    words = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    headers = (b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", POLICY.encode())
    return Answer(status, PAGE.format(style=STYLE, message=words).encode(), headers)


def _go(where: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Somewhere else; relative, so that a proxy may serve the page anywhere."""
    return Answer(303, b"", ((b"location", where.encode()), *headers))


def _too_many(wait: float) -> Answer:
    content = json_text({"error": {"type": "Refused", "message": f"too many wrong passwords: try again in {math.ceil(wait)} s"}}).encode()
    return Answer(429, content, ((b"content-type", b"application/json"), _retry_after(wait)))


def _retry_after(wait: float) -> tuple[bytes, bytes]:
    return b"retry-after", str(math.ceil(wait)).encode()


def _cookie(header: str, name: str) -> str:
    """A cookie's value, or ""."""
    cookies: Mapping[str, str] = dict(part.strip().partition("=")[::2] for part in header.split(";"))
    return cookies.get(name, "")


def _digest(word: str) -> bytes:
    """What is kept and compared in a word's place: alike in length, so that times tell nothing."""
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the network, of which everybody has a whole one; without the port, which some proxies tell."""
    if address.startswith("["):
        text = address[1:].partition("]")[0]
    else:
        text = address.partition(":")[0] if address.count(":") == 1 else address
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:  # of a server that listens on both kinds
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
