"""Why ONNX Runtime on two threads is fast in one process and slow in the next: spinning, its stop, and which CPUs.

    python experiments/onnxruntime_two_threads.py MODEL.onnx --processes 6

Every process is fresh, opens the model with one setting and times calls; settings take turns. Beside the median stand
the share of the calls' processor time that the busiest thread had (0.5 is an even split between two, 1 is one thread
doing everything), processor time over wall time (2 is two busy CPUs) and how often threads were put to sleep a call.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

SETTINGS: dict[str, dict[str, str]] = {
    "spin, stop after a run (ours)": {"allow_spinning": "1", "stop": "1"},
    "spin, no stop": {"allow_spinning": "1", "stop": "0"},
    "no spin": {"allow_spinning": "0", "stop": "0"},
    "spin, stop, second thread on CPU 2": {"allow_spinning": "1", "stop": "1", "affinities": "2"},
    "spin, stop, each thread pinned": {"allow_spinning": "1", "stop": "1", "affinities": "2", "caller": "0"},
}
_CHILD = """
import json, os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime as ort
model, setting, calls = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 2, 1, 4
options.add_session_config_entry("session.intra_op.allow_spinning", setting["allow_spinning"])
options.add_session_config_entry("session.force_spinning_stop", setting["stop"])
if "affinities" in setting:
    options.add_session_config_entry("session.intra_op_thread_affinities", setting["affinities"])
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
if "caller" in setting:
    os.sched_setaffinity(0, {int(setting["caller"])})
(value,) = session.get_inputs()
image = np.random.default_rng(0).standard_normal(value.shape, dtype=np.float32)
def threads():
    spent = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/schedstat") as file:
            spent[task] = int(file.read().split()[0])
    return spent
def switches():
    total = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("voluntary"))
    return total
for _ in range(5):
    session.run(None, {value.name: image})
before, slept, start, samples = threads(), switches(), time.perf_counter(), []
for _ in range(calls):
    begin = time.perf_counter()
    session.run(None, {value.name: image})
    samples.append((time.perf_counter() - begin) * 1e3)
wall = time.perf_counter() - start
spent = [t - before.get(task, 0) for task, t in threads().items()]
busiest, cpus, sleeps = max(spent) / sum(spent), sum(spent) / 1e9 / wall, (switches() - slept) / calls
print(json.dumps({"ms": sorted(samples)[calls // 2], "busiest": busiest, "cpus": cpus, "sleeps": sleeps}))
"""


def _run(model: str, setting: dict[str, str], calls: int) -> dict[str, Any]:
    """One fresh process; raises CalledProcessError where it fails."""
    command = [sys.executable, "-c", _CHILD, model, json.dumps(setting), str(calls)]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=dict(os.environ))
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure and print a table, one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--calls", type=int, default=30)
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(options.processes):
        for name, setting in SETTINGS.items():
            results[name].append(_run(options.model, setting, options.calls))
    print("| setting | p50 ms of each process | busiest thread | CPUs busy | sleeps a call |")  # noqa: T201
    print("|---|---|---|---|---|")  # noqa: T201
    for name, rows in results.items():
        times = ", ".join(f"{row['ms']:.1f}" for row in sorted(rows, key=lambda row: row["ms"]))
        figures = (f"{median(row[key] for row in rows):.2f}" for key in ("busiest", "cpus", "sleeps"))
        print(f"| {name} | {times} | {' | '.join(figures)} |")  # noqa: T201


if __name__ == "__main__":
    main()
