"""What a student learns on: the order of the cases, their labels and their weights."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from medfm_compress.compress.distillation.training_cases import Weighing, gather_training_cases
from medfm_compress.compress.students.build_student import build_student
from medfm_compress.compress.training.dataset import NO_LABEL, load_images
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError


def without_labels(study: Study, hidden: int, split: str = "unlabelled") -> Study:
    """The first ``hidden`` training cases lose their label."""
    left = iter(range(hidden))

    def hide(case):
        if case.split != "train" or next(left, None) is None:
            return case
        return msgspec.structs.replace(case, target=(), split=split)

    return msgspec.structs.replace(study, cases=tuple(map(hide, study.cases)))


def with_column(study: Study, values: dict[int, str]) -> Study:
    cases = tuple(
        msgspec.structs.replace(case, subgroups={"trust": values.get(row, "")}) for row, case in enumerate(study.cases)
    )
    return msgspec.structs.replace(study, cases=cases)


def images_of(training_cases):
    return [case.image for _, cases in training_cases.groups for case in cases]


def test_hidden_labels_do_not_change_the_order(discs):
    whole = gather_training_cases(discs, Weighing(0.8), unlabelled=True)
    half = gather_training_cases(without_labels(discs, 20), Weighing(0.8), unlabelled=True)
    assert images_of(half) == images_of(whole)
    assert (whole.labelled, whole.unlabelled) == (48, 0)
    assert (half.labelled, half.unlabelled) == (28, 20)
    assert half.targets[:20].eq(NO_LABEL).all()
    assert torch.equal(half.targets[20:], whole.targets[20:])


def test_a_case_without_label_has_its_teacher_alone(discs):
    training_cases = gather_training_cases(without_labels(discs, 5), Weighing(0.75), unlabelled=True)
    assert training_cases.label_weight[:5].tolist() == [0.0] * 5
    assert training_cases.teacher_weight[:5].tolist() == [1.0] * 5
    assert training_cases.label_weight[5:].unique().tolist() == [0.25]
    assert training_cases.teacher_weight[5:].unique().tolist() == [0.75]


def test_training_cases_without_label_count_as_unlabelled_and_may_be_left_out(discs):
    study = without_labels(discs, 5, split="train")
    assert gather_training_cases(study, Weighing(0.8), unlabelled=True).unlabelled == 5
    assert gather_training_cases(study, Weighing(0.8), unlabelled=False).unlabelled == 0


def test_other_studies_give_images_only(discs):
    training_cases = gather_training_cases(discs, Weighing(0.8), unlabelled=True, more=(without_labels(discs, 7),))
    assert (training_cases.labelled, training_cases.unlabelled) == (48, 48)  # no val, no test
    assert [study.labels for study, _ in training_cases.groups] == [discs.labels] * 2
    assert training_cases.label_weight[48:].sum() == 0


def test_images_of_several_studies_are_looked_up_in_order(discs):
    training_cases = gather_training_cases(discs, Weighing(0.8), unlabelled=True, more=(discs,))
    student = build_student("test_resnet", task_of(discs), spec_of(discs), None, None)
    images = load_images(training_cases.groups, student.spec, None, lambda line: None)
    assert images.shape == (96, 1, 48, 48)
    np.testing.assert_array_equal(images[np.array([50, 3, 2])], images[np.array([2, 51, 50])])


def test_columns_weigh_cases(discs):
    study = with_column(discs, {0: "0", 1: "0.5"})
    weighing = Weighing(0.8, label_column="trust", teacher_column="trust")
    training_cases = gather_training_cases(study, weighing, unlabelled=True)
    torch.testing.assert_close(training_cases.label_weight[:3], torch.tensor([0.0, 0.1, 0.2]))
    torch.testing.assert_close(training_cases.teacher_weight[:3], torch.tensor([0.0, 0.4, 0.8]))


@pytest.mark.parametrize("value", ["much", "-1", "inf", "0_5"])
def test_a_weight_that_is_no_weight(discs, value):
    with pytest.raises(StudyError, match=f"'trust' of .* is '{value}'; a weight is a number, at least 0"):
        gather_training_cases(with_column(discs, {3: value}), Weighing(0.8, label_column="trust"), unlabelled=True)


def test_a_column_that_is_not_there(discs):
    with pytest.raises(StudyError, match="no column 'quality' to weigh cases by; its columns: none"):
        gather_training_cases(discs, Weighing(0.8, teacher_column="quality"), unlabelled=True)


def test_without_any_label_the_teacher_teaches_alone(discs):
    training_cases = gather_training_cases(without_labels(discs, 48), Weighing(0.8), unlabelled=True)
    assert (training_cases.labelled, training_cases.unlabelled) == (0, 48)
    assert training_cases.teacher_weight.unique().tolist() == [1.0]


def test_there_must_be_something_to_learn_from(discs):
    with pytest.raises(StudyError, match="no image in split 'train' or 'unlabelled' to learn from"):
        gather_training_cases(without_labels(discs, 48), Weighing(0.8), unlabelled=False)


def task_of(study):
    from medfm_compress.compress.training.dataset import task_of as of

    return of(study)


def spec_of(study):
    from medfm_compress.runtime.image_spec import ImageSpec

    return ImageSpec(height_px=48, width_px=48, colour="grey", mean=(0.5,), std=(0.25,))
