"""The commands, in the order of the job."""

from __future__ import annotations

import typer

from medfm_compress import __version__
from medfm_compress.cli import console
from medfm_compress.cli.bench import bench
from medfm_compress.cli.bundle import app as bundle
from medfm_compress.cli.compress import compress
from medfm_compress.cli.demo import demo
from medfm_compress.cli.device import app as device
from medfm_compress.cli.distill import distill
from medfm_compress.cli.doctor import doctor
from medfm_compress.cli.evidence import app as evidence
from medfm_compress.cli.explain import explain
from medfm_compress.cli.explain_difference import explain_difference
from medfm_compress.cli.export import export
from medfm_compress.cli.finetune import finetune
from medfm_compress.cli.gate import gate
from medfm_compress.cli.inspect import inspect
from medfm_compress.cli.monitor import app as monitor
from medfm_compress.cli.policy import app as policy
from medfm_compress.cli.pretrain import pretrain
from medfm_compress.cli.prune import prune
from medfm_compress.cli.quantize import quantize
from medfm_compress.cli.recipe import app as recipe
from medfm_compress.cli.run import run
from medfm_compress.cli.study import app as study
from medfm_compress.cli.trust import app as trust

COMMANDS = (
    compress,
    pretrain,
    finetune,
    distill,
    prune,
    export,
    quantize,
    bench,
    explain,
    explain_difference,
    gate,
    run,
    inspect,
    doctor,
    demo,
)


GROUPS = (
    ("study", study),
    ("policy", policy),
    ("recipe", recipe),
    ("bundle", bundle),
    ("trust", trust),
    ("evidence", evidence),
    ("device", device),
    ("monitor", monitor),
)
PROGRAM = "medfm-compress"
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def build_app() -> typer.Typer:
    """The Typer application with every command."""
    app = typer.Typer(
        name=PROGRAM,
        help="Make a large medical-imaging model run beside the scanner, and prove that nothing important was lost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None if console.is_plain() else "rich",
        context_settings=_SETTINGS,
    )
    for command in COMMANDS:
        app.command()(command)
    for name, group in GROUPS:
        app.add_typer(group, name=name)
    app.callback(invoke_without_command=True)(_version)
    return app


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
