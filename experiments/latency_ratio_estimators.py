"""Which ratio of two latencies a machine with two speeds disturbs less: of medians, or the median of the ratios.

    python experiments/latency_ratio_estimators.py BUNDLE --rounds 600 [--samples OUT.json]

Times the bundle's variants in turns in this process on one thread, the first one also a second time in each round, so
that one ratio is known to be 1. Then it cuts the rounds into windows as long as a measurement is, and says for each
pair and both estimators: the value over all rounds, the standard deviation over windows of its logarithm, the largest
deviation, how often the 95 % bootstrap interval of a window holds the value over all, and how wide it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.stopwatch import Effort, interleaved_ms
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_variant

Samples = NDArray[np.float64]
Estimator = Callable[[Samples, Samples], Samples]
WINDOWS = (10, 20, 40)
AGAIN = " again"
_RESAMPLES = 400


def of_medians(base: Samples, other: Samples) -> Samples:
    """Of samples ``[..., rounds]``: the ratio of the medians."""
    return np.asarray(np.median(base, axis=-1) / np.median(other, axis=-1))


def of_rounds(base: Samples, other: Samples) -> Samples:
    """The median of the rounds' ratios, which `bench.measure.speedup` takes."""
    return np.asarray(np.exp(np.median(np.log(base / other), axis=-1)))


ESTIMATORS: dict[str, Estimator] = {"ratio of medians": of_medians, "median of ratios": of_rounds}


def warm_call(session: Session, image: NDArray[np.float32]) -> Callable[[], object]:
    """A call that another of the same network has warmed the caches for; both are timed, for both estimators alike."""

    def call() -> None:
        session.run({session.input_names[0]: image})
        session.run({session.input_names[0]: image})

    return call


def collect(path: str, rounds: int) -> dict[str, Samples]:
    """Samples of each variant in ms, in turns."""
    bundle = Bundle.open(path)
    names = [variant.name for variant in bundle.manifest.variants]
    (tensor,) = bundle.manifest.inputs
    image = np.random.default_rng(0).standard_normal(tensor.shape, dtype=np.float32)
    sessions = {name: open_variant(bundle, bundle.variant(name), 1) for name in names}
    calls = {name: warm_call(session, image) for name, session in sessions.items()}
    calls[names[0] + AGAIN] = calls[names[0]]
    samples = interleaved_ms(list(calls.values()), Effort(least_rounds=rounds, most_rounds=rounds))
    return {name: np.array(values) for name, values in zip(calls, samples, strict=True)}


def judged(base: Samples, other: Samples, window: int, estimate: Estimator) -> tuple[float, ...]:
    """Value, spread, largest deviation, coverage and width of one estimator on windows that overlap by half."""
    random = np.random.default_rng(0)
    value = float(estimate(base, other))
    logs, held, widths = [], [], []
    for start in range(0, len(base) - window + 1, window // 2):
        mine, its = base[start : start + window], other[start : start + window]
        draws = random.integers(0, window, size=(_RESAMPLES, window))
        low, high = np.quantile(estimate(mine[draws], its[draws]), (0.025, 0.975))
        logs.append(float(np.log(estimate(mine, its))))
        held.append(low <= value <= high)
        widths.append(float(np.log(high / low)))
    spread = np.array(logs) - np.log(value)
    return value, float(np.std(logs)), float(np.abs(spread).max()), float(np.mean(held)), float(np.mean(widths))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--samples", help="JSON file: written, or read where it is there already")
    options = parser.parse_args()
    kept = Path(options.samples) if options.samples else None
    if kept and kept.exists():
        samples = {name: np.array(values) for name, values in json.loads(kept.read_text()).items()}
    else:
        samples = collect(options.bundle, options.rounds)
        if kept:
            kept.write_text(json.dumps({name: [round(v, 3) for v in values] for name, values in samples.items()}))
    say = partial(print, flush=True)
    for name, values in samples.items():
        say(f"{name}: ms at 5, 25, 50, 75, 95 %:", *np.round(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)), 2))
    first, *others = samples
    say("| pair | rounds | estimator | over all | sd of log | largest | coverage | width |")
    say("|---|---|---|---|---|---|---|---|")
    for name in others:
        for window in (window for window in WINDOWS if window <= len(samples[name])):
            for words, estimator in ESTIMATORS.items():
                value, *rest = judged(samples[name], samples[first], window, estimator)
                figures = " | ".join(f"{figure:.3f}" for figure in rest)
                say(f"| {name} / {first} | {window} | {words} | {value:.3f} | {figures} |")


if __name__ == "__main__":
    main()
