"""The web app as a server of its own, or as an ASGI application for another."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from lucidcam.errors import OptionError
from lucidcam.models import load
from lucidcam.server import Gate, Listening, Login, Names
from lucidcam.types import Model
from lucidcam.utils.optional import import_optional
from lucidcam.web.examples import examples
from lucidcam.web.limits import Limits
from lucidcam.web.service import Studio
from lucidcam.web.store import Store
from lucidcam.web.work import Workers

Models = Mapping[str, Model] | Sequence[str] | Model | str
"""Models by the name they are shown under; or names for `lucidcam.load`; or one of either."""

PURPOSE = "the web app"


def build(
    models: Models = "demo",
    limits: Limits | None = None,
    *,
    host: str = "127.0.0.1",
    names: Iterable[str] = (),
    auth: tuple[str, str] | None = None,
    behind_proxy: bool = False,
) -> Gate:
    """The web app as an ASGI application, for a server of one's own; all that `serve` checks is checked here, too.

    Args:
        models: models, or names for `lucidcam.load`. Only they can be asked.
        limits: of what visitors may ask.
        host: that the server listens on: 127.0.0.1 and its like answer to the names of this machine alone.
        names: that the server is reached by besides (`Host` headers, without the port).
        auth: name and password that visitors must give.
        behind_proxy: `X-Forwarded-Host`, `-For` and `-Proto` are believed: there is a proxy, which sets them.

    Raises:
        MissingExtraError: Starlette is not installed.
        ModelError: a model does not tell classes of photos.
        OptionError: there is no model; the name or the password is empty.
    """
    return _built(models, limits, host, names, auth, behind_proxy)[0]


def _built(
    models: Models, limits: Limits | None, host: str, names: Iterable[str], auth: tuple[str, str] | None, behind_proxy: bool
) -> tuple[Gate, Workers]:
    """The application, and who compute for it."""
    import_optional("starlette", "web", PURPOSE)
    from lucidcam.web.actions import Actions
    from lucidcam.web.site import UPLOAD, Site

    if auth is not None and not all(auth):
        raise OptionError("expected a name and a password as auth, neither of them empty.")
    limits = limits or Limits()
    studio, store, workers = Studio.of(_named(models), limits), Store(limits), Workers(limits)
    site = Site(Actions(studio, store, examples()), store, workers, auth is not None)
    login = None if auth is None else Login(*auth)
    gate = Gate(site.application(), Names.of(host, names), login, uploads=frozenset({UPLOAD}), behind_proxy=behind_proxy)
    return gate, workers


def serve(
    models: Models = "demo",
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
    *,
    limits: Limits | None = None,
    names: Iterable[str] = (),
    behind_proxy: bool = False,
    open_browser: bool = False,
    wait: bool = True,
) -> Server:
    """Serve the page.

    Args:
        models: as for `build`.
        host: which of this machine's addresses to listen on; others than 127.0.0.1 can be reached from elsewhere.
        port: 0 takes a free one.
        auth: name and password that visitors must give; beyond this machine put TLS before it.
        limits: of what visitors may ask.
        names: that the server is reached by besides its own.
        behind_proxy: a proxy stands before it, whose `X-Forwarded-…` headers are believed.
        open_browser: show the page at once.
        wait: until the server is interrupted; else it runs on beside the caller, until it is closed.

    Returns:
        The server; also a context manager that closes it. A notebook shows it as a link.

    Raises:
        MissingExtraError: Starlette or uvicorn is not installed.
        OptionError: the port is taken.
        ModelError: a model does not tell classes of photos.
    """
    app, workers = _built(models, limits, host, names, auth, behind_proxy)
    server = Server(Listening(app, host, port, "web", PURPOSE), workers)
    server.start(open_browser)
    if wait:
        server.wait()
    return server


@dataclass(eq=False, repr=False)
class Server:
    """A page that is served.

    Attributes:
        listening: how it listens.
        workers: who compute what is asked.
        closed: whether it was ended.
    """

    listening: Listening
    workers: Workers = field(repr=False)
    closed: bool = field(default=False, init=False)

    @property
    def url(self) -> str:
        """Where the page is."""
        return self.listening.url

    @property
    def app(self) -> Any:
        """What is served."""
        return self.listening.app

    def start(self, open_browser: bool = False) -> None:
        """Serve; returns when the page can be asked for.

        Raises:
            OptionError: the server does not start.
        """
        self.listening.start()
        if open_browser:
            import webbrowser

            webbrowser.open(self.url)

    def wait(self) -> None:
        """Until the server is interrupted."""
        try:
            self.listening.wait()
        except KeyboardInterrupt:
            return
        finally:
            self.close()

    def close(self) -> None:
        """End it: what is computed ends, and all photos go."""
        self.closed = True
        self.workers.close()  # first: who waits for an answer is told
        self.listening.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        """Where the page is, in one line."""
        return f"Server({self.url!r}{', closed' * self.closed})"

    def _repr_html_(self) -> str:
        """A link, for notebooks: the page refuses to be shown inside others."""
        if self.closed:
            return f"<p>lucidcam: the server at {html.escape(self.url)} is closed.</p>"
        address = html.escape(self.url, quote=True)
        return f'<p>lucidcam: <a href="{address}" target="_blank" rel="noopener">{address}</a></p>'


def _named(models: Models) -> dict[str, Model]:
    if isinstance(models, Model):
        return {models.name: models}
    if isinstance(models, Mapping):
        return dict(models)
    return {name: load(name) for name in ([models] if isinstance(models, str) else models)}
