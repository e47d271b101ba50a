"""A variant decides anew where its validation cases can tell, and as the task does where they cannot."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.special import expit, softmax

from medfm_compress.bench.evaluate.operating_points import choose_operating_points
from medfm_compress.bench.evaluate.temperature_scaling import calibrate, rescore
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.compress.quantization.thresholds import recalibrate_thresholds
from medfm_compress.runtime.bundle.manifest import Manifest, Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import OperatingPoint, Task

VARIANT = Variant(name="onnxruntime-cpu-int8", files=("m",), backend="onnxruntime", device="cpu", precision="int8")
BINARY = Task(kind="binary", labels=("normal", "opacity"))
MULTILABEL = Task(kind="multilabel", labels=("opacity", "nodule"))
MULTICLASS = Task(kind="multiclass", labels=("a", "b", "c"))


def evaluation(
    task: Task, *, scale: float = 1.0, shift: float = 0.0, rare: float = 0.0, cases: int = 400
) -> Evaluation:
    """Validation cases of a network whose logits are ``scale`` times what they should be, plus ``shift``."""
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (cases, len(task.labels)))
    honest[:, -1] -= rare
    if task.kind == "multilabel":
        truth = (random.random(honest.shape) < expit(honest)).astype(np.int64)
    else:
        chosen = [random.choice(len(row), p=row) for row in softmax(honest, axis=1)]
        truth = np.eye(len(task.labels), dtype=np.int64)[chosen][:, len(task.labels) - len(task.findings) :]
    bare = Evaluation(
        name="validation",
        images=tuple(map(str, range(cases))),
        logits=scale * honest + shift * (np.arange(len(task.labels)) == len(task.labels) - 1),
        scores=np.zeros(truth.shape),
        truth=truth,
        decisions=np.zeros(truth.shape, dtype=np.int64),
        clusters=tuple(map(str, range(cases))),
        findings=task.findings,
    )
    return rescore(bare, task)


def decided_task(task: Task, table: Evaluation, rule: str = "sensitivity>=0.95") -> Task:
    """As export decides it."""
    calibrated = calibrate(table, task)
    return msgspec.structs.replace(
        calibrated.task, operating_points=choose_operating_points(calibrated.evaluation, rule=rule)
    )


def effective(task: Task, variant: Variant) -> Task:
    """What a bundle makes of the two."""
    return Manifest.task_of(msgspec.structs.replace(_BLANK, task=task), variant)


_BLANK = msgspec.convert(
    {
        "schema_version": 1, "name": "n", "task": {"kind": "binary", "labels": ["a", "b"]},
        "image_spec": {"height_px": 8, "width_px": 8, "colour": "grey", "mean": [0.5], "std": [0.5]}, "inputs": [],
        "outputs": [], "variants": [], "members": [], "provenance": {}, "intended_use": "tests", "model_digest": "",
    },
    Manifest,
)  # fmt: skip


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_a_shifted_variant_gets_the_threshold_that_keeps_the_promise(task):
    promised = decided_task(task, evaluation(task))
    shifted = evaluation(task, shift=-1.5)
    decided = recalibrate_thresholds(VARIANT, shifted, evaluation(task), promised)
    broken, kept = rescore(shifted, promised), rescore(shifted, effective(promised, decided.variant))
    truth = shifted.truth[:, -1] == 1
    assert broken.decisions[truth, -1].mean() < 0.9
    assert kept.decisions[truth, -1].mean() >= 0.95
    assert decided.variant.operating_points[-1].rule == "sensitivity>=0.95"
    assert any(
        f"the task's is {promised.operating_points[-1].threshold:.4g}" in line and "again on" in line
        for line in decided.lines
    )


@pytest.mark.parametrize("task", [BINARY, MULTILABEL, MULTICLASS])
def test_an_overconfident_variant_gets_its_own_temperature(task):
    promised = task if task is MULTICLASS else decided_task(task, evaluation(task))
    decided = recalibrate_thresholds(VARIANT, evaluation(task, scale=2.5), evaluation(task), promised)
    assert effective(promised, decided.variant).temperature == pytest.approx(2.5 * promised.temperature, rel=0.2)
    assert decided.lines[0].startswith("temperature 2.") and "fitted on 400 validation cases" in decided.lines[0]
    assert (task is MULTICLASS) == (decided.variant.operating_points is msgspec.UNSET)


def test_a_variant_with_the_tasks_own_scores_stays_as_it_is():
    table = evaluation(BINARY)
    promised = decided_task(BINARY, table)
    decided = recalibrate_thresholds(VARIANT, table, table, promised)
    assert decided.variant == VARIANT and not decided.variant.decides_itself
    assert len(decided.lines) == 2
    (finding,) = decided.findings
    assert not finding.has_moved and finding.changed == 0 and finding.cases == 400


def test_a_finding_with_too_few_patients_keeps_the_tasks_threshold_and_temperature():
    table = evaluation(MULTILABEL, rare=7.5)
    assert 0 < table.truth[:, 1].sum() < 10
    promised = decided_task(MULTILABEL, table)
    decided = recalibrate_thresholds(VARIANT, evaluation(MULTILABEL, rare=7.5, scale=2.5), table, promised)
    task = effective(promised, decided.variant)
    assert task.temperature == promised.temperature
    assert task.operating_points[1] == promised.operating_points[1]
    assert task.operating_points[0] != promised.operating_points[0]
    assert any(
        "threshold of nodule stays" in line and "10 patients of each are needed" in line for line in decided.lines
    )
    assert any("temperature stays" in line for line in decided.lines)


def test_patients_are_counted_and_not_images():
    table = evaluation(BINARY)
    promised = decided_task(BINARY, table)
    copies = msgspec.structs.replace(evaluation(BINARY, shift=-1.5), clusters=tuple(str(n % 9) for n in range(400)))
    decided = recalibrate_thresholds(VARIANT, copies, table, promised)
    assert decided.variant == VARIANT and any("stays" in line for line in decided.lines)


def test_a_rule_that_nothing_reaches_leaves_the_task():
    promised = decided_task(BINARY, evaluation(BINARY), rule="specificity>=0.90")
    saturated = evaluation(BINARY, cases=120)
    logits = np.tile([-500.0, 500.0], (120, 1))
    decided = recalibrate_thresholds(VARIANT, msgspec.structs.replace(saturated, logits=logits), saturated, promised)
    assert decided.variant == VARIANT
    assert decided.lines[0].startswith("decides as the task does: no threshold below 1 reaches")


def test_without_points_only_the_temperature_may_change():
    decided = recalibrate_thresholds(VARIANT, evaluation(BINARY, scale=2.5), evaluation(BINARY), BINARY)
    assert decided.variant.temperature == pytest.approx(2.5, rel=0.2)
    assert decided.variant.operating_points is msgspec.UNSET


def test_the_points_say_which_cases_they_rest_on():
    table = evaluation(BINARY, shift=-1.5)
    fp32 = evaluation(BINARY)
    (point,) = recalibrate_thresholds(VARIANT, table, fp32, decided_task(BINARY, fp32)).variant.operating_points
    assert isinstance(point, OperatingPoint)
    assert (point.positives, point.negatives) == (table.truth.sum(), (1 - table.truth).sum())


def noisy(table: Evaluation, task: Task, spread: float, seed: int) -> Evaluation:
    """``table`` with logits that an engine rounded: a noise of standard deviation ``spread`` on each."""
    noise = np.random.default_rng(seed).normal(0, spread, table.logits.shape)
    return rescore(msgspec.structs.replace(table, logits=table.logits + noise), task)


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_rounding_moves_no_decision_that_the_scores_do_not_move(task):
    """Youden's index is flat at its maximum: applied again it flips cases whose scores hardly moved."""
    fp32 = evaluation(task, cases=100)
    promised = decided_task(task, fp32, rule="youden")
    before, flips, again = rescore(fp32, promised), [], []
    for seed in range(40):
        rounded = noisy(fp32, promised, 0.1, seed)
        decided = recalibrate_thresholds(VARIANT, rounded, fp32, promised)
        own = rescore(rounded, effective(promised, decided.variant))
        flips.append(int((own.decisions != before.decisions).sum()))
        assert flips[-1] == sum(finding.changed for finding in decided.findings)
        calls = own.decisions.sum(axis=0), before.decisions.sum(axis=0)
        np.testing.assert_array_equal(*(columns[-len(promised.operating_points) :] for columns in calls))
        points = choose_operating_points(rescore(rounded, promised), rule="youden")
        anew = rescore(rounded, msgspec.structs.replace(promised, operating_points=points))
        again.append(int((anew.decisions != before.decisions).sum()))
    assert max(flips) <= 4 * len(task.findings) < max(again)


