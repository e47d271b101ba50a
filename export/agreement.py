"""Whether what was exported says of every validation case what the reference says: the same score, the same decision.

    |z'_i − z_i| <= 3 τ σ          for every case i
    d'_i = d_i

z the reference's logits, z' the candidate's, σ the standard deviation of z over the cases, τ the relative logit error
that the precision is allowed (`parity.TOLERANCES`); that is of the mean square over cases, this of every one, hence the
3. A decision is each one's own: by its own operating points, of its own logits. A score may be off by less than its
tolerance and a decision be another all the same: then both are refused, whichever is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.export.module_outputs import LOGITS, Outputs, Rows
from medfm_compress.export.parity import TOLERANCES, Logits
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP, NEAREST
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import make_goldens, relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task

Floats = NDArray[np.float64]
_CHUNK = 32
_SHOWN = 12
_OF_EVERY_CASE = 3
_SPREAD_FLOOR = 1e-6
_SYNTHETIC_CASES = 8


class Difference(NamedTuple):
    """One case on which a candidate does not agree.

    Attributes:
        case: its row, from 0.
        reference: z.
        candidate: z'.
        decides_otherwise: whether the decision is another; else the score alone.
    """

    case: int
    reference: float
    candidate: float
    decides_otherwise: bool


def score_tolerance(reference: NDArray[np.generic], precision: str) -> float:
    """How far a logit may be off, of ``reference`` ``[n, 1]`` and a candidate in ``precision``."""
    spread = float(np.std(np.asarray(reference, np.float64)))
    return _OF_EVERY_CASE * TOLERANCES[precision] * max(spread, _SPREAD_FLOOR)


def differences(
    reference: NDArray[np.generic], candidate: NDArray[np.generic], tasks: tuple[Task, Task], precision: str
) -> tuple[Difference, ...]:
    """The cases on which ``candidate`` does not agree with ``reference``, those with another decision first.

    Args:
        reference: logits ``[n, 1]`` of the float32 network.
        candidate: likewise, of what was made of it.
        tasks: by whose operating points the reference decides, and the candidate.
        precision: of the candidate.
    """
    z, measured = (np.asarray(logits, np.float64) for logits in (reference, candidate))
    if not np.isfinite(measured).all():
        broken = np.flatnonzero(~np.isfinite(measured).all(axis=1))
        return tuple(Difference(int(row), float(z[row, 0]), float("nan"), True) for row in broken)
    before, after = (
        decisions(probabilities(x, task), task)[:, 0] for x, task in zip((z, measured), tasks, strict=True)
    )
    turned, far = before != after, np.abs(measured - z)[:, 0] > score_tolerance(z, precision)
    rows = [*np.flatnonzero(turned), *np.flatnonzero(far & ~turned)]
    return tuple(Difference(int(row), float(z[row, 0]), float(measured[row, 0]), bool(turned[row])) for row in rows)


def in_numbers(found: Sequence[Difference], count: int) -> str:
    """How many cases differ, for whoever must not learn which: ``3 of 40 validation cases (1 by its decision)``."""
    turned = sum(difference.decides_otherwise for difference in found)
    return f"{len(found)} of {count} validation cases ({turned} by the decision)"


def by_name(found: Sequence[Difference], cases: Sequence[Case], shown: int = _SHOWN) -> str:
    """The first ``shown`` cases that differ, by number, from 1, and image: for the console alone."""
    lines = [
        f"case {difference.case + 1} ({cases[difference.case].image}): {difference.candidate:.4g} where the reference "
        f"says {difference.reference:.4g}{', decided otherwise' if difference.decides_otherwise else ''}"
        for difference in found[:shown]
    ]
    more = f"; and {len(found) - shown} more" if len(found) > shown else ""
    return "; ".join(lines) + more


class ValidationAnswers(NamedTuple):
    """Logits ``[n, 1]`` float64 of validation cases: the reference's, and each session's."""

    reference: Floats
    sessions: tuple[Floats, ...]


def validation_answers(
    reference: Logits, sessions: Sequence[Session], study: Study, cases: Sequence[Case], spec: ImageSpec
) -> ValidationAnswers:
    """What the reference and each of ``sessions`` says of ``cases``, one case at a time as the device does.

    Raises:
        StudyError: an image cannot be used; it is named.
    """
    theirs: list[Floats] = []
    ours: list[list[Floats]] = [[] for _ in sessions]
    for inputs in _chunks(study, cases, spec):
        theirs.append(np.asarray(reference(inputs), np.float64))
        for rows, session in zip(ours, sessions, strict=True):
            rows += [np.asarray(_run(session, inputs[i : i + 1])[LOGITS], np.float64) for i in range(len(inputs))]
    return ValidationAnswers(np.concatenate(theirs), tuple(map(np.concatenate, ours)))


def check_extra_outputs(reference: Outputs, session: Session, spec: ImageSpec, training_cases: int) -> None:
    """Hold the anomaly map and the nearest cases of ``session`` against the reference's, on synthetic inputs.

    Which cases are the nearest may differ where two are as near; that they are cases must not.

    Raises:
        InputError: the map is another one, or a number stands for no training case.
    """
    inputs = make_goldens(spec, _SYNTHETIC_CASES, seed=1)
    expected = reference(inputs)
    runs = [_run(session, inputs[i : i + 1]) for i in range(len(inputs))]
    name, tolerance = f"{session.info.backend} {session.info.precision}", TOLERANCES[session.info.precision]
    if ANOMALY_MAP in expected:
        maps = np.concatenate([run[ANOMALY_MAP] for run in runs])
        error = _relative_error(maps, expected[ANOMALY_MAP])
        if not error <= tolerance:
            raise InputError(
                f"{name} gives another anomaly map than the module: relative error {error:.3g}, allowed is "
                f"{tolerance:g}; nothing was written"
            )
    if NEAREST in expected:
        numbers = np.concatenate([run[NEAREST] for run in runs])
        whole = np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all()
        if not whole or numbers.min() < 0 or numbers.max() >= training_cases:
            raise InputError(
                f"{name} names training cases that are none of the {training_cases} of the model; nothing was written"
            )


def _relative_error(measured: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """As `relative_logit_error`, every place a case."""
    if measured.shape != expected.shape:
        return float("inf")
    return relative_logit_error(measured.reshape(-1, 1), expected.reshape(-1, 1))


def _chunks(study: Study, cases: Sequence[Case], spec: ImageSpec) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(cases), _CHUNK):
        yield network_inputs(study, cases[start : start + _CHUNK], spec)


def _run(session: Session, image: NDArray[np.float32]) -> Rows:
    return dict(session.run({session.input_names[0]: image}))
