"""What visitors of the web app try: paths and addresses anywhere in requests, requests that cost much, uploads that end halfway, kills.

Most of it is asked of the application in this process, where every file that is opened and every address that is connected is seen.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from lucidcam.server.logs import LINES
from lucidcam.web import Limits, build, serve
from visitors import Answered, Visitor, end, logged
from web_nets import photo, png, tiny

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

POSTED = ("/api/examples", "/api/forget", "/api/explain", "/api/pixel", "/api/judge", "/api/save")

# ------------------------------------------------------------------------------------------------- what the process does

FILES = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink")

BEYOND = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.", "os.system", "os.exec", "os.posix_spawn")

_watched: list[tuple[str, str]] | None = None
_by: set[int] = set()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and threading.get_ident() not in _by:
        if event in FILES:
            place = arguments[0]
            _watched.append((event, os.fsdecode(place) if isinstance(place, (str, bytes, os.PathLike)) else str(place)))
        elif event.startswith(BEYOND):
            _watched.append((event, str(arguments[1:])))


@pytest.fixture(scope="session")
def hook() -> None:
    """Python's audit hooks cannot be taken away; this one does nothing but while it is asked to."""
    sys.addaudithook(_hook)


@contextmanager
def watched(*threads: int) -> Iterator[list[tuple[str, str]]]:
    """All that this process opens, lists, removes, connects to and starts, but in threads that are left out."""
    global _watched
    found: list[tuple[str, str]] = []
    _by.update(threads)
    _watched = found
    try:
        yield found
    finally:
        _watched = None
        _by.clear()


SOURCES = Path(lucidcam.__file__).parent


