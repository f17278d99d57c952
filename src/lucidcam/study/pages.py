"""The study's pages: an ASGI application, forms and redirects, no script needed."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lucidcam.errors import OptionError, first_line
from lucidcam.server.listening import Listening
from lucidcam.server.logs import log
from lucidcam.server.middleware import LOOPBACK, Gate, Names, Visitor, refused_as_text
from lucidcam.server.rates import TokenBucket
from lucidcam.study.answers import Answers, FullError, Task, UnknownError
from lucidcam.study.plan import ANSWERED, PICTURES, Plan
from lucidcam.study.plan import read as read_plan
from lucidcam.utils.optional import import_optional
from lucidcam.utils.text import printable

HERE = Path(__file__).parent
PURPOSE = "serving a study"

LARGEST_FORM = 2048
"""Bytes of a form; ours have a few hundred."""

UNKNOWN_SIZE = 4, 3
"""Width and height that are assumed of a picture that cannot be read."""

LINKED = frozenset({"/", "/question", "/pause", "/done", "/withdraw"})
"""Pages that may be linked to from elsewhere."""

MONTH = 30 * 24 * 3600

STARTS_PER_MINUTE = 60
"""Participants who may start in a minute, unless the operator says otherwise."""

DEEPEST = 8
"""Folders in an address from which a page that is not found still leads to the start."""

LOG_PAUSE = 60.0
"""Seconds in which one kind of fault is logged once."""

TRUST = {
    -2: "A is clearly more reliable",
    -1: "A is slightly more reliable",
    0: "Both are equally reliable",
    1: "B is slightly more reliable",
    2: "B is clearly more reliable",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

FAVICON = "favicon.svg"
STATIC = {"study.css": "text/css", "keys.js": "text/javascript", FAVICON: "image/svg+xml"}

MESSAGES = {
    400: ("Not understood", "What was sent cannot be read."),
    404: ("Not found", "There is no such page."),
    405: ("Not like this", "This page cannot be asked for in this way."),
    413: ("Too large", "What was sent is larger than any answer."),
    415: ("Not a form", "Answers are sent as a form."),
    500: ("Something went wrong", "This page cannot be shown. Your answers are kept; please try again."),
    503: ("Not now", "The study cannot be reached at the moment. Your answers are kept; please try again in a minute."),
}


def application(folder: str | os.PathLike[str], secure: bool = False, starts_per_minute: int = STARTS_PER_MINUTE) -> Any:
    """The ASGI application of a study, for a server of your own.

    Args:
        folder: that `make` wrote.
        secure: the cookie is sent over HTTPS only: for a server behind a proxy that speaks it.
        starts_per_minute: participants who may start in a minute, from all addresses together; as many may start at once.

    Raises:
        OptionError: the folder holds no study, or `starts_per_minute` is less than 1.
        MissingExtraError: Starlette is not installed.
    """
    applications = import_optional("starlette.applications", "study", PURPOSE)
    routing = import_optional("starlette.routing", "study", PURPOSE)
    exceptions = import_optional("starlette.exceptions", "study", PURPOSE)
    plan = read_plan(folder)
    root = Path(folder).expanduser()
    if starts_per_minute < 1:
        raise OptionError(f"expected at least 1 start per minute; got {starts_per_minute}.")
    starts = TokenBucket(starts_per_minute, starts_per_minute / 60)
    site = _Site(plan, Answers(root, plan), root / PICTURES, secure, starts)
    routes = [
        routing.Route("/", site.consent, methods=["GET"]),
        routing.Route("/start", site.start, methods=["POST"]),
        routing.Route("/question", site.question, methods=["GET"]),
        routing.Route("/answer", site.answer, methods=["POST"]),
        routing.Route("/pause", site.pause, methods=["GET"]),
        routing.Route("/done", site.done, methods=["GET"]),
        routing.Route("/withdraw", site.withdraw, methods=["GET", "POST"]),
        routing.Route("/pictures/{name}", site.picture, methods=["GET"]),
        routing.Route("/static/{name}", site.static, methods=["GET"]),
        routing.Route("/favicon.ico", site.favicon, methods=["GET"]),
    ]
    handlers = {exceptions.HTTPException: site.refused, sqlite3.Error: site.unavailable}
    app = applications.Starlette(routes=routes, exception_handlers=handlers, lifespan=site.open)
    app.router.redirect_slashes = False  # it would send visitors to whatever host the request names
    app.add_middleware(_FaultBarrier, site=site)
    return app


def serve(
    folder: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8080,
    secure: bool = False,
    starts_per_minute: int = STARTS_PER_MINUTE,
) -> None:
    """Serve a study until it is interrupted. No addresses of visitors are logged.

    Args:
        folder: that `make` wrote.
        host: 127.0.0.1: this machine alone; 0.0.0.0: everybody who reaches it.
        port: 0: any that is free; the server's first line tells which.
        secure: see `application`.
        starts_per_minute: see `application`.

    Raises:
        OptionError: the folder holds no study, the port is taken, or `starts_per_minute` is less than 1.
        MissingExtraError: Starlette or uvicorn is not installed.
    """
    app = application(folder, secure, starts_per_minute)
    alone = host in LOOPBACK and not secure
    gate = Gate(app, Names.of(host) if alone else Names(LOOPBACK, others=True), pages=LINKED, behind_proxy=secure, refuse=refused_as_text)
    with Listening(gate, host, port, "study", PURPOSE) as server, suppress(KeyboardInterrupt):
        server.start()
        print(server.url, flush=True)
        server.wait()


class _FaultBarrier:
    """ASGI middleware: a fault of ours becomes a page and at most one line of the log, a visitor who hangs up becomes nothing."""

    def __init__(self, app: Any, site: _Site) -> None:
        self.app, self.site = app, site
        self.disconnected = import_optional("starlette.requests", "study", PURPOSE).ClientDisconnect

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def send_and_note(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except self.disconnected:
            return
        except Exception as error:  # whatever it is: a traceback for each request would fill the disk
            self.site.log_fault(error)
            if not has_begun:
                await self.site.message_of(500)(scope, receive, send)


class _Site:
    """What each address gives."""

    def __init__(self, plan: Plan, answers: Answers, pictures: Path, secure: bool, starts: TokenBucket) -> None:
        self.plan, self.answers, self.pictures, self.secure, self.starts = plan, answers, pictures, secure, starts
        self.logged: dict[str, float] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        # Two studies on one machine share cookies, whatever their ports.
        self.cookie = f"study-{plan.id}"
        self.names = {each for item in plan.items for each in (*item.pictures, item.photo) if each}
        self.templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)
        self.responses = import_optional("starlette.responses", "study", PURPOSE)
        self.errors = import_optional("starlette.exceptions", "study", PURPOSE)
        self.aside = import_optional("starlette.concurrency", "study", PURPOSE).run_in_threadpool

    @asynccontextmanager
    async def open(self, _: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.answers.close()

    async def consent(self, request: Any) -> Any:
        known, missing = await self._known(request), "missing" in request.query_params
        return self._page("consent", text=paragraphs(self.plan.consent), known=known, missing=missing)

    async def start(self, request: Any) -> Any:
        form = await self._form(request)
        if await self._known(request):
            return self._go("question")
        if form.get("consent") != "yes":
            return self._go("./?missing=1")
        if not self.starts.take():
            text = "Many people are starting at this moment. Please try again in a minute."
            return self._message("Please wait", text, 503, {"Retry-After": "60"})
        try:
            token = await self.aside(self.answers.start)
        except FullError as error:
            return self._message("Thank you", str(error), 403)
        response = self._go("question")
        response.set_cookie(self.cookie, token, max_age=MONTH, httponly=True, samesite="lax", secure=self.secure)
        return response

    async def question(self, request: Any) -> Any:
        try:
            task = await self.aside(self.answers.next, self._token(request))
        except UnknownError:
            return self._go("./")
        if task is None:
            return self._go("done")
        sizes = {name: await self._size(name) for name in (*task.item.pictures, task.item.photo) if name}
        width, height = sizes[task.item.pictures[0]]
        values = {**asked(self.plan, task), "sizes": sizes, "shape": "tall" if height > width else "broad"}
        return self._page("question", **values, missing="missing" in request.query_params)

    async def answer(self, request: Any) -> Any:
        form = await self._form(request)
        if not await self._known(request):
            return self._go("./")
        if "answer" not in form:
            return self._go("question?missing=1")
        value = WRITTEN.get(form["answer"])
        if value is None:
            return self._message("Not an answer", "This cannot be answered to the question.", 400)
        try:
            await self.aside(self.answers.answer, self._token(request), form.get("task", ""), value)
        except (UnknownError, OptionError) as error:
            return self._message("Not an answer", str(error), 400)
        return self._go("question")

    async def pause(self, request: Any) -> Any:
        return self._page("pause") if await self._known(request) else self._go("./")

    async def done(self, request: Any) -> Any:
        try:
            left = await self.aside(self.answers.next, self._token(request))
        except UnknownError:
            return self._go("./")
        return self._page("done") if left is None else self._go("question")

    async def withdraw(self, request: Any) -> Any:
        if request.method == "GET":
            return self._page("withdraw") if await self._known(request) else self._go("./")
        await self._form(request)
        gone = await self.aside(self.answers.withdraw, self._token(request))
        told = "You have withdrawn. Everything that you answered is deleted." if gone else "Nothing is stored of this browser."
        response = self._message("Withdrawn", told, 200)
        response.delete_cookie(self.cookie, httponly=True, samesite="lax", secure=self.secure)
        return response

    async def _size(self, name: str) -> tuple[int, int]:
        """The size of a picture in pixels, so that a page keeps the place for it; some other where it cannot be read."""
        if name not in self.sizes:
            try:
                self.sizes[name] = await self.aside(picture_size, self._path(name))
            except (OSError, ValueError):
                return UNKNOWN_SIZE
        return self.sizes[name]

    def _path(self, name: str) -> Path:
        path = (self.pictures / name).resolve()
        if not path.is_relative_to(self.pictures.resolve()):
            raise OSError("a link that leads out")
        return path

    async def picture(self, request: Any) -> Any:
        name = request.path_params["name"]
        if name not in self.names or not await self._known(request):
            raise self.errors.HTTPException(404)
        try:
            content = await self.aside(self._path(name).read_bytes)
        except OSError:
            raise self.errors.HTTPException(404) from None
        kept = {"Cache-Control": "private, max-age=86400, immutable"}  # the name tells nothing, and no date is told
        return self.responses.Response(content, media_type="image/jpeg", headers={**HEADERS, **kept})

    async def favicon(self, _: Any) -> Any:
        return await self._static(FAVICON)

    async def static(self, request: Any) -> Any:
        return await self._static(request.path_params["name"])

    async def _static(self, name: str) -> Any:
        if name not in STATIC:
            raise self.errors.HTTPException(404)
        content = await self.aside((HERE / "static" / name).read_bytes)
        return self.responses.Response(content, media_type=STATIC[name], headers={**HEADERS, "Cache-Control": "no-cache"})

    async def refused(self, request: Any, error: Any) -> Any:
        heading, text = MESSAGES.get(error.status_code, ("Refused", str(error.detail)))
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        up = "../" * min(path.count("/") - 1, DEEPEST)  # our addresses are relative
        return self._page("message", error.status_code, heading=heading, text=text, up=up)

    async def unavailable(self, _: Any, error: Exception) -> Any:
        """Answers cannot be read or kept: the disk is full, another program holds the file."""
        self.log_fault(error)
        return self.message_of(503)

    def message_of(self, status: int) -> Any:
        """The page of a status."""
        heading, text = MESSAGES[status]
        return self._message(heading, text, status, {"Retry-After": "60"} if status == 503 else {})

    def log_fault(self, error: Exception) -> None:
        """Log a fault in one line, at most once in `LOG_PAUSE` seconds for each type of error."""
        kind, now = type(error).__name__, time.monotonic()
        if now - self.logged.get(kind, -LOG_PAUSE) >= LOG_PAUSE:
            self.logged[kind] = now
            log.error("%s: %s", kind, printable(first_line(error)))

    def _page(self, name: str, status: int = 200, headers: Mapping[str, str] = HEADERS, up: str = "", **values: Any) -> Any:
        text = self.templates.get_template(f"{name}.html.jinja").render(title=self.plan.title, up=up, **values)
        return self.responses.HTMLResponse(text, status, headers=headers)

    def _message(self, heading: str, text: str, status: int, headers: Mapping[str, str] | None = None) -> Any:
        return self._page("message", status, {**HEADERS, **(headers or {})}, heading=heading, text=text)

    def _go(self, where: str) -> Any:
        """After a form: so that a reload sends nothing again. Relative, so that a proxy may serve the study anywhere."""
        return self.responses.RedirectResponse(where, 303, headers=HEADERS)

    def _token(self, request: Any) -> str:
        return str(request.cookies.get(self.cookie, ""))

    async def _known(self, request: Any) -> bool:
        return bool(self._token(request)) and bool(await self.aside(self.answers.known, self._token(request)))

    async def _form(self, request: Any) -> Mapping[str, str]:
        """The fields of a form that came from our own pages."""
        if Visitor.of(request.scope, self.secure).from_elsewhere:
            raise self.errors.HTTPException(403, "This form came from another site.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("", "application/x-www-form-urlencoded"):
            raise self.errors.HTTPException(415)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise self.errors.HTTPException(413)
        try:
            return dict(parse_qsl(body.decode("ascii"), max_num_fields=8))
        except ValueError:
            raise self.errors.HTTPException(400, "What was sent is not a form.") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a JPEG picture, from its header.

    Raises:
        OSError: it cannot be read, or is none.
    """
    with Image.open(path, formats=("JPEG",)) as picture:
        size: tuple[int, int] = picture.size
        return size


WRITTEN = {str(value): value for values in ANSWERED.values() for value in values}
"""Answers as forms have them."""


def asked(plan: Plan, task: Task) -> dict[str, Any]:
    """What the page of a question shows: nothing that tells the truth."""
    item = task.item
    block = next(each for each in plan.blocks if each.kind == item.kind)
    turned = -1 if task.flipped else 1
    if item.kind == "which_class":
        names: tuple[str, ...] = ("Explanation",)
        choices = list(enumerate(item.options[::turned]))
    else:
        names = ("A", "B")
        choices = list(TRUST.items())
    return {
        "task": task.token,
        "number": task.number,
        "count": plan.count,
        "kind": item.kind,
        "ask": block.ask,
        "help": block.help,
        "says": block.says,
        "said": item.said,
        "told": item.told,
        "photo": item.photo,
        "shown": list(zip(names, item.pictures[::turned])),
        "choices": choices,
    }


def paragraphs(text: str) -> list[str]:
    r"""The paragraphs of a text, which blank lines part.

    >>> paragraphs("one\ntwo\n\nthree")
    ['one two', 'three']
    """
    return [" ".join(each.split()) for each in re.split(r"\n\s*\n", text) if each.strip()]
