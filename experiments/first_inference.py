"""Whether fresh processes hang when two threads make the first inference at once.

    python experiments/first_inference.py --processes 1000
    python experiments/first_inference.py --processes 200 --unguarded

Each process opens a small network in OpenVINO and lets two threads run it for the first time at the same moment; one
that has not ended after 30 s is counted as hung and killed. ``--unguarded`` takes the lock of `first_use` away.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CHILD = """
import sys, threading
import numpy as np
from medfm_compress.runtime.sessions import first_use
from medfm_compress.runtime.sessions.openvino import open_session

if sys.argv[2] == "unguarded":
    first_use.FirstUse.__call__ = lambda self, call: call()
session = open_session(sys.argv[1], 1)
barrier = threading.Barrier(2)

def run():
    image = np.zeros((1, 3, 8, 8), np.float32)
    barrier.wait()
    session.run({"image": image})

threads = [threading.Thread(target=run) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
PATIENCE_S = 30


def write_network(path: Path) -> None:
    """A convolution and a pooling, as ONNX."""
    from onnx import helper, numpy_helper, save

    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    ends = helper.make_tensor_value_info("image", 1, [1, 3, 8, 8]), helper.make_tensor_value_info("y", 1, None)
    save(helper.make_model(helper.make_graph(nodes, "g", [ends[0]], [ends[1]], [weights]), ir_version=10), str(path))


def main() -> None:
    """Count the processes that hang or fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--unguarded", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, "network.onnx")
        write_network(network)
        command = [sys.executable, "-c", CHILD, str(network), "unguarded" if arguments.unguarded else "guarded"]

        def one(_: int) -> str:
            try:
                done = subprocess.run(command, timeout=PATIENCE_S, capture_output=True, check=False)
            except subprocess.TimeoutExpired:
                return "hung"
            return "ended" if done.returncode == 0 else "failed"

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(one, range(arguments.processes)))
    sys.stdout.write(", ".join(f"{results.count(kind)} {kind}" for kind in ("ended", "hung", "failed")) + "\n")


if __name__ == "__main__":
    main()
