"""Judge a candidate: how far its logits are from FP32 on validation cases, and what that does to AUROC and decisions.

changed decisions = share of cases with another most probable label (exclusive labels),
or of cases and findings on the other side of probability 0.5 (independent findings)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.threads import map_in_threads

Logits = NDArray[np.float32]


class ValidationSet(NamedTuple):
    """Validation cases that candidates are judged on, and their inputs ``[n, C, H, W]``."""

    study: Study
    cases: tuple[Case, ...]
    inputs: NDArray[np.float32]
    task: Task

    @property
    def labelled(self) -> bool:
        """Whether any case has a label, so that AUROC can tell."""
        return any(case.target for case in self.cases)


class Fidelity(NamedTuple):
    """How far a candidate is from FP32; see `Candidate`."""

    relative_logit_error: float
    auroc_drop: float
    changed_decisions: float = 0.0


def case_logits(session: Session, inputs: NDArray[np.float32]) -> Logits:
    """Logits ``[n, labels]`` of ``inputs`` ``[n, C, H, W]``, one case at a time as the device does, on every core."""
    name, output = session.input_names[0], session.output_names[0]

    def logits_of(number: int) -> Logits:
        return np.asarray(session.run({name: inputs[number : number + 1]})[output], dtype=np.float32)

    workers = max(1, usable_cores() // session.info.threads)
    return np.concatenate(list(map_in_threads(logits_of, range(len(inputs)), workers)))


def fidelity(logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> Fidelity:
    """Compare a candidate's logits with those of FP32 on the same cases."""
    error = relative_logit_error(logits, fp32_logits, validation.task)
    if not np.isfinite(logits).all():
        return Fidelity(error, 1.0, 1.0)
    drops = [
        before - after
        for before, after in zip(_aurocs(fp32_logits, validation), _aurocs(logits, validation), strict=True)
    ]
    return Fidelity(error, max(drops, default=0.0), changed_decisions(logits, fp32_logits, validation.task))


def changed_decisions(logits: Logits, fp32_logits: Logits, task: Task) -> float:
    """Share of decisions, in [0, 1], that differ between logits ``[n, labels]`` (see above)."""
    if task.independent:
        return float(((logits > 0) != (fp32_logits > 0)).mean())
    return float((logits.argmax(1) != fp32_logits.argmax(1)).mean())


def _aurocs(logits: Logits, validation: ValidationSet) -> list[float]:
    """AUROC of each finding that has both outcomes among the labelled cases."""
    labelled = np.array([bool(case.target) for case in validation.cases])
    cases = tuple(case for case in validation.cases if case.target)
    if not cases:
        return []
    table = tabulate(logits[labelled], validation.study, cases, validation.task, name="candidate")
    columns = range(len(table.findings))
    return [auroc(table.scores[:, i], table.truth[:, i]) for i in columns if len(np.unique(table.truth[:, i])) == 2]
