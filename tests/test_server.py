"""What servers of lucidcam let in: names, origins, sizes, slow visitors, passwords, connections that do nothing."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from lucidcam.errors import OptionError
from lucidcam.server import Gate, Login, Names
from lucidcam.server.login import ALL_GUESSES, ALL_SECONDS, GUESS_SECONDS, GUESSES, SESSION_SECONDS, Throttle
from lucidcam.server.logs import LINES, Bounded, log
from lucidcam.server.middleware import BODY, PATH
from lucidcam.server.rates import TokenBucket
from visitors import Visitor, logged

HERE = Names.of("127.0.0.1")


async def inner(scope, receive, send):
    """A page that tells what it was sent."""
    body, gone = b"", False
    if scope["method"] == "POST":
        while True:
            message = await receive()
            gone = message["type"] != "http.request"
            body += message.get("body", b"")
            if gone or not message.get("more_body"):
                break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"private")]})
    await send({"type": "http.response.body", "body": b"gone" if gone else b"in:" + body})


class Clock:
    """A clock that is set by hand, in the place of `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("lucidcam.server.login.time", found)
    monkeypatch.setattr("lucidcam.server.rates.time", found)
    return found


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    with logged() as found:
        yield found


# ------------------------------------------------------------------------------------------------------------------- names

OWN = ("127.0.0.1", "127.0.0.1:7860", "localhost", "LocalHost:1", "localhost.", "localhost.:80", "127.0.0.1.:7860", "[::1]", "[::1]:7860")

FOREIGN = (
    "", ":7860", "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example:7860", "x.localhost",
    "x@127.0.0.1", "x@127.0.0.1:7860", "x:y@localhost", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "127.0.0.1/evil.example",
    "127.0.0.1\\@evil.example", "127.0.0.1,evil.example", "127.0.0.1 evil.example", " 127.0.0.1", "127.0.0.1 ", "127.0.0.1\t",
    "127.0.0.1\n",
    "127.0.0.1..", "localhost..:80", ".localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:123456", "127.0.0.1:80:80",
    "::1", "[::1", "::1]", "[127.0.0.1]", "[localhost]", "[::1%25lo]", "[::1].evil.example", "2130706433", "0x7f000001", "127.1",
    "\x80", "\u00e9vil", "localhost\0", "\u00b927.0.0.1", "http://127.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_own_names_are_answered_to(host):
    assert HERE.know(host)
    assert Visitor(Gate(inner, HERE), {"host": host}).get("/").status == 200


@pytest.mark.parametrize("host", [*FOREIGN, "192.168.0.7", "[2001:db8::1]:7860", "0.0.0.0"])
def test_foreign_names_are_not(host):
    assert not HERE.know(host)
    answer = Visitor(Gate(inner, HERE), {"host": host}).get("/")
    assert (answer.status, "--name" in answer.error) == (403, True)


def test_a_request_without_a_name_is_refused():
    assert Visitor(Gate(inner, HERE), {}).get("/").status == 403


def test_servers_for_others_answer_to_addresses_and_their_own_name():
    names = Names.of("0.0.0.0", ["Maps.Example.org"])
    own = socket.gethostname()
    for host in (
        *OWN,
        own,
        f"{own}:7860",
        "0.0.0.0:1",
        "192.168.0.7:7860",
        "[2001:db8::1]:7860",
        "maps.example.org",
        "MAPS.example.org.:443",
    ):
        assert names.know(host), host
    for host in FOREIGN:
        assert not names.know(host), host
    for host in ("example.org", "x.maps.example.org", "maps.example.org.evil.example", "192.168.0.7.evil.example", "300.1.1.1"):
        assert not names.know(host), host


@pytest.mark.parametrize(
    "name", ["https://maps.example.org", "maps.example.org:8443", "maps.example.org/x", "x@y", "", "two words", "*.example.org"]
)
def test_a_name_that_no_request_can_have_is_told_at_once(name):
    with pytest.raises(OptionError, match="expected a host name"):
        Names.of("127.0.0.1", [name])


# ----------------------------------------------------------------------------------------------------------------- origins

OTHERS = (
    "http://127.0.0.1:8888", "http://localhost:7860", "http://127.0.0.1", "http://127.0.0.1:786", "null", "", "https://evil.example",
    "http://127.0.0.1:7860.evil.example", "http://x@127.0.0.1:7860", "http://127.0.0.1:7860@evil.example", "http://127.0.0.1:7860/",
    "http://127.0.0.1:7860?x", "http://127.0.0.1:7860#x", "file://", "chrome-extension://abc", "ftp://127.0.0.1:7860", "127.0.0.1:7860",
    "http://[", "http://", "http:127.0.0.1:7860", "javascript:127.0.0.1:7860", "http://127.0.0.1:7860 http://evil.example", "https://127.0.0.1:7860",
)  # fmt: skip


@pytest.mark.parametrize("origin", OTHERS)
def test_pages_of_other_servers_are_refused(origin):
    visitor = Visitor(Gate(inner, HERE))
    for answer in (visitor.post("/api/x", {}, headers={"origin": origin}), visitor.get("/api/x", headers={"origin": origin})):
        assert answer.status == 403
        assert "page of another server" in answer.error
    assert visitor.post("/", {}, headers={"origin": origin}).status == 403
    assert visitor.get("/", headers={"origin": origin}).status == 200  # a link


@pytest.mark.parametrize(
    ("host", "scheme", "origin"),
    [
        ("127.0.0.1:7860", "http", "http://127.0.0.1:7860"),
        ("localhost:7860", "http", "http://localhost:7860"),
        ("LOCALHOST:7860", "http", "http://localhost:7860"),
        ("[::1]:7860", "http", "http://[::1]:7860"),
        ("localhost", "http", "http://localhost"),
        ("localhost:80", "http", "http://localhost"),
        ("localhost", "https", "https://localhost"),
        ("localhost:443", "https", "https://localhost"),
    ],
)
def test_the_own_page_is_let_in(host, scheme, origin):
    visitor = Visitor(Gate(inner, HERE), {"host": host, "origin": origin}, scheme=scheme)
    assert visitor.post("/api/x", {}).body == b"in:{}"


@pytest.mark.parametrize(
    ("host", "scheme", "origin"),
    [
        ("localhost", "http", "https://localhost"),
        ("localhost", "https", "http://localhost"),
        ("localhost:80", "http", "https://localhost"),
        ("localhost:443", "https", "http://localhost"),
        ("localhost", "http", "http://localhost:443"),
    ],
)
def test_the_same_name_with_the_other_scheme_is_another_server(host, scheme, origin):
    visitor = Visitor(Gate(inner, HERE), {"host": host, "origin": origin}, scheme=scheme)
    assert visitor.post("/api/x", {}).status == 403


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403), ("x", 403)]
)
def test_what_the_browser_tells_of_the_site_counts(site, status):
    visitor = Visitor(Gate(inner, HERE))
    for answer in (
        visitor.post("/api/x", {}, headers={"sec-fetch-site": site}),
        visitor.get("/static/x", headers={"sec-fetch-site": site}),
    ):
        assert answer.status == status
    told = {"sec-fetch-site": site, "origin": "null"}  # as pages that keep their origin back
    assert visitor.post("/api/x", {}, headers=told).status == status
    assert visitor.get("/", headers={"sec-fetch-site": site}).status == 200  # a link
    assert visitor.get("/login", headers={"sec-fetch-site": site}).status == 200


def test_what_a_proxy_adds_counts_only_behind_one():
    forwarded = {"x-forwarded-host": "maps.example.org", "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}
    names = Names.of("127.0.0.1", ["maps.example.org"])
    seen: list[Any] = []

    async def noting(scope, receive, send):
        seen.append(scope["visitor"])
        await inner(scope, receive, send)

    own, proxied = Visitor(Gate(noting, names)), Visitor(Gate(noting, names, behind_proxy=True))
    assert own.get("/", headers={"host": "evil.example", **forwarded}).status == 403
    assert own.post("/x", {}, headers={"origin": "https://maps.example.org", **forwarded}).status == 403
    assert own.get("/", headers=forwarded).status == 200
    assert (seen[-1].address, seen[-1].host, seen[-1].secure) == ("127.0.0.1", "127.0.0.1:7860", False)
    assert proxied.post("/x", {}, headers={"host": "inside:1", "origin": "https://maps.example.org", **forwarded}).status == 200
    assert (seen[-1].address, seen[-1].host, seen[-1].secure) == ("203.0.113.9", "maps.example.org", True)
    assert proxied.post("/x", {}, headers={"origin": "http://127.0.0.1:7860", **forwarded}).status == 403
    assert proxied.get("/", headers={**forwarded, "x-forwarded-host": "evil.example"}).status == 403
    assert (
        proxied.get("/", headers={**forwarded, "x-forwarded-host": "maps.example.org, evil.example"}).status == 403
    )  # the last is the proxy's
    assert proxied.get("/", headers={**forwarded, "x-forwarded-for": "198.51.100.1, 203.0.113.10"}).status == 200
    assert seen[-1].address == "203.0.113.10"
    assert proxied.get("/").status == 200
    assert (seen[-1].address, seen[-1].secure) == ("127.0.0.1", False)


# ------------------------------------------------------------------------------------------------------- sizes and times


@pytest.mark.parametrize("told", ["-1", "+1", "1.5", "", " 2", "²", "0x10", "1e3", "9" * 5000, "2, 2", "two"])
@pytest.mark.parametrize("path", ["/api/x", "/upload"])
def test_a_length_that_is_no_number_is_refused(told, path):
    visitor = Visitor(Gate(inner, HERE, uploads=frozenset({"/upload"})))
    answer = visitor.post(path, {}, headers={"content-length": told})
    assert (answer.status, answer.error) == (400, "the length of the request is no number")


@pytest.mark.parametrize("told", [None, "2", str(BODY)])
def test_long_requests_are_refused_whatever_they_say(told):
    visitor = Visitor(Gate(inner, HERE))
    assert visitor.post("/x", b"x" * BODY, headers={"content-length": told}).body == b"in:" + b"x" * BODY
    answer = visitor.post("/x", b"x" * (BODY + 1), headers={"content-length": told})
    assert (answer.status, str(BODY) in answer.error) == (413, True)


def test_a_request_that_says_it_is_long_is_refused_unread():
    parts = iter([b"x"])
    visitor = Visitor(Gate(inner, HERE))
    answer = visitor.ask("POST", "/x", parts, headers={"content-length": str(BODY + 1)}, stays=0.2)
    assert answer.status == 413


def test_endless_requests_end():
    visitor = Visitor(Gate(inner, HERE))
    assert visitor.ask("POST", "/x", [b"x" * 1000] * 500, whole=False).status == 413


def test_uploads_are_the_pages_to_bound():
    visitor = Visitor(Gate(inner, HERE, uploads=frozenset({"/upload"})))
    assert len(visitor.post("/upload", b"x" * (3 * BODY)).body) == 3 * BODY + 3
    assert visitor.post("/upload/", b"x" * (3 * BODY)).status == 413


@pytest.mark.parametrize("path", ["/x", "/upload"])
@pytest.mark.parametrize(
    ("parts", "pause"), [([b""], 0), ([b"x"], 0), ([b"x"] * 200, 0.05), ([b""] * 200, 0.05)], ids=["none", "one", "few", "empty"]
)
def test_slow_requests_end_in_time(monkeypatch, path, parts, pause):
    monkeypatch.setattr("lucidcam.server.middleware.PATIENCE", 0.2)
    visitor = Visitor(Gate(inner, HERE, uploads=frozenset({"/upload"})))
    began = time.monotonic()
    answer = visitor.ask("POST", path, parts, pause=0.05, whole=False)
    assert time.monotonic() - began < 2
    assert (answer.body == b"gone") if path == "/upload" else (answer.status == 408)


def test_who_sends_steadily_may_take_longer(monkeypatch):
    monkeypatch.setattr("lucidcam.server.middleware.PATIENCE", 0.2)
    monkeypatch.setattr("lucidcam.server.middleware.SLOWEST", 10_000)
    visitor = Visitor(Gate(inner, HERE, uploads=frozenset({"/upload"})))
    assert len(visitor.ask("POST", "/upload", [b"x" * 1000] * 10, pause=0.05).body) == 10_003


def test_a_page_may_answer_long_after_the_request():
    async def slow(scope, receive, send):
        await inner(scope, receive, send)

    async def late(scope, receive, send):
        await receive()
        await asyncio.sleep(0.3)
        await slow(scope, receive, send)

    gate = Gate(late, HERE)
    assert Visitor(gate).get("/").status == 200


# ------------------------------------------------------------------------------------------------- methods, paths, answers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", ""])
def test_other_methods_are_refused(method):
    answer = Visitor(Gate(inner, HERE)).ask(method, "/")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize(
    "path",
    [
        "/\0", "/static/\0.js", "/" + "x" * PATH, "/" + "x" * 5000, "/..", "/../etc/passwd", "/static/..", "/a/../b",
        "/\n", "/a\r\nb", "/\x7f", "/\ud800", "/\u2028",
    ],
)  # fmt: skip
def test_paths_that_are_none_find_nothing(path):
    answer = Visitor(Gate(inner, HERE, Login("ada", "x"))).get(path)
    assert (answer.status, answer.error) == (404, "there is nothing here")


@pytest.mark.parametrize(
    ("status", "ask"),
    [
        (200, lambda visitor: visitor.get("/")),
        (200, lambda visitor: visitor.ask("HEAD", "/")),
        (200, lambda visitor: visitor.get("/login")),
        (303, lambda visitor: visitor.get("/x", headers={"accept": "text/html"})),
        (400, lambda visitor: visitor.post("/x", headers={"content-length": "x"})),
        (401, lambda visitor: visitor.get("/x")),
        (403, lambda visitor: visitor.get("/x", headers={"host": "x"})),
        (404, lambda visitor: visitor.get("/..")),
        (405, lambda visitor: visitor.ask("PUT", "/")),
        (413, lambda visitor: visitor.post("/x", b"x" * (BODY + 1))),
        (500, lambda visitor: visitor.get("/")),
    ],
)
def test_every_answer_tells_the_browser_to_stay_here(records, status, ask):
    async def failing(scope, receive, send):
        raise ValueError("a secret")

    guard = Login("ada", "x") if status in (303, 401) or ask(Visitor(Gate(inner, HERE))).body == b"in:" else None
    answer = ask(Visitor(Gate(failing if status == 500 else inner, HERE, guard if status in (303, 401) else None)))
    assert answer.status == status
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    for word in ("unsafe", "http", "*", "eval"):
        assert word not in policy
    for part in ("base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"):
        assert part in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == ("private" if answer.body.startswith(b"in:") else "no-store")
    assert "server" not in answer.headers


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_faults_are_told_in_the_log_alone(records, answered):
    async def failing(scope, receive, send):
        if answered > 0:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if answered > 1:
            await send({"type": "http.response.body", "body": b"in"})
        raise ValueError("a secret")

    if answered == 1:  # half an answer may not look like a whole one
        with pytest.raises(ValueError, match="a secret"):
            Visitor(Gate(failing, HERE)).get("/")
    else:
        answer = Visitor(Gate(failing, HERE)).get("/")
        assert answer.status == (200 if answered else 500)
        assert b"secret" not in answer.body
        assert answered or "its log tells why" in answer.error
    assert len(records) == 1
    assert records[0].exc_info is not None


@pytest.mark.parametrize("started", [False, True])
def test_what_is_under_way_when_the_server_ends_is_told_so(records, started):
    async def waiting(scope, receive, send):
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    if started:
        with pytest.raises(asyncio.CancelledError):
            Visitor(Gate(waiting, HERE)).get("/")
    else:
        answer = Visitor(Gate(waiting, HERE)).get("/")
        assert (answer.status, answer.error) == (503, "the server is ending")
    assert records == []


def test_nothing_but_http_is_let_in():
    async def asked(kind: str) -> list[dict]:
        sent: list[dict] = []

        async def send(message):
            sent.append(message)

        async def lifespan(scope, receive, send):
            await send({"type": "lifespan.startup.complete"})

        await Gate(lifespan, HERE)({"type": kind, "path": "/", "headers": []}, lambda: None, send)
        return sent

    assert asyncio.run(asked("websocket")) == [{"type": "websocket.close", "code": 1008}]
    assert asyncio.run(asked("lifespan")) == [{"type": "lifespan.startup.complete"}]


# ------------------------------------------------------------------------------------------------------------------- login


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


RIGHT = basic("ada", "love:lace")


@pytest.fixture
def visitor() -> Visitor:
    return Visitor(Gate(inner, HERE, Login("ada", "love:lace"), uploads=frozenset({"/upload"})))


def log_in(visitor: Visitor, name: str = "ada", password: str = "love:lace", **more: Any) -> Any:
    return visitor.post("/login", f"name={name}&password={password}".encode(), **more)


def cookie_of(answer: Any) -> dict[str, str]:
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/about", "/api/labels", "/nowhere", "/login/", "/LOGIN", "//login", "/login\\", "/logout"]
)
def test_nothing_is_seen_without_the_password(visitor, path):
    for answer in (visitor.get(path), visitor.ask("HEAD", path)):
        assert answer.status == 401
        assert answer.error == "a name and a password are needed"
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert (
        "www-authenticate" not in visitor.get(path, headers={"sec-fetch-mode": "cors"}).headers
    )  # else a window of the browser's own opens
    answer = visitor.get(path, headers={"accept": "text/html,*/*"})
    assert answer.status == 303
    assert re.fullmatch(r"(\.\./)*login", answer.headers["location"])
    if path != "/logout":
        for answer in (visitor.post(path, {}), visitor.post(path, {}, headers={"accept": "text/html"})):
            assert answer.status == 401


def test_uploads_are_refused_without_the_password_and_not_read(visitor):
    answer = visitor.ask("POST", "/upload", [b"x" * 1000] * 3, headers={"content-length": "100000000"}, whole=False, stays=0.2)
    assert answer.status == 401


def test_the_login_page_shows_nothing_else(visitor):
    answer = visitor.get("/login")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"lucidcam" in answer.body
    assert b"<script" not in answer.body
    assert "'sha256-" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "same-origin"  # else browsers send "Origin: null" with its form


def test_a_browser_is_remembered_until_it_logs_out(visitor):
    wrong = log_in(visitor, password="wrong")
    assert (wrong.status, b"do not belong together" in wrong.body, "set-cookie" in wrong.headers) == (401, True, False)
    right = log_in(visitor)
    assert (right.status, right.headers["location"]) == (303, ".")
    attributes = right.headers["set-cookie"].split("; ")[1:]
    assert set(attributes) == {f"Max-Age={SESSION_SECONDS:.0f}", "Path=/", "HttpOnly", "SameSite=Lax"}
    known = cookie_of(right)
    name, _, token = known["cookie"].partition("=")
    assert len(token) >= 43  # 256 bits
    assert visitor.get("/x", headers=known).body == b"in:"
    assert visitor.get("/x", headers={"cookie": f"a=b; {known['cookie']}; c=d"}).body == b"in:"
    for wrong in (
        f"{name}=",
        f"{name}={token[:-1]}",
        f"{name}={token}x",
        f"x{name}={token}",
        token,
        f"{name}",
        "=",
        ";;",
        f"{name}={token[::-1]}",
    ):
        assert visitor.get("/x", headers={"cookie": wrong}).status == 401, wrong
    assert Visitor(Gate(inner, HERE, Login("ada", "love:lace"))).get("/x", headers=known).status == 401  # of another server
    out = visitor.post("/logout", headers=known)
    assert (out.status, out.headers["location"], "Max-Age=0" in out.headers["set-cookie"]) == (303, "login", True)
    assert visitor.get("/x", headers=known).status == 401


def test_the_cookie_goes_over_https_alone_where_there_is_https():
    gate = lambda **more: Gate(inner, HERE, Login("ada", "love:lace"), **more)  # noqa: E731
    assert "; Secure" in log_in(Visitor(gate(), scheme="https")).headers["set-cookie"]
    assert "; Secure" in log_in(Visitor(gate(behind_proxy=True)), headers={"x-forwarded-proto": "https"}).headers["set-cookie"]
    assert "; Secure" not in log_in(Visitor(gate()), headers={"x-forwarded-proto": "https"}).headers["set-cookie"]


def test_a_login_from_another_page_is_refused(visitor):
    for header in ({"origin": "http://127.0.0.1:8888"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert log_in(visitor, headers=header).status == 403
    assert log_in(visitor, headers={"origin": "http://127.0.0.1:7860"}).status == 303


def test_sessions_end(visitor, clock):
    known = cookie_of(log_in(visitor))
    clock.now += SESSION_SECONDS - 1
    assert visitor.get("/x", headers=known).status == 200
    clock.now += 2
    assert visitor.get("/x", headers=known).status == 401


def test_so_many_sessions_and_no_more(visitor, monkeypatch):
    monkeypatch.setattr("lucidcam.server.login.SESSIONS", 3)
    known = [cookie_of(log_in(visitor)) for _ in range(5)]
    assert [visitor.get("/x", headers=each).status for each in known] == [401, 401, 200, 200, 200]


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"name=ada",
        b"password=love:lace",
        b"name=ada&password=",
        b"name=&password=",
        b"\xff\xfe",
        b"name=%FF&password=%00",
        b"a&" * 5000,
        b"&".join(b"x%d=1" % i for i in range(100)),
        b"name=ada&password=love:lace&" + b"x=1&" * 20,
        b'{"name": "ada", "password": "love:lace"}',
    ],
)
def test_forms_that_are_none_are_wrong(visitor, records, form):
    answer = visitor.post("/login", form)
    assert (answer.status, records) == (401, [])


def test_programs_bring_the_password_along(visitor):
    assert visitor.get("/x", headers=RIGHT).body == b"in:"
    assert visitor.post("/upload", b"photo", headers=RIGHT).body == b"in:photo"
    assert visitor.get("/x", headers={"authorization": RIGHT["authorization"].replace("Basic", "bAsIc")}).status == 200


WRONG = (("ada", "wrong"), ("", ""), ("other", "love:lace"), ("ada", ""), ("ada", "love"), ("Ada", "love:lace"))

NO_PASSWORD = (
    "Basic", "Basic !!!", "Basic //8=", "Basic /w==", "Bearer x", "Basic YWRhOmxvdmU6bGFjZQ", "Basic \u00e9", "Basic \u00b2", "\u00e9",
    "x" * 8000, RIGHT["authorization"].replace("Basic", "Bearer"),
)  # fmt: skip


@pytest.mark.parametrize("words", [*(basic(*each)["authorization"] for each in WRONG), *NO_PASSWORD])
def test_wrong_passwords_are_refused(visitor, records, words):
    assert visitor.get("/x", headers={"authorization": words}).status == 401
    assert records == []


def guess(visitor: Visitor, how: str, address: str = "203.0.113.9", right: bool = False) -> int:
    visitor = Visitor(visitor.app, visitor.headers, address)
    if how == "form":
        return log_in(visitor, password="love:lace" if right else "wrong").status
    return visitor.get("/x", headers=RIGHT if right else basic("ada", "wrong")).status


def test_a_token_bucket_lets_a_burst_through_and_then_a_rate(clock):
    bucket = TokenBucket(30, 0.5)
    assert [bucket.take() for _ in range(40)] == [True] * 30 + [False] * 10
    assert bucket.wait() == 2
    clock.now += 10
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.now += 3600
    assert (bucket.wait(), sum(bucket.take() for _ in range(100))) == (0, 30)


@pytest.mark.parametrize("how", ["form", "header"])
def test_who_guesses_has_to_wait(visitor, clock, how):
    known = cookie_of(log_in(visitor))
    assert [guess(visitor, how) for _ in range(GUESSES + 2)] == [401] * GUESSES + [429, 429]
    assert guess(visitor, how, right=True) == 429  # a right one tells nothing meanwhile
    assert guess(visitor, "header" if how == "form" else "form", right=True) == 429
    assert guess(visitor, how, "203.0.113.10", right=True) in (200, 303)  # others go on
    assert visitor.get("/x", headers=known).status == 200
    clock.now += GUESS_SECONDS - 0.1
    assert guess(visitor, how, right=True) == 429
    clock.now += 0.2
    assert guess(visitor, how, right=True) in (200, 303)
    assert [guess(visitor, how) for _ in range(GUESSES + 1)] == [401] * GUESSES + [429]  # who knew it has all guesses again
    clock.now += GUESS_SECONDS + 0.1
    assert [guess(visitor, how) for _ in range(2)] == [401, 429]
    clock.now += (GUESSES + 1) * GUESS_SECONDS
    assert [guess(visitor, how) for _ in range(GUESSES + 1)] == [401] * GUESSES + [429]


@pytest.mark.parametrize("how", ["form", "header"])
def test_many_who_guess_have_to_wait_together(visitor, clock, how):
    known = cookie_of(log_in(visitor))
    assert {guess(visitor, how, f"203.0.113.{i}") for i in range(ALL_GUESSES)} == {401}
    for right in (False, True):
        assert guess(visitor, how, "198.51.100.7", right=right) == 429
    assert visitor.get("/x", headers=known).status == 200
    clock.now += ALL_SECONDS + 0.01
    assert guess(visitor, how, "198.51.100.7", right=True) in (200, 303)


def test_the_wait_is_told(visitor, clock):
    for _ in range(GUESSES):
        guess(visitor, "form", "127.0.0.1")
    page, answer = log_in(visitor), visitor.get("/x", headers=RIGHT)
    assert b"wait 20 seconds" in page.body
    assert "in 20 s" in answer.error
    assert page.headers["retry-after"] == answer.headers["retry-after"] == "20"


def test_an_address_cannot_be_changed_to_guess_on(clock):
    def statuses(gate: Gate, headers: Callable[[int], dict[str, str]]) -> list[int]:
        return [Visitor(gate).get("/x", headers={**basic("ada", "x"), **headers(i)}).status for i in range(GUESSES + 1)]

    many = [401] * (GUESSES + 1)
    assert statuses(Gate(inner, HERE, Login("ada", "y")), lambda i: {"x-forwarded-for": f"203.0.113.{i}"}) == [*many[1:], 429]
    proxied = lambda: Gate(inner, HERE, Login("ada", "y"), behind_proxy=True)  # noqa: E731
    assert statuses(proxied(), lambda i: {"x-forwarded-for": f"203.0.113.{i}"}) == many
    assert statuses(proxied(), lambda i: {"x-forwarded-for": f"203.0.113.{i}, 198.51.100.1"}) == [*many[1:], 429]


@pytest.mark.parametrize(
    ("addresses", "one"),
    [
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"], True),
        (["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1"], False),
        (["203.0.113.1", "203.0.113.2", "203.0.113.3"], False),
        (["203.0.113.1:1000", "203.0.113.1:1001", "203.0.113.1"], True),
        (["[2001:db8::1]:1000", "[2001:db8::1]", "2001:db8::2"], True),
        (["::ffff:203.0.113.1", "203.0.113.1", "::ffff:203.0.113.1"], True),
        (["::ffff:203.0.113.1", "::ffff:203.0.113.2", "::ffff:203.0.113.3"], False),
        (["unix:", "unix:", "unix:"], True),
        (["", "", ""], True),
        (["x" * 200 + "1", "x" * 200 + "2", "x" * 200 + "3"], True),
    ],
)
def test_what_counts_as_one_address(clock, addresses, one):
    throttle = Throttle(guesses=2, seconds=60)
    for each in addresses[:2]:
        throttle.failed(each)
    assert (throttle.wait(addresses[2]) > 0) == one


def test_addresses_that_guessed_are_not_remembered_without_end(clock, monkeypatch):
    monkeypatch.setattr("lucidcam.server.login.REMEMBERED", 100)
    throttle = Throttle()
    for number in range(1000):
        throttle.failed(f"198.51.{number // 256}.{number % 256}")
    assert len(throttle._networks) == 100


# --------------------------------------------------------------------------------------------------------------------- log


def test_the_log_cannot_be_flooded(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("lucidcam.server.rates.time", clock)
    told: list[str] = []
    logger, handler = logging.Logger("a logger of this test"), logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.addFilter(Bounded(lines=5, per_minute=2))
    for number in range(1000):
        logger.error("line %d", number)
    assert told == [f"line {number}" for number in range(5)]
    clock.now += 60
    logger.error("100 %% of %s", "it")
    assert told[5] == "100 % of it (995 lines before this one were left out)"
    logger.error("one more")
    logger.error("too many")
    assert told[6:] == ["one more"]
    clock.now += 3600
    for number in range(10):
        logger.error("%d", number)
    assert told[7:] == ["0 (1 lines before this one were left out)", "1", "2", "3", "4"]


def test_the_servers_log_is_bounded():
    assert [each.bucket.burst for each in log.filters if isinstance(each, Bounded)] == [LINES]


# --------------------------------------------------------------------------------------------------------------- listening


@contextmanager
def listening(app: Any, **more: Any) -> Iterator[Any]:
    pytest.importorskip("uvicorn")
    from lucidcam.server.listening import Listening

    with Listening(app, "127.0.0.1", 0, "web", "a test") as found:
        found.start()
        yield found


@pytest.fixture
def impatient(monkeypatch):
    """Servers that wait for fractions of a second."""
    for name, value in {"HEAD_SECONDS": 0.3, "IDLE_SECONDS": 0.4, "WRITING_SECONDS": 0.4, "REST_SECONDS": 0.3}.items():
        monkeypatch.setattr(f"lucidcam.server.listening.{name}", value)


def connect(server: Any) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), 5)
    found.settimeout(5)
    return found


def read(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection; fails where it does not."""
    came = b""
    try:
        while part := connection.recv(65536):
            came += part
    except ConnectionError:
        pass
    return came


def read_one(connection: socket.socket) -> bytes:
    """One answer of `inner`, which has no length."""
    came = b""
    while not came.endswith(b"\r\n0\r\n\r\n"):
        part = connection.recv(65536)
        assert part, came
        came += part
    return came


HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LONG = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


HALVES = (
    b"", b"G", HEAD, HEAD + b"X: ", HEAD[:-1], HEAD + b"\r\n" + HEAD, HEAD + b"\r\n", LONG, LONG + b"x" * 500, LONG + b"x" * 1000,
    HEAD + b"Content-Length: 10\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
)  # fmt: skip
"""What a visitor sends before nothing more comes, or next to nothing."""


@pytest.mark.parametrize("trickle", [b"", b"x"], ids=["still", "trickling"])
def test_connections_that_do_nothing_end(impatient, trickle):
    async def refusing(scope, receive, send):  # answers without reading
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"in"})

    with listening(refusing) as server:
        held = [connect(server) for _ in HALVES]
        for connection, sent in zip(held, HALVES, strict=True):
            connection.sendall(sent)
        for _ in range(20):
            for connection in held if trickle else ():
                with suppress(ConnectionError):  # it has ended
                    connection.sendall(trickle)
            time.sleep(0.05)
        assert len(server._server.server_state.connections) == 0
        for connection, sent in zip(held, HALVES, strict=True):
            assert read(connection).count(b"HTTP/1.1 200") == (1 if b"\r\n\r\n" in sent else 0), sent
            connection.close()


def test_connections_go_on_as_long_as_they_ask(impatient):
    with listening(inner) as server, closing(connect(server)) as connection:
        for _ in range(6):  # longer than any of the limits
            connection.sendall(HEAD + b"\r\n")
            assert b"in:" in read_one(connection)
            time.sleep(0.15)


def test_a_long_answer_is_waited_for(impatient):
    async def late(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(1.2)
            await inner(scope, receive, send)

    with listening(late) as server, closing(connect(server)) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert b"in:" in read_one(connection)


def answering(parts: int, length: int, ended: threading.Event) -> Any:
    content = b"x" * length

    async def large(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(parts):
            await send({"type": "http.response.body", "body": content, "more_body": number + 1 < parts})
        ended.set()

    return large


@pytest.mark.parametrize("parts", [1, 40])
def test_who_does_not_read_the_answer_is_given_up(impatient, parts):
    ended = threading.Event()
    with listening(answering(parts, 1_000_000, ended)) as server, closing(connect(server)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(HEAD + b"\r\n")
        assert ended.wait(5)
        time.sleep(1)
        assert len(server._server.server_state.connections) == 0


def test_who_reads_the_answer_slowly_gets_all_of_it(impatient, monkeypatch):
    monkeypatch.setattr("lucidcam.server.listening.SLOWEST_READER", 100_000)
    ended = threading.Event()
    with listening(answering(1, 8_000_000, ended)) as server, closing(connect(server)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(HEAD + b"Connection: close\r\n\r\n")
        came, began = 0, time.monotonic()
        while part := connection.recv(200_000):
            came += len(part)
            time.sleep(len(part) / 4_000_000)
        assert came > 8_000_000
        assert time.monotonic() - began > 1.2  # far longer than an unread answer is kept


NO_HTTP = (
    b"\0\1\2\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\n\r\n",
    HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nnothing\r\n",
    HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    HEAD + b"\r\n\0\0\0\0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefghi\r\n",
)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("delays", [(0, 0), (0, 0.1), (0.1, 0)], ids=["answered", "half answered", "waiting"])
def test_what_is_no_http_is_refused_in_one_line_of_the_log(impatient, records, at_once, delays):
    async def slow(scope, receive, send):
        if scope["type"] != "http":
            return
        if delays[0]:
            await asyncio.sleep(delays[0])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if delays[1]:
            await asyncio.sleep(delays[1])
        await send({"type": "http.response.body", "body": b"in"})

    with listening(slow) as server:
        for sent in NO_HTTP:
            del records[:]
            with closing(connect(server)) as connection:
                with suppress(ConnectionError):
                    for part in [sent] if at_once else [sent[:40], sent[40:90], sent[90:]]:
                        connection.sendall(part)
                        time.sleep(0.02)
                read(connection)
                time.sleep(0.15)
            assert len(records) <= 2
            for record in records:
                assert record.exc_info is None, sent
                assert "\n" not in record.getMessage()


def test_so_many_connections_and_no_more(impatient, records, monkeypatch):
    monkeypatch.setattr("lucidcam.server.listening.CONNECTIONS", 4)
    with listening(inner) as server:
        held = [connect(server) for _ in range(6)]
        with closing(connect(server)) as connection:
            connection.sendall(HEAD + b"\r\n")
            assert read(connection).startswith(b"HTTP/1.1 503")
        for each in held:
            assert read(each) == b""
            each.close()
        with closing(connect(server)) as connection:
            connection.sendall(HEAD + b"\r\n")
            assert read_one(connection).startswith(b"HTTP/1.1 200")


def test_others_are_served_while_somebody_is_slow(impatient, monkeypatch):
    monkeypatch.setattr("lucidcam.server.listening.HEAD_SECONDS", 5)
    with listening(inner) as server:
        held = [connect(server) for _ in range(50)]
        for each in held:
            each.sendall(HEAD)
        with closing(connect(server)) as connection:
            connection.sendall(HEAD + b"\r\n")
            assert b"in:" in read_one(connection)
        for each in held:
            each.close()


NOWHERE = (
    ("127.0.0.1", None),
    ("host.invalid", 0),
    ("203.0.113.1", 0),
    ("127.0.0.1", 99_999),
    ("127.0.0.1", -1),
    ("x" * 300, 0),
    ("a b", 0),
)


@pytest.mark.parametrize(("host", "port"), NOWHERE)
def test_where_it_cannot_listen_is_told_in_one_line(host, port):
    pytest.importorskip("uvicorn")
    from lucidcam.server.listening import Listening

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(OptionError, match="choose another --port or --host") as told:
            Listening(inner, host, port, "web", "a test")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "http://127.0.0.1:"), ("localhost", "http://localhost:"), ("::1", "http://[::1]:")])
def test_its_address_can_be_visited(host, url):
    pytest.importorskip("uvicorn")
    from lucidcam.server.listening import Listening

    try:
        found = Listening(inner, host, 0, "web", "a test")
    except OptionError:
        pytest.skip("this machine has no such address")
    with found:
        assert found.url == f"{url}{found.port}/"


def test_it_ends_with_what_is_under_way(monkeypatch):
    monkeypatch.setattr("lucidcam.server.listening.CLOSING_SECONDS", 0.3)
    begun = threading.Event()

    async def endless(scope, receive, send):
        if scope["type"] == "http":
            begun.set()
            await asyncio.sleep(60)

    with listening(endless) as server, closing(connect(server)) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert begun.wait(5)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 3
        assert not server._thread.is_alive()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port), 2)
        server.close()  # again


def test_an_application_that_does_not_start_is_told():
    async def refusing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(OptionError, match="did not start"), listening(refusing):
        pass
