"""Families × precisions through TensorRT-RTX's ahead-of-time build: docs/results/tensorrt-acceptance.json.

    python experiments/acceptance/table.py OUT.json [NETWORK…]

Rows that OUT has already stay; a network or build that fails is a row with the reason. `page.py` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import timm
import torch

from acceptance.accept import Accepted, accept
from acceptance.families import FAMILIES, Exported
from medfm_compress.compress.quantization.tensorrt_graphs import PRECISIONS


def outcome(content: bytes) -> dict[str, Any]:
    """The result of one build as a row's cell."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(content)
        result = accept(path)
    if isinstance(result, Accepted):
        return {"engine_bytes": result.engine_bytes, "seconds": result.seconds}
    return {"refused": result.sentence, "node": result.node, "operator": result.operator, "module": result.module}


def row(name: str) -> dict[str, Any]:
    """Every precision of one network."""
    start = time.monotonic()
    exported = Exported(name, FAMILIES[name])
    cells: dict[str, Any] = {}
    for precision in PRECISIONS:
        try:
            cells[precision] = outcome(exported.graph(precision))
        except Exception as exc:  # noqa: BLE001 - a graph that cannot be written is a result, the others go on
            cells[precision] = {"failed": f"{type(exc).__name__}: {exc}"[:300]}
    nodes = len(onnx.load_model_from_string(exported.fp32).graph.node)
    return {"network": name, "options": dict(FAMILIES[name]), "nodes": nodes, "precisions": cells,
            "wall_s": round(time.monotonic() - start, 1)}  # fmt: skip


def main() -> None:
    """Add the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("networks", nargs="*", default=list(FAMILIES))
    request = parser.parse_args()
    known = json.loads(request.out.read_text()) if request.out.exists() else {"rows": []}
    known["versions"] = {"torch": torch.__version__, "timm": timm.__version__, "onnxruntime": onnxruntime.__version__}
    for name in request.networks:
        if any(line["network"] == name for line in known["rows"]):
            continue
        try:
            known["rows"].append(row(name))
        except Exception as exc:  # noqa: BLE001 - a network that cannot be built or exported is a result
            known["rows"].append({"network": name, "failed": f"{type(exc).__name__}: {exc}"[:300]})
        request.out.write_text(json.dumps(known, indent=1) + "\n")
        refused = [p for p, cell in known["rows"][-1].get("precisions", {}).items() if "engine_bytes" not in cell]
        failed = known["rows"][-1].get("failed", "")
        sys.stdout.write(f"{name}: {known['rows'][-1].get('wall_s', '')} s, refused {refused} {failed}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
