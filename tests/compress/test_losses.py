"""Losses against hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch

from medfm_compress.compress.losses_old import class_weights, distillation_loss, label_loss
from medfm_compress.runtime.task import Task

BINARY = Task(kind="binary", labels=("normal", "finding"))
MULTILABEL = Task(kind="multilabel", labels=("a", "b"))


def test_distillation_matches_a_hand_computed_case() -> None:
    # p = softmax((0, ln 3)) = (1/4, 3/4), q = (1/2, 1/2): KL = 1/4 ln(1/2) + 3/4 ln(3/2); times tau squared.
    tau = 2.0
    teacher = torch.tensor([[0.0, tau * math.log(3)]])
    student = torch.zeros(1, 2)
    expected = tau**2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert distillation_loss(student, teacher, tau, BINARY).item() == pytest.approx(expected, rel=1e-6)


def test_multilabel_distillation_sums_bernoulli_divergences() -> None:
    teacher = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4 and 1/2
    student = torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distillation_loss(student, teacher, 1.0, MULTILABEL).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_a_student_that_agrees_has_no_distillation_loss(task: Task) -> None:
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits, logits, 3.0, task).item() == pytest.approx(0, abs=1e-6)


def test_balanced_weights_give_each_class_the_same_sum() -> None:
    targets = torch.tensor([[0]] * 9 + [[1]])
    weights = class_weights(targets, BINARY, balanced=True)
    assert (weights * torch.tensor([9.0, 1.0])).tolist() == pytest.approx([5.0, 5.0])
    assert class_weights(targets, BINARY, balanced=False).tolist() == [1.0, 1.0]


def test_label_loss_is_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    assert label_loss(logits, torch.tensor([[1]]), torch.ones(2), BINARY).item() == pytest.approx(-math.log(0.75))
    loss = label_loss(logits, torch.tensor([[1, 0]]), torch.ones(2), MULTILABEL)
    assert loss.item() == pytest.approx((math.log(2) - math.log(0.25)) / 2)
