"""``medfm-compress serve``: a DICOM node, and what is to be seen and done about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.command import command
from medfm_compress.cli.default_command import GroupWithDefault
from medfm_compress.runtime.errors import EXIT_REFUSED, EXIT_UNUSABLE, InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.node.config import NodeConfig

app = typer.Typer(
    help="Run a DICOM node: images in, reports out. 'serve CONFIG' is short for 'serve start CONFIG'.",
    cls=GroupWithDefault,
    no_args_is_help=True,
)
Config = Annotated[Path, typer.Argument(help="YAML file of the node; 'serve init' writes one.", metavar="CONFIG")]


@app.callback()
def _group() -> None:
    """Run a DICOM node: images in, reports out. 'serve CONFIG' is short for 'serve start CONFIG'."""


@app.command()
@command()
def start(
    config: Config,
    check: Annotated[bool, typer.Option("--check", help="Only say all that is wrong with CONFIG, at once.")] = False,
) -> None:
    """Receive images, read them, deliver results, until SIGTERM or an interrupt; 'serve CONFIG' is this.

    With --check nothing is received: exit code 2 where something cannot be used, 4 where the engine may not run.
    """
    from medfm_compress.cli.node_config import read_node_config
    from medfm_compress.runtime.node.config_check import check_dependencies

    chosen = read_node_config(config)
    if check:
        _check(chosen)
        return
    check_dependencies()
    from medfm_compress.runtime.node.service import run

    code = run(chosen)
    if code:
        raise typer.Exit(code)


@app.command()
@command()
def init(
    out: Annotated[
        Path, typer.Option("--out", help="YAML file to write; there must be none.", metavar="CONFIG")
    ] = Path("node.yaml"),
) -> None:
    """Write a commented configuration with every key there is."""
    from medfm_compress.cli.node_config import write_starter

    write_starter(out)
    console.emit(
        lambda: {"file": str(out)},
        lambda: console.say(f"wrote {out}; fill it in, then run 'medfm-compress serve {out} --check'"),
    )


@app.command()
@command()
def status(config: Config) -> None:
    """Show what the spool holds, what waits for whom, and whether the node is well."""
    from medfm_compress.runtime.node.overview import overview

    seen = overview(_read(config))
    console.emit(lambda: seen, lambda: _print_overview(seen))


@app.command()
@command()
def quarantine(config: Config) -> None:
    """List what is set aside, and why."""
    from medfm_compress.runtime.node.overview import quarantined

    entries = quarantined(_read(config))

    def describe() -> None:
        console.table(
            ["id", "what", "from", "since", "reason"],
            [[entry.name, entry.what, entry.sender, entry.since, f"{entry.code}: {entry.reason}"] for entry in entries],
            left=(0, 1, 2, 3, 4),
            sentences=True,
        )
        if entries:
            console.say("--json names each one's SOP instance UID and file, e.g. for dcmdump")
        console.say(f"{len(entries)} in quarantine; 'serve replay CONFIG ID' tries one again, 'discard' removes it")

    console.emit(lambda: entries, describe)


@app.command()
@command()
def replay(
    config: Config,
    ids: Annotated[list[str], typer.Argument(help="Of 'serve quarantine'; 'all' for everything.", metavar="ID")],
    accept_patient: Annotated[
        bool,
        typer.Option("--accept-patient", help="Of images in other-patient: the study is of their patient from now on."),
    ] = False,
) -> None:
    """Take images and results out of quarantine, to be tried again; the node need not run."""
    from medfm_compress.runtime.node.overview import replay as replay_all

    done = replay_all(_read(config), tuple(ids), accept_patient=accept_patient)
    console.emit(lambda: {"replayed": done}, lambda: console.say(f"{len(done)} will be tried again"))


@app.command()
@command()
def discard(
    config: Config,
    ids: Annotated[list[str], typer.Argument(help="Of 'serve quarantine', one by one.", metavar="ID")],
    yes: Annotated[bool, typer.Option("--yes", help="They are to go for good.")] = False,
) -> None:
    """Remove images from quarantine for good, and give up results; the node need not run."""
    from medfm_compress.runtime.node.overview import discard as discard_all

    if not yes:
        raise InputError(f"{len(ids)} would go for good, and nothing brings them back; add --yes")
    done = discard_all(_read(config), tuple(ids))
    console.emit(lambda: {"discarded": done}, lambda: console.say(f"{len(done)} discarded"))


@app.command()
@command()
def audit(config: Config) -> None:
    """Follow the audit trail from its first line to its last; exit code 4 where one was altered, removed or put in."""
    from medfm_compress.runtime.node.audit import verify

    verified = verify(Path(_read(config).folder))
    head = verified.head
    console.emit(
        lambda: {"first": verified.first, "last": head.number, "digest": head.digest},
        lambda: console.say(
            f"numbers {verified.first} to {head.number} are in order; the last has digest {head.digest}"
        ),
    )


@app.command()
@command()
def conformance() -> None:
    """Print the DICOM conformance statement, as Markdown."""
    from medfm_compress.runtime.node.config_check import check_dependencies

    check_dependencies()
    from medfm_compress.runtime.node.conformance import statement

    text = statement()
    console.emit(lambda: {"markdown": text}, lambda: _print_lines(text))


def _read(path: Path) -> NodeConfig:
    from medfm_compress.cli.node_config import read_node_config

    return read_node_config(path)


def _check(config: NodeConfig) -> None:
    """Print every fault; the exit code is that of the first kind: what cannot be used, then what is refused."""
    from medfm_compress.runtime.node.config_check import faults

    actual = faults(config)
    console.emit(
        lambda: {"faults": [fault._asdict() for fault in actual]},
        lambda: _print_lines("\n".join(fault.text for fault in actual) if actual else "the configuration can be used"),
    )
    if actual:
        unusable = any(fault.exit_code == EXIT_UNUSABLE for fault in actual)
        raise typer.Exit(EXIT_UNUSABLE if unusable else EXIT_REFUSED)


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        console.say(line)


def _print_overview(seen: Any) -> None:
    console.say(f"node:        {seen.health}")
    for line in (*seen.reasons, *seen.remarks):
        console.say(f"             {line}")
    console.say(f"images:      {_counted(seen.instances)}")
    console.say(f"spool:       {seen.bytes / 1e6:,.1f} MB")
    if seen.oldest_waiting_s is not None:
        console.say(f"oldest:      waits for {seen.oldest_waiting_s:.0f} s")
    if seen.oldest_undelivered_s is not None:
        console.say(f"undelivered: for {seen.oldest_undelivered_s:.0f} s at most")
    for destination, states in sorted(seen.deliveries.items()):
        console.say(f"{f'to {destination}:':12} {_counted(states)}")
    if seen.quarantine:
        console.say(f"quarantine:  {_counted(seen.quarantine)}")


def _counted(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
