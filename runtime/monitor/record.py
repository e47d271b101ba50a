"""`Record`: what a device has counted with one bundle. Numbers only, of bounded size, and nothing of a patient.

No image, name, identifier, time or single score is kept: weeks, counts in bins, and what the drift test has won. Weeks
are those of ISO 8601 by the device's clock; the drift test goes by the order of images and not by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec.structs import replace

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.monitor.drift import Capital, add
from medfm_compress.runtime.monitor.histogram import Count, Histogram

IsoWeek = Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-W(0[1-9]|[1-4]\d|5[0-3])\Z")]
SCHEMA_VERSION = 1
MAX_WEEKS = 104
MAX_REPLAYS = 32
MAX_FLAGS = 32
ALPHA = 0.01
"""Of a hundred devices without any drift, at most one ever gives an alarm with one bundle, all features together."""


class Seen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One outcome, as it is counted.

    Attributes:
        bins: feature → number of the bin of its value.
        repeated: another image of an examination that was seen: it is counted, and not put to the drift test.
        called: findings that were called.
        flags: of the prediction.
        refusal: kind of error; empty for a prediction.
    """

    bins: dict[str, int] = {}
    repeated: bool = False
    called: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    refusal: str = ""


class Alarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first time that a feature's evidence was enough.

    Attributes:
        week: by the device's clock.
        images: that had been seen.
    """

    week: IsoWeek
    images: Count


class Watched(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature that is held against the reference.

    Attributes:
        reference: its histogram, from the bundle.
        counts: of the first images of all examinations so far, by bin.
        missing: images that do not have it.
        capital: of the drift test.
        alarm: None as long as there was none.
    """

    reference: Histogram
    counts: tuple[Count, ...]
    missing: Count = 0
    capital: Capital = Capital()
    alarm: Alarm | None = None


class Week(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts of one week.

    Attributes:
        week: e.g. ``2026-W48``.
        predicted: images.
        refusals: kind of error → images.
        called: finding → images.
        flags: flag → images.
        bins: feature → counts by bin.
    """

    week: IsoWeek
    predicted: Count = 0
    refusals: dict[str, Count] = {}
    called: dict[str, Count] = {}
    flags: dict[str, Count] = {}
    bins: dict[str, tuple[Count, ...]] = {}


class Replay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All golden cases were replayed.

    Attributes:
        week: by the device's clock.
        error: relative logit error; None where a case gave another result.
    """

    week: IsoWeek
    error: Annotated[float, msgspec.Meta(ge=0)] | None


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that was counted with one bundle.

    Attributes:
        schema_version: of this file.
        manifest_sha256: of the bundle.
        release: of the bundle.
        variant: that ran.
        no_reference: why nothing is held against a reference; empty where it is.
        watched: feature → its counts and its drift test.
        weeks: the latest 104.
        earlier_weeks: that are no longer listed.
        replays: the latest 32.
    """

    schema_version: int = SCHEMA_VERSION
    manifest_sha256: str
    release: Count
    variant: str
    no_reference: str = ""
    watched: dict[str, Watched] = {}
    weeks: tuple[Week, ...] = ()
    earlier_weeks: Count = 0
    replays: tuple[Replay, ...] = ()

    def __post_init__(self) -> None:
        sizes = {name: len(feature.reference.counts) for name, feature in self.watched.items()}
        rows = [(name, feature.counts) for name, feature in self.watched.items()]
        rows += [row for week in self.weeks for row in week.bins.items()]
        for name, counts in rows:
            if len(counts) != sizes.get(name):
                raise InputError(
                    f"{len(counts)} counts of {name!r} do not fit {sizes.get(name, 0)} bins of its reference"
                )

    @property
    def threshold(self) -> float:
        """The evidence at which a feature gives an alarm."""
        return max(1, len(self.watched)) / ALPHA


def this_week() -> str:
    """The ISO 8601 week by the device's clock, UTC."""
    return time.strftime("%G-W%V", time.gmtime())


def count(record: Record, seen: Seen, week: str, u: float) -> Record:
    """The record with one more outcome; ``u`` is drawn from U(0, 1) for the drift test."""
    if seen.refusal:
        return _with_week(record, week, seen, {})
    sizes = {name: len(feature.counts) for name, feature in record.watched.items()}
    watched = (
        record.watched
        if seen.repeated
        else {
            name: _count_feature(feature, seen.bins.get(name), (record.threshold, week, u))
            for name, feature in record.watched.items()
        }
    )
    return _with_week(replace(record, watched=watched), week, seen, sizes)


def add_replay(record: Record, error: float | None, week: str) -> Record:
    """The record with one more replay of the golden cases."""
    return replace(record, replays=(*record.replays, Replay(week=week, error=error))[-MAX_REPLAYS:])


def _count_feature(feature: Watched, position: int | None, test: tuple[float, str, float]) -> Watched:
    if position is None:
        return replace(feature, missing=feature.missing + 1)
    threshold, week, u = test
    capital = add(feature.capital, feature.reference.counts, feature.counts, position, u)
    counts = tuple(value + (i == position) for i, value in enumerate(feature.counts))
    alarm = feature.alarm
    if alarm is None and capital.evidence >= threshold:
        alarm = Alarm(week=week, images=capital.images)
    return replace(feature, counts=counts, capital=capital, alarm=alarm)


def _with_week(record: Record, week: str, seen: Seen, sizes: Mapping[str, int]) -> Record:
    """The outcome in its week, which is the last one, or a new one: a clock that goes back begins a week again."""
    weeks = record.weeks
    if not weeks or weeks[-1].week != week:
        weeks = (*weeks, Week(week=week))
    last = weeks[-1]
    bins = dict(last.bins)
    for name, position in seen.bins.items():
        if name in sizes:
            before = bins.get(name, (0,) * sizes[name])
            bins[name] = tuple(value + (i == position) for i, value in enumerate(before))
    last = replace(
        last,
        predicted=last.predicted + (not seen.refusal),
        refusals=_plus(last.refusals, (seen.refusal,) if seen.refusal else ()),
        called=_plus(last.called, seen.called),
        flags=_plus(last.flags, seen.flags),
        bins=bins,
    )
    dropped = max(0, len(weeks) - MAX_WEEKS)
    return replace(record, weeks=(*weeks[dropped:-1], last), earlier_weeks=record.earlier_weeks + dropped)


def _plus(counts: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    summed = dict(counts)
    for name in names:
        if name in summed or len(summed) < MAX_FLAGS:
            summed[name] = summed.get(name, 0) + 1
    return summed
