"""`docs/results/int8-cpu/*.json` to the tables of docs/results/int8-cpu.md.

python experiments/int8_cpu_tables.py [RESULTS]

Latencies are medians in ms with the quartiles of all samples. A ratio is the other's median over ours, with its 95%
interval over the interleaved rounds (`bench.speedup`): above 1, ours is faster.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from int8_cpu_compared import FLOATS, OURS, PEER_FORMS
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.types.measurement import Measurement

NAMES = (*(name for name, _, _ in FLOATS), *OURS, *PEER_FORMS)
CELLS = {
    "1x1": "1 thread, batch 1",
    "2x1": "2 threads, batch 1",
    "1x8": "1 thread, batch 8",
    "2x8": "2 threads, batch 8",
}
ROOT = Path(__file__).resolve().parents[1]
ABSENT = "–"
COST = "cost-"


def write_tables(results: Path) -> Path:
    """Write ``tables.md`` beside the JSON files."""
    read = {path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(results.glob("*.json"))}
    records = [record for name, record in read.items() if not name.startswith(COST)]
    costs = [line for name, record in read.items() if name.startswith(COST) for line in cost_of(record)]
    networks = [line for record in records for line in table_of(record)]
    text = "\n".join([*headline(records), *duels(records), *costs, *networks])
    path = results / "tables.md"
    path.write_text(text + "\n")
    return path


def measurement(record: dict[str, Any], cell: str, name: str) -> Measurement | None:
    """The samples of a compared_model in one cell, or None where it was not timed."""
    timed = record["cells"].get(cell, {"samples": {}})
    if not timed["samples"].get(name):
        return None
    return Measurement(
        name=name, target="", session_ms=tuple(timed["samples"][name]), calls_per_round=timed["calls"][name]
    )


def ratio(record: dict[str, Any], cell: str, other: str, ours: str) -> str:
    """``other`` over ``ours`` with its interval."""
    base, mine = measurement(record, cell, other), measurement(record, cell, ours)
    if base is None or mine is None:
        return ABSENT
    result = speedup(base, mine)
    return f"{result.estimate:.2f} [{result.low:.2f}, {result.high:.2f}]"


def quartiles(measured: Measurement | None) -> str:
    """Median and quartiles in ms."""
    if measured is None:
        return ABSENT
    low, middle, high = np.quantile(measured.session_ms, [0.25, 0.5, 0.75])
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def error_of(record: dict[str, Any], form: str, name: str) -> float | None:
    """Relative logit error on the plain or the stressed graph."""
    result = record[form].get("errors", {}).get(name)
    return None if result is None else float(result)


def best_of_ours(record: dict[str, Any], cell: str) -> str:
    """Our faster target in a cell; empty where neither was timed."""
    timed = [
        (result.quantile_ms(0.5), name) for name in OURS if (result := measurement(record, cell, name)) is not None
    ]
    return min(timed)[1] if timed else ""


def headline(records: list[dict[str, Any]]) -> list[str]:
    """One row a network: what INT8 brings on each engine, and what it costs."""
    lines = ["## In short (1 thread, batch 1)", ""]
    lines.append(
        "| network | PyTorch eager / ours best | ONNX Runtime: FP32 / ours | OpenVINO: FP32 / ours | error | stressed |"
    )
    lines.append("|---|---|---|---|---|---|")
    for record in records:
        best = best_of_ours(record, "1x1")
        cells = [
            ratio(record, "1x1", "pytorch-fp32", best),
            ratio(record, "1x1", "onnxruntime-fp32", "ours-onnxruntime"),
            ratio(record, "1x1", "openvino-fp32", "ours-openvino"),
            " / ".join(_shown(error_of(record, "plain", name)) for name in OURS),
            " / ".join(_shown(error_of(record, "stress", name)) for name in OURS),
        ]
        lines.append(f"| {record['model']} | {' | '.join(cells)} |")
    return [*lines, "", "Errors: ours on ONNX Runtime / on OpenVINO.", ""]


def duels(records: list[dict[str, Any]]) -> list[str]:
    """Each peer against our faster target, in every cell."""
    lines = ["## Against every peer: its latency over ours", ""]
    lines += [
        "| network | peer | " + " | ".join(CELLS.values()) + " | its error | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for peer in PEER_FORMS:
            cells = [ratio(record, cell, peer, best_of_ours(record, cell)) for cell in CELLS]
            mine = best_of_ours(record, "1x1")
            errors = [_shown(error_of(record, "plain", name)) for name in (peer, mine)]
            if any(cell != ABSENT for cell in cells):
                lines.append(f"| {record['model']} | {peer} | {' | '.join(cells)} | {' | '.join(errors)} |")
            else:
                lines.append(f"| {record['model']} | {peer} | {_why(record, peer)} |||| {' | '.join(errors)} |")
    return [*lines, ""]


def cost_of(record: dict[str, Any]) -> list[str]:
    """What quantizing one network costs."""
    lines = [f"## Quantizing {record['model']}, {record['cases']} calibration cases, one placement", ""]
    lines += ["| command | s | peak MB | |", "|---|---|---|---|"]
    for name, cost in record["costs"].items():
        failed = f"fails: {cost['reason']}".replace("|", "/") if cost["reason"] else ""
        lines.append(f"| {name} | {cost['seconds']} | {cost['peak_mb']} | {failed} |")
    return [*lines, ""]


def table_of(record: dict[str, Any]) -> list[str]:
    """Everything about one network."""
    machine = record["machine"]
    lines = [f"## {record['model']}", ""]
    lines.append(f"{machine['cpu_model']}, {machine['allowed_cpus']} CPUs; ours: " + "; ".join(_methods(record)))
    lines += ["", "| | " + " | ".join(CELLS.values()) + " | error | stressed |", "|---|---|---|---|---|---|---|"]
    for name in NAMES:
        cells = [quartiles(measurement(record, cell, name)) for cell in CELLS]
        errors = [_shown(error_of(record, form, name)) for form in ("plain", "stress")]
        note = _why(record, name) if all(cell == ABSENT for cell in cells) else ""
        lines.append(f"| {name}{': ' + note if note else ''} | {' | '.join(cells)} | {' | '.join(errors)} |")
    return [*lines, ""]


def _methods(record: dict[str, Any]) -> list[str]:
    return [f"{name.partition('-')[2]} {about['method']}" for name, about in record["ours"].items() if "plain" in name]


def _why(record: dict[str, Any], name: str) -> str:
    reasons = [cell["failed"].get(name) for cell in record["cells"].values()]
    reason = next(
        (reason for reason in reasons if reason), record["plain"].get("failed", {}).get(name, "was not timed")
    )
    return "fails: " + str(reason).replace("|", "/") if reason != "was not timed" else str(reason)


def _shown(error: float | None) -> str:
    return ABSENT if error is None else f"{error:.4f}"


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "results" / "int8-cpu")
