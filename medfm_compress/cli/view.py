"""``medfm-compress view``: try a bundle in a browser."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.cli.engine_choice import EngineChoice, open_engine
from medfm_compress.cli.streams import flush_out
from medfm_compress.runtime.errors import EXIT_INTERNAL, EXIT_INTERRUPTED
from medfm_compress.runtime.page.settings import PageSettings

_TICK_S = 0.5


@command()
def view(
    bundle: Annotated[
        Path, typer.Argument(help="The .medfm file, or a device folder, whose active bundle runs.", metavar="BUNDLE")
    ],
    page: PageSettings,
    backend: Annotated[str | None, typer.Option(help="Use only openvino, onnxruntime or tensorrt.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one prediction (default: physical cores).")] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also use a variant that no passing verdict covers.")
    ] = False,
    atypical: Annotated[
        Literal["withhold", "flag"],
        typer.Option(help="Of an image unlike those the network was made for, give no finding, or a flag."),
    ] = "withhold",
    cache: Annotated[
        Path | None, typer.Option(help="Folder of your own where OpenVINO may keep compiled models (faster start).")
    ] = None,
    trust_store: TrustStoreOption = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Also use a bundle that no trusted key signed; flagged.")
    ] = False,
) -> None:
    """Serve a page on this machine: drop an image, see findings and heat map. An interrupt or SIGTERM ends it.

    The line that is printed opens the page; the token in it is a secret.
    """
    from medfm_compress.runtime.page.server import PageServer, check_installed

    check_installed()
    from medfm_compress.runtime.page.reading import Source

    choice = EngineChoice(backend, threads, unverified, cache, False, trust_store, allow_unsigned)
    with open_engine(bundle, choice) as engine:
        server = PageServer(page, Source(lambda: engine, atypical))
        ended = _signals()
        try:
            server.start()
            console.emit(lambda: {"url": server.url}, lambda: console.say(f"open {server.url}"))
            flush_out()  # also where a file or a pipe listens
            while server.is_alive and not ended.wait(_TICK_S):
                pass
        finally:
            server.stop()
        if not ended.number:
            raise typer.Exit(EXIT_INTERNAL)
        if ended.number == signal.SIGINT:
            raise typer.Exit(EXIT_INTERRUPTED)


class _Ended(threading.Event):
    """Set by a signal; ``number`` is its own, 0 before."""

    number = 0


def _signals() -> _Ended:
    ended = _Ended()

    def end(number: int, _: object) -> None:
        ended.number = number
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return ended
