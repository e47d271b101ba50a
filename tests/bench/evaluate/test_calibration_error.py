"""Reliability curves agree with scikit-learn's; the temperature is fitted only where cases can tell."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.naive_bayes import GaussianNB

from medfm_compress.bench.evaluate.calibration_error import calibrations, ece, reliability
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.temperature_scaling import calibrate, rescore
from medfm_compress.bench.stats.clustered_proportion import clustered_wilson
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

BINARY = Task(kind="binary", labels=("normal", "opacity"))
MULTICLASS = Task(kind="multiclass", labels=("a", "b", "c"))
MULTILABEL = Task(kind="multilabel", labels=("opacity", "nodule", "effusion"))


def evaluation(task: Task, cases: int = 600, temperature: float = 2.0, patients: int = 0, seed: int = 0) -> Evaluation:
    """A model whose logits are ``temperature`` times too large."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (cases, len(task.labels)))
    if task.kind == "multilabel":
        truth = (random.random(honest.shape) < expit(honest)).astype(np.int64)
    else:
        chosen = [random.choice(len(row), p=row) for row in softmax(honest, axis=1)]
        truth = np.eye(len(task.labels), dtype=np.int64)[chosen][:, len(task.labels) - len(task.findings) :]
    logits = temperature * honest
    scores = probabilities(logits, task)
    return Evaluation(
        name="bundle",
        images=tuple(f"{number}.png" for number in range(cases)),
        logits=logits,
        scores=scores,
        truth=truth,
        decisions=decisions(scores, task),
        clusters=tuple(f"patient {number % (patients or cases)}" for number in range(cases)),
        findings=task.findings,
    )


@pytest.fixture
def column() -> tuple[np.ndarray, np.ndarray]:
    evaluated = evaluation(BINARY, cases=1000)
    return evaluated.scores[:, 0], evaluated.truth[:, 0]


@pytest.mark.parametrize("bins", [5, 10, 15])
@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_curve_is_sklearns(column, bins, equal_mass):
    scores, truth = column
    curve = reliability(scores, truth, bins, equal_mass=equal_mass)
    observed, mean = calibration_curve(truth, scores, n_bins=bins, strategy="quantile" if equal_mass else "uniform")
    np.testing.assert_allclose([part.observed.estimate for part in curve], observed)
    np.testing.assert_allclose([part.mean_score for part in curve], mean)
    assert sum(part.cases for part in curve) == len(scores)
    assert all(part.low <= part.mean_score <= part.high for part in curve)
    if equal_mass:
        assert max(part.cases for part in curve) - min(part.cases for part in curve) <= 1
    assert curve[3].observed == wilson(observed[3] * curve[3].cases, curve[3].cases)


def test_a_score_on_an_edge_is_in_the_bin_above_and_1_in_the_last():
    curve = reliability(np.linspace(0, 1, 6)[[0, 1, 3, 5]], np.array([0, 0, 1, 1]), 5)
    assert [(round(part.low, 9), round(part.high, 9), part.cases) for part in curve] == [
        (0.0, 0.2, 1), (0.2, 0.4, 1), (0.6, 0.8, 1), (0.8, 1.0, 1),
    ]  # fmt: skip


def test_equal_scores_are_one_bin():
    (only,) = reliability(np.full(7, 0.3), np.array([1, 0, 0, 1, 0, 0, 0]), equal_mass=True)
    assert (only.low, only.high, only.cases) == (0.3, 0.3, 7)
    assert only.observed.estimate == pytest.approx(2 / 7)


def test_the_error_is_the_one_among_the_metrics_and_0_where_scores_are_rates(column):
    scores, truth = column
    sample = Sample(scores[None], (scores[None] >= 0.5).astype(np.int64), truth, np.arange(len(truth)))
    assert ece(scores, truth) == pytest.approx(WeightedMetrics(sample, ("ece",)).unweighted()[0, 0])
    assert ece(np.repeat([0.25, 0.75], 4), np.array([0, 0, 0, 1, 1, 1, 1, 0])) == pytest.approx(0)
    assert ece(np.ones(4), np.zeros(4, dtype=np.int64)) == 1


