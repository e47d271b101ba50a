"""Hold a student against its teacher on the same cases: areas, intervals, the gate's verdict.

python experiments/distillation_judge.py STUDENT TEACHER STUDY.csv POLICY.yaml WORK [SPLIT]

The mean AUROC over classes is bootstrapped by patients, paired; the verdict is `bench.gate`'s, class by class. For
binary tasks also the sensitivity where 90% of the cases without the finding are left alone, the threshold read off the
very cases (in every resample again), as a ROC curve does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable, number_clusters, tabulate
from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation, log_evaluation
from medfm_compress.bench.gate.gate import gather, judge_evidence
from medfm_compress.bench.gate.policy_file import LoadedPolicy, load_policy
from medfm_compress.bench.stats.bootstrap import Resampled, Statistic, interval, resample
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.open import open_study
from medfm_compress.data.prepared import prepared_images
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import utc_date
from medfm_compress.runtime.strict_json import decode

RESAMPLES = 2000
LEVEL = 0.95
SPECIFICITY = 0.9
SPLITS = ("val", "choice", "test")
Floats = NDArray[np.float64]
AGAINST_TEACHER = (-1.0, 1.0)


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A student and its teacher on one split.

    Attributes:
        split: which.
        cases: of it.
        teacher: mean AUROC over findings, with its interval.
        student: likewise.
        difference: student − teacher, paired.
        findings: finding → AUROC of the student.
        outcome: of the gate, over every finding.
        reasons: its checks, one line each.
        teacher_sensitivity: at 90% specificity; None unless the task is binary.
        student_sensitivity: likewise.
        sensitivity_difference: student − teacher, paired.
    """

    split: str
    cases: int
    teacher: Interval
    student: Interval
    difference: Interval
    findings: dict[str, float]
    outcome: str
    reasons: tuple[str, ...]
    teacher_sensitivity: Interval | None = None
    student_sensitivity: Interval | None = None
    sensitivity_difference: Interval | None = None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A model folder on a study: what an evaluation is of."""

    folder: str
    study: str
    split: str
    name: str


def evaluated(subject: Subject, cache: Path, kept: Path, policy_sha256: str) -> Evaluation | None:
    """The evaluation, from the file ``kept`` where it is of the same weights; None where the split has no labels."""
    from medfm_compress.compress.networks.model import load_model

    study = open_study(Path(subject.study))
    cases = tuple(case for case in study.split(subject.split) if case.target)
    if not cases:
        return None
    model = load_model(subject.folder)
    sha256 = model.weights_sha256()
    path = kept / f"{subject.split}-{sha256[:16]}-{study_fingerprint(study)[:16]}.json"
    if path.is_file():
        return decode(path.read_bytes(), EvaluationTable, source=str(path)).to_evaluation()
    if subject.split == "test":
        log_evaluation(kept.parent, _entry(len(cases), policy_sha256, sha256, study_fingerprint(study)))
    logits = network_logits(model, prepared_images(study, cases, model.spec, cache))
    evaluation = tabulate(logits, study, cases, model.task, name=subject.name)
    table = EvaluationTable.from_evaluation(evaluation)
    write_atomically(path, msgspec.json.encode(table))
    return table.to_evaluation()


def network_logits(model: Any, images: Any) -> Floats:
    """Logits ``[n, labels]`` in float32."""
    from medfm_compress.compress.training.validation_score import logits_of

    return logits_of(model.module, images, model.spec).double().numpy()


def _entry(cases: int, policy_sha256: str, digest: str, fingerprint: str) -> LoggedEvaluation:
    return LoggedEvaluation(
        date=utc_date(),
        split="test",
        cases=cases,
        policy_sha256=policy_sha256,
        model_digest=digest,
        study_fingerprint=fingerprint,
    )


def held_against(teacher: Evaluation, student: Evaluation, policy: LoadedPolicy, split: str, task: Any) -> Judged:
    """Everything that is said of one student on one split."""
    areas = macro_areas((teacher, student))
    verdict = judge_evidence(
        gather(teacher, (student,), policy.policy, task), policy.policy, policy_sha256=policy.sha256
    )
    checks = [check for variant in verdict.variants for check in variant.checks]
    result = Judged(
        split=split,
        cases=len(student.images),
        teacher=of_one(areas, 0),
        student=of_one(areas, 1),
        difference=contrasted(areas, AGAINST_TEACHER),
        findings={name: float(_area_of(student, number)) for number, name in enumerate(student.findings)},
        outcome=verdict.outcome,
        reasons=tuple(f"{check.name}: {check.outcome}: {check.reason}" for check in checks),
    )
    if len(student.findings) > 1:
        return result
    sensitivities = bootstrap((teacher, student), sensitivity_at((teacher, student), SPECIFICITY))
    return msgspec.structs.replace(
        result,
        teacher_sensitivity=of_one(sensitivities, 0),
        student_sensitivity=of_one(sensitivities, 1),
        sensitivity_difference=contrasted(sensitivities, AGAINST_TEACHER),
    )


def macro_areas(evaluations: Sequence[Evaluation]) -> Resampled:
    """Mean AUROC over findings of every evaluation ``[models]``, resampled together."""
    metrics = [WeightedMetrics(_sample(evaluations, number), ("auroc",)) for number in range(len(_first(evaluations)))]

    def areas(weights: Any) -> Floats:
        return np.mean([metric(weights)[:, :, 0] for metric in metrics], axis=0)  # type: ignore[no-any-return]

    return bootstrap(evaluations, areas)


def sensitivity_at(evaluations: Sequence[Evaluation], specificity: float) -> Statistic:
    """Highest sensitivity ``[weightings, models]`` with a specificity of at least ``specificity``; one finding."""
    clusters = number_clusters(evaluations[0].clusters)
    truth = evaluations[0].truth[:, 0]

    def of_model(scores: Floats, weights: Floats) -> Floats:
        order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[order]
        last = np.append(sorted_scores[1:] < sorted_scores[:-1], True)  # cases that share a score are called together
        cases = weights[:, clusters[order]]
        hits = np.cumsum(cases * truth[order], axis=1)[:, last]
        alarms = np.cumsum(cases * (1 - truth[order]), axis=1)[:, last]
        allowed = alarms <= (1 - specificity) * alarms[:, -1:] + 1e-9
        reached: Floats = np.where(allowed, hits, 0).max(axis=1) / hits[:, -1]
        return reached

    def statistic(weights: Any) -> Floats:
        floats = np.asarray(weights, np.float64)
        return np.stack([of_model(entry.scores[:, 0], floats) for entry in evaluations], axis=1)

    return statistic


def bootstrap(evaluations: Sequence[Evaluation], statistic: Statistic) -> Resampled:
    """``statistic`` on resamples of patients, stratified by their label."""
    clusters = number_clusters(evaluations[0].clusters)
    strata = np.zeros(int(clusters.max()) + 1, np.int64)
    labels = evaluations[0].truth @ (1 << np.arange(len(_first(evaluations))))
    np.maximum.at(strata, clusters, labels)
    return resample(statistic, strata, cases=len(clusters), resamples=RESAMPLES, seed=(0,))


def contrasted(resampled: Resampled, contrast: Sequence[float]) -> Interval:
    """Interval of a weighted sum over the models; a sum that never varies has no width."""
    weights = np.asarray(contrast)
    scalar = resampled.of(lambda values: values @ weights)
    result = interval(scalar, LEVEL)
    if result is None:
        estimate = float(scalar.estimate)
        return Interval(estimate=estimate, low=-1.0, high=1.0, level=LEVEL, method="undefined in too many resamples")
    return result


def of_one(resampled: Resampled, model: int) -> Interval:
    """Interval of one model's value."""
    return contrasted(resampled, np.eye(len(resampled.estimate))[model].tolist())


