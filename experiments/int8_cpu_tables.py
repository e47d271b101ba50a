"""`docs/results/int8-cpu/*.json` to the tables of docs/results/int8-cpu.md.

python experiments/int8_cpu_tables.py [RESULTS]

Latencies are medians in ms with the quartiles of all samples. A ratio is the other's median over ours, with its 95%
interval over the interleaved rounds (`bench.speedup`): above 1, ours is faster.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from int8_cpu_compared import EAGER, FLOATS, OURS, PEERS
from int8_cpu_network import TRAINED_BRIEFLY
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.types.measurement import Measurement

NAMES = (*(name for name, _, _ in FLOATS), *OURS, *PEERS)
USUAL = tuple(name for name in OURS if name.count("-") == 1)  # within the usual limit of error
CELLS = {
    "1x1": "1 thread, batch 1",
    "2x1": "2 threads, batch 1",
    "1x8": "1 thread, batch 8",
    "2x8": "2 threads, batch 8",
}
ROOT = Path(__file__).resolve().parents[1]
ABSENT = "–"
COST = "cost-"
LIMIT = 0.08  # of the second comparison


def write_tables(results: Path) -> Path:
    """Write ``tables.md`` beside the JSON files."""
    read = {path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(results.glob("*.json"))}
    records = [record for name, record in read.items() if not name.startswith(COST)]
    costs = [line for name, record in read.items() if name.startswith(COST) for line in cost_of(record)]
    networks = [line for record in records for line in (*table_of(record), *tried(record))]
    text = "\n".join(
        [
            *headline(records),
            *duels(records),
            *within_limit(records),
            *quietness(records),
            *costs,
            *networks,
        ]
    )
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


def error_of(record: dict[str, Any], name: str) -> float | None:
    """Relative logit error."""
    result = record["errors"]["errors"].get(name)
    return None if result is None else float(result)


def fastest(record: dict[str, Any], cell: str, names: tuple[str, ...], most_error: float = np.inf) -> str:
    """The fastest of ``names`` in a cell with at most that error; empty where none was timed."""
    timed = [
        (result.quantile_ms(0.5), name)
        for name in names
        if (result := measurement(record, cell, name)) is not None
        and (error := error_of(record, name)) is not None
        and error <= most_error
    ]
    return min(timed)[1] if timed else ""


def headline(records: list[dict[str, Any]]) -> list[str]:
    """One row a network: what INT8 brings on each engine, and what it costs."""
    lines = ["## In short (1 thread, batch 1)", ""]
    lines.append(
        "| network | weights | PyTorch eager / ours | ONNX Runtime: FP32 / ours | OpenVINO: FP32 / ours | error |"
    )
    lines.append("|---|---|---|---|---|---|")
    for record in records:
        cells = [
            record["weights"],
            ratio(record, "1x1", EAGER, fastest(record, "1x1", USUAL)),
            ratio(record, "1x1", "onnxruntime-fp32", "ours-onnxruntime"),
            ratio(record, "1x1", "openvino-fp32", "ours-openvino"),
            " / ".join(_shown(error_of(record, name)) for name in USUAL),
        ]
        lines.append(f"| {record['model']} | {' | '.join(cells)} |")
    return [*lines, "", "Errors: ours on ONNX Runtime / on OpenVINO.", ""]


def duels(records: list[dict[str, Any]]) -> list[str]:
    """Each peer against our fastest of at most its error; against our usual one where none is so faithful."""
    title = "## Against every peer: its latency over ours, ours with at most its error"
    lines = [title, "", *_duel_head()]
    for record in records:
        for peer in filter(partial(_took_part, record), PEERS):
            error = error_of(record, peer)
            mine = [fastest(record, cell, OURS, np.inf if error is None else error) for cell in CELLS]
            usual = [fastest(record, cell, USUAL) for cell in CELLS]
            chosen = [name or other for name, other in zip(mine, usual, strict=True)]
            mark = "" if mine[0] else " (more than the peer's)"
            lines.append(_duel(record, peer, chosen, mark))
    return [*lines, ""]


def within_limit(records: list[dict[str, Any]]) -> list[str]:
    """Each peer of at most `LIMIT` against our fastest of at most `LIMIT`."""
    title = f"## Against every peer of an error up to {LIMIT:g}: its latency over ours, our limit set to the same"
    lines = [title, "", *_duel_head()]
    for record in records:
        for peer in PEERS:
            error = error_of(record, peer)
            if error is not None and error <= LIMIT:
                lines.append(_duel(record, peer, [fastest(record, cell, OURS, LIMIT) for cell in CELLS], ""))
    return [*lines, ""]


def _duel_head() -> list[str]:
    return [
        f"| network | peer | {' | '.join(CELLS.values())} | its error | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]


def _duel(record: dict[str, Any], peer: str, ours: list[str], mark: str) -> str:
    """One row; ``ours`` is who stands against the peer in each cell."""
    cells = [ratio(record, cell, peer, name) for cell, name in zip(CELLS, ours, strict=True)]
    own = f"{ours[0].removeprefix('ours-')} {_shown(error_of(record, ours[0]))}{mark}"
    shown = " | ".join(cells) if any(cell != ABSENT for cell in cells) else f"{_why(record, peer)} |||"
    return f"| {record['model']} | {peer} | {shown} | {_shown(error_of(record, peer))} | {own} |"


def quietness(records: list[dict[str, Any]]) -> list[str]:
    """What else the machine did while each cell was measured."""
    lines = ["## How quiet the machine was", ""]
    lines += [
        "| network | cell | load before | stolen | others | reference, ms | waited | again, disturbed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for cell, timed in record["cells"].items():
            quiet = timed["quiet"]
            before, after = quiet["reference_ms"]
            shares = f"{quiet['steal']:.1%} | {quiet['others']:.1%}"
            slower = f"{quiet.get('waited_s', 0):.0f} s | {quiet.get('repeated', 0)}, {quiet.get('disturbed', 0)}"
            cells = (record["model"], CELLS[cell], quiet["load_before"], shares, f"{before}, {after}", slower)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", "Shares of the processor time of the whole machine; see `int8_cpu_quiet`.", ""]


def cost_of(record: dict[str, Any]) -> list[str]:
    """What quantizing one network costs."""
    lines = [f"## Quantizing {record['model']}, {record['cases']} calibration cases, one placement", ""]
    lines += ["| command | s | peak MB | |", "|---|---|---|---|"]
    for name, cost in record["costs"].items():
        failed = f"fails: {_said(cost['reason'])}" if cost["reason"] else ""
        lines.append(f"| {name} | {cost['seconds']} | {cost['peak_mb']} | {failed} |")
    return [*lines, ""]


def table_of(record: dict[str, Any]) -> list[str]:
    """Everything about one network."""
    machine = record["machine"]
    lines = [f"## {record['model']}", ""]
    lines.append(f"{machine['cpu_model']}, {machine['allowed_cpus']} CPUs; ours: " + "; ".join(_methods(record)))
    lines += ["", "| | " + " | ".join(CELLS.values()) + " | error | agreement |", "|---" * 7 + "|"]
    for name in filter(partial(_took_part, record), NAMES):
        cells = [quartiles(measurement(record, cell, name)) for cell in CELLS]
        note = _why(record, name) if set(cells) == {ABSENT} else ""
        cells += [_shown(error_of(record, name)), _shown(record["errors"].get("agreement", {}).get(name))]
        lines.append(f"| {name}{': ' + note if note else ''} | {' | '.join(cells)} |")
    return [*lines, ""]


def tried(record: dict[str, Any]) -> list[str]:
    """Every candidate of the search, for a network with real weights."""
    if record["weights"] == TRAINED_BRIEFLY:
        return []
    lines = [f"### What the search tried on {record['model']}", ""]
    lines += ["| limit and engine | candidate | FP32 / it | error | |", "|---" * 5 + "|"]
    for name, about in record["ours"].items():
        for entry in about["tried"]:
            speed, error = (f"{entry[key]:{form}}" if key in entry else ABSENT for key, form in _FIGURES)
            lines.append(f"| {name} | {entry['name']} | {speed} | {error} | {entry['reason'].replace('|', '/')} |")
    return [*lines, ""]


_FIGURES = (("speedup", ".2f"), ("error", ".4f"))


def _methods(record: dict[str, Any]) -> list[str]:
    return [f"{name} {about['method']}" for name, about in record["ours"].items()]


def _took_part(record: dict[str, Any], name: str) -> bool:
    """Whether it was timed, or failed; not where nobody made it for this network."""
    return not _why(record, name).startswith(("fails: was not made", "fails: chosen for two", "was not timed")) or any(
        measurement(record, cell, name) for cell in CELLS
    )


def _why(record: dict[str, Any], name: str) -> str:
    reasons = [cell["failed"].get(name) for cell in record["cells"].values()]
    reason = next(
        (reason for reason in reasons if reason), record["errors"].get("failed", {}).get(name, "was not timed")
    )
    return f"fails: {_said(reason)}" if reason != "was not timed" else str(reason)


def _shown(error: float | None) -> str:
    return ABSENT if error is None else f"{error:.4f}"


def _said(reason: object) -> str:
    """Why something failed, as a cell of a table and without the paths of the machine that it failed on."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]*", "…", str(reason)).replace("|", "/")


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "results" / "int8-cpu")
