"""docs/results/tensorrt-acceptance.md from the results beside it.

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


def counts() -> str:
    """How many of how many."""
    rows = [row for row in read("acceptance")["rows"] if "precisions" in row]
    parts = []
    for name in PRECISIONS:
        parts.append(f"{HEADS[name]} {sum(mark(row['precisions'][name]) == 'yes' for row in rows)}")
    return f"{len(rows)} networks; accepted: {', '.join(parts)}"


def main() -> None:
    """Fill the template."""
    template = Path(__file__).with_name("page.md.in").read_text()
    parts = {"HEADER": HEADER, "FAMILIES": families(), "REFUSALS": refusals(), "PEERS": peers(), "COUNTS": counts()}
    for key, text in parts.items():
        template = template.replace("{{" + key + "}}", text)
    (RESULTS / "tensorrt-acceptance.md").write_text(template)


if __name__ == "__main__":
    main()
