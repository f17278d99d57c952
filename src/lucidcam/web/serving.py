"""The server: one process on this machine, behind the gate."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from lucidcam.compat import import_optional
from lucidcam.errors import OptionError
from lucidcam.models import load
from lucidcam.types import Model
from lucidcam.web.gate import Gate
from lucidcam.web.limits import Limits
from lucidcam.web.photos import MILLION
from lucidcam.web.studio import Studio

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine, as seen by itself."""

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}
"""What keeps Gradio from calling its makers."""

Models = Mapping[str, Model] | Sequence[str] | Model | str
"""Models by the name they are shown under; or names for `lucidcam.load`; or one of either."""


def build(models: Models = "demo", limits: Limits | None = None) -> Any:
    """The page as a `gradio.Blocks`, to be put into an app of one's own.

    What `serve` puts before it (addresses that may be asked for, headers, sizes) is then missing: see `lucidcam.web.gate.Gate`.

    Args:
        models: models, or names for `lucidcam.load`. Only they can be asked.
        limits: of what visitors may ask.

    Raises:
        MissingExtraError: Gradio is not installed.
        ModelError: a model does not tell classes of photos.
    """
    os.environ.update(QUIET, GRADIO_TEMP_DIR=str(files()))  # before components are made, which remember the folder
    import_optional("gradio", "web", "the web app")
    from lucidcam.web import page

    return page.build(Studio.of(_named(models), limits))


def serve(
    models: Models = "demo",
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
    *,
    limits: Limits | None = None,
    open_browser: bool = False,
    wait: bool = True,
) -> Server:
    """Serve the page.

    Args:
        models: as for `build`.
        host: which of this machine's addresses to listen on; others than 127.0.0.1 can be reached from elsewhere.
        port: 0 takes a free one.
        auth: name and password that visitors must give (HTTP basic authentication: beyond this machine put TLS before it).
        limits: of what visitors may ask.
        open_browser: show the page at once.
        wait: until the server is interrupted; else it runs on beside the caller, until it is closed.

    Returns:
        The server; also a context manager that closes it.

    Raises:
        MissingExtraError: Gradio is not installed.
        OptionError: the port is taken.
    """
    server = Server(build(models, limits), limits or Limits(), host, port, auth)
    server.start(open_browser)
    if wait:
        server.wait()
    return server


@dataclass(eq=False)
class Server:
    """A page that is served.

    Attributes:
        page: the `gradio.Blocks`.
        limits: of what visitors may ask.
        host: that it listens on.
        port: likewise.
        auth: name and password, or None.
        url: where the page is.
    """

    page: Any
    limits: Limits
    host: str = "127.0.0.1"
    port: int = 7860
    auth: tuple[str, str] | None = field(default=None, repr=False)
    url: str = ""

    def start(self, open_browser: bool = False) -> None:
        """Serve; returns when the page can be asked for.

        Raises:
            OptionError: the port is taken.
        """
        import gradio as gr
        from starlette.middleware import Middleware

        from lucidcam.web import page

        hosts = LOOPBACK if self.host in LOOPBACK else frozenset[str]()
        sizes = {"file_bytes": int(self.limits.megabytes * MILLION), "folder_bytes": int(self.limits.room * MILLION)}
        gate = Middleware(Gate, folder=files(), hosts=hosts, auth=self.auth, **sizes)
        try:
            _, address, _ = self.page.launch(
                server_name=self.host,
                server_port=self.port or _free_port(self.host),
                max_file_size=int(self.limits.megabytes * MILLION),
                theme=gr.themes.Default(
                    primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                css_paths=[page.HERE / "page.css"],
                app_kwargs={"middleware": [gate]},
                prevent_thread_lock=True,
                inbrowser=open_browser,
                share=False,
                show_error=False,
                quiet=True,
                footer_links=["api"],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                num_workers=0,
                state_session_capacity=128,
            )
        except OSError as error:
            raise OptionError(f"cannot listen on {self.host}:{self.port} ({error}); choose another --port.") from None
        self.url = address

    def wait(self) -> None:
        """Until the server is interrupted."""
        try:
            self.page.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """End it."""
        self.page.close(verbose=False)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lucidcam-web-", ignore_cleanup_errors=True)


def files() -> Path:
    """The one folder that photos are uploaded to and results are written in; it goes with the process."""
    return Path(_folder().name).resolve()


def _named(models: Models) -> dict[str, Model]:
    if isinstance(models, Model):
        return {models.name: models}
    if isinstance(models, Mapping):
        return dict(models)
    return {name: load(name) for name in ([models] if isinstance(models, str) else models)}


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
