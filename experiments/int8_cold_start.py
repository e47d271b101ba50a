"""Cold start to the first prediction, and resident memory, of a bundle's variants: fresh processes, interleaved.

    python experiments/int8_cold_start.py BUNDLE IMAGE --backends onnxruntime,openvino --runs 15

Each run starts a new Python that imports the engine, opens the bundle with one backend and predicts one image, as a
device would. Times count from the moment the parent starts the process; memory is the kernel's count (``VmRSS``,
``VmHWM``, ``RssAnon``). The file cache is warm and modules are compiled, as after an installation. OpenVINO keeps its
compiled models in a folder of this run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import msgspec

_CHILD = """
import sys, time
marks = [("python", time.monotonic())]
from medfm_compress.runtime.engine import Engine
marks.append(("import", time.monotonic()))
bundle, image, backend, threads, cache = sys.argv[1:6]
engine = Engine(bundle, backend=backend, threads=int(threads), unverified=True, cache_dir=cache or None)
marks.append(("open", time.monotonic()))
engine.predict(image)
marks.append(("predict", time.monotonic()))
with open("/proc/self/status") as file:
    memory = {l.split(":")[0]: int(l.split()[1]) for l in file if l.startswith(("VmRSS", "VmHWM", "RssAnon"))}
import json
print(json.dumps({"marks": marks, "variant": engine.variant.name, "memory": memory}))
"""


class Start(msgspec.Struct, frozen=True):
    """One fresh process: seconds from its start to each mark, and its memory in MB when it was done."""

    variant: str
    until_s: dict[str, float]
    memory_mb: dict[str, float]


def start_once(options: argparse.Namespace, backend: str, folder: str) -> Start:
    """Run one process to its first prediction; raises CalledProcessError where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-c", _CHILD, options.bundle, options.image, backend, str(options.threads)]
    command.append(f"{folder}/models" if backend == "openvino" else "")
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    message = msgspec.json.decode(done.stdout)
    return Start(
        message["variant"],
        {name: at - begun for name, at in message["marks"]},
        {name: kib / 1e3 * 1.024 for name, kib in message["memory"].items()},
    )


def main() -> None:
    """Measure and print one line a backend: medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("image")
    parser.add_argument("--backends", default="onnxruntime,openvino")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    backends = options.backends.split(",")
    starts: dict[str, list[Start]] = {backend: [] for backend in backends}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs + 1):
            for backend in backends:
                start = start_once(options, backend, folder)
                if number:  # the first one fills the caches
                    starts[backend].append(start)
    for result in starts.values():
        print(_line(result))  # noqa: T201 - a script's result


def _line(starts: list[Start]) -> str:
    until = ", ".join(f"{name} {median(s.until_s[name] for s in starts):.3f} s" for name in starts[0].until_s)
    memory = ", ".join(f"{name} {median(s.memory_mb[name] for s in starts):.0f} MB" for name in starts[0].memory_mb)
    return f"{starts[0].variant}, {len(starts)} runs: until {until}; {memory}"


if __name__ == "__main__":
    main()
