"""Looking at the web app's page, again and again, costs its server next to nothing: these answers hold up all other visitors."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("starlette")

from lucidcam.web import build
from visitors import Visitor
from web_nets import tiny

VIEWS = 20
MOST = 0.2


@pytest.fixture(scope="module")
def app():
    return build({"tiny": tiny()})


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/nothing.js", "/api/about", "/api/labels", "/examples/nothing.jpg"])
def test_a_page_is_made_once(app, path):
    visitor = Visitor(app)
    visitor.get(path, query={"model": "tiny"})
    began = time.process_time()
    for _ in range(VIEWS):
        visitor.get(path, query={"model": "tiny"})
    assert time.process_time() - began < MOST
