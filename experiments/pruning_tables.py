"""Tables of docs/results/pruning.md from what the scripts measured.

python experiments/pruning_tables.py SPEED.json RECOVERY... > docs/results/pruning/tables.md

SPEED.json is what `pruning_speed.py` wrote, each RECOVERY a folder of `pruning_recovery.py`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{mean(values):.4f} ({min(values):.4f}–{max(values):.4f})"


def interval(values: list[float]) -> str:
    """A ratio with its 95 % interval."""
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def widest(margins: list[list[float]]) -> str:
    """Mean difference with the widest ends of the intervals of all seeds."""
    if not margins:
        return ""
    estimates, lows, highs = zip(*margins, strict=True)
    return f"{mean(estimates):+.4f} [{min(lows):+.4f}, {max(highs):+.4f}]"


def speed(result: dict[str, Any]) -> str:
    """Realised speed-up and efficiency, a row a pruned network."""
    rows = []
    for name, rows_of in result.items():
        if name == "machine":
            continue
        for label, row in rows_of.items():
            if "macs_kept" in row:
                own = label.split(" ")[0]
                cells = (
                    f"{rows_of['eager']['p50_ms']:.1f}",
                    f"{rows_of[own]['p50_ms']:.1f}",
                    f"{row['p50_ms']:.1f}",
                    f"{row['macs_kept']:.3f}",
                    interval(row[f"speedup over {own}"]),
                    f"{row['efficiency']:.2f}",
                    interval(row["speedup over eager"]),
                )
                rows.append((name, *label.split(" "), *cells))
    head = (
        *("network", "precision", "widths by", "eager ms", "engine ms", "pruned ms", "MACs kept"),
        *("speed-up over engine", "efficiency", "speed-up over eager"),
    )
    return table(head, rows)


def recovery(folder: Path) -> str:
    """AUROC after recovery, a row an arm."""
    result = json.loads((folder / "results.json").read_text())
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, row in result.items():
        if "/seed-" in name:
            runs[name.split("/")[0]].append(row)
    times = result.get("together", {})
    whole = result["original"]
    before = times.get("original", {}).get("p50_ms")
    rows = [
        (
            "original",
            "1",
            f"{before:.2f}" if before else "",
            "",
            "",
            f"{whole['val']:.4f}",
            f"{whole['test']:.4f}",
            "",
            "",
        )
    ]
    for arm, ours in runs.items():
        cut, timed = result.get(f"{arm}/cut", {}), times.get(arm)
        cells = (
            f"{ours[0]['macs']:.3f}",
            f"{timed['p50_ms']:.2f}" if timed else f"{ours[0]['p50_ms'][1]:.2f}",
            interval(timed["speedup"]) if timed else f"{ours[0]['speedup']:.2f}",
            f"{cut['test']:.4f}" if cut else "",
            spread([row["val"] for row in ours]),
            spread([row["test"] for row in ours]),
            widest([value for name, value in result.get("margins", {}).items() if name.startswith(f"{arm}/")]),
            f"{mean(row['seconds'] for row in ours):.0f}",
        )
        rows.append((arm, *cells))
    head = (
        "",
        "MACs",
        "p50 ms",
        "faster",
        "test before recovery",
        "val AUROC",
        "test AUROC",
        "− original [95%]",
        "s a run",
    )
    return table(head, rows)


def main() -> None:
    """Print all tables."""
    out = ["<!-- Written by experiments/pruning_tables.py; do not edit. -->\n", "## Speed\n"]
    out.append(speed(json.loads(Path(sys.argv[1]).read_text())))
    for name in sys.argv[2:]:
        out += [f"## {Path(name).name}\n", recovery(Path(name))]
    sys.stdout.write("\n".join(out))


if __name__ == "__main__":
    main()
