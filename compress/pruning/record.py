"""What pruning did, as the JSON beside the model: `PruningRecord`, one `Step` a cut."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from medfm_compress.bench.measure.speedup import cost_ratio
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.sensitivity import SensitivityPoint
from medfm_compress.compress.pruning.channel_groups import Kind
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.int8_student import Int8Student
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.pruning.prune import Pruned
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode, encode

RECORD = "pruning.json"


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group: what it is, and how wide before and after; a block has width 1 or, dropped, 0."""

    name: str
    kind: Kind
    before: int
    after: int
    points: tuple[SensitivityPoint, ...] = msgspec.field(default=(), name="trials")


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was left alone, and why."""

    name: str
    reason: str


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cut.

    Attributes:
        fingerprint: of all that it was made from.
        goal: in words.
        unit: of the next three: ``MACs``, ``ms`` or ``bytes``.
        before: of the network that was cut.
        predicted: of what was left, by the sum over its layers.
        measured: likewise, in truth.
        macs_before: of the network that was cut.
        macs_after: of what was left.
        parameters_before: likewise.
        parameters_after: likewise.
        groups: everything that could shrink.
        protected: everything that could not.
    """

    fingerprint: str
    goal: str
    unit: str
    before: float
    predicted: float
    measured: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    groups: tuple[Group, ...]
    protected: tuple[Kept, ...]


class PruningRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``pruning.json``.

    Attributes:
        model: name of the original.
        goal: in words.
        target: where it was measured; empty where it was not.
        options: as asked.
        macs_before: of the original, one image.
        macs_after: of the result.
        parameters_before: of the original.
        parameters_after: of the result.
        steps: the cuts, in order.
        sparse: layers with 2:4 sparse weights.
        measurements: original and result on the target, in turns; empty without a target.
        int8: the result in INT8, where that is the target's precision.
    """

    model: str
    goal: str
    target: str
    options: PruneOptions
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    steps: tuple[Step, ...]
    sparse: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    int8: Int8Student | None = None

    @property
    def speedup(self) -> Interval | None:
        """Cost of the original over that of the result, see `cost_ratio`; None where nothing was measured."""
        return cost_ratio(*self.measurements) if self.measurements else None


Content = TypeVar("Content", bound=msgspec.Struct)


def record_step(pruned: Pruned, fingerprint: str, goal: PruningGoal) -> Step:
    """What became of every group in one cut."""
    details = pruned.details
    after = {change.name: change.after for change in details.widths}
    unit = "ms" if goal.timed else "bytes" if goal.size_mb is not None else "MACs"
    return Step(
        fingerprint=fingerprint,
        goal=describe_goal(goal),
        unit=unit,
        before=details.before,
        predicted=details.predicted,
        measured=details.measured,
        macs_before=pruned.macs_before,
        macs_after=pruned.macs_after,
        parameters_before=pruned.parameters_before,
        parameters_after=pruned.parameters_after,
        groups=tuple(
            Group(name=name, kind=kind, before=width, after=after.get(name, width), points=details.curves.get(name, ()))
            for name, (kind, width) in details.groups.items()
        ),
        protected=tuple(Kept(name=entry.name, reason=entry.reason) for entry in details.protected),
    )


def describe_goal(goal: PruningGoal) -> str:
    """A goal in words."""
    values = (
        ("speedup", goal.speedup, "×"),
        ("latency", goal.latency_ms, " ms"),
        ("macs", goal.macs, " of the MACs"),
        ("size", goal.size_mb, " MB"),
    )
    described = ", ".join(f"{name} {value:.4g}{unit}" for name, value, unit in values if value is not None)
    return f"{described}; {goal.allocation} allocation, importance {goal.importance}"


def load(path: Path, kind: type[Content]) -> Content | None:
    """The record at ``path``; None where there is none that this version can read."""
    try:
        return decode(path.read_bytes(), kind, source=str(path))
    except (OSError, InputError):
        return None


def save(record: msgspec.Struct, path: Path) -> None:
    """Write ``record`` at ``path``, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode(record))
