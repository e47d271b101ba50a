"""What INT8 does to the pruned student, where the goal was INT8 time: its own logits and accuracy, not FP32's.

While widths are chosen, INT8 networks are timed with made-up ranges, because the time does not depend on them. What is
judged here at the end is calibrated on training cases, with the estimator (extremes, or least squared error) that is
nearer to FP32 on validation cases. `quantize` searches further and judges again; this tells whether it can succeed.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.latency.network_latency import int8_method
from medfm_compress.compress.networks.inputs import as_arrays, as_tensors, in_parts, joined
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.pruning.calibration_cases import training_batches, validation_set
from medfm_compress.compress.quantization.build_candidate import SAMPLE, GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.fidelity import case_logits
from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.methods import DEFAULT_ESTIMATOR, SECOND_ESTIMATOR
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.data.study import Study
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import BundleRefused, ModelError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.network_inputs import NetworkInputs
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

_CALIBRATION_CASES = 64


class Int8Student(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The student in INT8, beside itself in FP32 and the original, on validation cases.

    Attributes:
        method: how it was made; empty where it cannot be.
        calibrated_on: training cases.
        judged_on: validation cases.
        relative_logit_error: of its INT8 logits against its own FP32 ones.
        changed_decisions: share of decisions that differ between the two.
        score_original: mean over findings, of the original in FP32; None where cases of a class are lacking.
        score_fp32: of the student in FP32, likewise.
        score_int8: of the student in INT8, likewise.
        score_name: what the score is, in words.
        reason: why it is not fit to ship as it is; empty where it is.
    """

    method: str = ""
    calibrated_on: int = 0
    judged_on: int = 0
    relative_logit_error: float = 0.0
    changed_decisions: float = 0.0
    score_original: float | None = None
    score_fp32: float | None = None
    score_int8: float | None = None
    score_name: str = "AUROC"
    reason: str = ""


class _Inputs(NamedTuple):
    """Normalised images ``[n, c, h, w]``, and columns."""

    train: NetworkInputs
    val: NetworkInputs


def judge_int8(
    student: Model, original: Model, study: Study, goal: LatencyGoal, progress: Progress, seed: int
) -> Int8Student:
    """Quantize the student for the goal's engine as `quantize` begins, and hold it against FP32 on validation cases.

    Args:
        student: after recovery.
        original: that it was cut from.
        study: its training cases calibrate, its validation cases judge.
        goal: names engine and precision.
        progress: told what begins.
        seed: of the draw of cases.
    """
    progress(f"judging the pruned network in {goal.target.precision} on validation cases")
    train = training_batches(study, student, progress, seed)
    whole = validation_set(study, student, progress, seed)
    inputs = _Inputs(
        as_arrays(joined([images for images, _ in train])[:_CALIBRATION_CASES]),
        as_arrays(joined([images for images, _ in whole.batches])),
    )
    targets = torch.cat([answers for _, answers in whole.batches])
    fp32, before = (_logits(model, inputs.val) for model in (student, original))
    try:
        method, int8 = _nearest(student, inputs, fp32, goal)
    except (BundleRefused, ModelError) as exc:
        return Int8Student(reason=f"it cannot be made: {exc}")
    result = Int8Student(
        method=method,
        calibrated_on=len(inputs.train),
        judged_on=len(inputs.val),
        relative_logit_error=relative_logit_error(int8, fp32, student.task),
        changed_decisions=judge_of(student.task).changed(int8, fp32, student.task),
        score_original=whole.score(torch.from_numpy(before), targets),
        score_fp32=whole.score(torch.from_numpy(fp32), targets),
        score_int8=whole.score(torch.from_numpy(int8), targets),
        score_name=whole.score_name,
    )
    return msgspec.structs.replace(result, reason=_objection(result, student.task))


def _nearest(
    student: Model, inputs: _Inputs, fp32: NDArray[np.float32], goal: LatencyGoal
) -> tuple[str, NDArray[np.float32]]:
    """The estimator whose INT8 logits are nearer to ``fp32``, as the method's name, and those logits."""
    onnx = portable(export_onnx(student.module, student.spec, student.task, columns=student.columns).content)
    statistics = calibrate(onnx, [inputs.train], threads=usable_cores())
    builder = GraphBuilder(onnx, statistics, inputs.train[:SAMPLE], student.task)
    tried = []
    for estimator in (DEFAULT_ESTIMATOR, SECOND_ESTIMATOR):
        method = msgspec.structs.replace(int8_method(goal), estimator=estimator)
        target = goal.target
        contents = builder.build(goal.backend, method)
        session = open_session_from_bytes(goal.backend, contents, target.threads, target.precision)
        tried.append((str(method), case_logits(session, inputs.val)))
    return min(tried, key=lambda pair: relative_logit_error(pair[1], fp32, student.task))


def _logits(model: Model, inputs: NetworkInputs) -> NDArray[np.float32]:
    module = model.module.eval()
    device = next(module.parameters()).device
    with torch.no_grad():
        parts = [module(part.to(device)).float().cpu() for part in in_parts(as_tensors(inputs), 16)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def _objection(result: Int8Student, task: Task) -> str:
    """By the limits that `quantize` has where nothing else is asked for."""
    limits = QuantizeOptions()
    most = judge_of(task).error_limit(limits)
    if not result.relative_logit_error <= most:
        return f"relative logit error {result.relative_logit_error:.3g} is above the limit {most:g}"
    if result.score_fp32 is not None and result.score_int8 is not None:
        drop, limit = result.score_fp32 - result.score_int8, judge_of(task).limit(limits)
        if drop > limit:
            return f"{judge_of(task).metric} falls by {drop:.3g} from FP32 to INT8, the limit is {limit:g}"
    return ""
