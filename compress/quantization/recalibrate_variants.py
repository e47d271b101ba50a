"""Variants that ship get thresholds of their own, from all labelled validation cases: the task's were chosen on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial
from medfm_compress.compress.quantization.fidelity import case_logits, check_reference, finite_cases
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.thresholds import FollowedThreshold, recalibrate_thresholds
from medfm_compress.data.study import Case
from medfm_compress.export.cases import case_inputs
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_session_from_bytes

_CHUNK = 32  # cases that are in memory at once, beyond those that judge


class RecalibratedVariants(NamedTuple):
    """Trials with what is their own, the lines for the provenance, and how each decides beside FP32.

    ``overflowed`` are those that give no finite logits for a case which did not judge them: name of the variant → why
    it may not ship. The trials hold them as they were.
    """

    trials: list[CandidateTrial]
    lines: list[str]
    thresholds: tuple[FollowedThreshold, ...]
    overflowed: Mapping[str, str] = MappingProxyType({})


class _Answering(NamedTuple):
    """A session, and its logits on the labelled validation cases so far, in pieces."""

    session: Session
    logits: list[NDArray[np.float32]]


def recalibrate_variants(
    shipping: Sequence[CandidateTrial],
    references: Sequence[CandidateTrial],
    validation: ValidationSet,
    spec: ImageSpec,
    source_graph: Callable[[], bytes],
    progress: Progress,
) -> RecalibratedVariants:
    """Give each trial that ships a temperature and thresholds of its own, where the cases can tell.

    A trial of FP32 is the network itself, and decides as the task does. Where the task has no threshold, FP32 is not
    asked: a temperature needs nothing to be held against.

    Args:
        shipping: with their exports open and their logits on the cases that judged.
        references: trials of FP32, one of which may have its logits as well, so that they are not computed again.
        validation: the cases that judged; the study's other labelled validation cases are read here.
        spec: of the input.
        source_graph: the network at full precision in ONNX, opened where no reference has logits.
        progress: told how far it is.
    """
    ready = [(trial, _answering(trial, validation)) for trial in shipping if trial.variant.precision != "fp32"]
    open_trials = [(trial, answering) for trial, answering in ready if answering is not None]
    if not open_trials:
        return RecalibratedVariants(list(shipping), [], ())
    task, study = validation.task, validation.study
    fp32 = _fp32(references, validation, source_graph) if task.operating_points else None
    sessions = [*([fp32] if fp32 else []), *(answering for _, answering in open_trials)]
    cases = _complete(sessions, validation, spec, progress)
    if not cases:
        return RecalibratedVariants(list(shipping), [], ())
    reference = None
    if fp32 is not None:
        check_reference(np.concatenate(fp32.logits), cases)
        reference = tabulate(np.concatenate(fp32.logits), study, cases, task, name="fp32")
    recalibrated: dict[str, CandidateTrial] = {}
    lines: list[str] = []
    thresholds: list[FollowedThreshold] = []
    overflowed: dict[str, str] = {}
    for trial, answering in open_trials:
        logits = np.concatenate(answering.logits)
        finite = finite_cases(logits)
        if not finite.all():
            unanswered = f"{cases[int(np.argmin(finite))].image} ({int((~finite).sum())} of {len(cases)})"
            overflowed[trial.variant.name] = f"it gives no finite logits for validation case {unanswered}"
            continue
        evaluation = tabulate(logits, study, cases, task, name=trial.variant.name)
        decided = recalibrate_thresholds(trial.variant, evaluation, reference or evaluation, task)
        own_export = trial.export and msgspec.structs.replace(trial.export, variant=decided.variant)
        changed = msgspec.structs.replace(trial, variant=decided.variant, export=own_export)
        recalibrated[trial.variant.name] = changed
        lines += [f"quantize: {decided.variant.name}: {line}" for line in decided.lines]
        thresholds += decided.findings
    trials = [recalibrated.get(trial.variant.name, trial) for trial in shipping]
    return RecalibratedVariants(trials, lines, tuple(thresholds), overflowed)


def _answering(trial: CandidateTrial, validation: ValidationSet) -> _Answering | None:
    if trial.export is None or trial.logits is None:
        return None
    return _Answering(trial.export.session, [trial.logits[validation.are_labelled]])


def _fp32(
    references: Sequence[CandidateTrial], validation: ValidationSet, source_graph: Callable[[], bytes]
) -> _Answering:
    """The first of ``references`` that has logits; without any the network itself."""
    known = (_answering(trial, validation) for trial in references)
    if (first := next((answering for answering in known if answering is not None), None)) is not None:
        return first
    session = open_session_from_bytes("onnxruntime", [source_graph()], 1, "fp32")
    return _Answering(session, [case_logits(session, validation.inputs)[validation.are_labelled]])


def _complete(
    sessions: Sequence[_Answering], validation: ValidationSet, spec: ImageSpec, progress: Progress
) -> tuple[Case, ...]:
    """Append the logits of the labelled validation cases that did not judge; all the cases, in the logits' order."""
    judged = {case.image for case in validation.cases}
    rest = tuple(case for case in validation.study.split("val") if case.target and case.image not in judged)
    for start in counted(range(0, len(rest), _CHUNK), "choose thresholds", len(rest), progress, _CHUNK):
        inputs = case_inputs(validation.study, rest[start : start + _CHUNK], spec, validation.columns)
        for answering in sessions:
            answering.logits.append(case_logits(answering.session, inputs))
    return (*validation.labelled_cases, *rest)
