"""A study in a real browser: from consent to the report, by keyboard, with and without scripts, on a phone; killed servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import studies
from browser import browsers
from lucidcam import study
from lucidcam.study.plan import PICTURES, Plan

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow

OBVIOUS = re.compile(r"please choose “(.+?)” here")


class Person:
    """Somebody at a browser who knows the truth."""

    def __init__(self, page, plan: Plan) -> None:
        self.page, self.items = page, {name: item for item in plan.items for name in item.pictures}

    def begin(self, address: str) -> None:
        self.page.goto(address)
        self.page.get_by_label("I agree to take part").check()
        self.click("button", "Start")

    def click(self, role: str, name: str) -> None:
        with self.page.expect_navigation():
            self.page.get_by_role(role, name=name).click()

    def knows(self) -> int:
        """The place of the right answer on the page, from 0."""
        choices = self.page.locator(".choices label").all_inner_texts()
        told = OBVIOUS.search(self.page.locator("main").inner_text())
        if told:
            return next(k for k, words in enumerate(choices) if told[1] in words)
        first = self.page.locator(".pictures figure:not(.photo) img").first.get_attribute("src").removeprefix("pictures/")
        item = self.items[first]
        if item.kind == "which_class":
            return next(k for k, words in enumerate(choices) if item.options[0] in words)
        return 0 if item.sides[item.pictures.index(first)] == studies.BETTER else 4

    def answer(self) -> None:
        place = self.knows()
        before = self.page.locator("input[name=task]").get_attribute("value")
        self.page.locator(".choices input").nth(place).check()
        self.click("button", "Next")
        assert self.done() or self.page.locator("input[name=task]").get_attribute("value") != before

    def done(self) -> bool:
        return self.page.url.endswith("/done")


def violations(page) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in axe.run(page).response["violations"]]


def wide(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.mark.parametrize(
    ("width", "height", "scheme", "script"), [(1280, 900, "light", True), (390, 844, "dark", True), (390, 844, "light", False)]
)
def test_from_consent_to_the_report(tmp_path, width, height, scheme, script):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=3, checks=1)
    options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "java_script_enabled": script}
    with studies.served(folder) as address, browsers(1, **options) as [visitor]:
        person = Person(visitor.page(), plan)
        seen = set()

        def look(name: str) -> None:
            if name not in seen and script:
                assert violations(person.page) == []
                assert not wide(person.page)
            seen.add(name)

        person.page.goto(address)
        look("consent")
        person.begin(address)
        for _ in range(plan.count):
            kind = "trust" if person.page.locator("fieldset.trust").count() else "which"
            look(f"{kind} {person.page.locator('.told').count()}")
            if script:
                for picture in person.page.locator("img").all():
                    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
                    assert picture.get_attribute("alt")
            person.answer()
        assert person.done()
        look("done")
        person.click("link", "withdraw")
        look("withdraw")
        person.page.goto(f"{address}/nothing")
        look("not found")
        assert visitor.outside == []
        assert visitor.errors == []
        found = study.report(folder, folder / "report.html", resamples=100)
        person.page.goto((folder / "report.html").as_uri())
        look("report")
        assert visitor.outside == []
    assert found.people.kept == found.people.finished == 1
    assert all(row.share.value == 1 for row in found.accuracy)
    assert all(row.score.value == 2 for row in found.trust)


def test_by_keyboard_alone(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=2, checks=1)
    with studies.served(folder) as address, browsers() as [visitor]:
        page = visitor.page()
        person = Person(page, plan)
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        for _ in range(plan.count):
            page.keyboard.press(str(person.knows() + 1))
            with page.expect_navigation():
                page.keyboard.press("Enter")
        assert person.done()
    found = study.report(folder, resamples=0)
    assert all(row.share.value == 1 for row in found.accuracy)
    assert all(row.score.value == 2 for row in found.trust)


def test_two_at_once_stopping_withdrawing_and_going_back(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=3, checks=1)
    with studies.served(folder) as address, browsers(2) as visitors:
        one, two = people = [Person(visitor.page(), plan) for visitor in visitors]
        for person in people:
            person.begin(address)
        tasks = {person.page.locator("input[name=task]").get_attribute("value") for person in people}
        assert len(tasks) == 2
        for _ in range(3):
            for person in people:
                person.answer()
        # Back: pages are not kept, so that the question that is open comes again.
        open_task = one.page.locator("input[name=task]").get_attribute("value")
        one.page.go_back()
        assert one.page.locator("input[name=task]").get_attribute("value") == open_task
        assert "Question 4 of 8" in one.page.locator("main").inner_text()
        # Stopping: the same question comes back, in another tab too.
        one.click("link", "Stop for now")
        assert "Your answers are kept" in one.page.locator("main").inner_text()
        assert violations(one.page) == []
        again = visitors[0].page()
        again.goto(f"{address}/question")
        assert again.locator("input[name=task]").get_attribute("value") == open_task
        one.page = again
        two.click("link", "Withdraw")
        two.click("button", "Delete my answers")
        assert "deleted" in two.page.locator("main").inner_text()
        two.page.goto(f"{address}/question")
        assert two.page.get_by_label("I agree to take part").count() == 1
        while not one.done():
            one.answer()
        assert visitors[0].outside == visitors[1].outside == []
    found = study.report(folder, resamples=0)
    assert (found.people.started, found.people.kept, found.people.finished) == (1, 1, 1)
    assert all(row.share.value == 1 for row in found.accuracy)


class Server:
    """`lucidcam study serve` in a process of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        words = [sys.executable, "-m", "lucidcam.cli", "study", "serve", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().rstrip("/")
        self.port = int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_killed_server_loses_nothing(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=3, checks=1)
    server = Server(folder)
    assert server.address.startswith("http://127.0.0.1:")
    try:
        with browsers() as [visitor]:
            person = Person(visitor.page(), plan)
            person.begin(server.address)
            for _ in range(3):
                person.answer()
            open_task = person.page.locator("input[name=task]").get_attribute("value")
            server.kill()
            server = Server(folder, server.port)
            person.page.goto(f"{server.address}/question")
            assert person.page.locator("input[name=task]").get_attribute("value") == open_task
            while not person.done():
                person.answer()
    finally:
        server.kill()
    found = study.report(folder, resamples=0)
    assert (found.people.kept, found.people.finished) == (1, 1)
    assert sum(row.n for row in found.accuracy) == 3
    assert all(row.share.value == 1 for row in found.accuracy)


SCREENS = [(1440, 900), (1280, 720), (390, 844)]


@pytest.fixture
def photographed(tmp_path):
    """A study with pictures in the sizes that `make` writes: broad and tall ones, with and without the photo beside."""
    folder = tmp_path / "study"
    plan = studies.plan(folder, photos=4, items=4, checks=1)
    sizes = {}
    for image in {item.image for item in plan.items}:
        size = [(1280, 640), (1280, 853), (640, 480), (853, 1280)][len(sizes) % 4]
        sizes[image] = size
    for item in plan.items:
        for name in filter(None, (*item.pictures, item.photo)):
            Image.new("RGB", sizes[item.image], (90, 120, 60)).save(folder / PICTURES / name)
    return folder, plan


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_pictures_use_the_window_and_stand_beside_each_other(photographed, width, height):
    folder, plan = photographed
    with studies.served(folder) as address, browsers(1, viewport={"width": width, "height": height}) as [visitor]:
        person = Person(visitor.page(), plan)
        person.begin(address)
        for _ in range(plan.count):
            page = person.page
            page.wait_for_load_state("load")
            boxes = [each.bounding_box() for each in page.locator(".pictures figure:not(.photo) img").all()]
            button = page.get_by_role("button", name="Next").bounding_box()
            assert not wide(page)
            shapes = page.evaluate("[...document.images].map(i => i.width / i.height / (i.naturalWidth / i.naturalHeight))")
            assert shapes == pytest.approx([1] * len(shapes), rel=0.02)  # nothing is squashed
            if width > 1000:
                assert button["y"] + button["height"] <= height  # all on one screen
                assert len({round(box["y"]) for box in boxes}) == 1
                assert max(box["width"] for box in boxes) > 0.29 * width or boxes[0]["height"] > 0.44 * height
            else:
                across = boxes[0]["width"] if boxes[0]["width"] > boxes[0]["height"] else sum(box["width"] for box in boxes)
                assert across > 0.9 * width or boxes[0]["height"] >= 0.5 * height
                assert boxes[-1]["y"] + boxes[-1]["height"] - boxes[0]["y"] < height  # both can be seen together
            person.answer()


@pytest.mark.parametrize("script", [True, False])
def test_no_page_is_at_odds_with_its_policy(photographed, script):
    """Chromium says on the console what Content-Security-Policy refused, and what could not be loaded."""
    folder, plan = photographed
    with studies.served(folder) as address, browsers(1, java_script_enabled=script) as [visitor]:
        page = visitor.page()
        told, missing = [], []
        page.on("console", lambda message: told.append(f"{page.url}: {message.text}"))
        page.on("response", lambda response: response.status >= 400 and missing.append(response.url))
        person = Person(page, plan)
        page.goto(f"{address}/?missing=1")
        person.begin(address)
        page.goto(f"{address}/question?missing=1")
        for where in ("", "question", "pause", "withdraw", "static/favicon.svg", "static/study.css"):
            page.goto(f"{address}/{where}")
        page.goto(f"{address}/question")
        while not person.done():
            person.answer()
        assert told == []
        for where in ("nothing", "pictures/nothing.jpg", "a/b/c"):
            page.goto(f"{address}/{where}")
            assert page.evaluate("getComputedStyle(document.querySelector('footer, main')).maxWidth") == "736px"  # the style is found
        page.goto(f"{address}/withdraw")
        person.click("button", "Delete my answers")
        assert missing == [f"{address}/{where}" for where in ("nothing", "pictures/nothing.jpg", "a/b/c")]
        assert not [each for each in told if "404" not in each]


def test_a_removed_participant_is_led_to_the_start(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=2, checks=1)
    with studies.served(folder) as address, browsers(2) as visitors:
        one, two = people = [Person(visitor.page(), plan) for visitor in visitors]
        for person in people:
            person.begin(address)
        two.answer()
        assert len(study.remove(folder, study.Criteria(silent=True)).participants) == 1
        one.page.locator(".choices input").first.check()
        one.click("button", "Next")
        assert one.page.get_by_label("I agree to take part").count() == 1
        one.begin(address)
        for person in people:
            while not person.done():
                person.answer()
    assert study.report(folder, resamples=0).people.finished == 2


FORM = b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
RAW_REQUESTS = [
    b"\x00\xff\x01\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://evil.example/question/ HTTP/1.1\r\nHost: [evil\r\n\r\n",
    b"GET /pictures/" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /pictures/%00%ff HTTP/1.1\r\nHost: x\r\nCookie: " + b"study-=\xff\xfe;" * 3000 + b"\r\n\r\n",
    FORM + b"Origin: http://[x\r\nContent-Length: 11\r\n\r\nconsent=yes",
    FORM + b"Content-Length: NaN\r\n\r\n",
    FORM + b"Content-Length: 100\r\n\r\nconsent",
    FORM + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
]


def test_hostile_bytes_leave_no_traceback_in_the_log(tmp_path):
    studies.plan(tmp_path / "study")
    words = [sys.executable, "-m", "lucidcam.cli", "study", "serve", str(tmp_path / "study"), "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        address = ("127.0.0.1", int(server.stdout.readline().strip().rstrip("/").rpartition(":")[2]))
        for request in RAW_REQUESTS:
            with socket.create_connection(address, 10) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)  # those that are half there end here
                connection.settimeout(10)
                answer = connection.recv(65536)
            assert not answer or b"1.1 4" in answer[:20], (request[:60], answer[:60])
        with socket.create_connection(address, 10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        server.send_signal(signal.SIGINT)
        _, log = server.communicate(timeout=30)
    assert "Traceback" not in log
    assert len(log.splitlines()) <= len(RAW_REQUESTS)
