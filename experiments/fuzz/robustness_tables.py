"""The tables of docs/results/robustness.md, from what a run of `fuzz` wrote.

python robustness_tables.py OUT > tables.md
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz import read_lines
from kinds import KINDS
from medfm_compress.bench.measure.machine import describe_machine

_COMMANDS = {
    "bundle": "`inspect --verify`, `run`",
    "policy": "`gate --policy`",
    "report": "`gate`",
    "recipe": "`compress`",
    "study": "`study check`, `study split`",
    "raster": "`run`",
    "dicom": "`run`",
}


def table(out: Path) -> str:
    """Mutants, exit codes, times, memory and findings by kind."""
    counts, findings = read_lines(out / "counts.jsonl"), read_lines(out / "findings.jsonl")
    lines = ["| file | command | mutants | exit codes | seconds | most MB | findings |", "|---" * 7 + "|"]
    for kind in KINDS:
        mine = [entry for entry in counts if entry["kind"] == kind]
        if mine:
            found = sum(entry["kind"] == kind for entry in findings)
            lines.append(f"| {kind} | {_COMMANDS[kind]} | {_row(mine)} | {found} |")
    return "\n".join(lines)


def _row(entries: list[dict[str, Any]]) -> str:
    codes: Counter[str] = Counter()
    for entry in entries:
        codes.update(entry["codes"])
    shown = ", ".join(f"{code}: {number:,}" for code, number in sorted(codes.items()))
    seconds = sum(entry["seconds"] for entry in entries)
    peak = max(entry["peak_mb"] for entry in entries)
    return f"{sum(entry['count'] for entry in entries):,} | {shown} | {seconds:.0f} | {peak}"


def processes(out: Path) -> str:
    """How many mutants also went through a process of their own, and how many ended alike."""
    entries = read_lines(out / "processes.jsonl")
    return f"{len(entries)} mutants also through a process of their own; {sum(e['same'] for e in entries)} ended alike"


def machine() -> str:
    """What ran it."""
    found = describe_machine()
    names = ("pydicom", "pillow", "numpy", "onnxruntime")
    libraries = ", ".join(f"{name} {found.libraries[name]}" for name in names if name in found.libraries)
    return f"{found.cpu_model}, {found.allowed_cpus} CPUs, {found.system}, Python {found.python}, {libraries}"


def main() -> None:
    """Write all of it to standard output."""
    out = Path(sys.argv[1])
    sys.stdout.write(f"{table(out)}\n\n{processes(out)}\n\n{machine()}\n")


if __name__ == "__main__":
    main()
