"""What a trust store adds to a cold start: time and peak memory, in interleaved fresh processes.

python experiments/trust_cost.py SIGNED.medfm IMAGE TRUST_STORE ROUNDS
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

PROGRAM = """
import json, resource, sys, time
start = time.perf_counter()
from medfm_compress.runtime import Engine
with Engine(sys.argv[1], threads=1, backend="onnxruntime", trust=sys.argv[3] or None) as engine:
    opened = time.perf_counter() - start
    engine.predict(sys.argv[2])
    print(json.dumps([opened, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def main(bundle: str, image: str, store: str, rounds: int) -> None:
    """Print medians and quartiles of both, and of their paired differences."""
    samples: dict[str, list[list[float]]] = {"without": [], "with": []}
    for number in range(rounds + 1):
        for name, given in (("without", ""), ("with", store)):
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, bundle, image, given], capture_output=True, text=True, check=True
            )
            if number:  # the first warms the page cache
                samples[name].append(json.loads(done.stdout))
    for column, (what, scale) in enumerate((("open ms", 1e3), ("first ms", 1e3), ("peak MB", 1 / 1024))):
        for name, rows in samples.items():
            _say(f"{what} {name}", [row[column] * scale for row in rows])
        pairs = zip(samples["with"], samples["without"], strict=True)
        _say(f"{what} difference", [(a[column] - b[column]) * scale for a, b in pairs])


def _say(name: str, values: list[float]) -> None:
    low, middle, high = statistics.quantiles(values, n=4)
    sys.stdout.write(f"{name:24} {middle:8.1f}   quartiles {low:.1f} to {high:.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
