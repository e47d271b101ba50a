"""Difference of differences: against brute force, at its level, and through the gate."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.robustness import PerturbedTables, asked, compare_drops, conditions
from medfm_compress.bench.gate.drop_checks import NOT_EVALUATED, check_drops
from medfm_compress.bench.gate.gate import gather
from medfm_compress.bench.stats.auroc import clustered_areas
from medfm_compress.bench.stats.drop_difference import WEIGHTS, areas_drop_difference, p_areas_drop_below
from medfm_compress.bench.stats.metrics import Sample
from medfm_compress.bench.stats.patient_effects import contrast_effects
from medfm_compress.bench.types.policy import NonInferiority, Policy, Robustness
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

AUROC = NonInferiority(metric="auroc", margin=0.05)


def policy(*entries: Robustness, **changes: object) -> Policy:
    return msgspec.structs.replace(
        Policy(non_inferiority=(AUROC,), robustness=entries or (one(),), resamples=1000), **changes
    )


def one(**changes: object) -> Robustness:
    chosen = {"margin": 0.05, "perturbations": ("blur",), "severities": (1,)} | changes
    return Robustness(**chosen)


def tables(*evaluations, perturbation="blur", severity=1):
    bare = [msgspec.structs.replace(evaluation, subgroups={}) for evaluation in evaluations]
    return PerturbedTables(
        perturbation=perturbation,
        severity=severity,
        evaluations=tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in bare),
    )


def areas_of(random, loss, patients=120):
    truth = np.repeat([0, 1], patients // 2)
    shared = random.normal(size=patients) + 1.5 * truth
    teacher, bundle = (shared + 0.3 * random.normal(size=patients) for _ in range(2))
    blurred = 0.7 * random.normal(size=patients)
    scores = np.stack([teacher, bundle, teacher + blurred, bundle + blurred - loss * truth])
    sample = Sample(scores, (scores > 0).astype(np.int64), truth, np.arange(patients))
    return clustered_areas(scores, truth, sample.clusters), contrast_effects(sample, "auroc", WEIGHTS)


def test_the_estimate_is_the_difference_of_the_changes(make_evaluation):
    teacher, variant = make_evaluation(), make_evaluation("int8", noise=0.3)
    worse = make_evaluation("int8", noise=0.3, shift=1.0)
    (found,) = compare_drops([teacher, variant], [tables(make_evaluation(noise=0.5), worse)], policy())
    truth = teacher.truth[:, 0]
    areas = [roc_auc_score(truth, e.scores[:, 0]) for e in (teacher, variant, make_evaluation(noise=0.5), worse)]
    assert (found.teacher, found.bundle) == (pytest.approx((areas[0], areas[2])), pytest.approx((areas[1], areas[3])))
    assert found.difference.estimate == pytest.approx((areas[3] - areas[1]) - (areas[2] - areas[0]))
    assert found.difference.low < found.difference.estimate < found.difference.high


def test_the_variance_is_that_of_repeated_studies():
    random = np.random.default_rng(0)
    found = [areas_drop_difference(*areas_of(random, 0.5), 0.95) for _ in range(300)]
    spread = np.std([interval.estimate for interval in found])
    assert np.median([interval.standard_error for interval in found]) == pytest.approx(spread, rel=0.15)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    truth = np.mean([areas_drop_difference(*areas_of(random, 0.5, 4000), 0.95).estimate for _ in range(20)])
    found = [areas_drop_difference(*areas_of(random, 0.5), 0.95) for _ in range(400)]
    misses = sum(not interval.low <= truth <= interval.high for interval in found)
    assert misses <= 36  # 20 are expected; above 36 by chance once in 3,000


def test_the_p_value_inverts_the_interval():
    areas, effects = areas_of(np.random.default_rng(2), 0.5)
    interval = areas_drop_difference(areas, effects, 0.95)
    assert p_areas_drop_below(areas, effects, interval.high) == pytest.approx(0.025, abs=1e-6)
    assert p_areas_drop_below(areas, effects, interval.low) == pytest.approx(0.975, abs=1e-6)


def test_no_discordance_is_no_certainty():
    truth = np.repeat([0, 1], 30)
    scores = np.tile(truth.astype(float), (4, 1))
    sample = Sample(scores, (scores > 0).astype(np.int64), truth, np.arange(60))
    areas, effects = clustered_areas(scores, truth, sample.clusters), contrast_effects(sample, "auroc", WEIGHTS)
    interval = areas_drop_difference(areas, effects, 0.95)
    assert interval.estimate == 0 and -0.2 < interval.low < -0.05 and 0.05 < interval.high < 0.2
    assert p_areas_drop_below(areas, effects, -0.01) > 0.5


@pytest.mark.parametrize("metric", ["auroc", "sensitivity", "auprc"])
def test_patients_whom_the_bundle_alone_loses_may_not_be_in_the_sample(make_evaluation, metric):
    """Two of a hundred ill, on perturbed images only: of sixty ill patients a third of the samples hold none."""
    models = [make_evaluation(name, separation=6.0, noise=noise) for name, noise in (("teacher", 0.0), ("int8", 0.3))]
    margin = policy(one(metric=metric, margin=0.01))
    (found,) = compare_drops(models, [tables(*models)], margin)
    ill = int(models[0].truth.sum())
    assert abs(found.difference.estimate) < 0.01 and found.largest_loss >= 0.99 * 1.96**2 / (ill + 1.96**2)
    (check,) = check_drops(asked(margin, models[0].findings), "int8", [found], 0.025)
    assert check.outcome == "inconclusive"


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_is_undefined_on_perturbed_images_stays_inconclusive(make_evaluation, noise):
    """A model that calls nobody there has no PPV."""
    models = [make_evaluation(name, noise=own) for name, own in (("teacher", 0.0), ("int8", noise))]
    silent = [msgspec.structs.replace(model, decisions=np.zeros_like(model.decisions)) for model in models]
    asked_for = policy(one(metric="ppv"))
    (found,) = compare_drops(models, [tables(*silent)], asked_for)
    assert found.p_worse == 1
    (check,) = check_drops(asked(asked_for, models[0].findings), "int8", [found], 0.025)
    assert check.outcome == "inconclusive"


def test_one_network_in_two_engines_loses_nothing(make_evaluation):
    teacher, blurred = make_evaluation(), make_evaluation(noise=1.0)
    again, blurred_again = (
        msgspec.structs.replace(model, name="engine", logits=model.logits + 1e-6) for model in (teacher, blurred)
    )
    strict = policy(one(metric="auprc", margin=0.001))
    (found,) = compare_drops([teacher, again], [tables(blurred, blurred_again)], strict)
    assert (found.difference.low, found.difference.high, found.p_worse) == (0, 0, 1)


@pytest.mark.parametrize("metric", ["sensitivity", "accuracy", "brier", "auprc"])
def test_other_metrics_are_resampled(make_evaluation, metric):
    teacher, variant = make_evaluation(), make_evaluation("int8", noise=0.1)
    lost = tables(make_evaluation(), make_evaluation("int8", noise=0.1, shift=2.0))
    (found,) = compare_drops([teacher, variant], [lost], policy(one(metric=metric)))
    assert found.largest_loss > 0.05
    (check,) = check_drops(asked(policy(one(metric=metric)), teacher.findings), "int8", [found], 0.025)
    assert check.outcome == "fail"
    wide = policy(one(metric=metric, margin=0.3 if metric == "auprc" else 0.05))  # it takes many ill patients
    (same,) = compare_drops([teacher, variant], [tables(teacher, variant)], wide)
    assert same.difference.estimate == 0
    (check,) = check_drops(asked(wide, teacher.findings), "int8", [same], 0.025)
    assert check.outcome == "pass"


def test_pass_fail_and_inconclusive(make_evaluation):
    teacher, variant = make_evaluation(), make_evaluation("int8", noise=0.05)
    rules = policy()
    required = asked(rules, teacher.findings)
    for shift, expected in ((0.0, "pass"), (3.0, "fail")):
        altered = tables(make_evaluation(), make_evaluation("int8", noise=0.05, shift=shift))
        (check,) = check_drops(required, "int8", compare_drops([teacher, variant], [altered], rules), rules.alpha)
        assert check.outcome == expected, check.reason
        assert check.name == "auroc of opacity under blur 1"
    (check,) = check_drops(required, "int8", (), rules.alpha)
    assert (check.outcome, check.reason) == ("inconclusive", NOT_EVALUATED)


def test_too_few_patients_are_inconclusive(make_evaluation):
    teacher, variant = (make_evaluation(name, cases=300, patients=12) for name in ("teacher", "int8"))
    found = compare_drops([teacher, variant], [tables(teacher, variant)], policy())
    (check,) = check_drops(asked(policy(), teacher.findings), "int8", found, 0.025)
    assert check.outcome == "inconclusive" and "12 patients" in check.reason


def test_another_margin_needs_another_comparison(make_evaluation):
    teacher, variant = make_evaluation(), make_evaluation("int8", noise=0.05)
    found = compare_drops([teacher, variant], [tables(teacher, variant)], policy())
    (check,) = check_drops(asked(policy(one(margin=0.01)), teacher.findings), "int8", found, 0.025)
    assert check.outcome == "inconclusive" and "another policy" in check.reason


def test_the_strictest_margin_counts_and_conditions_are_evaluated_once():
    rules = policy(one(margin=0.05), one(margin=0.02), one(margin=0.1, severities=(1, 2)))
    assert [(entry.severity, entry.margin) for entry in asked(rules, ("opacity",))] == [(1, 0.02), (2, 0.1)]
    assert conditions(rules) == (("blur", 1), ("blur", 2))
    assert len(conditions(policy(Robustness(margin=0.05)))) == 24


@pytest.mark.parametrize(
    "wrong", [{"margin": 0}, {"margin": 1}, {"metric": "ece"}, {"severities": (1, 1)}, {"perturbations": ("blur",) * 2}]
)
def test_an_entry_that_cannot_be_judged_is_refused(wrong):
    with pytest.raises(InputError):
        one(**wrong)


def test_a_finding_that_the_task_lacks_is_refused_by_name(make_evaluation):
    rules = policy(one(finding="nope"))
    task = Task(kind="multilabel", labels=("opacity",))
    with pytest.raises(InputError, match="'nope'"):
        gather(make_evaluation(), (make_evaluation("int8"),), rules, task)


def test_other_cases_are_refused(make_evaluation):
    teacher, variant = make_evaluation(), make_evaluation("int8")
    other = tables(make_evaluation(cases=299), make_evaluation("int8", cases=299))
    with pytest.raises(InputError):
        compare_drops([teacher, variant], [other], policy())
