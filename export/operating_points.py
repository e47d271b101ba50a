"""Operating points of an exported session, chosen on the study's validation cases and on no other."""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.operating_points import choose_operating_points
from medfm_compress.bench.types import Evaluation
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.goldens import run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import OperatingPoint, Task


def points_on_validation(
    session: Session, study: Study, spec: ImageSpec, task: Task, rule: str
) -> tuple[OperatingPoint, ...]:
    """One operating point a finding; none for a multiclass task, which calls its most probable class.

    Raises:
        StudyError: no labelled validation case.
        InputError: an unknown rule, or a finding without positive or negative validation cases.
    """
    if task.kind == "multiclass":
        return ()
    cases = tuple(case for case in study.split("val") if case.target)
    if not cases:
        raise StudyError(
            f"{study.root.name} has no labelled case in split 'val', on which operating points are chosen; "
            "cut one with 'medfm-compress study split'"
        )
    return choose_operating_points(_evaluate(session, study, cases, spec, task), rule=rule)


def _evaluate(session: Session, study: Study, cases: tuple[Case, ...], spec: ImageSpec, task: Task) -> Evaluation:
    logits = np.concatenate([run_goldens(session, network_inputs(study, (case,), spec)) for case in cases])
    scores = probabilities(logits, task)
    targets = study.targets(cases)
    return Evaluation(
        name="validation",
        images=tuple(case.image for case in cases),
        logits=logits.astype(np.float64),
        scores=scores,
        truth=targets if task.kind == "multilabel" else (targets == 1).astype(np.int64),
        decisions=decisions(scores, task),
        clusters=tuple(case.cluster for case in cases),
        findings=task.findings,
    )