def test_a_shift_of_all_scores_moves_youdens_threshold_with_it():
    fp32 = evaluation(BINARY)
    promised = decided_task(BINARY, fp32, rule="youden")
    decided = recalibrate_thresholds(VARIANT, evaluation(BINARY, shift=-1.5), fp32, promised)
    (finding,) = decided.findings
    assert finding.has_moved and finding.threshold < finding.fp32_threshold
    assert finding.changed == 0
    assert decided.variant.operating_points[0].sensitivity == promised.operating_points[0].sensitivity
    assert "calls as many" in decided.lines[1] and "0 of 400 decisions differ" in decided.lines[1]


def test_decisions_that_a_kept_threshold_changes_are_counted():
    table = evaluation(BINARY)
    promised = decided_task(BINARY, table)
    few = tuple(str(n % 9) for n in range(400))
    shifted = msgspec.structs.replace(evaluation(BINARY, shift=-1.5), clusters=few)
    (finding,) = recalibrate_thresholds(VARIANT, shifted, table, promised).findings
    expected = (rescore(shifted, promised).decisions != rescore(table, promised).decisions).sum()
    assert not finding.has_moved and finding.changed == expected > 10


def test_other_cases_are_refused():
    table = evaluation(BINARY)
    other = msgspec.structs.replace(table, images=table.images[::-1])
    with pytest.raises(InputError, match="same cases in the same order"):
        recalibrate_thresholds(VARIANT, table, other, decided_task(BINARY, table))
