"""Bundle A → bundle B: what changed in the manifest, in the figures, and in the decisions on single cases, by group.

Decisions are held against each other case by case, A's in the teacher's place: a flip is *harmful* where A alone is
right. Gains and losses are tested by McNemar's mid-p (`stats.mcnemar`) over cases, which takes no account of several
cases of one patient; it describes and decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.prediction_flips import Flip, find_flips
from medfm_compress.bench.evaluate.subgroups import divide
from medfm_compress.bench.gate.baseline_report import compare_to_baseline
from medfm_compress.bench.gate.decision import Decision
from medfm_compress.bench.render.format import number, signed
from medfm_compress.bench.render.markdown import escape, table
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.mcnemar import mcnemar
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.bundle.manifest import Manifest

_SHOWN_FLIPS = 50
_PARTS = ("task", "image_spec", "inputs", "outputs", "variants", "intended_use", "provenance", "release")


def change_report(decision: Decision, manifest: Manifest, earlier: Report, before: Manifest) -> str:
    """The page, Markdown; ``earlier`` and ``before`` are report and manifest of bundle A.

    Raises:
        InputError: the two reports are of different cases.
    """
    changes = compare_to_baseline(decision.report, decision.evidence, earlier, decision.policy)
    figures = [
        (escape(c.name), escape(c.variant), number(c.before), number(c.now), signed(c.now - c.before))
        for c in (*changes.estimates, *changes.medians_ms)
    ]
    pairs = _pairs(earlier, decision.report)
    parts = [
        f"# From {escape(before.name)} to {escape(manifest.name)}",
        f"A: model `{before.model_digest}`, release {before.release_number or 'none'}. "
        f"B: model `{manifest.model_digest}`, release {manifest.release_number or 'none'}.",
        "## What changed",
        table(("Part", "A", "B"), _changed(_plain(before), _plain(manifest))),
        "## Figures that the policy requires",
        table(("Figure", "Variant", "A", "B", "Change"), figures)
        if figures
        else "None of them stands in both reports.",
        *([f"Timings: {escape(changes.untimed)}."] if changes.untimed else []),
        "## Decisions that changed",
        "\n\n".join(_decisions(decision, old, new) for old, new in pairs),
    ]
    return "\n\n".join(parts) + "\n"


def _pairs(earlier: Report, report: Report) -> list[tuple[Evaluation, Evaluation]]:
    """Variants of one name, or the first of each where no name is in both."""
    old = {name: table for table in earlier.evaluations if (name := table.name) in earlier.variants}
    new = {name: table for table in report.evaluations if (name := table.name) in report.variants}
    names = [(name, name) for name in new if name in old]
    if not names and old and new:
        names = [(next(iter(old)), next(iter(new)))]
    return [(old[a].to_evaluation(), new[b].to_evaluation()) for a, b in names]


def _decisions(decision: Decision, old: Evaluation, new: Evaluation) -> str:
    flips = find_flips(old, new)
    title = f"### {escape(old.name)} → {escape(new.name)}"
    if not flips:
        return f"{title}\n\nNo decision changed on {len(new.images)} cases."
    shown = [
        (str(f.case + 1), escape(f.finding or "label"), f.direction, escape(f.kind), *_scores(f))
        for f in flips[:_SHOWN_FLIPS]
    ]
    more = f"\n\nand {len(flips) - _SHOWN_FLIPS} more; all are in `cases.csv`." if len(flips) > _SHOWN_FLIPS else ""
    groups = table(("Group", "Cases", "Harmful", "Beneficial", "Neither", "McNemar p"), _groups(decision, new, flips))
    cases = table(("Case", "Finding", "Direction", "Kind", "Score A", "Score B"), shown)
    return f"{title}\n\n{groups}\n\n{cases}{more}"


def _scores(flip: Flip) -> tuple[str, str]:
    return number(flip.teacher_score), number(flip.bundle_score)


def _groups(decision: Decision, new: Evaluation, flips: tuple[Flip, ...]) -> Iterator[tuple[str, ...]]:
    everybody = np.ones(len(new.images), dtype=bool)
    groups = [("all", everybody)]
    for rule in decision.policy.subgroups:
        groups += [(group.name, group.rows) for group in divide(new, rule, decision.policy).groups]
    for name, rows in groups:
        counts = Counter(flip.direction for flip in flips if rows[flip.case])
        gained, lost = counts["beneficial"], counts["harmful"]
        yield (
            escape(name),
            str(int(rows.sum())),
            str(lost),
            str(gained),
            str(counts["neither"]),
            number(mcnemar(gained, lost)),
        )


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(manifest)
    files = {member.path: f"sha256 {member.sha256[:12]}, {member.bytes} bytes" for member in manifest.members}
    return _flat({part: plain.get(part) for part in _PARTS} | {"files": files})


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested data by their dotted paths; entries of a list that have a name by it."""
    if isinstance(value, Mapping):
        items = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(_name(entry, number)), entry) for number, entry in enumerate(value)]
    else:
        return {path: value}
    return {k: v for key, entry in items for k, v in _flat(entry, f"{path}.{key}" if path else key).items()}


def _name(entry: Any, number: int) -> Any:
    named = entry.get("name") or entry.get("label") if isinstance(entry, Mapping) else None
    return named or number


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    rows = [(escape(path), _value(before, path), _value(after, path)) for path in sorted(paths)]
    return rows or [("nothing", "", "")]


def _value(values: Mapping[str, Any], path: str) -> str:
    return escape(values[path], 120) if path in values and values[path] is not None else "–"
