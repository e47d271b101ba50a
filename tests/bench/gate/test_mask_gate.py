"""Damage that is planted in masks is caught by the gate and named; an equal bundle passes."""

from __future__ import annotations

import drawn_masks
import msgspec
import numpy as np
import pytest
from scipy import ndimage

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.prediction_flips import find_flips
from medfm_compress.bench.evaluate.robustness import PerturbedTables, compare_drops
from medfm_compress.bench.gate.consistent_scores import check_consistent
from medfm_compress.bench.gate.gate import gather, judge_evidence
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import NonInferiority, Policy, Robustness, SubgroupRule
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.errors import InputError

POLICY = Policy(
    non_inferiority=(
        NonInferiority(metric="dice", margin=0.06),
        NonInferiority(metric="dice", margin=0.1, subgroup="hospital"),
        NonInferiority(metric="hd95", margin=3.0),
        NonInferiority(metric="lesion_sensitivity", margin=0.1),
        NonInferiority(metric="small_lesion_sensitivity", margin=0.1),
        NonInferiority(metric="false_positives_per_image", margin=0.2),
    ),
    subgroups=(SubgroupRule(column="hospital"),),
    resamples=1000,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    return drawn_masks.draw(tmp_path_factory.mktemp("spots"), 280)


@pytest.fixture(scope="module")
def drawn(study) -> list[np.ndarray]:
    return drawn_masks.shaken(drawn_masks.truths(study), 1)


@pytest.fixture(scope="module")
def teacher(study, drawn) -> Evaluation:
    return drawn_masks.evaluation(study, drawn, "teacher")


def verdict(teacher: Evaluation, bundle: Evaluation, policy: Policy = POLICY) -> Verdict:
    return judge_evidence(gather(teacher, [bundle], policy, drawn_masks.TASK), policy, policy_sha256="0" * 64)


def failed(judged: Verdict) -> set[str]:
    return {check.name for check in judged.variants[0].checks if check.outcome == "fail"}


def without_small(shown: np.ndarray, least_px: int = 60) -> np.ndarray:
    labels, count = ndimage.label(shown, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.where(sizes[labels] >= least_px, shown, 0).astype(np.uint8)


def eroded(shown: np.ndarray, px: int = 3) -> np.ndarray:
    return ndimage.binary_erosion(shown, iterations=px).astype(np.uint8)


def test_the_same_masks_pass(study, drawn, teacher) -> None:
    judged = verdict(teacher, drawn_masks.evaluation(study, drawn, "bundle"))
    assert judged.outcome == "pass"
    assert "28 of 280 cases do not show spot" in " ".join(judged.notes)
    assert "distances are in px" in judged.notes


def test_an_equally_good_model_passes(study, teacher) -> None:
    other = drawn_masks.shaken(drawn_masks.truths(study), 2)
    assert verdict(teacher, drawn_masks.evaluation(study, other, "bundle")).outcome == "pass"


def test_small_lesions_that_are_lost_are_named(study, drawn, teacher) -> None:
    bundle = drawn_masks.evaluation(study, [without_small(shown) for shown in drawn], "bundle")
    names = failed(verdict(teacher, bundle))
    assert {"lesion_sensitivity of spot", "small_lesion_sensitivity of spot"} <= names
    assert "dice of spot" not in names  # the large spot hides it


def test_one_hospital_is_named(study, drawn, teacher) -> None:
    maps = [
        eroded(shown) if case.subgroups["hospital"] == "south" else shown
        for shown, case in zip(drawn, study.cases, strict=True)
    ]
    names = failed(verdict(teacher, drawn_masks.evaluation(study, maps, "bundle")))
    assert "dice of spot, hospital = south" in names
    assert "dice of spot, hospital = north" not in names


def test_an_eroded_boundary_is_caught(study, drawn, teacher) -> None:
    names = failed(verdict(teacher, drawn_masks.evaluation(study, [eroded(shown) for shown in drawn], "bundle")))
    assert {"dice of spot", "dice of spot, hospital = north", "dice of spot, hospital = south"} <= names


def test_regions_that_are_made_up_are_caught(study, drawn, teacher) -> None:
    maps = [shown.copy() for shown in drawn]
    for shown in maps:
        shown[:4, :4] = 1
    names = failed(verdict(teacher, drawn_masks.evaluation(study, maps, "bundle")))
    assert names == {"false_positives_per_image of spot", "hd95 of spot"}


def test_flips_are_structures_lost_invented_or_drawn_elsewhere(study, drawn, teacher) -> None:
    maps = [shown.copy() for shown in drawn]
    maps[1][:] = 0
    maps[10][:5, :5] = 1  # the truth is empty
    maps[3][:] = np.flip(maps[3], axis=0) * 0
    maps[3][-4:, -4:] = 1
    flips = find_flips(teacher, drawn_masks.evaluation(study, maps, "bundle"))
    assert {(flip.case, flip.kind) for flip in flips} == {
        (1, "newly missed"),
        (10, "new false alarm"),
        (3, "lost: drawn elsewhere"),
    }


def test_too_few_patients_with_the_structure_are_inconclusive(study, drawn, teacher) -> None:
    policy = msgspec.structs.replace(POLICY, min_positives=150)
    judged = verdict(teacher, drawn_masks.evaluation(study, drawn, "bundle"), policy)
    check = next(check for check in judged.variants[0].checks if check.name == "dice of spot")
    assert judged.outcome == check.outcome == "inconclusive"
    assert "patients with a value of dice, the policy asks for 150" in check.reason


def test_a_metric_of_another_kind_of_task_is_refused(teacher) -> None:
    policy = Policy(non_inferiority=(NonInferiority(metric="brier", margin=0.1),))
    with pytest.raises(InputError, match="brier, which a segmentation does not have"):
        gather(teacher, [teacher], policy, drawn_masks.TASK)


def test_perturbations_that_move_the_image_are_refused(teacher) -> None:
    policy = msgspec.structs.replace(POLICY, robustness=(Robustness(metric="dice", margin=0.1),))
    with pytest.raises(InputError, match="rotation and shift would move the images away from their masks"):
        gather(teacher, [teacher], policy, drawn_masks.TASK)


def test_what_a_bundle_loses_on_perturbed_images_is_compared(study, drawn, teacher) -> None:
    required = Robustness(metric="dice", margin=0.05, perturbations=("noise",), severities=(1,))
    policy = msgspec.structs.replace(POLICY, robustness=(required,))
    bundle = drawn_masks.evaluation(study, drawn, "bundle")
    worse = drawn_masks.evaluation(study, [eroded(shown) for shown in drawn], "bundle")
    tables = tuple(EvaluationTable.from_evaluation(model) for model in (teacher, worse))
    (drop,) = compare_drops(
        [teacher, bundle], [PerturbedTables(perturbation="noise", severity=1, evaluations=tables)], policy
    )
    assert drop.difference.high < -0.05
    assert drop.p_worse < 0.025


def test_a_table_keeps_its_values_through_json_and_cannot_be_altered(teacher) -> None:
    table = EvaluationTable.from_evaluation(teacher)
    again = msgspec.json.decode(msgspec.json.encode(table), type=EvaluationTable).to_evaluation()
    for metric, values in teacher.case_metrics.items():
        np.testing.assert_array_equal(again.case_metrics[metric], values)
    check_consistent(again, drawn_masks.TASK)
    bad = msgspec.structs.replace(table, case_metrics={**table.case_metrics, "dice": ((2.0,),) * 280})
    with pytest.raises(InputError, match="dice of evaluation 'teacher' is out of range"):
        bad.to_evaluation()
    shown = msgspec.structs.replace(again, decisions=np.zeros_like(again.decisions))
    with pytest.raises(InputError, match="contradicts itself"):
        check_consistent(shown, drawn_masks.TASK)
