"""How often a bundle passes that loses exactly its margin, where the loss sits in few patients: before and after.

    python experiments/statistics_few_patients.py areas --studies 1000 --most-ill 100
    python experiments/statistics_few_patients.py areas --studies 400 --least-ill 101
    python experiments/statistics_few_patients.py shares --studies 400
    python experiments/statistics_few_patients.py bootstrapped --studies 100
    python experiments/statistics_few_patients.py faithful --studies 200

Teacher and bundle have normal latent scores. "diffuse": the bundle separates a little worse throughout; "ill lost": a
part of the ill scores below everybody, "ill unseen": as the healthy do, "healthy called": a part of the healthy scores
above everybody, and for all others nothing changes but what ``shared`` leaves. Every part prints the share of studies,
in percent, in which the margin is ruled out: 2.5 is the nominal error, and "faithful" prints the power.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import Areas, auroc, clustered_areas
from medfm_compress.bench.stats.bootstrap import resample
from medfm_compress.bench.stats.bootstrap_difference import resampled_difference
from medfm_compress.bench.stats.logit_profile import CONTRAST, Pair, profile
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import paired_effects
from medfm_compress.bench.stats.score_interval import score_interval
from medfm_compress.bench.types.metric import Metric

Floats = NDArray[np.float64]

DAMAGES = ("diffuse", "ill lost", "ill unseen", "healthy called")
FAR = 50.0
LARGE = 400_000


class Study(NamedTuple):
    """Where studies are drawn from.

    Attributes:
        ill: patients with the finding.
        healthy: patients without it.
        area: AUROC of the teacher.
        images: a patient.
        step: scores are rounded to multiples of it, which ties them; 0 leaves them.
        shared: share of the latent variance that teacher and bundle have in common.
    """

    ill: int
    healthy: int
    area: float
    images: int = 1
    step: float = 0.0
    shared: float = 1.0

    def __str__(self) -> str:
        parts = [f"{self.ill}/{self.healthy}", f"AUROC {self.area:g}"]
        parts += [f"{self.images} images each"] * (self.images > 1) + ["ties"] * (self.step > 0)
        return ", ".join([*parts, f"shared {self.shared:g}"])

    @property
    def shift(self) -> float:
        """Of the latent score of the ill."""
        return sqrt(2) * NormalDist().inv_cdf(self.area)

    def draw(
        self, rng: np.random.Generator, damage: str, amount: float
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """Latent scores ``[2, n]``, truth and patients; ``amount`` is the share of patients lost, or the lost shift."""
        patients = self.ill + self.healthy
        clusters = np.repeat(np.arange(patients), self.images)
        truth = (clusters < self.ill).astype(np.int64)
        within = 0.5 if self.images > 1 else 0.0
        first, own, unseen = (
            sqrt(within) * rng.normal(size=patients)[clusters] + sqrt(1 - within) * rng.normal(size=len(truth))
            for _ in range(3)
        )
        second = sqrt(self.shared) * first + sqrt(1 - self.shared) * own
        chosen = (rng.random(patients) < amount)[clusters]
        scores = np.stack([first + self.shift * truth, second + self.shift * truth])
        if damage == "diffuse":
            scores[1] -= amount * truth
        scores = np.round(scores / self.step) * self.step if self.step else scores
        if damage == "ill lost":
            scores[1, chosen & (truth == 1)] = -FAR
        if damage == "ill unseen":
            hidden = chosen & (truth == 1)
            scores[1, hidden] = np.round(unseen[hidden] / self.step) * self.step if self.step else unseen[hidden]
        if damage == "healthy called":
            scores[1, chosen & (truth == 0)] = FAR
        return scores, truth, clusters

    def large(self) -> Study:
        """The same with so many patients that its values are the truth."""
        share = self.ill / (self.ill + self.healthy)
        return self._replace(ill=int(LARGE * share), healthy=int(LARGE * (1 - share)), images=1)


def amount_of(study: Study, damage: str, margin: float, metric: Metric = "auroc") -> float:
    """How much of ``damage`` loses just ``margin`` of ``metric``, by bisection on one large sample."""

    def loss(amount: float) -> float:
        scores, truth, clusters = study.large().draw(np.random.default_rng(0), damage, amount)
        if metric == "auroc":
            return auroc(scores[0], truth) - auroc(scores[1], truth)
        first, second = WeightedMetrics(sample_of(study, scores, truth, clusters), (metric,)).unweighted()[:, 0]
        return float(second - first if metric == "brier" else first - second)

    low, high = 0.0, 3.0 if damage == "diffuse" else 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < margin else (low, middle)
    return (low + high) / 2


def sample_of(study: Study, scores: Floats, truth: NDArray[np.int64], clusters: NDArray[np.int64]) -> Sample:
    """Probabilities that are right for the teacher, and decisions half way between ill and healthy."""
    prior = np.log(study.ill / study.healthy)
    logits = np.clip(study.shift * scores - study.shift**2 / 2 + prior, -30, 30)
    return Sample(1 / (1 + np.exp(-logits)), (scores > study.shift / 2).astype(np.int64), truth, clusters)


def low_by_variance_alone(areas: Areas) -> float:
    """The lower end by the logit profile of DeLong's variance; a perfect area has none."""
    if not ((areas.values > 0) & (areas.values < 1)).all():
        return -1.0
    return profile(Pair(areas.values, areas.covariance, areas.degrees(CONTRAST)), 0.95)[0]


