"""The addresses of the web app, and what each of them does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from lucidcam.errors import InputError, LucidcamError
from lucidcam.server.middleware import FAULT, RefusedError, length, refused_as_json
from lucidcam.web.actions import Action, Actions
from lucidcam.web.fields import parsed
from lucidcam.web.store import Store
from lucidcam.web.work import Work, Workers, error_answer

UPLOAD = "/api/photos"
"""Where photos are sent to, each as the whole body of a request."""

MINUTE = 60.0

PAGE = Path(__file__).parent / "page"

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Site:
    """The web app's addresses.

    Args:
        actions: what can be done.
        store: the photos.
        workers: who do it.
        login: visitors have logged in, and can log out.
    """

    def __init__(self, actions: Actions, store: Store, workers: Workers, login: bool = False) -> None:
        self.actions, self.store, self.workers, self.login = actions, store, workers, login
        self.files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in TYPES}

    def application(self) -> Starlette:
        """The ASGI application; it has to stand behind a `lucidcam.server.Gate`."""
        handlers: dict[Any, Any] = {HTTPException: _not_here, Exception: _not_here}
        application = Starlette(routes=self.routes(), exception_handlers=handlers, lifespan=self._open)
        application.router.redirect_slashes = False  # else there are more addresses than `routes` tells
        return application

    def routes(self) -> list[BaseRoute]:
        """Every address that there is."""
        act = self.actions
        posted: dict[str, Action] = {
            "/api/examples": act.take_example,
            "/api/forget": act.forget,
            "/api/explain": act.explain,
            "/api/pixel": act.pixel,
            "/api/judge": act.judge,
            "/api/save": act.save,
        }
        return [
            Route("/", partial(self._file, "index.html"), methods=["GET"]),
            Route("/static/{name}", self._static, methods=["GET"]),
            Route("/examples/{name}", self._example, methods=["GET"]),
            Route("/api/about", self._about, methods=["GET"]),
            Route("/api/labels", self._labels, methods=["GET"]),
            Route(UPLOAD, self._upload, methods=["POST"]),
            *(Route(path, partial(self._act, action), methods=["POST"]) for path, action in posted.items()),
        ]

    @asynccontextmanager
    async def _open(self, _: Any) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            self.workers.close()
            self.store.close()

    async def _sweep(self) -> None:
        """Photos that nobody asks about go in time, also when nobody asks anything."""
        while True:
            await asyncio.sleep(min(MINUTE, self.store.limits.kept / 4))
            self.store.sweep()

    async def _file(self, name: str, request: Request) -> Response:
        return Response(self.files[name], media_type=TYPES[Path(name).suffix])

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.files:
            raise HTTPException(404)
        return await self._file(name, request)

    async def _example(self, request: Request) -> Response:
        example = self.actions.examples.get(request.path_params["name"].removesuffix(".jpg"))
        if example is None:
            raise HTTPException(404)
        return Response(example.small, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def _about(self, request: Request) -> Response:
        return JSONResponse({**self.actions.about, "login": self.login})

    async def _labels(self, request: Request) -> Response:
        try:
            return JSONResponse(self.actions.labels(_query(request).get("model", "")))
        except LucidcamError as error:
            return _told(error)

    async def _upload(self, request: Request) -> Any:
        """A photo: its room is taken before the first byte is read, and given back whenever it does not come whole."""
        promised = length(request.headers)
        if promised is None or "transfer-encoding" in request.headers:
            return _refused(411, "expected an upload that tells its length")
        try:
            with self.store.arriving(promised) as arriving:
                async for part in request.stream():
                    arriving.write(part)
                if arriving.length != promised:
                    raise InputError(f"expected {promised} bytes, as the request said; {arriving.length} came.")
                upload = self.store.keep(arriving, _query(request).get("name", "photo"))
        except LucidcamError as error:
            return _told(error)
        except ClientDisconnect:  # aborted, or too slow
            return _refused(408, "the photo did not come in time")
        return Work(self.workers, lambda tell: self.actions.check_photo(upload, tell), partial(self.store.remove, upload.id))

    async def _act(self, action: Action, request: Request) -> Any:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refused(415, "expected JSON (content-type: application/json)")
        try:
            body = parsed(await request.body())
        except LucidcamError as error:
            return _told(error)
        return Work(self.workers, lambda tell: action(body, tell), in_lines=action != self.actions.save)


def _query(request: Request) -> Mapping[str, str]:
    try:
        return {name: values[-1] for name, values in parse_qs(request.url.query, max_num_fields=8).items()}
    except ValueError:
        return {}


def _told(error: LucidcamError) -> Response:
    status, content = error_answer(error)
    return JSONResponse(content, status)


def _refused(status: int, reason: str) -> Response:
    answer = refused_as_json(RefusedError(status, reason))
    return Response(answer.body, answer.status, media_type="application/json")


async def _not_here(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return _refused(500, FAULT)
    is_there = error.status_code != 404
    return _refused(error.status_code, "this cannot be asked for in this way" if is_there else "there is nothing here")
