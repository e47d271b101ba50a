"""The names that TensorRT's Python bindings have, for the table of its versions (`runtime.sessions.tensorrt_api`).

    python tensorrt_names.py [MODULE] >> NAMES.jsonl

Needs the bindings alone, no GPU: importing them suffices. One line a version: class or enumeration → its public names.
"""

from __future__ import annotations

import importlib
import json
import sys

CLASSES = (
    *("Builder", "IBuilderConfig", "IOptimizationProfile", "ITimingCache", "INetworkDefinition", "ITensor", "ILayer"),
    *("OnnxParser", "ParserError", "Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "LayerType"),
    *("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "TensorIOMode", "DataType"),
)


def main() -> None:
    """Print one line."""
    module = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else "tensorrt")
    names = {"module": dir(module)}
    for name in CLASSES:
        found = getattr(module, name)
        names[name] = [*getattr(found, "__members__", ()), *dir(found)]
    public = {name: sorted({each for each in members if not each.startswith("_")}) for name, members in names.items()}
    sys.stdout.write(json.dumps({"version": module.__version__, "names": public}) + "\n")


if __name__ == "__main__":
    main()