def _first(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    return evaluations[0].findings


def _sample(evaluations: Sequence[Evaluation], number: int) -> Sample:
    scores = np.stack([entry.scores[:, number] for entry in evaluations])
    decisions = np.stack([entry.decisions[:, number] for entry in evaluations])
    first = evaluations[0]
    return Sample(scores, decisions, first.truth[:, number], number_clusters(first.clusters))


def _area_of(evaluation: Evaluation, number: int) -> float:
    return float(WeightedMetrics(_sample((evaluation,), number), ("auroc",)).unweighted()[0, 0])


def judge(student: str, teacher: str, study: str, policy: LoadedPolicy, work: Path, splits: Sequence[str] = SPLITS
          ) -> list[Judged]:  # fmt: skip
    """Judge a student on every split that has labels; evaluations are kept in ``work/evaluations``."""
    from medfm_compress.compress.networks.model import load_model

    task, result = load_model(student).task, []
    for split in splits:
        subjects = (Subject(folder=teacher, study=study, split=split, name="teacher"),
                    Subject(folder=student, study=study, split=split, name="student"))  # fmt: skip
        both = [evaluated(subject, work / "cache", work / "evaluations", policy.sha256) for subject in subjects]
        if both[0] is not None and both[1] is not None:
            result.append(held_against(both[0], both[1], policy, split, task))
    return result


def main(student: str, teacher: str, study: str, policy: str, work: str, split: str = "test") -> None:
    """Print one judgement as JSON."""
    result = judge(student, teacher, study, load_policy(policy), Path(work), (split,))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
