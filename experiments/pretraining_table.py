"""The tables of docs/results/pretraining.md, of what `pretraining.py` left in OUT.

    python experiments/pretraining_table.py OUT --studies FOLDER

Of every study and network the test AUROC of each seed, their mean and standard deviation, and of the difference between
the two starts, seed by seed,

    over seeds     mean ± t · s / √n             of the seeds' differences (t of n − 1 degrees of freedom): another run
    over patients  BCa bootstrap of the patients   of the mean over seeds of the difference: other test cases

Rows of which a start is missing have no difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import number_clusters
from medfm_compress.bench.stats.bootstrap import Resampled, interval, resample
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.t_distribution import t_quantile
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.strict_json import decode
from pretraining import STUDIES, Result

RESAMPLES = 2000
Floats = NDArray[np.float64]


def areas_over_patients(scores: Floats, study: Study) -> Resampled:
    """AUROC of every row of ``scores`` ``[models, n]`` on the labelled test cases, and on resamples of patients."""
    cases = tuple(case for case in study.split("test") if case.target)
    truth = study.targets(cases)[:, 0]
    clusters = number_clusters(tuple(case.cluster for case in cases))
    measure = WeightedMetrics(Sample(scores, (scores > 0.5).astype(np.int64), truth, clusters), ("auroc",))
    strata = np.zeros(int(clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(strata, clusters, truth)
    size = len(cases) * len(scores)
    return resample(lambda weights: measure(weights)[..., 0], strata, cases=size, resamples=RESAMPLES, seed=(0,))


def over_seeds(differences: Floats) -> str:
    """Mean and t interval."""
    if len(differences) < 2:
        return f"{differences.mean():+.3f}"
    half = t_quantile(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.3f} [{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"


def seeds_of(results: list[Result], study: str, network: str, start: str) -> dict[int, Result]:
    """Seed → its result."""
    chosen = [r for r in results if (r.training.study, r.training.network, r.training.start) == (study, network, start)]
    return {result.training.seed: result for result in chosen}


def row(results: list[Result], study: str, network: str, start: str) -> str:
    """One line of the first table."""
    by_seed = seeds_of(results, study, network, start)
    values = np.array([result.test for result in by_seed.values()])
    cells = [f"{by_seed[seed].test:.3f}" if seed in by_seed else "–" for seed in range(3)]
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    mean = f"{values.mean():.3f}{spread}" if len(values) else "–"
    return f"| {study} | {network} | {start} | {' | '.join(cells)} | {mean} |"


def difference_row(
    results: list[Result], name: str, network: str, pair: tuple[str, str], options: argparse.Namespace
) -> str:
    """One line of the second table: ``pair[0]`` − ``pair[1]`` of the seeds that have both."""
    first, second = (seeds_of(results, name, network, start) for start in pair)
    both = sorted(set(first) & set(second))
    if not both:
        return f"| {name} | {network} | {pair[0]} − {pair[1]} | – | – | – |"
    differences = np.array([first[seed].test - second[seed].test for seed in both])
    rows = [np.load(options.out / f"{result[seed].training.id}.npy") for result in (first, second) for seed in both]
    areas = areas_over_patients(np.array(rows, np.float64), open_study(options.studies / f"{name}.csv"))
    count = len(both)
    change = areas.of(lambda v: np.asarray(v[..., :count].mean(axis=-1) - v[..., count:].mean(axis=-1)))
    found = interval(change, 0.95)
    patients = "–" if found is None else f"[{found.low:+.3f}, {found.high:+.3f}]"
    each = ", ".join(f"{value:+.3f}" for value in differences)
    return f"| {name} | {network} | {pair[0]} − {pair[1]} | {each} | {over_seeds(differences)} | {patients} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--studies", type=Path, required=True)
    options = parser.parse_args()
    path = options.out / "results.json"
    results = decode(path.read_bytes(), list[Result], source=str(path))
    lines = ["| study | network | start | seed 0 | seed 1 | seed 2 | mean ± sd |", "|---|---|---|---|---|---|---|"]
    for name in STUDIES:
        lines += [row(results, name, "teacher", start) for start in ("imagenet", "random")]
        lines += [row(results, name, "student", start) for start in ("imagenet", "random", "labels")]
    lines += [
        "",
        "| study | network | difference | of each seed | over seeds | over patients |",
        "|---|---|---|---|---|---|",
    ]
    for name in STUDIES:
        for network in ("teacher", "student"):
            lines.append(difference_row(results, name, network, ("imagenet", "random"), options))
        lines += [
            difference_row(results, name, "student", (start, "labels"), options) for start in ("imagenet", "random")
        ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
