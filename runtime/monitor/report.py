"""`MonitorReport`: one file for post-market surveillance: what ran, on how many images, and whether they drift.

Counts alone. A week of fewer than 10 images gives its number of images and nothing else.
"""

from __future__ import annotations

import time

import msgspec

from medfm_compress import __version__
from medfm_compress.runtime.device.folder import DeviceFolder
from medfm_compress.runtime.device.state import Event, Installed
from medfm_compress.runtime.errors import Refused, in_one_line
from medfm_compress.runtime.monitor.histogram import MIN_COUNT, Histogram, total_variation
from medfm_compress.runtime.monitor.monitor import read_record
from medfm_compress.runtime.monitor.record import ALPHA, Alarm, Record, Replay, Watched, Week
from medfm_compress.runtime.monitor.shadow import ShadowRecord, read_shadow

STATEMENT = (
    f"Without drift, at most {ALPHA:.0%} of all devices ever give an alarm with one bundle, over all features, weeks "
    "and looks together, as long as images are exchangeable with the reference's (docs/monitoring.md)."
)


class FeatureReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature since the bundle's first image.

    Attributes:
        reference: histogram of the cases that the bundle was made with.
        counts: of the first images of the device's examinations, in the same bins.
        missing: images that do not have it.
        evidence: of the drift test; an alarm is given at the threshold.
        alarm: the first; None as long as there was none.
        distance: total variation between device and reference, 0 to 1; None below 10 images.
    """

    reference: Histogram
    counts: tuple[int, ...]
    missing: int
    evidence: float
    alarm: Alarm | None
    distance: float | None


class WeekReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One week; everything but its number of images is left out below 10 of them.

    Attributes:
        week: e.g. ``2026-W48``.
        predicted: images.
        refusals: kind of error → images.
        called: finding → images.
        flags: flag → images.
        bins: feature → counts by bin.
        distances: feature → total variation to the reference, 0 to 1.
    """

    week: str
    predicted: int
    refusals: dict[str, int] = {}
    called: dict[str, int] = {}
    flags: dict[str, int] = {}
    bins: dict[str, tuple[int, ...]] = {}
    distances: dict[str, float] = {}


class BundleReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was counted with one bundle.

    Attributes:
        bundle: which.
        variant: that ran.
        no_reference: why nothing is held against a reference; empty where it is.
        threshold: evidence that gives an alarm.
        features: feature → all images.
        weeks: the latest 104.
        earlier_weeks: that are not listed any more.
        replays: of the golden cases, the latest 32.
    """

    bundle: Installed
    variant: str
    no_reference: str
    threshold: float
    features: dict[str, FeatureReport]
    weeks: tuple[WeekReport, ...]
    earlier_weeks: int
    replays: tuple[Replay, ...]

    @property
    def alarms(self) -> dict[str, Alarm]:
        """Feature → its alarm."""
        return {name: feature.alarm for name, feature in self.features.items() if feature.alarm}


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device's report.

    Attributes:
        schema_version: of this file.
        software: version of medfm-compress.
        date: ISO 8601, UTC, by the device's clock.
        statement: what an alarm means.
        alpha: the false-alarm rate of one bundle.
        bundles: the active, the previous and the waiting one, if anything was counted with them.
        shadow: the candidate beside the active bundle; None where it never ran.
        events: what was installed, activated and rolled back.
        problems: what could not be read.
    """

    schema_version: int = 1
    software: str
    date: str
    statement: str = STATEMENT
    alpha: float = ALPHA
    bundles: tuple[BundleReport, ...]
    shadow: ShadowRecord | None
    events: tuple[Event, ...]
    problems: tuple[str, ...] = ()


def make_report(device: DeviceFolder) -> MonitorReport:
    """The report of a device.

    Raises:
        Refused: the state of the folder is damaged.
    """
    state = device.state
    bundles, problems = [], []
    for bundle in (state.active, state.previous, state.candidate):
        try:
            record = read_record(device.folder, bundle) if bundle else None
        except Refused as exc:
            problems.append(in_one_line(exc))
            continue
        if bundle and record:
            bundles.append(_bundle_report(bundle, record))
    return MonitorReport(
        software=__version__,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        bundles=tuple(bundles),
        shadow=read_shadow(device, state),
        events=state.events,
        problems=tuple(problems),
    )


def _bundle_report(bundle: Installed, record: Record) -> BundleReport:
    return BundleReport(
        bundle=bundle,
        variant=record.variant,
        no_reference=record.no_reference,
        threshold=record.threshold,
        features={name: _feature_report(watched) for name, watched in record.watched.items()},
        weeks=tuple(_week_report(week, record) for week in record.weeks),
        earlier_weeks=record.earlier_weeks,
        replays=record.replays,
    )


def _feature_report(watched: Watched) -> FeatureReport:
    enough = sum(watched.counts) >= MIN_COUNT
    return FeatureReport(
        reference=watched.reference,
        counts=watched.counts,
        missing=watched.missing,
        evidence=watched.capital.evidence,
        alarm=watched.alarm,
        distance=total_variation(watched.counts, watched.reference.counts) if enough else None,
    )


def _week_report(week: Week, record: Record) -> WeekReport:
    if week.predicted < MIN_COUNT:
        return WeekReport(week=week.week, predicted=week.predicted)
    return WeekReport(
        week=week.week,
        predicted=week.predicted,
        refusals=week.refusals,
        called=week.called,
        flags=week.flags,
        bins=week.bins,
        distances={
            name: total_variation(counts, record.watched[name].reference.counts)
            for name, counts in week.bins.items()
            if sum(counts) >= MIN_COUNT
        },
    )
