"""Prototypes and the linear probe on embeddings that were made up, against scikit-learn and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.compress.few_labels.draws import draw
from medfm_compress.compress.few_labels.linear_classifier import Scaling, softmax
from medfm_compress.compress.few_labels.linear_probe import linear_probe, penalty
from medfm_compress.compress.few_labels.prototypes import prototypes
from medfm_compress.runtime.errors import InputError


def made_up(cases: int, width: int, labels: int, seed: int = 0):
    """Embeddings of unlike scale whose classes have unlike sizes and overlap."""
    random = np.random.default_rng(seed)
    classes = np.r_[
        np.arange(labels), random.choice(labels, cases - labels, p=np.arange(1, labels + 1) / sum(range(labels + 1)))
    ]
    centres = random.normal(0, 1, (labels, width))
    scales = 10.0 ** random.uniform(-2, 2, width)
    return (centres[classes] + random.normal(0, 2, (cases, width))) * scales + scales, classes


@pytest.mark.parametrize(("cases", "width", "labels"), [(15, 40, 3), (200, 12, 3), (60, 30, 2)])
def test_the_probe_is_logistic_regression(cases, width, labels):
    from sklearn.linear_model import LogisticRegression

    x, classes = made_up(cases, width, labels)
    asked = made_up(50, width, labels, seed=1)[0]
    scaling = Scaling.of(x)
    reference = LogisticRegression(C=penalty(cases / labels), class_weight="balanced", tol=1e-10, max_iter=10_000).fit(
        scaling(x), classes
    )
    probabilities = softmax(linear_probe(x, classes, labels).logits(asked))
    expected = reference.predict_proba(scaling(asked))
    if labels == 2:  # scikit-learn has one logit of two labels: of weights of half the size
        reference.C *= 2
        expected = reference.fit(scaling(x), classes).predict_proba(scaling(asked))
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)


def test_the_penalty_falls_with_the_cases():
    assert [round(penalty(number), 2) for number in (5, 20, 100, 1000)] == [0.01, 0.08, 0.89, 1.0]


def test_prototypes_call_what_the_cosine_calls():
    x, classes = made_up(30, 20, 3)
    asked = made_up(200, 20, 3, seed=1)[0]
    means = np.stack([x[classes == label].mean(0) for label in range(3)])
    centre = means.mean(0)
    cosines = [
        [
            (case - centre) @ (mean - centre) / np.linalg.norm(case - centre) / np.linalg.norm(mean - centre)
            for mean in means
        ]
        for case in asked
    ]
    called = prototypes(x, classes, 3).logits(asked).argmax(1)
    assert called.tolist() == np.argmax(cosines, axis=1).tolist()


@pytest.mark.parametrize("fit", [prototypes, linear_probe])
def test_a_class_without_a_case_is_refused(fit):
    x, classes = made_up(10, 4, 2)
    with pytest.raises(InputError, match="class 2 has no training case"):
        fit(x, classes, 3)


@pytest.mark.parametrize("fit", [prototypes, linear_probe])
def test_embeddings_that_never_change_and_cases_that_are_all_alike(fit):
    x, classes = made_up(12, 6, 2)
    x[:, 2] = 7.0
    assert np.isfinite(fit(x, classes, 2).logits(x)).all()
    alike = fit(np.ones((6, 3)), np.arange(6) % 2, 2).logits(np.ones((2, 3)))
    np.testing.assert_allclose(alike[:, 0], alike[:, 1], atol=1e-9)


def test_a_draw_takes_every_patient_once_before_any_twice():
    classes = np.array([0] * 8 + [1] * 4)
    patients = ["a"] * 5 + ["b", "c", "d"] + ["e", "f", "g", "h"]
    chosen = draw(classes, patients, 4, (0,))
    assert np.bincount(classes[chosen]).tolist() == [4, 4]
    assert {patients[at] for at in chosen[:4]} == {"a", "b", "c", "d"}
    assert len(set(draw(classes, patients, 4, (1,)).tolist())) == 8


def test_equal_seeds_draw_the_same_and_others_do_not():
    classes, patients = np.arange(100) % 2, [str(number) for number in range(100)]
    draws = [draw(classes, patients, 10, seed).tolist() for seed in ((3, 1), (3, 1), (3, 2))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
