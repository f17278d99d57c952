"""A real browser for tests of pages: Chromium, driven by Playwright, which reaches nothing but this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = ("127.0.0.1", "localhost", "")


@dataclass
class Browser:
    """One visitor: a context of its own, with all that its pages asked for and complained of.

    Attributes:
        context: of Playwright; `page()` opens a page in it.
        outside: addresses beyond this machine that a page asked for; they were refused.
        errors: of the pages' scripts.
        console: what the pages, and the browser about them, wrote to the console.
    """

    context: BrowserContext
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def page(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda told: self.console.append(told.text))
        return page


@contextmanager
def chromium() -> Iterator[Chromium]:
    """The browser itself."""
    found = next((shutil.which(name) for name in NAMES if shutil.which(name)), None)
    if found is None:
        told = f"none of {', '.join(NAMES)} is installed (make browser)"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield running
        finally:
            running.close()


@contextmanager
def visitors(running: Chromium, count: int = 1, **options: object) -> Iterator[list[Browser]]:
    """So many visitors; `options` are Playwright's of a context, such as viewport={"width": 390, "height": 844}."""
    found = []
    for _ in range(count):
        visitor = Browser(running.new_context(**options))  # type: ignore[arg-type]
        visitor.context.route("**/*", _only_here(visitor))
        found.append(visitor)
    try:
        yield found
    finally:
        for visitor in found:
            visitor.context.close()


@contextmanager
def browsers(count: int = 1, **options: object) -> Iterator[list[Browser]]:
    """So many visitors, in a browser for them alone."""
    with chromium() as running, visitors(running, count, **options) as found:
        yield found


def _only_here(visitor: Browser) -> Callable[[Route], None]:
    def handle(route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("data", "blob", "file", "about") or address.hostname in HERE:
            route.continue_()
        else:
            visitor.outside.append(route.request.url)
            route.abort()

    return handle
