"""A session timed against itself, two turns a round, in a fixed order and in one drawn anew for each round.

    python experiments/turns_in_order.py BUNDLE --variant openvino-cpu-int8 [--windows 60]

Windows of 40 rounds, as a search times a candidate, the two ways in turns. The ratio of the turns is 1; printed are how
far its estimates spread, and in how many windows the 95 % interval lies wholly beyond 1.05 or below 1 / 1.05, which is
where `quantize` would call one of the two faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice

import numpy as np
from numpy.typing import NDArray

ROUNDS = 40
NEAR = 1.05


def main() -> None:
    """Read the arguments, print one row for each way."""
    from medfm_compress.bench.measure.speedup import paired_ratio
    from medfm_compress.bench.measure.stopwatch import drawn_order
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.runtime.sessions.table import open_variant

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--variant", default="openvino-cpu-int8")
    parser.add_argument("--windows", type=int, default=60)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    variant = next(v for v in bundle.manifest.variants if v.name == arguments.variant)
    session, spec = open_variant(bundle, variant, 1), bundle.manifest.image_spec
    shape = (1, *spec.shape[1:])
    feeds = {session.input_names[0]: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}

    def call_ms() -> float:
        start = time.process_time()
        session.run(feeds)
        return 1e3 * (time.process_time() - start)

    found: dict[str, list[tuple[float, float, float]]] = {"fixed": [], "drawn": []}
    for _ in range(arguments.windows):
        for way, intervals in found.items():
            samples: NDArray[np.float64] = np.zeros((2, ROUNDS, 1))
            for number, drawn in enumerate(islice(drawn_order(2), ROUNDS)):
                for turn in (0, 1) if way == "fixed" else drawn:
                    samples[turn, number, 0] = call_ms()
            ratio = paired_ratio(samples[0], samples[1])
            intervals.append((ratio.estimate, ratio.low, ratio.high))
    sys.stdout.write(
        "| order | estimates: least, quartiles, largest | windows in which one looks faster |\n|---|---|---|\n"
    )
    for way, intervals in found.items():
        estimates, lows, highs = np.array(intervals).T
        spread = ", ".join(f"{value:.2f}" for value in np.quantile(estimates, (0, 0.25, 0.5, 0.75, 1)))
        wrong = int(((lows > NEAR) | (highs < 1 / NEAR)).sum())
        sys.stdout.write(f"| {way} | {spread} | {wrong} of {len(intervals)} |\n")


if __name__ == "__main__":
    main()
