"""Judge a candidate: how far its logits are from FP32 on validation cases, and what accuracy and decisions lose by it.

What accuracy and a decision are, the kind of task says; see `kinds.table`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.data.study import Case
from medfm_compress.export.passes.features_output import FEATURES
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.network_inputs import NetworkInputs, feed
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.threads import map_in_threads


class Fidelity(NamedTuple):
    """How far a candidate is from FP32; see `Candidate`."""

    relative_logit_error: float
    accuracy_drop: float
    changed_decisions: float = 0.0


class Answers(NamedTuple):
    """What a network gives on n cases: logits ``[n, …]``, and features ``[n, d]`` where it has that output."""

    logits: Logits
    features: NDArray[np.float32] | None


def case_answers(session: Session, inputs: NetworkInputs) -> Answers:
    """What ``session`` gives on ``inputs`` of n cases, one case at a time as the device does, on every core."""
    names, output = session.input_names, session.output_names[0]
    wanted = [name for name in (output, FEATURES) if name in session.output_names]

    def answer(number: int) -> list[NDArray[np.float32]]:
        outputs = session.run(feed(names, inputs[number : number + 1]))
        return [np.asarray(outputs[name], dtype=np.float32) for name in wanted]

    workers = max(1, usable_cores() // session.info.threads)
    parts = [np.concatenate(rows) for rows in zip(*map_in_threads(answer, range(len(inputs)), workers), strict=True)]
    return Answers(parts[0], parts[1] if len(parts) > 1 else None)


def case_logits(session: Session, inputs: NetworkInputs) -> Logits:
    """The logits of `case_answers` alone."""
    return case_answers(session, inputs).logits


def check_reference(logits: Logits, cases: Sequence[Case]) -> None:
    """Raises InputError where the network at full precision gives no finite logits for a case; it is named."""
    finite = finite_cases(logits)
    if not finite.all():
        raise InputError(
            f"the network gives no finite logits at full precision for {cases[int(np.argmin(finite))].image} "
            f"({int((~finite).sum())} of {len(cases)} validation cases), so nothing can be held against it; repair the "
            "network, or leave them out of the study"
        )


def finite_cases(logits: Logits) -> NDArray[np.bool_]:
    """Of which of n cases all logits ``[n, …]`` are finite, ``[n]``."""
    return np.asarray(np.isfinite(logits).reshape(len(logits), -1).all(axis=1))


def fidelity(logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> Fidelity:
    """Compare a candidate's logits with those of FP32 on the same cases; those that are not finite lose everything."""
    if not np.isfinite(logits).all():
        return Fidelity(math.inf, 1.0, 1.0)
    error = relative_logit_error(logits, fp32_logits, validation.task)
    judge = judge_of(validation.task)
    before, after = (judge.scores(answers, validation) for answers in (fp32_logits, logits))
    drops = [whole - less for whole, less in zip(before, after, strict=True)]
    return Fidelity(error, max(drops, default=0.0), judge.changed_of(logits, fp32_logits, validation))
