"""Comparisons of a variant with its teacher, at the edges where intervals are easily wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.paired_comparison import compare, confusion, confusion_matrix
from medfm_compress.bench.stats.metrics import LOG_CLIP
from medfm_compress.bench.stats.score_interval import paired_shares, score_interval
from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, METRICS, REPORTED_ONLY
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.runtime.errors import InputError

MakeEvaluation = Callable[..., Evaluation]
SHARES = ("accuracy", "sensitivity", "specificity", "balanced_accuracy")
REQUIRED = tuple(metric for metric in METRICS if metric not in REPORTED_ONLY)
POLICY = Policy(
    non_inferiority=tuple(NonInferiority(metric=metric, margin=0.05) for metric in REQUIRED), resamples=1000
)


def by_metric(comparisons: tuple[Comparison, ...], finding: str = "opacity") -> dict[str, Comparison]:
    return {comparison.metric: comparison for comparison in comparisons if comparison.finding == finding}


def changed(evaluation: Evaluation, **values: object) -> Evaluation:
    return msgspec.structs.replace(evaluation, **values)


def test_every_metric_is_compared_and_intervals_hold_their_estimates(make_evaluation: MakeEvaluation) -> None:
    comparisons = compare(make_evaluation(), make_evaluation("variant", noise=0.5), POLICY)
    assert [c.metric for c in comparisons] == list(METRICS)
    for comparison in comparisons:
        for interval in (comparison.teacher, comparison.bundle, comparison.difference):
            assert interval.low < interval.estimate < interval.high
            assert interval.level == pytest.approx(0.95)
        gap = comparison.bundle.estimate - comparison.teacher.estimate
        assert comparison.difference.estimate == pytest.approx(gap)
        assert comparison.variant == "variant"
        assert comparison.margin == (None if comparison.metric in REPORTED_ONLY else 0.05)


def test_alpha_sets_the_level(make_evaluation: MakeEvaluation) -> None:
    wide, narrow = (
        by_metric(compare(make_evaluation(), make_evaluation("variant", noise=0.5), policy))["auroc"].difference
        for policy in (POLICY, msgspec.structs.replace(POLICY, alpha=0.1))
    )
    assert narrow.level == pytest.approx(0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairing_makes_intervals_narrower_than_independence_would(make_evaluation: MakeEvaluation) -> None:
    for comparison in compare(make_evaluation(cases=1500), make_evaluation("variant", cases=1500, noise=0.3), POLICY):
        # Of average precision one negative above all positives may cost so much that 600 patients bound it alone.
        if comparison.metric in (*REPORTED_ONLY, "auprc"):
            continue
        width = comparison.difference.high - comparison.difference.low
        assert width < 0.7 * (comparison.teacher.high - comparison.teacher.low) * 2**0.5


def test_many_images_a_patient_widen_the_interval(make_evaluation: MakeEvaluation) -> None:
    few = make_evaluation(cases=60)
    variant = make_evaluation("variant", cases=60, noise=0.8)
    repeated = [
        changed(
            e,
            images=tuple(f"{n}.png" for n in range(240)),
            subgroups={},
            clusters=e.clusters * 4,
            **{name: np.tile(getattr(e, name), (4, 1)) for name in ("logits", "scores", "truth", "decisions")},
        )
        for e in (few, variant)
    ]
    alone = by_metric(compare(few, variant, POLICY))
    clustered = by_metric(compare(*repeated, POLICY))
    for metric in METRICS:
        intervals = (compared[metric].difference for compared in (alone, clustered))
        single, fourfold = (interval.high - interval.low for interval in intervals)
        assert fourfold == pytest.approx(single, rel=1e-9 if metric in SHARES else 0.1)


def test_identical_models_differ_by_nothing_with_no_width(make_evaluation: MakeEvaluation) -> None:
    for comparison in compare(make_evaluation(), make_evaluation("variant"), POLICY):
        assert (comparison.difference.low, comparison.difference.high) == (0, 0)
        assert comparison.difference.method == "identical outputs"
        assert comparison.p_worse == (None if comparison.metric in REPORTED_ONLY else 1)


def test_rounding_of_another_engine_is_no_difference(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation()
    rounded = changed(make_evaluation("variant"), logits=teacher.logits * (1 + 1e-6), scores=teacher.scores + 1e-7)
    assert {compared.difference.method for compared in compare(teacher, rounded, POLICY)} == {"identical outputs"}


def test_probabilities_that_hardly_differ_and_rank_otherwise_are_not_the_same(make_evaluation: MakeEvaluation) -> None:
    """A network that is never sure of anything: all of its probabilities lie below 1e-4."""
    certain = make_evaluation()
    logits = certain.logits - 14
    teacher = changed(certain, logits=logits, scores=1 / (1 + np.exp(-logits)), decisions=certain.decisions * 0)
    blind = np.full_like(logits, -13.0)
    variant = changed(teacher, name="variant", logits=blind, scores=1 / (1 + np.exp(-blind)))
    area = by_metric(compare(teacher, variant, POLICY))["auroc"]
    assert area.teacher.estimate > 0.8 and area.bundle.estimate == 0.5
    assert area.difference.estimate == pytest.approx(0.5 - area.teacher.estimate) and area.difference.high < -0.2


def test_other_scores_without_one_flip_still_have_width(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation()
    variant = changed(make_evaluation("variant"), scores=teacher.scores * 0.9)
    compared = by_metric(compare(teacher, variant, POLICY))
    positives = int(teacher.truth.sum())
    for metric, pairs in (("sensitivity", positives), ("specificity", 300 - positives), ("accuracy", 300)):
        difference = compared[metric].difference
        assert difference.estimate == 0
        assert difference.high == -difference.low == pytest.approx(3.8415 / (pairs + 3.8415), rel=1e-4)
    # Ranks have not moved at all, and may yet for a patient of whose kind there is none here.
    rarer = min(positives, 300 - positives)
    for metric in ("auroc", "auprc"):
        difference = compared[metric].difference
        assert difference.estimate == 0
        assert difference.low < -0.9 * 3.8415 / (rarer + 3.8415) or metric == "auprc"
        assert difference.low < -0.01
        assert compared[metric].least_loss == pytest.approx(-difference.low)


def test_shares_of_single_cases_have_tangos_interval_and_no_other(make_evaluation: MakeEvaluation) -> None:
    teacher, variant = make_evaluation(), make_evaluation("variant", noise=0.5)
    compared = by_metric(compare(teacher, variant, POLICY))
    rows = {"accuracy": np.ones(300, bool), "sensitivity": teacher.truth[:, 0] == 1}
    rows["specificity"] = ~rows["sensitivity"]
    for metric, which in rows.items():
        right = [(e.decisions == e.truth)[which, 0] for e in (teacher, variant)]
        gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
        tango = score_interval(paired_shares(gained, lost, int(which.sum())), 0.95)
        difference = compared[metric].difference
        assert (difference.low, difference.high) == pytest.approx((tango.low, tango.high), abs=1e-9)
        for own, correct in ((compared[metric].teacher, right[0]), (compared[metric].bundle, right[1])):
            reference = wilson(int(correct.sum()), len(correct))
            assert (own.low, own.high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_a_required_margin_is_excluded_exactly_where_the_p_value_says_so(make_evaluation: MakeEvaluation) -> None:
    teacher, variant = make_evaluation(), make_evaluation("variant", noise=0.6, shift=0.3)
    for comparison in compare(teacher, variant, POLICY):
        if comparison.metric in REPORTED_ONLY:
            continue
        # The loss is significantly above the margin where even the smallest loss of the interval exceeds it.
        ends = comparison.difference
        smallest = ends.low if comparison.metric in LOWER_IS_BETTER else -ends.high
        assert (comparison.p_worse < POLICY.alpha) == (smallest > 0.05)


def test_a_perfect_model_has_an_interval_below_one(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation(separation=30.0)
    compared = by_metric(compare(teacher, make_evaluation("variant", separation=30.0, noise=0.5), POLICY))
    for metric in set(METRICS) - LOWER_IS_BETTER:
        assert compared[metric].bundle.high == 1
        assert compared[metric].bundle.estimate == 1
        assert compared[metric].bundle.low < 0.99


def test_a_floor_is_held_against_an_interval_that_allows_for_what_the_sample_lacks(
    make_evaluation: MakeEvaluation,
) -> None:
    asked = msgspec.structs.replace(
        POLICY,
        non_inferiority=tuple(
            msgspec.structs.replace(entry, teacher_floor=0.1) if entry.metric not in LOWER_IS_BETTER else entry
            for entry in POLICY.non_inferiority
        ),
    )
    models = make_evaluation(separation=4.0), make_evaluation("variant", separation=4.0, noise=0.5)
    without, floored = (by_metric(compare(*models, policy)) for policy in (POLICY, asked))
    longer = {metric for metric in without if floored[metric].teacher.low < without[metric].teacher.low}
    assert "auroc" in longer
    for metric, comparison in floored.items():
        assert comparison.bundle == without[metric].bundle  # no floor is asked of it
        assert comparison.difference == without[metric].difference
        assert 0 <= comparison.teacher.low <= without[metric].teacher.low
        assert without[metric].teacher.high <= comparison.teacher.high <= 1 or metric in LOWER_IS_BETTER


def test_a_floor_above_the_truth_is_hardly_ever_shown() -> None:
    """Three of a hundred ill are not seen at all; most samples of forty hold none or one of them."""
    rng = np.random.default_rng(5)
    policy = Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.02, bundle_floor=0.5),), resamples=1000)
    floored = msgspec.structs.replace(policy.non_inferiority[0], bundle_floor=None)
    plain = msgspec.structs.replace(policy, non_inferiority=(floored,))
    truth = np.r_[np.zeros(400, np.int64), np.ones(40, np.int64)]
    area = 0.97 * NormalDist().cdf(4.5 / math.sqrt(2))
    above = np.zeros(2)
    for _ in range(40):
        lost = rng.random(40) < 0.03
        logits = np.r_[rng.normal(-4, 1, 400), np.where(lost, -20.0, rng.normal(0.5, 1, 40))]
        models = [table(name, logits + noise, truth) for name, noise in (("t", rng.normal(0, 0.3, 440)), ("b", 0.0))]
        above += [by_metric(compare(*models, asked))["auroc"].bundle.low > area for asked in (plain, policy)]
    assert above[0] >= 4  # 2.5 % are promised, that is 1
    assert above[1] <= 1


def table(name: str, logits: np.ndarray, truth: np.ndarray) -> Evaluation:
    names = tuple(map(str, range(len(truth))))
    scores = 1 / (1 + np.exp(-logits))[:, None]
    return Evaluation(
        name=name,
        images=names,
        clusters=names,
        logits=np.stack([np.zeros(len(truth)), logits], 1),
        scores=scores,
        truth=truth[:, None],
        decisions=(scores > 0.2).astype(np.int64),
        findings=("opacity",),
    )


def test_all_scores_tied_compares_at_chance(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation()
    flat = changed(make_evaluation("variant"), scores=np.full((300, 1), 0.7), decisions=np.ones((300, 1), np.int64))
    compared = by_metric(compare(teacher, flat, POLICY))
    assert compared["auroc"].bundle.estimate == 0.5
    assert compared["auroc"].p_worse == pytest.approx(0, abs=1e-9)
    assert compared["specificity"].bundle.estimate == 0
    assert compared["sensitivity"].difference.low > 0


def test_a_model_that_calls_nothing_has_no_ppv(make_evaluation: MakeEvaluation) -> None:
    mute = changed(make_evaluation("variant", noise=0.2), decisions=np.zeros((300, 1), np.int64))
    compared = by_metric(compare(make_evaluation(), mute, POLICY))
    assert set(METRICS) - set(compared) == {"ppv"}
    assert compared["f1"].bundle.estimate == 0
    assert compared["sensitivity"].p_worse == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("minimum", "reason"),
    [
        ({"min_positives": 500}, "patients with it, the policy asks for 500"),
        ({"min_negatives": 500}, "patients without it, the policy asks for 500"),
        ({"min_clusters": 500}, "300 patients, the policy asks for 500"),
    ],
)
def test_too_few_cases_give_the_widest_interval(
    make_evaluation: MakeEvaluation, minimum: dict[str, int], reason: str
) -> None:
    policy = msgspec.structs.replace(POLICY, **minimum)
    for comparison in compare(make_evaluation(), make_evaluation("variant", noise=0.5), policy):
        assert reason in comparison.too_few
        most = -math.log(LOG_CLIP) if comparison.metric == "log_loss" else 1
        assert (comparison.difference.low, comparison.difference.high) == (-most, most)
        assert comparison.p_worse is None


def test_positives_are_counted_in_patients(make_evaluation: MakeEvaluation) -> None:
    teacher, variant = (make_evaluation(name, patients=30, noise=0.1) for name in ("teacher", "variant"))
    compared = by_metric(compare(teacher, variant, msgspec.structs.replace(POLICY, min_clusters=2, min_positives=31)))
    assert "30 patients with it" in compared["auroc"].too_few


def test_one_class_only_gives_what_is_defined(make_evaluation: MakeEvaluation) -> None:
    healthy = [changed(make_evaluation(n, noise=0.1), truth=np.zeros((300, 1), np.int64)) for n in ("teacher", "v")]
    compared = by_metric(compare(*healthy, POLICY))
    assert set(compared) == {"accuracy", "specificity", "ppv", "npv", "f1", "brier", "log_loss", "ece"}
    assert "0 patients with it" in compared["specificity"].too_few


def test_multiclass_has_its_findings_and_the_accuracy_over_all(make_evaluation: MakeEvaluation) -> None:
    labels = ("a", "b", "c")
    rng = np.random.default_rng(0)
    truth = np.eye(3, dtype=np.int64)[rng.integers(0, 3, 300)]

    def model(name: str, noise: float) -> Evaluation:
        raw = truth * 2.0 + np.random.default_rng(1).normal(size=truth.shape)
        raw += noise * np.random.default_rng(2).normal(size=truth.shape)
        scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
        decisions = np.eye(3, dtype=np.int64)[scores.argmax(axis=1)]
        return changed(
            make_evaluation(name, findings=labels), logits=raw, scores=scores, truth=truth, decisions=decisions
        )

    teacher, variant = model("teacher", 0.0), model("variant", 0.4)
    comparisons = compare(teacher, variant, POLICY)
    assert len(comparisons) == 3 * len(METRICS) + 1
    overall = comparisons[-1]
    assert (overall.metric, overall.finding) == ("accuracy", "")
    matrix = confusion_matrix(variant)
    assert overall.bundle.estimate == pytest.approx(np.trace(matrix) / 300)
    assert overall.difference.low < overall.difference.estimate < overall.difference.high
    assert [c.true_positives for c in confusion(variant)] == np.diag(matrix).tolist()
    with pytest.raises(InputError, match="no single label"):
        confusion_matrix(make_evaluation(findings=labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": tuple(f"{n}.jpg" for n in range(300))}, "other images"),
        ({"findings": ("nodule",)}, "other findings"),
        ({"truth": np.zeros((300, 1), np.int64)}, "other truth"),
        ({"clusters": ("one",) * 300}, "other truth or patients"),
        ({"scores": np.full((299, 1), 0.5)}, "have shape"),
        ({"scores": np.full((300, 1), np.nan)}, "not finite for 300 of 300"),
        ({"decisions": np.full((300, 1), 2)}, "must be 0 or 1"),
    ],
)
def test_unlike_evaluations_are_refused(
    make_evaluation: MakeEvaluation, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare(make_evaluation(), changed(make_evaluation("variant"), **change), POLICY)


def test_a_table_carries_all_that_a_comparison_needs_and_no_key(make_evaluation: MakeEvaluation) -> None:
    originals = [make_evaluation(patients=90), make_evaluation("variant", patients=90, noise=0.5)]
    encoded = [msgspec.json.encode(EvaluationTable.from_evaluation(e)) for e in originals]
    assert b"patient 1" not in encoded[0]
    assert b".png" not in encoded[0]
    copies = [msgspec.json.decode(data, type=EvaluationTable).to_evaluation() for data in encoded]
    assert compare(*copies, POLICY) == compare(*originals, POLICY)


def test_an_altered_table_is_refused(make_evaluation: MakeEvaluation) -> None:
    table = EvaluationTable.from_evaluation(make_evaluation())
    ragged = msgspec.structs.replace(table, scores=(*table.scores[:-1], (0.5, 0.5)))
    for broken in (ragged, msgspec.structs.replace(table, clusters=table.clusters[:-1])):
        with pytest.raises(InputError):
            broken.to_evaluation()


def test_other_cases_are_told_apart_after_the_journey(make_evaluation: MakeEvaluation) -> None:
    teacher = EvaluationTable.from_evaluation(make_evaluation())
    other = changed(make_evaluation("variant"), images=tuple(f"x{n}.png" for n in range(300)))
    with pytest.raises(InputError, match="other images"):
        compare(teacher.to_evaluation(), EvaluationTable.from_evaluation(other).to_evaluation(), POLICY)
