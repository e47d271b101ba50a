"""Temperature and operating points of a session, decided on the study's validation cases and on no other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from medfm_compress.bench.evaluate.evaluate import evaluate
from medfm_compress.bench.evaluate.operating_points import choose_operating_points
from medfm_compress.bench.evaluate.temperature_scaling import calibrate
from medfm_compress.data.study import Study
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A task with its temperature and operating points, and one line for the provenance on the temperature."""

    task: Task
    line: str


def decide_on_validation(
    session: Session, study: Study, spec: ImageSpec, task: Task, rule: str, columns: Sequence[Column] = ()
) -> Decided:
    """Fit the temperature, then choose one operating point a finding on the calibrated scores.

    A multiclass task gets a temperature only, since it calls its most probable class; without validation cases it
    keeps the one it has.

    Raises:
        StudyError: no labelled validation case.
        InputError: an unknown rule, or a finding without positive or negative validation cases.
    """
    # Points that the task may already have are thresholds for other scores.
    undecided = msgspec.structs.replace(task, operating_points=())
    cases = tuple(case for case in study.split("val") if case.target)
    if not cases and task.kind == "multiclass":
        return Decided(task=undecided, line=f"temperature stays {task.temperature:g}: no labelled validation case")
    if not cases:
        raise StudyError(
            f"{study.root.name} has no labelled case in split 'val', on which operating points are chosen; "
            "cut one with 'medfm-compress study split'"
        )
    answers = evaluate(session, study, cases, spec, undecided, name="validation", columns=columns)
    calibrated = calibrate(answers, undecided)
    points = () if task.kind == "multiclass" else choose_operating_points(calibrated.evaluation, rule=rule)
    return Decided(task=msgspec.structs.replace(calibrated.task, operating_points=points), line=calibrated.line)
