"""Hold bench/stats against R's pROC and boot: prints the tables of docs/results/statistics.md. Needs Rscript.

python experiments/statistics_against_r.py --resamples 10000
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import clustered_areas
from medfm_compress.bench.stats.bootstrap import interval, resample
from medfm_compress.bench.stats.bootstrap_difference import change
from medfm_compress.bench.stats.mcnemar import mcnemar
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.score_interval import paired_shares, score_interval
from medfm_compress.bench.types.metric import Metric

COUNTS = ((1, 7, 21), (12, 2, 50), (0, 1, 44), (20, 40, 160), (28, 25, 618), (3, 0, 500), (120, 60, 1000))
BOOTSTRAPPED: tuple[Metric, ...] = ("accuracy", "f1", "brier", "auprc")
SEEDS = (1, 2, 3)
Figures = dict[str, float]


def ties() -> Sample:
    """200 cases with many ties, by a formula."""
    i = np.arange(1, 201)
    truth = ((i * i) % 7 < 3).astype(np.int64)
    first = np.floor((i * 0.6180339887498949) % 1 * 20 + 6 * truth)
    second = np.floor((i * 0.4142135623730951) % 1 * 30 + 5 * truth)
    return Sample(np.stack([first, second]), np.zeros((2, 200), np.int64), truth, np.arange(200))


def probabilities(cases: int, positive: float, seed: int) -> Sample:
    """Two correlated models' probabilities."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(cases) < positive).astype(np.int64)
    latent = 0.8 * rng.normal(size=cases) + 0.6 * rng.normal(size=(2, cases)) + np.array([[1.8], [1.5]]) * truth
    scores = 1 / (1 + np.exp(-(latent - 1)))
    return Sample(scores, (scores > 0.5).astype(np.int64), truth, np.arange(cases))


STUDIES = {
    "ties": ties(),
    "probabilities": probabilities(300, 0.3, 1),
    "rare": probabilities(2000, 0.02, 2),
    "large": probabilities(5000, 0.4, 3),
}


def ours(resamples: int) -> Figures:
    """Every figure by bench/stats, under R's names."""
    result: Figures = {}
    for name, sample in STUDIES.items():
        areas = clustered_areas(sample.scores, sample.truth, sample.clusters)
        (teacher, cross), (_, bundle) = areas.covariance.tolist()
        result |= {f"{name} auc_teacher": float(areas.values[0]), f"{name} auc_bundle": float(areas.values[1])}
        result |= {f"{name} var_teacher": teacher, f"{name} var_bundle": bundle, f"{name} cov": cross}
        result[f"{name} z"] = float(np.diff(areas.values)[0]) / (teacher + bundle - 2 * cross) ** 0.5
    sample = STUDIES["probabilities"]
    for seed in SEEDS:
        statistic = WeightedMetrics(sample, BOOTSTRAPPED)
        drawn = resample(statistic, sample.truth, cases=len(sample.truth), resamples=resamples, seed=(seed,))
        for column, metric in enumerate(BOOTSTRAPPED):
            # boot does not expand its tails, so neither do we here.
            values = change(drawn.of(lambda v, c=column: v[..., c]))._replace(clusters=())  # type: ignore[misc]
            ends = interval(values, 0.95)
            if ends is not None:
                result |= {f"bca {metric} {seed} low": ends.low, f"bca {metric} {seed} high": ends.high}
    for gained, lost, pairs in COUNTS:
        name, ends = f"{gained} {lost} {pairs}", score_interval(paired_shares(gained, lost, pairs), 0.95)
        result |= {f"tango {name} low": ends.low, f"tango {name} high": ends.high}
        result[f"mcnemar {name} corrected"] = mcnemar(gained, lost, "corrected")
        result[f"mcnemar {name} exact"] = mcnemar(gained, lost, "exact")
    return result


def by_r(resamples: int) -> Figures:
    """The same figures by R."""
    with tempfile.TemporaryDirectory() as folder:
        cases, counts = Path(folder) / "cases.csv", Path(folder) / "counts.csv"
        with cases.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("study", "truth", "teacher", "bundle", "teacher_call", "bundle_call"))
            for name, sample in STUDIES.items():
                columns = (*sample.scores.tolist(), *sample.decisions.tolist())
                rows.writerows((name, *row) for row in zip(sample.truth.tolist(), *columns, strict=True))
        with counts.open("w", newline="") as file:
            csv.writer(file).writerows([("gained", "lost", "pairs"), *COUNTS])
        script = Path(__file__).with_suffix(".R")
        command = ["Rscript", str(script), str(cases), str(counts), str(resamples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    pairs = (line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    return {name.strip(): float(value) for name, value in pairs}


def exact_rows(mine: Figures, theirs: Figures) -> Iterator[str]:
    """Largest difference of each figure that needs no chance."""
    yield "| figure | reference | compared | largest difference | largest relative |"
    yield "|---|---|---|---|---|"
    kinds = {
        "AUROC": ("pROC", "auc_"),
        "its variance": ("pROC, DeLong", "var_"),
        "their covariance": ("pROC, DeLong", " cov"),
        "z of the paired difference": ("pROC, roc.test", " z"),
        "Tango's ends": ("closed form, polyroot", "tango"),
        "McNemar, corrected and exact": ("mcnemar.test, binom.test", "mcnemar"),
    }
    for kind, (reference, mark) in kinds.items():
        names = [name for name in theirs if mark in name]
        a, b = (np.array([figures[name] for name in names]) for figures in (mine, theirs))
        yield f"| {kind} | {reference} | {len(names)} | {np.abs(a - b).max():.1e} | {np.abs(a / b - 1).max():.1e} |"


def bootstrap_rows(mine: Figures, theirs: Figures) -> Iterator[str]:
    """Both ends of the BCa intervals, and how much they move with the seed."""
    yield "| metric | end | ours | boot | difference | Monte Carlo error of the difference |"
    yield "|---|---|---|---|---|---|"
    for metric in BOOTSTRAPPED:
        for end in ("low", "high"):
            a, b = (np.array([f[f"bca {metric} {seed} {end}"] for seed in SEEDS]) for f in (mine, theirs))
            first, second = float(a.mean()), float(b.mean())
            yield f"| {metric} | {end} | {first:.5f} | {second:.5f} | {first - second:+.5f} | {_error(a, b):.5f} |"


def _error(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(SEEDS)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resamples", type=int, default=10_000)
    resamples = parser.parse_args().resamples
    mine, theirs = ours(resamples), by_r(resamples)
    if set(mine) != set(theirs):
        raise SystemExit(f"R and ours name other figures: {sorted(set(mine) ^ set(theirs))}")
    for line in (*exact_rows(mine, theirs), "", *bootstrap_rows(mine, theirs)):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