def strange(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What was done but open the folder of temporary files, for files without a name, and read Python's modules and their versions."""

    def usual(event: str, path: str) -> bool:
        if event == "open" and path == tempfile.gettempdir():
            return True
        of_python = path in sys.path or path.startswith((sys.prefix, sys.base_prefix, *(each for each in sys.path if each)))
        return (
            event in ("open", "os.listdir") and of_python and path.endswith((".py", ".pyc", ".zip", "/METADATA", *filter(None, sys.path)))
        )

    return [(event, path) for event, path in found if not usual(event, path)]


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """A folder with a photo that nobody has uploaded, and links to it."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.png").write_bytes(png(photo(99)))
    (folder / "link.png").symlink_to(folder / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "way").symlink_to("/etc")
    return folder


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    found = build({"tiny": tiny(), "other": tiny(1)}, Limits(megabytes=1, room=4, photos=16))
    use(Visitor(found))
    yield found
    end(found)


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch) -> None:
    """Temporary files lie where no other process makes any."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture
def visitor(app) -> Visitor:
    return Visitor(app)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    with logged() as found:
        yield found


def uploaded(visitor: Visitor, number: int = 1, name: str = "photo.png") -> str:
    answer = visitor.post("/api/photos", png(photo(number)), query={"name": name})
    assert answer.status == 200, answer.body
    return answer.json["photo"]


def use(visitor: Visitor) -> None:
    """Ask for everything once, so that all modules are imported."""
    question = {"photo": uploaded(visitor), "classes": [0], "methods": ["gradcam"]}
    assert visitor.post("/api/explain", {**question, "methods": ["gradcam", "rise"], "options": {"rise": {"masks": 2}}}).status == 200
    saves = [("save", {"format": kind}) for kind in ("png", "npz", "json")]
    for path, more in [("pixel", {"x": 0, "y": 0}), ("judge", {"steps": 2}), *saves]:
        assert visitor.post(f"/api/{path}", {"map": question, **more}).status == 200


def store_of(app: Any) -> Any:
    """The store behind an application, found by what its route does."""
    return next(route.endpoint.__self__.store for route in app.app.routes if route.path == "/api/photos")


# --------------------------------------------------------------------------------------------------------- random bodies


PLACES = (
    "../../../../etc/passwd", "tests/web_nets.py", "pyproject.toml", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ",
    "/proc/self/fd/0", "/", ".", "~/.ssh/id_rsa", "C:\\windows\\win.ini", "\\\\host\\share", "http://169.254.169.254/", "ftp://x/y",
    "data:image/png;base64,AAAA", "", "\0", "x" * 5000, "\ud800", "a\nb",
)  # fmt: skip


def targets(outside: Path, port: int) -> list[str]:
    """What nobody may reach: files, addresses of a server of the test's, and odd words."""
    files = [str(outside / name) for name in ("secret.png", "link.png", "loop.png", "way/passwd")]
    more = [os.path.relpath(files[0]), f"{outside}/../{outside.name}/secret.png", f"file://{files[0]}", f"{files[0]}\0.png"]
    return [*files, *more, f"http://127.0.0.1:{port}/x.png", f"https://localhost:{port}/x", *PLACES]


class Bodies:
    """Random requests: real ones in which some values are others, and others altogether.

    Args:
        seed: of the draws.
        photo: id of a photo that is there.
        words: what is put anywhere.
    """

    def __init__(self, seed: int, photo: str, words: list[str]) -> None:
        self.draw, self.photo, self.words = random.Random(seed), photo, words

    def value(self, depth: int = 0) -> Any:
        kind = self.draw.randrange(12)
        if kind < 5 or depth > 3:
            return self.draw.choice(self.words)
        if kind == 5:
            return self.draw.choice([None, True, False, 0, -1, 0.5, 1e308, 10**40, 10**400, float("inf"), float("nan")])
        if kind < 9:
            names = ["path", "url", "meta", "photo", "file", "data", *self.words]
            return {self.draw.choice(names): self.value(depth + 1) for _ in range(self.draw.randrange(4))}
        return [self.value(depth + 1) for _ in range(self.draw.randrange(4))]

    def question(self) -> dict[str, Any]:
        draw = self.draw
        return {
            "photo": self.photo,
            "model": draw.choice(["tiny", "other"]),
            "layer": draw.choice(["1", "3", "5"]),
            "methods": [draw.choice(["gradcam", "layercam", "hirescam", "eigencam", "scorecam", "rise"])],
            "options": {"rise": {"masks": 4, "baseline": "0.5"}, "scorecam": {"budget": 4}},
            "classes": [draw.choice([0, "green", "2"])],
            "against": draw.choice([None, None, 3]),
        }

    def body(self, path: str) -> Any:
        draw = self.draw
        whole: dict[str, Any] = {
            "/api/examples": lambda: {"example": draw.choice(["cat", "rocket"])},
            "/api/forget": lambda: {"photo": draw.choice(self.words)},
            "/api/explain": self.question,
            "/api/pixel": lambda: {"map": self.question(), "x": draw.random(), "y": draw.random()},
            "/api/judge": lambda: {"map": self.question(), "steps": 2},
            "/api/save": lambda: {"map": self.question(), "format": draw.choice(["png", "npz", "json"]), "threshold": 0.5},
        }[path]()
        if draw.random() < 0.1:
            return self.value()
        for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
            self.change(whole)
        return whole

    def change(self, thing: Any) -> None:
        """Put another value anywhere in a thing."""
        draw = self.draw
        if isinstance(thing, dict):
            keys = [*thing, draw.choice(self.words)] if draw.random() < 0.15 else list(thing)
            if not keys:
                return
            key = draw.choice(keys)
            if key in thing and isinstance(thing[key], (dict, list)) and thing[key] and draw.random() < 0.75:
                self.change(thing[key])
            else:
                thing[key] = self.value()
        elif thing:
            thing[draw.randrange(len(thing))] = self.value()


def judged(answer: Answered, body: Any) -> None:
    """An answer that is right, or an error in one line."""
    assert answer.status in (200, 410, 422, 507), (answer.status, answer.body[:300], body)
    if answer.status != 200:
        assert len(answer.error) < 1000, body
        for word in (str(SOURCES), "Traceback", tempfile.gettempdir() + "/tmp"):
            assert word not in answer.error, body


def processor() -> float:
    """Seconds of processor time that this process has taken."""
    return sum(os.times()[:2])


ACCEPTED = ("*/*", "application/json", "application/x-ndjson", "text/html, application/x-ndjson;q=0.1", "\xff")
"""What visitors say that they accept."""


def in_one(answer: Answered) -> Answered:
    """An answer that came in lines as one: its last line, with the status that it tells."""
    if answer.headers.get("content-type") != "application/x-ndjson":
        return answer
    last = json.loads(answer.body.splitlines()[-1])
    return Answered(last.get("status", 200), answer.headers, json.dumps(last.get("result", last)).encode())


def tried(ask: Callable[[str, bytes, str], Answered], upload: Callable[[], str], outside: Path, count: int, seed: int) -> Counter[int]:
    """Ask random things; gives how often each status was answered."""
    statuses: Counter[int] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        bodies = Bodies(seed, upload(), targets(outside, listener.getsockname()[1]))
        for _ in range(count):
            path = bodies.draw.choice(POSTED)
            body = bodies.body(path)
            began = processor()
            answer = in_one(ask(path, json.dumps(body).encode(), bodies.draw.choice(ACCEPTED)))
            assert processor() - began < 2, body
            judged(answer, body)
            statuses[answer.status] += 1
            if answer.status == 410:  # it was pushed out
                bodies.photo = upload()
        with pytest.raises(BlockingIOError):
            listener.accept()
    return statuses


def tried_here(visitor: Visitor, outside: Path, count: int, seed: int) -> Counter[int]:
    with watched() as found:

        def ask(path: str, body: bytes, accept: str) -> Answered:
            return visitor.post(path, body, headers={"accept": accept})

        statuses = tried(ask, lambda: uploaded(visitor), outside, count, seed)
    assert strange(found) == []
    return statuses


@pytest.mark.slow
def test_2000_random_bodies_open_no_file_and_no_connection(hook, visitor, outside, records):
    statuses = tried_here(visitor, outside, 2_000, 0)
    assert statuses[200] > 200  # not all of it is refused at the first word
    assert statuses[422] > 800
    assert records == []


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bodies_open_no_file_and_no_connection(hook, visitor, outside, records, seed):
    assert tried_here(visitor, outside, 150, seed)[200] > 5
    assert records == []


def test_the_hook_sees_what_is_opened(hook, outside):
    with watched() as found:
        (outside / "secret.png").read_bytes()
        list(outside.iterdir())
        with socket.socket() as connection:
            connection.connect_ex(("127.0.0.1", 9))
    assert [event for event, _ in strange(found)] == ["open", "os.listdir", "socket.connect"]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server in threads of this process."""
    with serve({"tiny": tiny(), "other": tiny(1)}, port=0, wait=False, limits=Limits(megabytes=1, room=2, photos=16)) as found:
        use(Visitor(found.app))
        yield found


@pytest.fixture
def web(server) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, timeout=30) as found:
        yield found


def test_random_bodies_over_http_open_no_file_and_no_connection(hook, web, outside, records):
    def ask(path: str, body: bytes, accept: str) -> Answered:
        answer = web.post(path, content=body, headers={"content-type": "application/json", "accept": accept.encode("latin-1")})
        return Answered(answer.status_code, dict(answer.headers), answer.content)

    def upload() -> str:
        return web.post("/api/photos?name=a.png", content=png(photo(1))).json()["photo"]

    with watched(threading.get_ident()) as found:  # not what this thread does as a visitor
        statuses = tried(ask, upload, outside, 100, 3)
    assert strange(found) == []
    assert statuses[200] > 5
    assert records == []


def test_uploads_with_the_names_of_files_stay_photos(hook, visitor, outside, records):
    with watched() as found:
        for name in targets(outside, 1):
            answer = visitor.post("/api/photos", png(photo(1)), query={"name": name} if "\ud800" not in name else {"name": "x"})
            assert answer.status == 200
            assert "/" not in answer.json["name"]
            question = {"photo": answer.json["photo"], "classes": [0]}
            saved = visitor.post("/api/save", {"map": question, "format": "json"})
            assert re.fullmatch(r'attachment; filename="[A-Za-z0-9_-]+\.json"', saved.headers["content-disposition"])
    assert strange(found) == []
    assert records == []


# --------------------------------------------------------------------------------------------------- requests that cost much


@pytest.fixture(scope="module")
def many_labels() -> Iterator[Visitor]:
    """A network of a thousand classes, each of several words."""
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdefghijklmnop") for _ in range(draw.randrange(4, 10))) for _ in range(3_000)]
    labels = [", ".join(" ".join(draw.choice(words) for _ in range(3)) for _ in range(3)) for _ in range(1_000)]
    model = tiny()
    model.module[-1] = torch.nn.Linear(16, 1_000)
    app = build({"wide": lucidcam.wrap(model.module.eval(), model.preprocess, labels=labels)})
    yield Visitor(app)
    end(app)


def nested(depth: int, inside: str = "") -> str:
    return "[" * depth + inside + "]" * depth


DIGITS = "7" * 4_200
"""As many as Python makes a number of."""

COSTLY = {
    "labels": '{"classes": [' + ", ".join(['"' + "x" * 90 + '"'] * 120) + "]}",
    "labels that are nearly there": '{"classes": [' + ", ".join(f'"{"abcdefgh ij " * 8}{i}"' for i in range(12)) + "]}",
    "a label that fits everywhere": '{"classes": ["a", "e", "i", "a", "e", "i", "a", "e", "i", "a", "e", "i"]}',
    "labels of one letter": '{"classes": [' + ", ".join(['"a"'] * 9_000) + "]}",
    "ids": '{"classes": [' + ", ".join(map(str, range(10_000))) + "]}",
    "against": '{"against": "' + "x y " * 25 + '"}',
    "long label": '{"classes": ["' + "x" * 60_000 + '"]}',
    "odd letters": '{"classes": ["' + "\\u0130\\ufb01\\ud800" * 30 + '"]}',
    "methods": '{"methods": [' + ", ".join(['"gradcam"'] * 5_000) + "]}",
    "a long method": '{"methods": ["' + "x" * 60_000 + '"]}',
    "a long model": '{"model": "' + "x" * 60_000 + '"}',
    "a long layer": '{"layer": "' + "x" * 990 + '"}',
    "a long photo": '{"photo": "' + "x" * 60_000 + '"}',
    "fields": "{" + ", ".join(f'"x{i}": {i}' for i in range(4_000)) + "}",
    "the same field": "{" + ", ".join(['"photo": "x"'] * 4_000) + "}",
    "options": '{"options": {"gradcam": {' + ", ".join(f'"x{i}": {i}' for i in range(4_000)) + "}}}",
    "options of many": '{"options": {' + ", ".join(f'"m{i}": {{}}' for i in range(4_000)) + "}}",
    "a long option": '{"options": {"gradcam": {"' + "x" * 60_000 + '": 1}}}',
    "a long value": '{"options": {"gradcam": {"counterfactual": "' + "x" * 60_000 + '"}}}',
    "a long choice": '{"methods": ["scorecam"], "options": {"scorecam": {"weights": "' + "x" * 60_000 + '"}}}',
    "a deep option": '{"options": {"gradcam": {"counterfactual": ' + nested(300) + "}}}",
    "a deeper option": '{"methods": ["rise"], "options": {"rise": {"baseline": ' + nested(900) + "}}}",
    "digits of an option": '{"methods": ["rise"], "options": {"rise": {"masks": ' + DIGITS + "}}}",
    "digits of an id": '{"classes": [' + DIGITS + ", -" + DIGITS + "]}",
    "digits of a choice": '{"methods": ["scorecam"], "options": {"scorecam": {"weigh_by": ' + DIGITS + "}}}",
    "a huge baseline": '{"methods": ["occlusion"], "options": {"occlusion": {"baseline": 1e308}}}',
    "a large baseline": '{"methods": ["rise"], "options": {"rise": {"baseline": 99999999999999999999}}}',
    "digits of a place": '{"x": ' + DIGITS + ', "y": 0.' + DIGITS + ', "steps": ' + DIGITS + ', "threshold": -' + DIGITS + "}",
    "an exponent": '{"x": 1e999, "steps": 1e308, "threshold": 1e-999, "classes": [1e5]}',
    "too many digits": '{"classes": [' + "9" * 60_000 + "]}",
    "NaN": '{"x": NaN}',
    "Infinity": '{"options": {"rise": {"masks": -Infinity}}}',
    "deep": nested(30_000),
    "deep objects": '{"a":' * 12_000,
    "deep, within bounds": nested(800, "1"),
    "a text": '"' + "x" * 63_000 + '"',
    "escapes": '"' + "\\u0000" * 10_000 + '"',
    "null": "null",
    "nothing": "",
    "half": '{"photo": "',
    "bytes": "\udcff\udcfe",
}


@pytest.mark.parametrize("path", POSTED)
def test_no_small_request_costs_much(many_labels, records, path):
    photo_id = uploaded(many_labels)
    for name, text in COSTLY.items():
        body = text.encode("utf-8", "surrogateescape")
        if path in ("/api/pixel", "/api/judge", "/api/save") and name not in (
            "digits of a place",
            "an exponent",
            "half",
            "bytes",
            "nothing",
        ):
            body = b'{"map": ' + body + b', "x": 0.5, "y": 0.5}' if path == "/api/pixel" else b'{"map": ' + body + b"}"
        with_photo = body
        if path == "/api/explain" and b'"photo"' not in body:
            with_photo = body.replace(b"{", b'{"photo": "%s", ' % photo_id.encode(), 1)
        for each in (body, with_photo):
            assert len(each) <= 64_000, name
            began = processor()
            answer = many_labels.post(path, each)
            assert processor() - began < 1, name
            assert answer.status in (200, 410, 422), (name, answer.body[:200])
            assert len(answer.body) < 400_000, name
            if answer.status != 200:
                assert len(answer.error) < 700, name
    assert records == []


@pytest.mark.parametrize("path", [*POSTED, "/", "/api/about", "/static/app.js", "/nowhere"])
def test_long_requests_are_refused(visitor, records, path):
    for body in (b'{"a": "' + b"x" * 64_000 + b'"}', b"[" * 1_000_000):
        answer = visitor.post(path, body)
        assert (answer.status, "at most 64000 bytes" in answer.error) == (413, True)
    assert records == []


ODD_PATHS = (
    "/" + "x" * 300, "/static/" + "x" * 300, "/examples/" + "x" * 300 + ".jpg", "/static/../app.js", "/static/..%2fsite.py",
    "/static/%2e%2e/site.py", "/static//etc/passwd", "/static/app.js/", "/static/", "/static", "/examples/", "/examples/cat.png/x",
    "/examples/cat.jpg.jpg", "/api/", "/api", "/api/about/", "//api/about", "/API/about", "/api/photos/", "/api/photos/x", "/etc/passwd",
    "/index.html", "/static/site.py", "/static/app.JS", "/static/con", "/static/app.js\\", "/\u20ac", "/static/\ud800", "/favicon.ico",
    "/login", "/docs", "/openapi.json", "/" + "/" * 1000, "/" + "%" * 900,
)  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
def test_odd_paths_find_nothing(hook, visitor, records, path):
    with watched() as found:
        for answer in (visitor.get(path), visitor.ask("HEAD", path)):
            assert (answer.status, answer.error) == (404, "there is nothing here")
            assert "location" not in answer.headers
        assert visitor.post(path, {}).status in (404, 405)
    assert strange(found) == []
    assert records == []


ODD_QUERIES = (
    "",
    "?",
    "?model",
    "?model=",
    "?model=" + "x" * 5_000,
    "?model=%FF%00",
    "?" + "model=tiny&" * 50,
    "?model=../etc",
    "?x=1&model=no",
)


@pytest.mark.parametrize("query", ODD_QUERIES)
def test_odd_queries_are_told_in_one_line(web, records, query):
    answer = web.get(f"/api/labels{query}")
    assert answer.status_code == 422
    assert len(answer.json()["error"]["message"]) < 300
    assert web.get("/api/labels?x=api/labels&model=tiny").json() == {"labels": ["red", "green", "blue", "dark", "bright", "plain"]}
    assert records == []


def test_the_query_is_no_part_of_the_path(web):
    guarded = build(tiny(), auth=("ada", "x"))
    try:
        for query in ("/login", "login", "path=/login", "x=/static/app.js"):
            answer = Visitor(guarded).get("/api/about", query={"": query})
            assert answer.status == 401
    finally:
        end(guarded)


# ------------------------------------------------------------------------------------------------------------------- uploads


def lying_files() -> list[int]:
    """Sizes of the files without a name that this process holds in the folder of temporary files."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            if str(each.readlink()).startswith(tempfile.gettempdir()) and not each.stat().st_nlink:
                found.append(each.stat().st_size)
        except OSError:  # it has been closed
            continue
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell which files are open")


def settled(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    return condition()


@needs_proc
@pytest.mark.parametrize("how", ["halfway", "at once", "too short", "too long", "before the answer", "no photo", "too large", "no length"])
def test_uploads_that_end_badly_leave_nothing(app, visitor, records, how):
    store = store_of(app)
    store.close()
    before = len(lying_files())
    content = png(photo(1))
    for number in range(200):
        length = {"content-length": str(len(content))}
        if how == "halfway":
            answer = visitor.ask("POST", "/api/photos", [content[:500], content[500:900]], headers=length, whole=False, stays=0)
            assert answer.status == 408
        elif how == "at once":
            assert visitor.ask("POST", "/api/photos", [b""], headers=length, whole=False, stays=0).status == 408
        elif how == "too short":
            answer = visitor.ask("POST", "/api/photos", [content[:-1]], headers=length)
            assert (answer.status, "as the request said" in answer.error) == (422, True)
        elif how == "too long":
            answer = visitor.ask("POST", "/api/photos", [content, b"x"], headers=length)
            assert (answer.status, "as the request said" in answer.error) == (422, True)
        elif how == "before the answer":
            assert visitor.ask("POST", "/api/photos", [content], headers=length, stays=0).status in (0, 200)
        elif how == "no photo":
            assert visitor.post("/api/photos", b"%PDF" + bytes(5_000)).status == 422
        elif how == "too large":
            answer = visitor.ask("POST", "/api/photos", [b"x"], headers={"content-length": str(1_000_001 + number)}, stays=0)
            assert (answer.status, "at most 1 MB" in answer.error) == (422, True)
        else:
            more = [{"content-length": None}, {"transfer-encoding": "chunked", **length}][number % 2]
            assert visitor.ask("POST", "/api/photos", [content], headers=more).status == 411
    assert settled(lambda: store.occupied == 0)
    assert (store._uploads, len(store)) == (0, 0)
    assert settled(lambda: len(lying_files()) == before)
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    assert records == []


@needs_proc
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_connections_that_break_leave_nothing(server, web, reset):
    store = store_of(server.app)
    store.close()
    before = len(lying_files())
    head = f"POST /api/photos?name=x HTTP/1.1\r\nHost: 127.0.0.1:{server.listening.port}\r\nContent-Length: 900000\r\n\r\n".encode()
    with logged(bounded=True) as records:
        for number in range(200):
            with socket.create_connection(("127.0.0.1", server.listening.port), 5) as connection:
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(head + b"x" * (1_000 * (number % 50)))
        assert settled(lambda: (store.occupied, store._uploads) == (0, 0))
    assert settled(lambda: len(lying_files()) == before)
    assert len(records) <= LINES
    assert all(record.exc_info is None for record in records)
    assert web.post("/api/photos", content=png(photo(1))).status_code == 200


@needs_proc
def test_eight_uploads_at_once_with_room_for_two(server, records):
    store = store_of(server.app)
    store.close()
    noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    content = png(Image.fromarray(noise))
    assert 800_000 < len(content) < 1_000_000
    most = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0], most[1] = max(most[0], store.occupied), max(most[1], sum(lying_files()))

    def parts() -> Iterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]
            time.sleep(0.02)

    def upload(_: int) -> tuple[int, str]:
        with httpx.Client(base_url=server.url, timeout=30) as web:
            answer = web.post("/api/photos", content=parts(), headers={"content-length": str(len(content))})
            return answer.status_code, answer.json().get("photo") or answer.json()["error"]["message"]

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(upload, range(8)))
    done.set()
    watcher.join(10)
    assert most[0] <= 2_000_000
    assert most[1] <= 2_000_000
    statuses = Counter(status for status, _ in answers)
    assert statuses[200] >= 2
    assert set(statuses) <= {200, 410, 507}  # 410: pushed out by a later one before it was looked at
    for status, told in answers:
        assert status in (200, 410) or told == "too many photos are being uploaded; try again in a minute."
    assert len(store) == 2
    assert store.occupied == 2 * len(content)
    assert records == []


