"""docs/results/tensorrt-acceptance.md and float32-islands.md from the results in docs/results/tensorrt/.

python experiments/acceptance/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medfm_compress.compress.quantization.tensorrt_graphs import PRECISIONS

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
HEADS = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "S8", "int8-fp16": "S8+FP16", "fp8": "FP8",
         "fp8-fp16": "FP8+FP16"}  # fmt: skip
PEERS = {"ort_static": "ONNX Runtime `quantize_static`", "nncf_default": "NNCF", "modelopt_onnx": "ModelOpt"}
HEADER = "**Acceptance, not numerics or speed; engines for RTX cards.**"


def read(name: str) -> dict[str, Any]:
    """One file of results, empty where it is not there."""
    path = RESULTS / "tensorrt" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return found


def mark(cell: dict[str, Any]) -> str:
    """``yes``, or why not in one word."""
    if "engine_bytes" in cell:
        return "yes"
    return "**refused**" if "refused" in cell else "not written"


def families() -> str:
    """Networks × precisions."""
    lines = [
        f"| network | nodes | {' | '.join(HEADS[name] for name in PRECISIONS)} |",
        "|---|---|" + "---|" * len(PRECISIONS),
    ]
    for row in read("acceptance")["rows"]:
        if "failed" in row:
            lines.append(f"| {row['network']} | not exported: {row['failed'][:80]} |" + " |" * len(PRECISIONS))
            continue
        marks = " | ".join(mark(row["precisions"][name]) for name in PRECISIONS)
        lines.append(f"| {row['network']} | {row['nodes']} | {marks} |")
    return "\n".join(lines)


def refusals() -> str:
    """Each refusal with its node, layer and TensorRT's sentence."""
    lines = []
    for row in read("acceptance")["rows"]:
        for name, cell in row.get("precisions", {}).items():
            if "refused" in cell:
                lines.append(f"- {row['network']}, {HEADS[name]}: {_blamed(cell)}")
            elif "failed" in cell:
                lines.append(f"- {row['network']}, {HEADS[name]}, not written: {cell['failed']}")
    return "\n".join(lines) or "None."


def _blamed(cell: dict[str, Any]) -> str:
    module = f" of `{cell['module']}`" if cell["module"] else ""
    node = f"{cell['operator']} `{cell['node']}`{module}: " if cell["node"] else ""
    return f"{node}{' '.join(cell['refused'].split())[:240]}"


def peers() -> str:
    """Other tools' files."""
    lines = ["| tool | network | TensorRT | blames |", "|---|---|---|---|"]
    for row in read("peers")["rows"]:
        blamed = _blamed(row) if "refused" in row else row.get("failed", "")
        lines.append(f"| {PEERS[row['tool']]} | {row['network']} | {mark(row)} | {blamed.replace('|', '/')} |")
    return "\n".join(lines)


def islands() -> str:
    """Error and nodes in FP32 of naive FP16, AutoCast and ours."""
    lines = [
        "| network | outliers | limit | float nodes | naive FP16 | AutoCast | ours "
        "| FP32 nodes: AutoCast | ours | of these overflowing |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in read("islands")["rows"]:
        forms = [row["naive"], row.get("autocast", {}), row["ours"]]
        errors = " | ".join(_error(form) for form in forms)
        kept = " | ".join(str(form.get("fp32_nodes", "–")) for form in forms[1:])
        factor = "none" if row["factor"] == 1 else f"×{row['factor']:,.0f}"
        cells = [row["network"], factor, row["limit"], row["float_nodes"], errors, kept, row["ours"]["overflowing"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def operators() -> str:
    """Which operators our islands are."""
    lines = []
    for row in read("islands")["rows"]:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(row["ours"]["operators"].items()))
        if counts:
            key = f"{row['network']}, outliers ×{row['factor']:,.0f}, limit {row['limit']}"
            lines.append(f"- {key}: {counts}")
    return "\n".join(lines) or "None."


def _error(form: dict[str, Any]) -> str:
    error = form.get("relative_logit_error", "failed" if form else "–")
    return "overflow" if error == "inf" else error if isinstance(error, str) else f"{error:.5f}"


def counts() -> str:
    """How many of how many."""
    rows = [row for row in read("acceptance")["rows"] if "precisions" in row]
    parts = []
    for name in PRECISIONS:
        parts.append(f"{HEADS[name]} {sum(mark(row['precisions'][name]) == 'yes' for row in rows)}")
    return f"{len(rows)} networks; accepted: {', '.join(parts)}"


def main() -> None:
    """Fill the templates."""
    parts = {"HEADER": HEADER, "FAMILIES": families(), "REFUSALS": refusals(), "PEERS": peers(), "COUNTS": counts(),
             "ISLANDS": islands(), "OPERATORS": operators()}  # fmt: skip
    for name in ("tensorrt-acceptance", "float32-islands"):
        text = Path(__file__).with_name(f"{name}.md.in").read_text()
        for key, part in parts.items():
            text = text.replace("{{" + key + "}}", part)
        (RESULTS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
