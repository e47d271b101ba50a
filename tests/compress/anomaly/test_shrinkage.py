"""Ledoit and Wolf's covariance: against scikit-learn, and what whitening makes of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medfm_compress.compress.anomaly.shrinkage import shrunk_covariance, whitening
from medfm_compress.runtime.errors import StudyError


@pytest.mark.parametrize(("count", "width"), [(200, 6), (20, 30), (9, 4)])
def test_it_is_that_of_scikit_learn(count: int, width: int) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    rows = np.random.default_rng(count).normal(size=(count, width)) * np.linspace(0.2, 3, width) + 7
    expected = covariance.LedoitWolf().fit(rows)
    shrunk = shrunk_covariance(torch.from_numpy(rows))
    np.testing.assert_allclose(shrunk.covariance.numpy(), expected.covariance_, rtol=1e-9)
    assert shrunk.shrinkage == pytest.approx(expected.shrinkage_)
    np.testing.assert_allclose(shrunk.mean.numpy(), expected.location_)


def test_whitened_rows_have_the_inverse_as_their_metric() -> None:
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 5)))
    covariance = shrunk_covariance(rows).covariance
    whitened = whitening(covariance).double()
    torch.testing.assert_close(whitened.T @ whitened, torch.linalg.inv(covariance), rtol=1e-5, atol=1e-6)


def test_rows_that_are_all_alike_have_no_spread() -> None:
    assert shrunk_covariance(torch.ones(4, 3)).shrinkage == 1


def test_rows_that_have_no_inverse_are_refused() -> None:
    twice = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]).repeat(8, 1)
    for rows in (torch.ones(8, 3), twice):
        with pytest.raises(StudyError, match="differ in fewer than the 3 directions"):
            whitening(shrunk_covariance(rows).covariance)
