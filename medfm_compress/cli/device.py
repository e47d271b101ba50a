"""``medfm-compress device``: install, activate, roll back and show the bundles of a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, DeviceFolder, TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.cli.next_command import command_line
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.device.folder import DeviceFolder as OpenedFolder
    from medfm_compress.runtime.device.state import DeviceState, Installed, StoredState
    from medfm_compress.runtime.monitor.shadow import ShadowRecord

app = typer.Typer(help="Update a device, and fall back where an update is bad.", no_args_is_help=True)
_SHOWN_EVENTS = 8


@app.callback()
def _group() -> None:
    """Update a device: install a bundle, activate it after a self-test, go back to the one before."""


@app.command()
@command()
def install(bundle: Bundle, device_folder: DeviceFolder = None, trust_store: TrustStoreOption = None) -> None:
    """Copy a bundle into the device folder, where it waits for its activation; what runs goes on running.

    Only a bundle of a higher release than any committed there, or one committed there itself, is let in.
    """
    device = open_device(device_folder, trust=trust_store)
    installed = device.install(bundle)
    trusting = ("--trust-store", trust_store) if trust_store else ()
    go_on = command_line("device", "activate", "--device-folder", device.folder, *trusting)
    console.emit(lambda: installed, lambda: console.say(f"installed {installed}; activate it with: {go_on}"))


@app.command()
@command()
def activate(options: DeviceOptions, device_folder: DeviceFolder = None, trust_store: TrustStoreOption = None) -> None:
    """Put the installed bundle through its self-test and make it the active one; exit code 4 where it fails.

    The self-test takes the variant that this device would run: a passing verdict, every golden case, the time of a run.
    The bundle is on trial then: it is committed, or the one before comes back by itself.
    """
    device = open_device(device_folder, options, trust_store)
    result = device.activate()
    state = device.state

    def describe() -> None:
        console.say(
            f"self-test: {result.variant}, {result.golden_cases} golden cases, relative logit error "
            f"{result.golden_error:.2g}, {result.latency_ms:.3g} ms"
        )
        console.say(f"active: {_with_trial(state)}")

    console.emit(lambda: {"self_test": result, "state": state}, describe)


@app.command()
@command()
def rollback(device_folder: DeviceFolder = None, trust_store: TrustStoreOption = None) -> None:
    """Make the bundle before the active one active again."""
    state = open_device(device_folder, trust=trust_store).roll_back()
    console.emit(lambda: state, lambda: console.say(f"active: {_with_trial(state)}"))


@app.command()
@command()
def status(device_folder: DeviceFolder = None) -> None:
    """Show what is active, what would come back, what waits, and what happened."""
    device = open_device(device_folder)
    stored = device.read()
    console.emit(
        lambda: {"folder": str(device.folder), "state": stored.state, "damaged": stored.damaged},
        lambda: _print_status(stored),
    )


@app.command()
@command()
def shadow(device_folder: DeviceFolder = None) -> None:
    """Show how the candidate would have decided beside the active bundle, as run --shadow counted it."""
    from medfm_compress.runtime.monitor.shadow import read_shadow

    device = open_device(device_folder)
    state = device.state
    record = read_shadow(device, state)
    console.emit(lambda: record, lambda: _print_shadow(record, state))


def open_device(folder: Path | None, options: DeviceOptions | None = None, trust: Path | None = None) -> OpenedFolder:
    """The device folder that an option or the environment names; raises InputError where neither does."""
    from medfm_compress.runtime.device.folder import DeviceFolder as OpenedFolder

    if folder is None or folder == Path():
        raise InputError("name the device folder with --device-folder, or in MEDFM_DEVICE_FOLDER")
    return OpenedFolder(folder, options=options, trust=trust)


def _print_status(stored: StoredState) -> None:
    state = stored.state
    console.say(f"active:     {_with_trial(state)}")
    console.say(f"previous:   {_named(state.previous)}")
    console.say(f"candidate:  {_named(state.candidate)}")
    console.say(
        f"committed:  release {state.minimum_release}; only higher ones, or bundles committed here, are let in"
        if state.accepted
        else "committed:  nothing yet; any release is let in"
    )
    for name in stored.damaged:
        console.say(f"damaged:    {name}, or it was removed; the device is as the other file says")
    for event in state.events[-_SHOWN_EVENTS:]:
        reason = f": {event.reason}" if event.reason else ""
        console.say(f"{event.date}  {event.what}  release {event.release}, {event.bundle[:12]}{reason}")


def _print_shadow(record: ShadowRecord | None, state: DeviceState) -> None:
    if record is None:
        console.say("nothing was counted of a candidate beside the active bundle; use run with --shadow")
        return
    console.say(f"active:     {_named(state.active)}")
    console.say(f"candidate:  {_named(state.candidate)}")
    console.say(
        f"images:     {record.predicted} predicted by both; refused by the active alone {record.refused_by_active}, by "
        f"the candidate alone {record.refused_by_candidate}, by both {record.refused_by_both}"
    )
    for name, counted in record.findings.items():
        alone = f"{counted.only_candidate} called by the candidate alone, {counted.only_active} by the active alone"
        shift = counted.sum_of_shifts / record.predicted
        console.say(f"{name}: {counted.disagreements} decided otherwise ({alone}), mean shift {shift:+.4f}")


def _with_trial(state: DeviceState) -> str:
    trial = state.trial
    if trial is None:
        return _named(state.active)
    counted = f"{trial.predicted} predicted, {trial.refused} refused; {trial.length} of either end it"
    return f"{_named(state.active)}, on trial: {counted}"


def _named(bundle: Installed | None) -> str:
    return str(bundle) if bundle else "none"