@pytest.mark.parametrize(
    ("scores", "truth", "bins", "complaint"),
    [
        ([], [], 10, "at least 1"),
        ([0.1, 0.2], [0], 10, "have shape"),
        ([1.1], [0], 10, "in \\[0, 1\\]"),
        ([np.nan], [0], 10, "in \\[0, 1\\]"),
        ([0.5], [2], 10, "0 or 1"),
        ([0.5], [1], 0, "0 bins"),
    ],
)
def test_bad_columns_are_refused(scores, truth, bins, complaint):
    with pytest.raises(InputError, match=complaint):
        reliability(np.array(scores, dtype=np.float64), np.array(truth, dtype=np.int64), bins)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, MULTILABEL])
def test_before_is_at_temperature_1_and_after_as_stored(task):
    cold = msgspec.structs.replace(task, temperature=2.0)
    stored = EvaluationTable.from_evaluation(evaluation(cold))
    per_finding = calibrations(stored, cold)
    assert [calibration.finding for calibration in per_finding] == list(task.findings)
    raw = probabilities(np.array(stored.logits), task)
    for number, calibration in enumerate(per_finding):
        truth = np.array(stored.truth)[:, number]
        for curve, scores in (
            (calibration.before, raw[:, number]),
            (calibration.after, np.array(stored.scores)[:, number]),
        ):
            assert curve.brier == pytest.approx(brier_score_loss(truth, scores))
            assert curve.log_loss == pytest.approx(log_loss(truth, scores))
            assert curve.ece == ece(scores, truth)
        assert (
            calibration.after.ece < calibration.before.ece and calibration.after.log_loss < calibration.before.log_loss
        )
        assert calibration.temperature == 2.0


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, MULTILABEL])
def test_an_overconfident_network_gets_its_temperature(task):
    validation = evaluation(task)
    calibrated = calibrate(validation, task)
    assert calibrated.applied and calibrated.task.temperature == pytest.approx(2.0, rel=0.15)
    np.testing.assert_allclose(calibrated.evaluation.scores, probabilities(validation.logits, calibrated.task))
    before, after = (np.mean([ece(s, t) for s, t in zip(e.scores.T, e.truth.T, strict=True)])
                     for e in (validation, calibrated.evaluation))  # fmt: skip
    assert "fitted on 600 validation cases: NLL" in calibrated.line
    assert f"ECE {before:.4f} to {after:.4f}" in calibrated.line and after < before
    for column in range(len(task.findings)):
        if task.kind != "multiclass":  # there a class's order among cases may change, as softmax has several logits
            aurocs = [
                roc_auc_score(e.truth[:, column], e.scores[:, column]) for e in (validation, calibrated.evaluation)
            ]
            assert aurocs[0] == pytest.approx(aurocs[1], abs=1e-12)


@pytest.mark.parametrize(
    ("load", "task", "smoothing"),
    [
        (load_breast_cancer, Task(kind="binary", labels=("malignant", "benign")), 1e-5),
        (load_digits, Task(kind="multiclass", labels=tuple("0123456789")), 0.02),
    ],
)
def test_on_real_data_it_calibrates_cases_that_it_has_not_seen(load, task, smoothing):
    x, y = load(return_X_y=True)
    train, val, test = (np.arange(start, len(y), 3) for start in range(3))
    model = GaussianNB(var_smoothing=smoothing).fit(x[train], y[train])  # far too sure of itself
    truth = np.eye(len(task.labels), dtype=np.int64)[y][:, len(task.labels) - len(task.findings) :]
    rows = [
        rescore(
            Evaluation(
                name="nb",
                images=tuple(map(str, held)),
                logits=model.predict_joint_log_proba(x[held]),
                scores=np.zeros(truth[held].shape),
                truth=truth[held],
                decisions=truth[held],
                clusters=tuple(map(str, held)),
                findings=task.findings,
            ),
            task,
        )
        for held in (val, test)
    ]
    fitted = calibrate(rows[0], task)
    assert fitted.applied and fitted.task.temperature > 1.5
    per_finding = calibrations(rescore(rows[1], fitted.task), fitted.task)
    for error in ("log_loss", "brier"):
        before, after = (
            sum(getattr(getattr(calibration, when), error) for calibration in per_finding)
            for when in ("before", "after")
        )
        assert after < before


def test_it_is_held_against_the_temperature_in_use():
    right = calibrate(evaluation(BINARY), msgspec.structs.replace(BINARY, temperature=2.0))
    assert not right.applied and right.task.temperature == 2.0
    wrong = calibrate(evaluation(BINARY), msgspec.structs.replace(BINARY, temperature=6.0))
    assert wrong.applied and wrong.task.temperature == pytest.approx(2.0, rel=0.15)


