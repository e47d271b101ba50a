"""Time 10,000 resamples of 10,000 patients, five metrics, two models: the speed figure of docs/results/statistics.md.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python experiments/statistics_speed.py
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from medfm_compress.bench.stats.bootstrap import resample
from medfm_compress.bench.stats.bootstrap_difference import resampled_difference
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import has_effects, paired_effects
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric

METRICS: tuple[Metric, ...] = ("accuracy", "sensitivity", "specificity", "auprc", "brier")


def study(cases: int) -> Sample:
    """Two models' probabilities; 30% of the patients have the finding, no score is tied."""
    rng = np.random.default_rng(0)
    truth = (rng.random(cases) < 0.3).astype(np.int64)
    latent = 0.8 * rng.normal(size=cases) + 0.6 * rng.normal(size=(2, cases)) + 1.5 * truth
    scores = 1 / (1 + np.exp(0.7 - latent))
    return Sample(scores, (scores > 0.5).astype(np.int64), truth, np.arange(cases))


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print processor time, wall time and extra memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    arguments = parser.parse_args()
    sample = study(arguments.cases)
    before, wall, processor = peak_mb(), time.perf_counter(), time.process_time()
    statistic = WeightedMetrics(sample, METRICS)
    result = resample(statistic, sample.truth, cases=arguments.cases, resamples=arguments.resamples, seed=(0,))
    for column, metric in enumerate(METRICS):
        values = result.of(lambda v, c=column: v[..., c])  # type: ignore[misc]
        effects = paired_effects(sample, metric) if has_effects(metric) else None
        _ = resampled_difference(values, effects, 0.95, errors=metric in LOWER_IS_BETTER)
    spent, passed, memory = time.process_time() - processor, time.perf_counter() - wall, peak_mb() - before
    sys.stdout.write(
        f"{arguments.resamples} resamples of {arguments.cases} cases: {spent:.1f} s of processor time, {passed:.1f} s "
        f"by the clock, {memory:.0f} MB more memory\n"
    )


if __name__ == "__main__":
    main()
