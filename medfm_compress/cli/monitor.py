"""``medfm-compress monitor``: what a device saw, and whether it drifts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, BundleOut, DeviceFolder, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.device import open_device
from medfm_compress.cli.outputs import check_file_out, check_new_files

if TYPE_CHECKING:
    from medfm_compress.runtime.monitor.report import BundleReport, MonitorReport

app = typer.Typer(help="See what a device saw, and whether it drifts.", no_args_is_help=True)
_SHOWN_WEEKS = 12


@app.callback()
def _group() -> None:
    """See what a device saw, and whether it drifts from what its bundle was made with."""


@app.command()
@command()
def reference(
    bundle: Bundle,
    study: Study,
    out: BundleOut,
    split: Annotated[str, typer.Option(help="Cases to compare with, none of which the model was trained on.")] = "val",
    overwrite: Overwrite = False,
) -> None:
    """Add histograms of a study's images and scores to a bundle, for monitors to compare with; its verdicts hold."""
    from medfm_compress.bench.monitor_reference import add_reference
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle

    check_file_out(out, ".medfm", overwrite)
    opened = OpenedBundle.open(bundle)
    cases = open_study(study, dicom_rules=opened.manifest.image_spec.dicom)
    made = add_reference(opened, cases, out, split, console.progress)
    console.emit(
        lambda: made,
        lambda: console.say(
            f"wrote {out}: {', '.join(made.inputs)} and the scores of {len(made.scores)} variants on {made.cases} cases"
        ),
    )


@app.command()
@command()
def report(
    device_folder: DeviceFolder = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write, for post-market surveillance.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show by week how many images a device saw, refused and called, and whether inputs or scores drift.

    Counts alone, nothing of a patient. The false-alarm rate is that of all features, weeks and looks together.
    """
    from medfm_compress.runtime.atomic_write import write_atomically
    from medfm_compress.runtime.monitor.report import make_report
    from medfm_compress.runtime.strict_json import encode

    check_new_files({"--out": out}, overwrite)
    made = make_report(open_device(device_folder))
    if out is not None:
        write_atomically(out, encode(made))
    console.emit(lambda: made, lambda: _print_report(made, out))


@app.command()
@command()
def replay(device_folder: DeviceFolder = None) -> None:
    """Replay all golden cases of the active bundle and record it; where one gives another result, go back (exit 4)."""
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.errors import EXIT_REFUSED
    from medfm_compress.runtime.monitor.monitor import Monitor

    device = open_device(device_folder)
    with ActiveEngine(device, observers=[Monitor(device.folder)]) as engine:
        before = engine.bundle
        error = engine.replay_goldens()
        left = engine.bundle != before
        shown = {"bundle": engine.bundle, "golden_error": error, "went_back": left}
        console.emit(lambda: shown, lambda: console.say(f"active: {engine.bundle}, relative logit error {error:.2g}"))
    if left:
        raise typer.Exit(EXIT_REFUSED)


def _print_report(made: MonitorReport, out: Path | None) -> None:
    for problem in made.problems:
        console.say(f"not read: {problem}")
    if not made.bundles:
        console.say("nothing was counted with the bundles of this device yet")
    for bundle in made.bundles:
        _print_bundle(bundle)
    if made.bundles:
        console.say(made.statement)
    if out is not None:
        console.say(f"wrote {out}")


def _print_bundle(shown: BundleReport) -> None:
    console.say(f"{shown.bundle}, {shown.variant}")
    if shown.no_reference:
        console.say(f"  no drift is told: {shown.no_reference}")
    for name, feature in shown.features.items():
        drifted = feature.alarm
        words = f"DRIFT since {drifted.week}, image {drifted.images}" if drifted else "no drift"
        away = "" if feature.distance is None else f", distance {feature.distance:.2f}"
        console.say(f"  {name}: {words} (evidence {feature.evidence:.3g} of {shown.threshold:g}{away})")
    if shown.replays:
        failed = sum(replay.error is None for replay in shown.replays)
        console.say(f"  golden cases: {len(shown.replays)} replays, {failed} with another result")
    names = list(shown.features)
    rows = [
        [
            week.week,
            str(week.predicted),
            str(sum(week.refusals.values())),
            ", ".join(f"{name} {number}" for name, number in week.called.items()),
            *(f"{week.distances[name]:.2f}" if name in week.distances else "" for name in names),
        ]
        for week in shown.weeks[-_SHOWN_WEEKS:]
    ]
    console.table(["week", "predicted", "refused", "called", *names], rows, left=(0, 3))