# --------------------------------------------------------------------------------------------------------------------- kills

SCRIPT = """
import json, os, signal, sys, tempfile, threading, time
sys.path[:0] = {paths!r}
import test_visitors
test_visitors.kill_servers()
"""


def kill_servers() -> None:
    """Kill a server by each signal, while photos are there, come, and are saved; print what each one left. One process forks them all."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    content = png(Image.fromarray(noise))
    models = {"tiny": tiny()}
    for name in ("SIGTERM", "SIGHUP", "SIGKILL", "SIGINT"):
        folder = Path(tempfile.mkdtemp())
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            tempfile.tempdir = str(folder)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            found = serve(models, port=0, wait=False)
            os.write(writer, found.url.encode())
            found.wait()
            os._exit(0)
        url = os.read(reader, 100).decode()
        saved: list[int] = []

        def save(question: dict[str, Any], url: str = url, saved: list[int] = saved) -> None:
            with httpx.Client(base_url=url, timeout=30) as web, suppress(httpx.HTTPError):
                while True:
                    saved.append(web.post("/api/save", json={"map": question, "format": ("png", "npz")[len(saved) % 2]}).status_code)

        with httpx.Client(base_url=url, timeout=30) as web:
            ids = [web.post("/api/photos", content=content).json()["photo"] for _ in range(3)]
        half = socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), 5)
        half.sendall(b"POST /api/photos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n" + content[:300_000])
        saving = threading.Thread(target=save, args=({"photo": ids[0], "classes": [0]},))
        saving.start()
        while len(saved) < 2:
            time.sleep(0.01)
        held = sum("(deleted)" in str(each.readlink()) for each in Path(f"/proc/{child}/fd").iterdir())
        during = list(map(str, folder.iterdir()))
        os.kill(child, getattr(signal, name))
        began = time.monotonic()
        status = os.waitpid(child, 0)[1]
        saving.join(10)
        half.close()
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        told = {"held": held, "during": during, "after": list(map(str, folder.iterdir())), "status": ended_by}
        print(json.dumps({"signal": name, **told, "seconds": time.monotonic() - began, "saved": saved}), flush=True)
        folder.rmdir()


@needs_proc
@pytest.mark.slow
def test_killed_servers_leave_no_file(tmp_path):
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT.format(paths=paths)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    expected = {"SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "SIGKILL": signal.SIGKILL, "SIGINT": 0}
    assert {line["signal"]: line["status"] for line in lines} == expected
    for line in lines:
        assert (line["during"], line["after"]) == ([], []), line
        assert line["held"] >= 4, line  # three photos, and the half of one
        assert line["seconds"] < 15, line
        assert set(line["saved"]) <= {200, 503}, line
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in found.stderr
