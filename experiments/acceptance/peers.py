"""Other tools' INT8 files through TensorRT-RTX: docs/results/tensorrt/peers.json.

    python experiments/acceptance/peers.py OUT.json TOOL PYTHON        TOOL: ort_static, nncf_default or modelopt_onnx

PYTHON is that of the tool's environment (experiments/peers/setup.sh). Each tool quantizes with its defaults, as its own
script in experiments/peers does. Rows in OUT stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from acceptance.families import QUICK, Exported
from acceptance.table import outcome

NETWORKS = ("resnet10t", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050")


def row(tool: str, python: str, name: str) -> dict[str, Any]:
    """TensorRT's verdict on one tool's file of one network."""
    script = Path(__file__).parents[1] / "peers" / f"{tool}.py"
    exported = Exported(name, QUICK[name])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.onnx").write_bytes(exported.fp32)
        np.savez(folder / "calibration.npz", image=exported.cases)
        paths = [str(folder / file) for file in ("model.onnx", "calibration.npz", "out.onnx")]
        done = subprocess.run(
            [python, "-W", "ignore", str(script), *paths], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"tool": tool, "network": name, "failed": done.stderr.strip().splitlines()[-1][:300]}
        return {"tool": tool, "network": name, **outcome((folder / "out.onnx").read_bytes())}


def main() -> None:
    """Add the rows of one tool."""
    out, tool, python = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    for name in NETWORKS:
        if not any((line["tool"], line["network"]) == (tool, name) for line in rows):
            rows.append(row(tool, python, name))
            out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            sys.stdout.write(json.dumps(rows[-1]) + "\n")


if __name__ == "__main__":
    main()
