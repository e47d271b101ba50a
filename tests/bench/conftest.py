"""Evaluations of simulated models for the tests of the bench."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from medfm_compress.bench.types.evaluation import Evaluation

MakeEvaluation = Callable[..., Evaluation]


def simulate(
    name: str = "teacher",
    *,
    cases: int = 300,
    patients: int | None = None,
    noise: float = 0.0,
    shift: float = 0.0,
    findings: tuple[str, ...] = ("opacity",),
    separation: float = 2.0,
) -> Evaluation:
    """A model whose logit is the teacher's plus noise, less ``shift`` for positives; equal arguments, equal cases."""
    rng = np.random.default_rng(7)
    truth = (rng.random((cases, len(findings))) < 0.4).astype(np.int64)
    base = rng.normal(size=truth.shape) + separation * truth - separation / 2
    logits = base + noise * np.random.default_rng(len(name)).normal(size=truth.shape) - shift * truth
    scores = 1 / (1 + np.exp(-logits))
    patients = patients or cases
    return Evaluation(
        name=name,
        images=tuple(f"{number}.png" for number in range(cases)),
        logits=logits,
        scores=scores,
        truth=truth,
        decisions=(scores >= 0.5).astype(np.int64),
        clusters=tuple(f"patient {number % patients}" for number in range(cases)),
        findings=findings,
        subgroups={"sex": tuple("FM"[number % 2] for number in range(cases))},
    )


@pytest.fixture(scope="session")
def make_evaluation() -> MakeEvaluation:
    """:func:`simulate`."""
    return simulate


@pytest.fixture(scope="session")
def full() -> ModuleType:
    """The module ``tests/helpers/full_report.py``: a report that fills every section."""
    return importlib.import_module("full_report")
