"""Does TensorRT take the graphs? Ahead-of-time builds of TensorRT-RTX, which need no GPU (`acceptance.accept`).

    python experiments/gpu/rtx_build.py LIBRARIES GRAPHS OUT.json

LIBRARIES holds ``libtensorrt_rtx.so.X.Y.Z`` and ``libtensorrt_onnxparser_rtx.so.X.Y.Z``. The batch is free, with a
profile. It shows acceptance alone: the engines are for RTX cards, they are not run, and TensorRT proper has a parser
and kernels of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from acceptance.accept import FOLDER, accept


def main() -> None:
    """A row for each graph."""
    os.environ[FOLDER] = sys.argv[1]
    rows: list[dict[str, Any]] = []
    for graph in sorted(Path(sys.argv[2]).glob("*.onnx")):
        rows.append({"graph": graph.name, **accept(graph)._asdict()})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        Path(sys.argv[3]).write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
