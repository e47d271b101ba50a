"""Simulate studies with known truth and count how often each interval errs: the table of docs/results/statistics.md.

    python experiments/statistics_coverage.py areas --studies 4000
    python experiments/statistics_coverage.py shares --studies 1000
    python experiments/statistics_coverage.py bootstrapped --studies 1000
    python experiments/statistics_coverage.py floors --studies 1000

Every study draws patients whose latent score has a normal distribution, shifted where the finding is present; teacher
and bundle share part of it. "passes" counts intervals wholly above the true difference: were that the margin, a bundle
that just fails it would pass. "fails" counts those wholly below. Both should be 2.5%. "floors" asks the same of one
model's own AUROC, of whose ill patients some are not seen at all.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import area_interval, clustered_areas
from medfm_compress.bench.stats.auroc_difference import area_difference
from medfm_compress.bench.stats.bootstrap import Weights, interval, resample
from medfm_compress.bench.stats.bootstrap_difference import change, resampled_difference
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import has_effects, own_effects, paired_effects
from medfm_compress.bench.stats.score_interval import no_shorter, paired_shares, score_interval
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric

Z = NormalDist().inv_cdf(0.975)
BOOTSTRAPPED: tuple[Metric, ...] = ("auprc", "f1", "ppv", "balanced_accuracy", "brier", "log_loss")


class Population(NamedTuple):
    """Where studies are drawn from.

    Attributes:
        positives: patients with the finding.
        negatives: patients without it.
        images: a patient.
        shifts: of the latent score of teacher and bundle where the finding is present.
        shared: share of the latent variance that teacher and bundle have in common.
        mixed: whether every patient's first image has the finding and the others have not.
    """

    positives: int
    negatives: int
    images: int
    shifts: tuple[float, float]
    shared: float
    mixed: bool = False

    def __str__(self) -> str:
        means = "/".join(f"{NormalDist().cdf(shift / sqrt(2)):.2f}" for shift in self.shifts)
        images = f", {self.images} images each{', one with it' if self.mixed else ''}" if self.images > 1 else ""
        patients = f"{self.positives} patients" if self.mixed else f"{self.positives} with, {self.negatives} without"
        return f"{patients}{images}; AUROC {means}; shared {self.shared:g}"

    def draw(self, rng: np.random.Generator, times: int = 1) -> Sample:
        """A study, or one ``times`` as large, with calibrated probabilities and decisions at the prevalence."""
        patients = (self.positives + (0 if self.mixed else self.negatives)) * times
        clusters = np.repeat(np.arange(patients), self.images)
        truth = (clusters < self.positives * times).astype(np.int64)
        if self.mixed:
            truth = (np.arange(patients * self.images) % self.images == 0).astype(np.int64)
        within = 0.5 if self.images > 1 else 0.0
        common = sqrt(within) * rng.normal(size=patients)[clusters] + sqrt(1 - within) * rng.normal(size=len(truth))
        own = rng.normal(size=(2, len(truth)))
        shifts = np.array(self.shifts)[:, None]
        latent = sqrt(self.shared) * common + sqrt(1 - self.shared) * own + shifts * truth
        prior = truth.mean()
        scores = 1 / (1 + np.exp(-(shifts * latent - shifts**2 / 2 + np.log(prior / (1 - prior)))))
        return Sample(scores, (scores > prior).astype(np.int64), truth, clusters)


def from_areas(first: float, second: float) -> tuple[float, float]:
    """Shifts that give two AUROCs."""
    return NormalDist().inv_cdf(first) * sqrt(2), NormalDist().inv_cdf(second) * sqrt(2)


AUROC_STUDIES = [
    Population(20, 40, 1, from_areas(0.90, 0.85), 0.7),
    Population(50, 100, 1, from_areas(0.90, 0.85), 0.7),
    Population(50, 100, 1, from_areas(0.95, 0.90), 0.7),
    Population(50, 100, 1, from_areas(0.95, 0.90), 0.95),
    Population(50, 500, 1, from_areas(0.95, 0.90), 0.7),
    Population(50, 500, 1, from_areas(0.97, 0.97), 0.95),
    Population(200, 400, 1, from_areas(0.95, 0.90), 0.7),
    Population(50, 100, 3, from_areas(0.90, 0.85), 0.7),
    Population(80, 0, 3, from_areas(0.90, 0.85), 0.7, mixed=True),
]
BOOTSTRAP_STUDIES = [
    Population(20, 60, 1, (1.9, 1.5), 0.6),
    Population(50, 150, 1, (1.9, 1.5), 0.6),
    Population(50, 150, 1, (1.7, 1.6), 0.985),
    Population(50, 150, 1, (2.6, 2.2), 0.9),
]
FLOORS = [
    (ill, healthy, lost) for ill, healthy in ((20, 200), (40, 400), (100, 1000), (40, 40)) for lost in (0.0, 0.01, 0.03)
]
SEEN = 3.0  # shift of the latent score of those who are seen
SHARES = [(50, 0.95, 0.90), (50, 0.90, 0.85), (200, 0.95, 0.90), (500, 0.98, 0.96)]


class Count(NamedTuple):
    """Errors of one method in one population."""

    what: str
    population: str
    method: str
    passes: int
    fails: int
    studies: int

    def row(self) -> str:
        """A line of the table."""
        passes, fails = 100 * self.passes / self.studies, 100 * self.fails / self.studies
        figures = f"{passes:.1f} | {fails:.1f} | {100 - passes - fails:.1f}"
        return f"| {self.what} | {self.population} | {self.method} | {figures} |"


Ends = dict[str, tuple[float, float]]


def count(what: str, population: str, truth: float, studies: list[Ends]) -> Iterator[Count]:
    """Errors by method of ``studies``, each a map from method to the ends of its interval."""
    errors: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for ends in studies:
        for method, (low, high) in ends.items():
            errors[method] += (low > truth, high < truth, 1)
    for method, (passes, fails, total) in errors.items():
        yield Count(what, population, method, int(passes), int(fails), int(total))


def ends(result: Interval | None) -> tuple[float, float]:
    """Both ends; everything where there is no interval."""
    return (result.low, result.high) if result else (-1.0, 1.0)


def wald(estimate: float, error: float) -> tuple[float, float]:
    """Estimate ± z · SE."""
    return estimate - Z * error, estimate + Z * error


def auroc_study(population: Population, rng: np.random.Generator) -> Ends:
    """AUROC: Wald's interval, which is pROC's, and ours."""
    sample = population.draw(rng)
    areas = clustered_areas(sample.scores, sample.truth, sample.clusters)
    result = area_difference(areas, paired_effects(sample, "auroc"), 0.95)
    return {"Wald, as pROC": wald(result.estimate, result.standard_error or 0.0), "**ours**": ends(result)}


def bootstrap_study(population: Population, rng: np.random.Generator) -> dict[Metric, Ends]:
    """Everything bootstrapped: BCa as published, with expanded tails, and the logit profile."""
    sample = population.draw(rng)
    strata = sample.truth[np.unique(sample.clusters, return_index=True)[1]]
    statistic = WeightedMetrics(sample, BOOTSTRAPPED)
    seed = (int(rng.integers(1 << 30)),)
    resampled = resample(statistic, strata, cases=len(sample.truth), resamples=1000, seed=seed)
    result: dict[Metric, Ends] = {}
    for column, metric in enumerate(BOOTSTRAPPED):
        values = resampled.of(lambda v, c=column: v[..., c])  # type: ignore[misc]
        errors = metric in LOWER_IS_BETTER
        result[metric] = {
            "BCa": ends(interval(change(values)._replace(clusters=()), 0.95)),
            "BCa, expanded tails": ends(interval(change(values), 0.95)),
        }
        if not errors:
            result[metric]["logit profile"] = ends(resampled_difference(values, None, 0.95))
        effects = paired_effects(sample, metric) if has_effects(metric) else None
        ours = resampled_difference(values, effects, 0.95, errors=errors)
        if metric == "balanced_accuracy" and effects is not None:
            ours = score_interval(effects, 0.95)
        result[metric]["**ours**"] = ends(ours)
    return result


def discordant(right: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Pairs gained, lost and all."""
    return int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum()), right.shape[1]


