"""The study's pages: an ASGI application, forms and redirects, no script needed."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lucidcam.compat import import_optional
from lucidcam.errors import OptionError
from lucidcam.study.answers import Answers, FullError, Task, UnknownError
from lucidcam.study.plan import ANSWERED, PICTURES, Plan
from lucidcam.study.plan import read as read_plan

HERE = Path(__file__).parent
PURPOSE = "serving a study"

LARGEST_FORM = 2048
"""Bytes of a form; ours have a few hundred."""

MONTH = 30 * 24 * 3600

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

STATIC = {"study.css": "text/css", "keys.js": "text/javascript"}

MESSAGES = {
    404: ("Not found", "There is no such page."),
    405: ("Not like this", "This page cannot be asked for in this way."),
    413: ("Too large", "What was sent is larger than any answer."),
    415: ("Not a form", "Answers are sent as a form."),
}


def application(folder: str | os.PathLike[str], secure: bool = False) -> Any:
    """The ASGI application of a study, for a server of your own.

    Args:
        folder: that `make` wrote.
        secure: the cookie is sent over HTTPS only: for a server behind a proxy that speaks it.

    Raises:
        OptionError: the folder holds no study.
        MissingExtraError: Starlette is not installed.
    """
    applications = import_optional("starlette.applications", "study", PURPOSE)
    routing = import_optional("starlette.routing", "study", PURPOSE)
    exceptions = import_optional("starlette.exceptions", "study", PURPOSE)
    plan = read_plan(folder)
    root = Path(folder).expanduser()
    site = _Site(plan, Answers(root, plan), root / PICTURES, secure)
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
    ]
    handlers = {exceptions.HTTPException: site.refused}
    return applications.Starlette(routes=routes, exception_handlers=handlers, lifespan=site.open)


def serve(folder: str | os.PathLike[str], host: str = "127.0.0.1", port: int = 8080, secure: bool = False) -> None:
    """Serve a study until it is interrupted. No addresses of visitors are logged.

    Args:
        folder: that `make` wrote.
        host: 127.0.0.1: this machine alone; 0.0.0.0: everybody who reaches it.
        port: 0: any that is free; the server's first line tells which.
        secure: see `application`.

    Raises:
        OptionError: the folder holds no study, or the port is taken.
        MissingExtraError: Starlette or uvicorn is not installed.
    """
    import socket

    uvicorn = import_optional("uvicorn", "study", PURPOSE)
    app = application(folder, secure)
    config = uvicorn.Config(
        app, host, port, log_level="warning", access_log=False, server_header=False, proxy_headers=False, limit_concurrency=500, ws="none"
    )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(100)  # who reads the address below can visit it at once
    except OSError as error:
        listener.close()
        raise OptionError(f"cannot serve at {host}:{port}: {error.strerror or error}; choose another port.") from None
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listener.getsockname()[1]}/", flush=True)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


class _Site:
    """What each address gives."""

    def __init__(self, plan: Plan, answers: Answers, pictures: Path, secure: bool) -> None:
        self.plan, self.answers, self.pictures, self.secure = plan, answers, pictures, secure
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
        return self._page("question", **asked(self.plan, task), missing="missing" in request.query_params)

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

    async def picture(self, request: Any) -> Any:
        name = request.path_params["name"]
        if name not in self.names or not await self._known(request):
            raise self.errors.HTTPException(404)
        try:
            path = (self.pictures / name).resolve()
            if not path.is_relative_to(self.pictures.resolve()):  # a link that leads out
                raise OSError
            content = await self.aside(path.read_bytes)
        except OSError:
            raise self.errors.HTTPException(404) from None
        kept = {"Cache-Control": "private, max-age=86400, immutable"}  # the name tells nothing, and no date is told
        return self.responses.Response(content, media_type="image/jpeg", headers={**HEADERS, **kept})

    async def static(self, request: Any) -> Any:
        name = request.path_params["name"]
        if name not in STATIC:
            raise self.errors.HTTPException(404)
        content = await self.aside((HERE / "static" / name).read_bytes)
        return self.responses.Response(content, media_type=STATIC[name], headers={**HEADERS, "Cache-Control": "no-cache"})

    async def refused(self, request: Any, error: Any) -> Any:
        title, text = MESSAGES.get(error.status_code, ("Refused", str(error.detail)))
        return self._message(title, text, error.status_code)

    def _page(self, name: str, status: int = 200, **values: Any) -> Any:
        text = self.templates.get_template(f"{name}.html.jinja").render(title=self.plan.title, **values)
        return self.responses.HTMLResponse(text, status, headers=HEADERS)

    def _message(self, heading: str, text: str, status: int) -> Any:
        return self._page("message", status, heading=heading, text=text)

    def _go(self, where: str) -> Any:
        """After a form: so that a reload sends nothing again. Relative, so that a proxy may serve the study anywhere."""
        return self.responses.RedirectResponse(where, 303, headers=HEADERS)

    def _token(self, request: Any) -> str:
        return str(request.cookies.get(self.cookie, ""))

    async def _known(self, request: Any) -> bool:
        return bool(self._token(request)) and bool(await self.aside(self.answers.known, self._token(request)))

    async def _form(self, request: Any) -> Mapping[str, str]:
        """The fields of a form that came from our own pages."""
        if not _ours(request.headers):
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


WRITTEN = {str(value): value for values in ANSWERED.values() for value in values}
"""Answers as forms have them."""


def _ours(headers: Mapping[str, str]) -> bool:
    """Whether a form came from our own pages, as far as the browser tells.

    Those that tell no `Sec-Fetch-Site`, as over plain HTTP or when they are old, tell the `Origin`. It is compared with the host only then:
    a proxy, which speaks HTTPS, may have put another host in.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


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
