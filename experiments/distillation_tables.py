"""The tables of docs/results/distillation.md from the runs that `distillation_sweep` left.

python experiments/distillation_tables.py WORK OUT

``OUT`` receives ``tables.md`` and ``runs.json``, the runs that the tables rest on.

A row is an arm: the mean of its seeds with their range, and of each seed's paired difference to the teacher the widest
interval. Losses are compared on ``choice``, a split that no test is judged on; everything else on ``test``.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from distillation_judge import Judged
from distillation_plan import TABLES, Arm, Pair, Table
from distillation_sweep import RESULT, Result
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.atomic_write import write_atomically

CHOICE, TEST = "choice", "test"
CHOOSING = ("losses", "families")

Row = tuple[str, ...]


def read(work: Path) -> dict[str, list[Result]]:
    """``table/pair/arm`` → results of its seeds."""
    found: dict[str, list[Result]] = defaultdict(list)
    for path in sorted((work / "runs").rglob(RESULT)):
        result = msgspec.json.decode(path.read_bytes(), type=Result)
        found[key(result.run.table, result.run.pair, result.run.arm)].append(result)
    return found


def key(table: str, pair: Pair, arm: Arm) -> str:
    """Of an arm."""
    return f"{table}/{pair.name}/{arm.name}"


def on(results: Iterable[Result], split: str) -> list[Judged]:
    """The judgements on one split."""
    return [judged for result in results for judged in result.judged if judged.split == split]


def spread(values: list[float]) -> str:
    """Mean and range."""
    mean = statistics.fmean(values)
    return f"{mean:.4f} ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else f"{mean:.4f}"


def widest(intervals: list[Interval]) -> str:
    """Mean of the estimates, lowest and highest end of all intervals."""
    low, high = min(single.low for single in intervals), max(single.high for single in intervals)
    return f"{statistics.fmean(single.estimate for single in intervals):+.4f} [{low:+.4f}, {high:+.4f}]"


def verdicts(judged: list[Judged]) -> str:
    """Outcomes, counted."""
    outcomes = [single.outcome for single in judged]
    return ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))


def arms_table(table: Table, found: dict[str, list[Result]]) -> list[str]:
    """Arms on the test split, a table a pair."""
    lines = []
    for pair in table.pairs:
        rows = [_arm_row(arm, found[key(table.name, pair, arm)]) for arm in table.arms]
        rows = [row for row in rows if row]
        if not rows:
            continue
        first = next(
            iter(found[key(table.name, pair, arm)][0] for arm in table.arms if found[key(table.name, pair, arm)])
        )
        teacher = on([first], TEST)[0].teacher
        lines += [
            f"**{pair.teacher} → {pair.student}**, {first.macs[1] / first.macs[0]:.1f} times fewer MACs "
            f"({first.macs[1] / 1e6:.0f} M → {first.macs[0] / 1e6:.1f} M), {first.parameters[1] / 1e6:.1f} M → "
            f"{first.parameters[0] / 1e6:.1f} M parameters. Teacher: AUROC {teacher.estimate:.4f} "
            f"[{teacher.low:.4f}, {teacher.high:.4f}] on {on([first], TEST)[0].cases} test cases.",
            "",
            *markdown(
                ("arm", "seeds", "AUROC (range)", "student − teacher [95%]", "verdict", "at 90% specificity"), rows
            ),
            "",
        ]
    return lines


def _arm_row(arm: Arm, results: list[Result]) -> Row:
    judged = on(results, TEST)
    if not judged:
        return ()
    sensitivities = [single.student_sensitivity.estimate for single in judged if single.student_sensitivity]
    return (
        f"{arm.name}: {arm.title}",
        str(len(judged)),
        spread([single.student.estimate for single in judged]),
        widest([single.difference for single in judged]),
        verdicts(judged),
        spread(sensitivities) if sensitivities else "–",
    )


def losses_table(table: Table, found: dict[str, list[Result]]) -> list[str]:
    """Arms on the split for choosing, best first, each against the first arm seed by seed."""
    lines = []
    for pair in table.pairs:
        arms = [(arm, found[key(table.name, pair, arm)]) for arm in table.arms]
        arms = [(arm, results) for arm, results in arms if results]
        if not arms:
            continue
        reference = {result.run.seed: _choice(result) for result in arms[0][1]}
        rows = [_loss_row(arm, results, reference) for arm, results in arms]
        order = sorted(range(len(rows)), key=lambda number: -_mean(arms[number][1]))
        lines += [
            f"**{pair.teacher} → {pair.student}**",
            "",
            *markdown(("losses", "seeds", "AUROC on choice (range)", f"− {arms[0][0].name}, seed by seed", "CPU s"),
                      [rows[number] for number in order]),
            "",
        ]  # fmt: skip
    return lines


def _choice(result: Result) -> float:
    return on([result], CHOICE)[0].student.estimate


def _mean(results: list[Result]) -> float:
    return statistics.fmean(map(_choice, results))


def _loss_row(arm: Arm, results: list[Result], reference: dict[int, float]) -> Row:
    differences = [_choice(result) - reference[result.run.seed] for result in results if result.run.seed in reference]
    entry = ", ".join(f"{value:+.4f}" for value in differences)
    cpu = statistics.median(result.cpu_s for result in results)
    return arm.name, str(len(results)), spread(list(map(_choice, results))), entry, f"{cpu:.0f}"


def markdown(head: Row, rows: Iterable[Row]) -> list[str]:
    """A table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def main(work: str, out: str) -> None:
    """Write the tables, and print them."""
    found = read(Path(work))
    lines: list[str] = ["# Distillation: tables", "", "Written by `experiments/distillation_tables.py`.", ""]
    for table in TABLES:
        write: Callable[..., list[str]] = losses_table if table.name in CHOOSING else arms_table
        body = write(table, found)
        lines += [f"## {table.title}", "", *body] if body else []
    text = "\n".join(lines).rstrip() + "\n"
    write_atomically(Path(out) / "tables.md", text.encode())
    lines_of_runs = [compact(result) for results in found.values() for result in results]
    write_atomically(Path(out) / "runs.json", b"[\n" + b",\n".join(lines_of_runs) + b"\n]\n")
    sys.stdout.write(text)


def compact(result: Result) -> bytes:
    """One run in one line: without what is the same for every run, or stands in another field."""
    short = msgspec.to_builtins(result)
    short["run"] = result.run.name
    for judged in short["judged"]:
        judged.pop("reasons")
    return msgspec.json.encode(short)


if __name__ == "__main__":
    main(*sys.argv[1:])
