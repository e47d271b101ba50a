"""Kind of task → how its bundles decide, and what else every engine must agree on with the network it was made from.

classification      temperature and operating points on validation cases of both outcomes
segmentation        nothing to decide: each pixel is what is most probable there
anomaly             a threshold on normal validation cases alone; every engine says of every validation case what the
                    network says of it: score and decision (see `agreement`), or it is left out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.operating_points import choose_operating_points
from medfm_compress.bench.stats.conformal_threshold import check_count
from medfm_compress.bench.types.operating_rule import DEFAULT_FALSE_ALARMS, FALSE_ALARMS, needs_positives, parse_rule
from medfm_compress.data.study import Study
from medfm_compress.export.agreement import by_name, differences, in_numbers, validation_answers
from medfm_compress.export.cases import check_labels
from medfm_compress.export.operating_points import decide_on_validation
from medfm_compress.export.parity import Logits
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task, TaskKind, by_kind


class Decided(NamedTuple):
    """How a bundle decides.

    Attributes:
        task: with its temperature and operating points.
        lines: for the provenance.
        refused: of each session why it may not ship, without a word of a case; empty where it may.
        details: likewise, for the console: which cases.
    """

    task: Task
    lines: tuple[str, ...]
    refused: tuple[str, ...]
    details: tuple[str, ...]


class ExportedNetwork(NamedTuple):
    """A network and the engines that it was exported for.

    Attributes:
        reference: normalised inputs → logits of the network itself.
        sessions: that compute the same on synthetic inputs.
        spec: of the input.
        task: nothing of it is decided yet.
        columns: that it takes beside the image.
    """

    reference: Logits
    sessions: Sequence[Session]
    spec: ImageSpec
    task: Task
    columns: tuple[Column, ...] = ()


class ExportRules(NamedTuple):
    """What differs between kinds.

    Attributes:
        default_rule: of operating points.
        progress: what is said before it is decided; empty where there is nothing to decide.
        decide: network, study, rule → how its bundle decides; raises StudyError, InputError.
        needs_study: why a bundle cannot be made without one; empty where it can.
        check: study, rule → nothing; raises StudyError or InputError, before any work, where they cannot decide.
    """

    default_rule: str
    progress: str
    decide: Callable[[ExportedNetwork, Study, str], Decided]
    needs_study: str = ""
    check: Callable[[Study, str], None] = lambda study, rule: None


def _of_both_outcomes(network: ExportedNetwork, study: Study, rule: str) -> Decided:
    decided = decide_on_validation(network.sessions[0], study, network.spec, network.task, rule, network.columns)
    every = ("",) * len(network.sessions)
    return Decided(decided.task, (decided.line,), every, every)


def _nothing(network: ExportedNetwork, study: Study, rule: str) -> Decided:
    every = ("",) * len(network.sessions)
    return Decided(network.task, ("nothing to decide: each pixel is what is most probable there",), every, every)


def _check_normal_cases(study: Study, rule: str) -> None:
    """Whether the validation cases can give a threshold by ``rule``, which takes normal ones alone."""
    if needs_positives(rule):
        raise InputError(
            f"rule is {rule!r}, which looks at abnormal validation cases; an anomaly score decides by normal ones "
            f"alone: declare the share of them that may be called, e.g. {DEFAULT_FALSE_ALARMS}"
        )
    normal = sum(case.target == (0,) for case in study.split("val"))
    if not normal:
        raise StudyError(
            f"{study.root.name} has no normal case ({', '.join(study.normal)}) in split 'val', on which the threshold "
            "is chosen; cut one with 'medfm-compress study split'"
        )
    check_count(normal, parse_rule(rule)[1])


def _on_normal_cases(network: ExportedNetwork, study: Study, rule: str) -> Decided:
    """The threshold of the network itself; then each session against it, on every validation case."""
    _check_normal_cases(study, rule)
    cases = study.split("val")
    normal = tuple(case for case in cases if case.target == (0,))
    if network.columns:
        raise InputError("an anomaly score takes the image alone; fit it on an encoder without columns")
    answers = validation_answers(network.reference, network.sessions, study, cases, network.spec)
    undecided = msgspec.structs.replace(network.task, temperature=1.0, operating_points=())
    are_normal = np.array([case.target == (0,) for case in cases])
    table = tabulate(answers.reference[are_normal], study, normal, undecided, name="reference")
    task = msgspec.structs.replace(undecided, operating_points=choose_operating_points(table, rule=rule))
    refused, details = [], []
    for session, logits in zip(network.sessions, answers.sessions, strict=True):
        found = differences(answers.reference, logits, (task, task), session.info.precision)
        what = f"{session.info.backend} {session.info.precision} does not agree with the network on "
        refused.append(f"{what}{in_numbers(found, len(cases))}" if found else "")
        details.append(f"{what}{by_name(found, cases)}" if found else "")
    point = task.operating_points[0]
    held = f"{round((1 - point.specificity) * point.negatives)} of {point.negatives} normal validation cases are above"
    line = f"threshold {point.threshold:.6g} at a {FALSE_ALARMS} of at most {rule.partition('<=')[2]}: {held} it"
    agreed = f"score and decision agree with the network on all {len(cases)} validation cases"
    backends = [s.info.backend for s, reason in zip(network.sessions, refused, strict=True) if not reason]
    lines = (line, *(f"{backend}: {agreed}" for backend in backends))
    return Decided(task, lines, tuple(refused), tuple(details))


_RULES: Mapping[TaskKind, ExportRules] = by_kind(
    ExportRules("youden", "deciding temperature and operating points on validation cases", _of_both_outcomes),
    ExportRules("youden", "", _nothing),
    ExportRules(
        DEFAULT_FALSE_ALARMS,
        "choosing the threshold on normal validation cases, and holding every engine against the network",
        _on_normal_cases,
        "its threshold is chosen on normal validation cases",
        _check_normal_cases,
    ),
)


_PROBABLE: tuple[TaskKind, ...] = ("multiclass", "segmentation")


def export_rules(task: Task) -> ExportRules:
    """What differs for ``task``."""
    return _RULES[task.kind]


def check_rule(kind: TaskKind, rule: str) -> None:
    """Raises InputError where ``rule``, unless empty or the usual one, decides nothing for tasks of ``kind``."""
    usual = _RULES[kind].default_rule
    if kind in _PROBABLE and rule and rule.replace(" ", "") != usual:
        raise InputError(
            f"rule is {rule!r}, and a {kind} task has no operating points: what is most probable is called; leave it "
            "out, or give a study whose labels are findings by themselves (binary or multilabel)"
        )


def check_study(study: Study, task: Task, rule: str) -> None:
    """Check, before any work, that ``study`` can decide for ``task`` by ``rule``, empty for the usual one of its kind.

    Raises:
        StudyError: other labels than the task's, or no case to decide on.
        InputError: a rule that does not fit the task, or too few cases for it.
    """
    check_labels(study, task)
    check_rule(task.kind, rule)
    kind = export_rules(task)
    kind.check(study, rule or kind.default_rule)