def passes_area(study: Study, damage: str, amount: float, margin: float, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether AUROC passes by DeLong's variance alone, and with the score interval."""
    scores, truth, clusters = study.draw(rng, damage, amount)
    before = low_by_variance_alone(clustered_areas(scores, truth, clusters))
    sample = Sample(scores, (scores > 0).astype(np.int64), truth, clusters)
    low = score_interval(paired_effects(sample, "auroc"), 0.95).low
    return before > -margin, min(before, low) > -margin


def passes_bootstrapped(
    study: Study, damage: str, amount: float, margin: float, rng: np.random.Generator, metric: Metric
) -> tuple[bool, bool]:
    """Likewise a metric by the bootstrap alone, and with the score interval."""
    sample, errors = sample_of(study, *study.draw(rng, damage, amount)), metric == "brier"
    statistic = WeightedMetrics(sample, (metric,))
    if not np.isfinite(statistic.unweighted()).all():
        return False, False
    strata = sample.truth[np.unique(sample.clusters, return_index=True)[1]]
    seed = (int(rng.integers(1 << 30)),)
    values = resample(statistic, strata, cases=len(sample.truth), resamples=1000, seed=seed).of(lambda v: v[..., 0])
    effects = paired_effects(sample, metric)
    before, now = (resampled_difference(values, bound, 0.95, errors=errors) for bound in (None, effects))
    if before is None or now is None:
        return False, False
    if errors:
        return before.high < margin, now.high < margin
    if metric in ("sensitivity", "specificity", "accuracy", "balanced_accuracy"):
        now = score_interval(effects, 0.95)
    return before.low > -margin, now.low > -margin


SIZES = [
    (20, 40, 0.2),
    (50, 100, 0.1),
    (50, 500, 0.1),
    (100, 400, 0.05),
    (200, 400, 0.05),
    (390, 234, 0.02),
    (500, 1000, 0.02),
]
"""Ill, healthy, and a margin that so many can rule out; smaller ones are never ruled out."""


def areas(studies: int, seed: int) -> Iterator[str]:
    """AUROC."""
    yield "| study | margin | damage | before | now |\n|---|---|---|---|---|"
    shapes = [{}, {"shared": 0.95}, {"images": 3}, {"step": 0.5}]
    small = [(20, 40, 0.05), (50, 100, 0.05), (100, 400, 0.02)]
    for (ill, healthy, margin), area, shape in itertools.product([*small, *SIZES], (0.80, 0.90, 0.98), shapes):
        if (ill, healthy, margin) in small and (shape or area != 0.9):
            continue
        study = Study(ill, healthy, area, **shape)  # type: ignore[arg-type]
        for damage in DAMAGES:
            rng = np.random.default_rng([seed, ill, healthy, DAMAGES.index(damage)])
            amount = amount_of(study, damage, margin)
            result = [passes_area(study, damage, amount, margin, rng) for _ in range(studies)]
            yield row(study, margin, damage, result)


def row(study: Study, margin: float, damage: str, result: list[tuple[bool, bool]]) -> str:
    """A line of the table."""
    before, now = 100 * np.mean(result, axis=0)
    return f"| {study} | {margin:g} | {damage} | {before:.1f} | {now:.1f} |"


def shares(studies: int, seed: int) -> Iterator[str]:
    """Sensitivity and accuracy with several images a patient."""
    yield "| metric | study | margin | damage | before | now |\n|---|---|---|---|---|---|"
    metrics: tuple[Metric, ...] = ("sensitivity", "accuracy", "balanced_accuracy")
    sizes = [(50, 100, 0.1), (100, 400, 0.05), (200, 400, 0.03)]
    for metric, images, (ill, healthy, margin) in itertools.product(metrics, (2, 5), sizes):
        study = Study(ill, healthy, 0.95, images=images)
        yield from _rows(metric, study, margin, studies, seed, ("diffuse", "ill lost"))


def bootstrapped(studies: int, seed: int) -> Iterator[str]:
    """Average precision, F1, predictive values and Brier score."""
    yield "| metric | study | margin | damage | before | now |\n|---|---|---|---|---|---|"
    metrics: tuple[Metric, ...] = ("auprc", "f1", "ppv", "npv", "brier")
    sizes = [(50, 100, 0.1), (300, 600, 0.1)]
    for metric, (ill, healthy, margin), images in itertools.product(metrics, sizes, (1, 3)):
        yield from _rows(metric, Study(ill, healthy, 0.95, images=images), margin, studies, seed, DAMAGES)


def _rows(
    metric: Metric, study: Study, margin: float, studies: int, seed: int, damages: tuple[str, ...]
) -> Iterator[str]:
    for damage in damages:
        rng = np.random.default_rng([seed, study.ill, study.images, DAMAGES.index(damage)])
        amount = amount_of(study, damage, margin, metric)
        if amount > 0.9:
            continue
        result = [passes_bootstrapped(study, damage, amount, margin, rng, metric) for _ in range(studies)]
        yield f"| {metric} {row(study, margin, damage, result)}"


def faithful(studies: int, seed: int) -> Iterator[str]:
    """AUROC of bundles that lose nothing: the power."""
    yield "| study | margin | damage | before | now |\n|---|---|---|---|---|"
    sizes = [(20, 40), (50, 100), (100, 400), (200, 400), (390, 234), (500, 1000)]
    for (ill, healthy), shared, margin in itertools.product(sizes, (1.0, 0.99, 0.9), (0.02, 0.05, 0.1)):
        rng = np.random.default_rng([seed, ill])
        study = Study(ill, healthy, 0.9, shared=shared)
        result = [passes_area(study, "diffuse", 0.0, margin, rng) for _ in range(studies)]
        yield row(study, margin, "none", result)


PARTS = {"areas": areas, "shares": shares, "bootstrapped": bootstrapped, "faithful": faithful}


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least-ill", type=int, default=0, help="of the studies of 'areas'")
    parser.add_argument("--most-ill", type=int, default=LARGE, help="likewise")
    arguments = parser.parse_args()
    SIZES[:] = [size for size in SIZES if arguments.least_ill <= size[0] <= arguments.most_ill]
    for line in PARTS[arguments.part](arguments.studies, arguments.seed):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
