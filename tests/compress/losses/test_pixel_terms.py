"""Losses of pixels, against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.boundary_kl import near_borders
from medfm_compress.compress.losses.distance_map import signed_distance
from medfm_compress.compress.losses.names import LabelLoss
from medfm_compress.compress.losses.registry import Setting, label_terms_of, make_label_term, make_term
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

ONE = Task(kind="segmentation", labels=("lesion",))
TWO = Task(kind="segmentation", labels=("nucleus", "border"))
BINARY = Task(kind="binary", labels=("no", "yes"))
NONE = torch.zeros(0)


def probabilities(logits: Tensor) -> np.ndarray:
    """``[1 + structures, h, w]`` of the logits of one case."""
    powers = np.exp(np.concatenate([np.zeros_like(logits[:1]), logits.numpy()]).astype(np.float64))
    return powers / powers.sum(0)


def case(structures: int, seed: int = 0, sides: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, structures, *sides, generator=generator) * 2
    truth = torch.randint(0, structures + 1, (2, *sides), generator=generator).to(torch.uint8)
    return logits, truth


def entropy(p: np.ndarray, truth: np.ndarray) -> float:
    pixels = [(y, x) for y in range(truth.shape[0]) for x in range(truth.shape[1]) if truth[y, x] != 255]
    return -float(np.mean([math.log(p[truth[y, x], y, x]) for y, x in pixels]))


def soft_dice(p: np.ndarray, truth: np.ndarray) -> float:
    judged, parts = truth != 255, []
    for k in range(1, len(p)):
        y = (truth == k)[judged]
        parts.append((2 * (p[k][judged] * y).sum() + 1) / (p[k][judged].sum() + y.sum() + 1))
    return 1 - float(np.mean(parts))


@pytest.mark.parametrize("task", [ONE, TWO])
def test_cross_entropy_and_dice_are_their_formulas(task: Task) -> None:
    logits, truth = case(len(task.labels))
    truth[1, :2] = 255  # nobody judged
    plain = make_label_term("cross-entropy", NONE, task, balanced=True)(logits, truth)
    both = make_label_term("dice-ce", NONE, task, balanced=True)(logits, truth)
    for row in range(2):
        p, drawn = probabilities(logits[row]), truth[row].numpy()
        assert float(plain[row]) == pytest.approx(entropy(p, drawn), rel=1e-5)
        assert float(both[row]) == pytest.approx(entropy(p, drawn) + soft_dice(p, drawn), rel=1e-5)


def test_focal_tversky_is_its_formula() -> None:
    logits, truth = case(2, seed=1)
    loss = make_label_term("focal-tversky", NONE, TWO, balanced=False)(logits, truth)
    for row in range(2):
        p, parts = probabilities(logits[row]), []
        for k in (1, 2):
            y = truth[row].numpy() == k
            both, missed, extra = (p[k] * y).sum(), ((1 - p[k]) * y).sum(), (p[k] * ~y).sum()
            parts.append((1 - (both + 1) / (both + 0.7 * missed + 0.3 * extra + 1)) ** 0.75)
        assert float(loss[row]) == pytest.approx(np.mean(parts), rel=1e-5)


def brute_force(mask: np.ndarray) -> np.ndarray:
    points = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1])]
    distance = np.zeros(mask.shape)
    for y, x in points:
        others = [math.hypot(y - v, x - u) for v, u in points if mask[v, u] != mask[y, x]]
        distance[y, x] = (-1 if mask[y, x] else 1) * min(others, default=0.0)
    return distance


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_distances_are_those_to_every_pixel_of_the_other_kind(share: float) -> None:
    mask = np.random.default_rng(3).random((2, 9, 13)) < share
    expected = np.stack([brute_force(part) for part in mask])
    np.testing.assert_allclose(signed_distance(torch.from_numpy(mask)).numpy(), expected, atol=1e-4)


def test_the_boundary_loss_adds_distances_to_dice_and_cross_entropy() -> None:
    logits, truth = case(1, seed=4)
    loss = make_label_term("boundary", NONE, ONE, balanced=False)(logits, truth)
    for row in range(2):
        p, drawn = probabilities(logits[row]), truth[row].numpy()
        outside = float((brute_force(drawn == 1) / 7 * p[1]).mean())
        assert float(loss[row]) == pytest.approx(entropy(p, drawn) + soft_dice(p, drawn) + outside, rel=1e-4)


@pytest.mark.parametrize("name", label_terms_of(ONE))
@pytest.mark.parametrize("drawn", [0, 1, 255])
def test_label_losses_have_finite_gradients_where_a_truth_is_of_one_kind(name: LabelLoss, drawn: int) -> None:
    logits = (torch.randn(2, 1, 6, 6) * 30).requires_grad_()
    make_label_term(name, NONE, ONE, balanced=False)(
        logits, torch.full((2, 6, 6), drawn, dtype=torch.uint8)
    ).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    return float((teacher * (np.log(teacher) - np.log(student))).sum())


def test_pixel_kl_is_the_divergence_of_every_pixel_background_among_it() -> None:
    student, teacher = case(2)[0], case(2, seed=9)[0]
    loss = make_term("pixel-kl", Setting(2.0, TWO))(DistillationBatch(student, teacher))
    for row in range(2):
        s, t = probabilities(student[row] / 2), probabilities(teacher[row] / 2)
        mean = np.mean([divergence(s[:, y, x], t[:, y, x]) for y in range(5) for x in range(7)])
        assert float(loss[row]) == pytest.approx(4 * mean, rel=1e-4)


def test_channel_wise_is_the_divergence_over_the_pixels_of_a_map() -> None:
    student, teacher = case(2)[0], case(2, seed=9)[0]
    loss = make_term("channel-wise", Setting(3.0, TWO))(DistillationBatch(student, teacher))
    for row in range(2):
        parts = []
        for k in range(2):
            s, t = (np.exp(z[row, k].double().numpy().ravel() / 3) for z in (student, teacher))
            parts.append(divergence(s / s.sum(), t / t.sum()))
        assert float(loss[row]) == pytest.approx(9 * np.mean(parts), rel=1e-4)


def test_boundary_kl_weighs_the_band_along_the_teachers_border() -> None:
    teacher = torch.full((1, 1, 8, 8), -4.0)
    teacher[..., 4:] = 4
    band = near_borders(teacher)[0].numpy()
    assert band[:, [3, 4]].all()
    assert band.sum() == 16
    student = torch.zeros(1, 1, 8, 8)
    student[..., 3] = 2  # wrong beside the border
    inside = make_term("boundary-kl", Setting(1.0, ONE))(DistillationBatch(student, teacher))
    far = torch.roll(student, -3, 3)  # as wrong, far from it
    outside = make_term("boundary-kl", Setting(1.0, ONE))(DistillationBatch(far, teacher))
    plain = make_term("pixel-kl", Setting(1.0, ONE))
    assert float(plain(DistillationBatch(student, teacher))) == pytest.approx(
        float(plain(DistillationBatch(far, teacher))), rel=1e-5
    )
    assert float(inside) > 1.5 * float(outside)


@pytest.mark.parametrize("name", ["pixel-kl", "channel-wise", "boundary-kl"])
def test_a_student_that_equals_its_teacher_loses_nothing(name: str) -> None:
    logits = case(2)[0]
    assert float(make_term(name, Setting(3.0, TWO))(DistillationBatch(logits, logits)).abs().max()) < 1e-5
    with pytest.raises(InputError, match="does not fit a binary task"):
        make_term(name, Setting(3.0, BINARY))


@pytest.mark.parametrize("name", ["kl", "sigmoid", "dist", "relational"])
def test_terms_of_images_are_refused_for_pixels(name: str) -> None:
    with pytest.raises(InputError, match=r"choose of .*pixel-kl, channel-wise, boundary-kl"):
        make_term(name, Setting(3.0, ONE))


def test_label_losses_belong_to_a_kind_of_task() -> None:
    with pytest.raises(InputError, match="choose of cross-entropy, focal, class-balanced"):
        make_label_term("dice-ce", torch.zeros(2, 1, dtype=torch.int64), BINARY, balanced=False)
    with pytest.raises(InputError, match="choose of dice-ce, focal-tversky, cross-entropy, boundary"):
        make_label_term("class-balanced", NONE, ONE, balanced=False)