def test_a_calibrated_network_is_left_alone():
    kept = [calibrate(evaluation(BINARY, temperature=1.0, seed=seed), BINARY) for seed in range(60)]
    assert np.mean([not calibrated.applied for calibrated in kept]) > 0.85  # 0.95 expected
    stays = next(calibrated for calibrated in kept if not calibrated.applied)
    assert stays.task == BINARY
    assert stays.line.startswith("temperature stays 1: not wrong beyond chance on 600 validation cases (p = 0.")


def few_with(positives: int, patients: int = 0) -> Evaluation:
    evaluated = evaluation(BINARY, cases=300, patients=patients)
    rows = np.flatnonzero(evaluated.truth[:, 0] == 0)[: 120 - positives].tolist()
    rows += np.flatnonzero(evaluated.truth[:, 0] == 1)[:positives].tolist()
    columns = {name: getattr(evaluated, name)[rows] for name in ("logits", "scores", "truth", "decisions")}
    named = {name: tuple(getattr(evaluated, name)[row] for row in rows) for name in ("images", "clusters")}
    return msgspec.structs.replace(evaluated, **columns, **named)


@pytest.mark.parametrize(
    ("validation", "reason"),
    [
        (evaluation(BINARY, cases=49), "49 validation cases are too few, 50 patients are needed"),
        (evaluation(BINARY, patients=49), "600 validation cases of 49 patients are too few"),
        (few_with(9), "the rarer class has 9 of 120 validation cases, 10 patients are needed"),
        (few_with(0), "the rarer class has 0"),
        (few_with(120), "the rarer class has 0"),
    ],
)
def test_too_few_cases_leave_it_and_say_so(validation, reason):
    calibrated = calibrate(validation, BINARY)
    assert not calibrated.applied and calibrated.task == BINARY
    assert reason in calibrated.line


def test_separable_cases_leave_it_and_say_so():
    validation = evaluation(BINARY)
    logits = np.concatenate([1 - validation.truth, validation.truth], axis=1).astype(np.float64)
    calibrated = calibrate(msgspec.structs.replace(validation, logits=logits), BINARY)
    assert not calibrated.applied and "the fit ends at its bound 0.05" in calibrated.line


def test_an_evaluation_of_another_task_is_refused():
    with pytest.raises(InputError, match="must agree"):
        calibrate(evaluation(BINARY), MULTILABEL)


def test_with_one_case_a_patient_it_is_wilsons_interval():
    successes = np.array([1, 0, 0, 1, 1, 0, 1])
    assert clustered_wilson(successes, np.arange(7)) == wilson(4, 7)


def test_alike_cases_of_a_patient_count_once():
    successes, patients = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 5), np.repeat(np.arange(40), 5)
    clustered, alone = clustered_wilson(successes, patients), clustered_wilson(successes[::5], np.arange(40))
    assert clustered.estimate == alone.estimate
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    every = clustered_wilson(np.ones(200, dtype=np.int64), patients)
    assert (every.low, every.high) == pytest.approx((wilson(40, 40).low, 1.0))
    single = clustered_wilson(np.array([1, 0, 1]), np.zeros(3, dtype=np.int64))
    assert (single.estimate, single.low) == (pytest.approx(2 / 3), pytest.approx(wilson(2 / 3, 1).low))


def test_its_interval_covers_where_wilsons_does_not():
    random = np.random.default_rng(1)
    patients, covered = np.repeat(np.arange(80), 6), {"clustered": 0, "cases": 0}
    for _ in range(600):
        rate = random.beta(1.6, 0.4, 80)  # mean 0.8, intraclass correlation 1/3
        successes = (random.random(480) < rate[patients]).astype(np.int64)
        for name, interval in (
            ("clustered", clustered_wilson(successes, patients)),
            ("cases", wilson(int(successes.sum()), 480)),
        ):
            covered[name] += interval.low <= 0.8 <= interval.high
    assert covered["clustered"] / 600 > 0.93
    assert covered["cases"] / 600 < 0.85


def test_no_case_is_no_proportion():
    with pytest.raises(InputError, match="no proportion"):
        clustered_wilson(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
