"""The commands, in the order of the job."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from medfm_compress import __version__
from medfm_compress.cli import console

COMMANDS = (
    "compress",
    "pretrain",
    "finetune",
    "distill",
    "embed",
    "prune",
    "export",
    "quantize",
    "bench",
    "few_labels",
    "explain",
    "explain_difference",
    "gate",
    "run",
    "view",
    "inspect",
    "doctor",
    "demo",
)
"""Each a module of this package with a function of the same name."""
GROUPS = ("study", "slide", "anomaly", "policy", "recipe", "bundle", "trust", "evidence", "device", "monitor", "serve")
"""Each a module of this package with an ``app`` of commands."""
PROGRAM = "medfm-compress"
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def build_app(only: str = "") -> typer.Typer:
    """The Typer application with every command, or with the one that is called ``only`` at the command line.

    A device predicts with ``run``: what the other commands import would be most of its start and of its memory.
    """
    app = typer.Typer(
        name=PROGRAM,
        help="Make a large medical-imaging model run beside the scanner, and prove that nothing important was lost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None if console.is_plain() else "rich",
        context_settings=_SETTINGS,
    )
    for name in COMMANDS:
        if only in ("", spelled(name)):
            app.command()(getattr(_module(name), name))
    for name in GROUPS:
        if only in ("", name):
            app.add_typer(_module(name).app, name=name)
    app.callback(invoke_without_command=True)(_version)
    return app


def spelled(name: str) -> str:
    """A command as it is written at the command line."""
    return name.replace("_", "-")


def is_command(word: str) -> bool:
    """Whether ``word`` is how a command, or a group of them, is called at the command line."""
    return word in GROUPS or word in map(spelled, COMMANDS)


def _module(name: str) -> Any:
    return import_module(f"medfm_compress.cli.{name}")


def _version(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")
) -> None:
    if version:
        console.say(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            console.say(line)
        raise typer.Exit
