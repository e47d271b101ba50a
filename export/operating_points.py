"""Operating points of an exported session, chosen on the study's validation cases and on no other."""

from __future__ import annotations

from medfm_compress.bench.evaluate import evaluate
from medfm_compress.bench.operating_points import choose_operating_points
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError
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
    evaluation = evaluate(session, study, cases, spec, task, name="validation")
    return choose_operating_points(evaluation, rule=rule)
