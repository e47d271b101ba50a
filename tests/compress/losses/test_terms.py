"""Every term against a case worked out by hand, or against its paper's definition written out with loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.class_weights import BETA as CUI
from medfm_compress.compress.losses.class_weights import effective_number, inverse_frequency
from medfm_compress.compress.losses.cross_entropy import CrossEntropy
from medfm_compress.compress.losses.decoupled import ALPHA, BETA, Decoupled
from medfm_compress.compress.losses.dist import pearson
from medfm_compress.compress.losses.focal import Focal
from medfm_compress.compress.losses.registry import (
    LABEL_TERMS,
    TERMS,
    FeatureShapes,
    Setting,
    make_label_term,
    make_term,
)
from medfm_compress.compress.losses.relational import angles, distances
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

IMAGE_TERMS = [name for name in TERMS if name not in ("pixel-kl", "channel-wise", "boundary-kl")]
BINARY = Task(kind="binary", labels=("normal", "finding"))
THREE = Task(kind="multiclass", labels=("a", "b", "c"))
FINDINGS = Task(kind="multilabel", labels=("a", "b"))
SHAPES = {"map": (4, 3, 3), "attention": (3, 3), "embedding": (5,), "token": (3,)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def term(name, task=THREE, temperature=1.0, shapes=None):
    shapes = SHAPES if shapes is None else shapes
    return make_term(name, Setting(temperature, task, FeatureShapes(shapes, shapes)))


def batch(student, teacher, student_features=None, teacher_features=None):
    return DistillationBatch(student, teacher, student_features or {}, teacher_features or {})


def test_kl_by_hand():
    # p = softmax((0, ln 3)) = (1/4, 3/4), q = (1/2, 1/2): KL = 1/4 ln(1/2) + 3/4 ln(3/2); times tau squared
    tau = 2.0
    teacher, student = torch.tensor([[0.0, tau * math.log(3)]]), torch.zeros(1, 2)
    expected = tau**2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert term("kl", BINARY, tau)(batch(student, teacher)).tolist() == pytest.approx([expected], rel=1e-6)


def test_sigmoid_by_hand():
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)  # probabilities 3/4 and 1/2
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert term("sigmoid", FINDINGS)(batch(student, teacher)).tolist() == pytest.approx([expected], rel=1e-5)


def test_hard_token_by_hand():
    token = torch.tensor([[0.0, math.log(3), 0.0]])
    teacher = torch.tensor([[-1.0, 2.0, 1.0]])  # decides for the second of three: probability 3/5
    actual = term("token-hard")(batch(torch.zeros(1, 3), teacher, {"token": token}))
    assert actual.tolist() == pytest.approx([-math.log(0.6)])
    both = term("token-hard", FINDINGS, shapes={"token": (2,)})
    actual = both(batch(torch.zeros(1, 2), torch.tensor([[3.0, -3.0]]), {"token": torch.tensor([[math.log(3), 0.0]])}))
    assert actual.tolist() == pytest.approx([-math.log(0.75) - math.log(0.5)])


def test_soft_token_is_the_divergence_of_the_token():
    student, teacher, token = draw(4, 3), draw(4, 3, seed=1), draw(4, 3, seed=2)
    actual = term("token-soft", temperature=2.0)(batch(student, teacher, {"token": token}))
    torch.testing.assert_close(actual, term("kl", temperature=2.0)(batch(token, teacher)))


def test_decoupled_against_its_definition():
    student, teacher, tau = draw(6, 3), draw(6, 3, seed=1), 2.0
    expected = []
    for s, t in zip((student / tau).softmax(1).numpy(), (teacher / tau).softmax(1).numpy(), strict=True):
        target = int(t.argmax())
        rest = [i for i in range(3) if i != target]
        binary = sum(p * math.log(p / q) for p, q in ((t[target], s[target]), (1 - t[target], 1 - s[target])))
        p, q = t[rest] / t[rest].sum(), s[rest] / s[rest].sum()
        expected.append(tau**2 * (ALPHA * binary + BETA * float((p * np.log(p / q)).sum())))
    np.testing.assert_allclose(term("decoupled", temperature=tau)(batch(student, teacher)), expected, rtol=1e-4)


def test_decoupled_is_hintons_where_its_weights_say_so():
    # KL = KL of the binary part + (1 - p_t) KL among the others (equation 5 of the paper)
    student, teacher = draw(6, 3), draw(6, 3, seed=1)
    whole = term("kl")(batch(student, teacher))
    chosen = functional.one_hot(teacher.argmax(1), 3).bool()
    p_target = teacher.softmax(1)[chosen]
    parts = Decoupled(1.0)(batch(student, teacher))
    s, t = student.softmax(1), teacher.softmax(1)
    p, q = t[chosen], s[chosen]
    binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    others = (parts - ALPHA * binary) / BETA
    torch.testing.assert_close(whole, binary + (1 - p_target) * others, rtol=1e-4, atol=1e-5)


def test_decoupled_between_two_labels_is_hintons():
    student, teacher = draw(5, 2), draw(5, 2, seed=1)
    torch.testing.assert_close(
        term("decoupled", BINARY, 2.0)(batch(student, teacher)), term("kl", BINARY, 2.0)(batch(student, teacher))
    )


def test_dist_against_numpy():
    student, teacher, tau = draw(6, 3), draw(6, 3, seed=1), 2.0
    s, t = (student / tau).softmax(1).numpy(), (teacher / tau).softmax(1).numpy()
    columns = np.mean([1 - np.corrcoef(s[:, k], t[:, k])[0, 1] for k in range(3)])
    rows = np.array([1 - np.corrcoef(s[i], t[i])[0, 1] for i in range(6)])
    actual = term("dist", temperature=tau)(batch(student, teacher))
    np.testing.assert_allclose(actual, tau**2 * (rows + columns), rtol=1e-4)


def test_dist_of_two_labels_leaves_the_labels_of_a_case_out():
    student, teacher = draw(6, 2), draw(6, 2, seed=1)
    s, t = student.softmax(1).numpy(), teacher.softmax(1).numpy()
    expected = np.mean([1 - np.corrcoef(s[:, k], t[:, k])[0, 1] for k in range(2)])
    np.testing.assert_allclose(term("dist", BINARY)(batch(student, teacher)), [expected] * 6, rtol=1e-4)
    assert pearson(torch.ones(1, 4), draw(1, 4)).item() == 0  # no spread, no relation


def test_feature_by_hand():
    hint = term("feature", shapes={"map": (1, 1, 2)})
    with torch.no_grad():
        hint.projection.weight.fill_(2.0)
        hint.projection.bias.fill_(1.0)
    student, teacher = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[10.0, 20.0]]]])  # normalised: -1, 1
    actual = hint(batch(torch.zeros(1, 3), torch.zeros(1, 3), {"map": student}, {"map": teacher}))
    assert actual.tolist() == pytest.approx([((1 + 1) ** 2 + (3 - 1) ** 2) / 2], rel=1e-4)


def test_feature_pools_the_larger_map_and_learns():
    hint = make_term("feature", Setting(1.0, THREE, FeatureShapes({"map": (4, 2, 2)}, {"map": (6, 4, 4)})))
    supplied = batch(draw(2, 3), draw(2, 3), {"map": draw(2, 4, 2, 2)}, {"map": draw(2, 6, 4, 4)})
    loss = hint(supplied)
    assert loss.shape == (2,)
    loss.mean().backward()
    assert hint.projection.weight.grad.abs().sum() > 0


def test_attention_by_hand():
    student, teacher = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])
    actual = term("attention")(batch(draw(1, 3), draw(1, 3), {"attention": student}, {"attention": teacher}))
    assert actual.tolist() == pytest.approx([(0.6 - 1) ** 2 + 0.8**2])


def test_attention_of_another_size_is_averaged():
    coarse = torch.tensor([[[1.0, 2.0]]])
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    supplied = batch(draw(1, 3), draw(1, 3), {"attention": fine}, {"attention": coarse})
    assert term("attention")(supplied).tolist() == pytest.approx([0.0], abs=1e-6)


def test_relations_against_loops():
    student, teacher = draw(4, 5), draw(4, 7, seed=1)

    def huber(x):
        return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5

    def table(e):
        e = e.numpy().astype(np.float64)
        pairs = {(i, j): np.linalg.norm(e[i] - e[j]) for i, j in itertools.product(range(4), repeat=2)}
        mean = np.mean([d for (i, j), d in pairs.items() if i != j])
        corners = {}
        for i, j, k in itertools.product(range(4), repeat=3):
            a, b = e[j] - e[i], e[k] - e[i]
            length = np.linalg.norm(a) * np.linalg.norm(b)
            corners[i, j, k] = a @ b / length if length else 0.0
        return {pair: d / mean for pair, d in pairs.items()}, corners

    (sd, sa), (td, ta) = table(student), table(teacher)
    expected = np.mean([huber(sd[p] - td[p]) for p in sd]) + 2 * np.mean([huber(sa[c] - ta[c]) for c in sa])
    actual = term("relational")(batch(draw(4, 3), draw(4, 3), {"embedding": student}, {"embedding": teacher}))
    np.testing.assert_allclose(actual, [expected] * 4, rtol=1e-3)
    assert distances(student).shape == (4, 4)
    assert angles(student).shape == (4, 4, 4)


@pytest.mark.parametrize("name", [n for n in IMAGE_TERMS if n not in ("feature", "token-hard", "sigmoid")])
def test_a_student_that_agrees_has_no_loss(name):
    logits = draw(5, 3)
    features = {"attention": draw(5, 3, 3).abs(), "embedding": draw(5, 5), "token": logits}
    actual = term(name, temperature=2.0)(batch(logits, logits, features, features))
    assert actual.shape == (5,)
    assert actual.abs().max() < 1e-4


@pytest.mark.parametrize("name", IMAGE_TERMS)
def test_gradients_are_finite_even_where_a_case_occurs_twice(name):
    task = FINDINGS if name == "sigmoid" else THREE
    logits = draw(1, len(task.labels)).repeat(3, 1).requires_grad_()
    features = {
        "map": draw(1, 4, 3, 3).repeat(3, 1, 1, 1).requires_grad_(),
        "attention": draw(1, 3, 3).abs().repeat(3, 1, 1).requires_grad_(),
        "embedding": draw(1, 5).repeat(3, 1).requires_grad_(),
        "token": draw(1, len(task.labels)).repeat(3, 1).requires_grad_(),
    }
    others = {key: value.detach().flip(0) * 1.1 for key, value in features.items()}
    actual = term(name, task, shapes={**SHAPES, "token": (len(task.labels),)})
    actual(batch(logits, draw(3, len(task.labels), seed=3), features, others)).mean().backward()
    for tensor in (logits, *features.values()):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("name", ["kl", "decoupled", "dist"])
def test_exclusive_terms_refuse_independent_labels(name):
    with pytest.raises(InputError, match=r"does not fit a multilabel task.*use 'sigmoid'"):
        term(name, FINDINGS)


def test_sigmoid_refuses_exclusive_labels():
    with pytest.raises(InputError, match=r"use 'kl'"):
        term("sigmoid", THREE)


def test_a_feature_that_is_not_given_is_named():
    with pytest.raises(InputError, match=r"needs the student's 'token'.*gives embedding.*distillation token"):
        term("token-hard", shapes={"embedding": (4,)})
    with pytest.raises(InputError, match="choose of kl, sigmoid"):
        term("hinton")


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])
    assert CrossEntropy(torch.tensor([1.0, 2.0]), BINARY)(logits, torch.tensor([[1]])).tolist() == pytest.approx(
        [-2 * math.log(0.75)]
    )
    actual = CrossEntropy(torch.ones(2), FINDINGS)(logits, torch.tensor([[1, 0]]))
    assert actual.tolist() == pytest.approx([(math.log(2) - math.log(0.25)) / 2])


def test_focal_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])
    actual = Focal(torch.tensor([1.0, 2.0]), BINARY)(logits, torch.tensor([[1]]))
    assert actual.tolist() == pytest.approx([-2 * 0.25**2 * math.log(0.75)])
    actual = Focal(torch.ones(2), FINDINGS)(logits, torch.tensor([[1, 0]]))
    assert actual.tolist() == pytest.approx([(0.5**2 * math.log(2) - 0.75**2 * math.log(0.25)) / 2])


def test_balanced_weights_give_each_class_the_same_sum():
    targets = torch.tensor([[0]] * 9 + [[1]])
    assert (inverse_frequency(targets, BINARY) * torch.tensor([9.0, 1.0])).tolist() == pytest.approx([5.0, 5.0])
    several = torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0]])
    assert inverse_frequency(several, FINDINGS).tolist() == pytest.approx([1 / 3, 3.0])


def test_effective_numbers_by_hand():
    targets = torch.tensor([[0]] * 3 + [[1]])
    effective = [(1 - CUI**n) / (1 - CUI) for n in (3, 1)]
    raw = np.array([1 / e for e in effective])
    np.testing.assert_allclose(effective_number(targets, BINARY), raw * 4 / (raw * [3, 1]).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", LABEL_TERMS)
@pytest.mark.parametrize("task", [BINARY, FINDINGS])
def test_every_label_term_prefers_the_truth(name, task):
    targets = torch.tensor([[1], [0], [0]]) if task is BINARY else torch.tensor([[1, 0], [0, 1], [0, 0]])
    term_ = make_label_term(name, targets, task, balanced=True)
    right = torch.where(targets > 0, 4.0, -4.0)
    right = torch.cat((-right, right), 1) if task is BINARY else right
    assert (term_(right, targets) < term_(-right, targets)).all()


def test_an_unknown_label_term():
    with pytest.raises(InputError, match="choose of cross-entropy, focal, class-balanced"):
        make_label_term("hinge", torch.tensor([[0]]), BINARY, balanced=True)
