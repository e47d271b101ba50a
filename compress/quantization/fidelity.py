"""Judge a candidate: how far its logits are from FP32 on validation cases, and what accuracy and decisions lose by it.

What accuracy and a decision are, the kind of task says; see `kinds.table`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.network_inputs import NetworkInputs, feed
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.threads import map_in_threads


class Fidelity(NamedTuple):
    """How far a candidate is from FP32; see `Candidate`."""

    relative_logit_error: float
    accuracy_drop: float
    changed_decisions: float = 0.0


def case_logits(session: Session, inputs: NetworkInputs) -> Logits:
    """Logits ``[n, …]`` of ``inputs`` of n cases, one case at a time as the device does, on every core."""
    names, output = session.input_names, session.output_names[0]

    def logits_of(number: int) -> Logits:
        return np.asarray(session.run(feed(names, inputs[number : number + 1]))[output], dtype=np.float32)

    workers = max(1, usable_cores() // session.info.threads)
    return np.concatenate(list(map_in_threads(logits_of, range(len(inputs)), workers)))


def fidelity(logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> Fidelity:
    """Compare a candidate's logits with those of FP32 on the same cases."""
    error = relative_logit_error(logits, fp32_logits, validation.task)
    if not np.isfinite(logits).all():
        return Fidelity(error, 1.0, 1.0)
    judge = judge_of(validation.task)
    before, after = (judge.scores(answers, validation) for answers in (fp32_logits, logits))
    drops = [whole - less for whole, less in zip(before, after, strict=True)]
    return Fidelity(error, max(drops, default=0.0), judge.changed_of(logits, fp32_logits, validation))