def share_study(cases: int, first: float, second: float, rng: np.random.Generator) -> Ends:
    """Paired shares, as sensitivity: Wald's interval, BCa and Tango's."""
    cuts = np.array([NormalDist().inv_cdf(share) for share in (first, second)])[:, None]
    latent = sqrt(0.7) * rng.normal(size=cases) + sqrt(0.3) * rng.normal(size=(2, cases))
    right = latent < cuts
    gained, lost, _ = discordant(right)
    error = sqrt(max(gained + lost - (gained - lost) ** 2 / cases, 0.0)) / cases
    values = right.astype(np.float64).T

    def means(weights: Weights) -> NDArray[np.float64]:
        return np.asarray(weights @ values / cases)

    seed = (int(rng.integers(1 << 30)),)
    resampled = resample(means, np.zeros(cases, np.int64), cases=cases, resamples=1000, seed=seed)
    return {
        "Wald": wald((gained - lost) / cases, error),
        "BCa": ends(interval(change(resampled)._replace(clusters=()), 0.95)),
        "**ours**: Tango": ends(score_interval(paired_shares(gained, lost, cases), 0.95)),
    }


def truth_of(population: Population, rng: np.random.Generator) -> NDArray[np.float64]:
    """Differences of the bootstrapped metrics in the population, from a million cases."""
    large = [
        WeightedMetrics(population.draw(rng, 100), BOOTSTRAPPED).unweighted()
        for _ in range(1_000_000 // (100 * (population.positives + population.negatives)))
    ]
    means = np.mean(large, axis=0)
    return np.asarray(means[1] - means[0])


def areas(studies: int, seed: int) -> Iterator[Count]:
    """Counts for AUROC."""
    rng = np.random.default_rng(seed)
    for population in AUROC_STUDIES:
        first, second = (NormalDist().cdf(shift / sqrt(2)) for shift in population.shifts)
        result = [auroc_study(population, rng) for _ in range(studies)]
        yield from count("AUROC", str(population), second - first, result)


def shares(studies: int, seed: int) -> Iterator[Count]:
    """Counts for shares of single cases."""
    rng = np.random.default_rng(seed)
    for cases, first, second in SHARES:
        result = [share_study(cases, first, second, rng) for _ in range(studies)]
        yield from count("sensitivity", f"{cases} with; {first:g}/{second:g}", second - first, result)


def bootstrapped(studies: int, seed: int) -> Iterator[Count]:
    """Counts for everything that is bootstrapped."""
    rng = np.random.default_rng(seed)
    for population in BOOTSTRAP_STUDIES:
        truth = truth_of(population, rng)
        many = [bootstrap_study(population, rng) for _ in range(studies)]
        for column, metric in enumerate(BOOTSTRAPPED):
            yield from count(metric, str(population), float(truth[column]), [study[metric] for study in many])


def floors(studies: int, seed: int) -> Iterator[Count]:
    """Counts for the own AUROC of a model that ``lost`` of the ill rank below everybody."""
    rng = np.random.default_rng(seed)
    for ill, healthy, lost in FLOORS:
        truth = np.repeat([1, 0], [ill, healthy])
        result = []
        for _ in range(studies):
            seen = np.where(rng.random(ill) < lost, -20.0, rng.normal(SEEN, 1, ill))
            scores = np.concatenate([seen, rng.normal(size=healthy)])[None]
            sample = Sample(scores, (scores > 0).astype(np.int64), truth, np.arange(len(truth)))
            alone = area_interval(clustered_areas(scores, truth, sample.clusters), 0, 0.95)
            ours = no_shorter(alone, own_effects(sample, 0, "auroc"))
            result.append({"DeLong, logit": ends(alone), "**ours**": ends(ours)})
        area = (1 - lost) * NormalDist().cdf(SEEN / sqrt(2))
        yield from count("AUROC", f"{ill} with, {healthy} without; {lost:.0%} of the ill lost", area, result)


PARTS = {"areas": areas, "shares": shares, "bootstrapped": bootstrapped, "floors": floors}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.stdout.write("| metric | study | interval | passes % | fails % | covers % |\n|---|---|---|---|---|---|\n")
    for line in PARTS[arguments.part](arguments.studies, arguments.seed):
        sys.stdout.write(line.row() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
