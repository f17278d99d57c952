"""`lucidcam app`: the models in a browser, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucidcam.cli._loading import OptimizeOption
from lucidcam.options.groups import ModelOptions


def app(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="demo, timm:NAME, torchvision:NAME, hf:REPO, a folder or a checkpoint; repeatable. Only these can be asked. "
            "[dim]default: demo[/dim]",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than 127.0.0.1 can be reached from elsewhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="NAME:PASSWORD", envvar="LUCIDCAM_AUTH", help="What visitors must give.")] = None,
    max_mb: Annotated[float, typer.Option("--max-mb", help="Megabytes of a photo's file.")] = 20.0,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", help="Of a photo; larger ones are refused undecoded.")] = 25.0,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            help="Host name that visitors reach it by, besides this machine's own; repeatable.",
            metavar="HOST",
        ),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="A proxy before it sets X-Forwarded-Host, -For and -Proto; else these are ignored."),
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Show the page at once.")] = False,
    optimize: OptimizeOption = False,
    loading: ModelOptions,
) -> None:
    """Look at models in a browser: classes, layers, methods, single pixels, metrics. Nothing leaves this machine.

    Without --host only this machine can ask. The password can be given as LUCIDCAM_AUTH, where no other user of the machine sees it.
    """
    import socket

    from lucidcam.cli._loading import load_model
    from lucidcam.cli._screen import err, out
    from lucidcam.errors import OptionError
    from lucidcam.server.middleware import LOOPBACK
    from lucidcam.web import Limits, serve

    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise OptionError("expected --auth NAME:PASSWORD, neither of them empty.")
    limits = Limits(megabytes=max_mb, megapixels=max_megapixels)
    specs = list(dict.fromkeys(model or ["demo"]))
    files = [spec for spec in specs if Path(spec).is_file()] or specs
    models = {}
    alone = ModelOptions(
        device=loading.device, dtype=loading.dtype, fit=loading.fit, grey_window=loading.grey_window, untrained=loading.untrained
    )
    for spec in specs:
        options = loading if spec in files else alone
        title = options.architecture if spec == "demo" and options.architecture else spec
        models[f"{title} (untrained)" if loading.untrained else title] = load_model(spec, options, optimize)
    server = serve(
        models,
        host,
        port,
        (user, password) if auth else None,
        limits=limits,
        names=name or (),
        behind_proxy=behind_proxy,
        open_browser=open_browser,
        wait=False,
    )
    if host not in LOOPBACK and auth is None:
        err.print(f"Everyone who reaches {host} can use this page: --auth asks for a password.", style="yellow", markup=False)
    out.print(f"{', '.join(models)}: {server.url}", markup=False, soft_wrap=True)
    if host in ("0.0.0.0", "::"):
        out.print(
            f"From elsewhere, for instance: http://{socket.gethostname()}:{server.url.rstrip('/').rpartition(':')[2]}/",
            markup=False,
            soft_wrap=True,
        )
    out.print("Ctrl+C ends it.")
    server.wait()
