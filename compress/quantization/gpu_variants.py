"""Variants for TensorRT: ONNX files whose precision stands in the graph, of which a device builds its engines.

No GPU is needed to make them. Judged is the file, against FP32 on validation cases: a CPU computes it in FP32, with
weights and activations rounded as the graph says (`float16_emulation`). TensorRT's own kernels and the order of their
sums are not in it, so each variant is qualified anew on the device, and a bench and a gate there decide whether it may
run. Beside FP16 stay in FP32 the nodes that measurement demands (`float32_islands`).

Speed is not known here. So one variant ships for each precision that the targets name, FP16 where they name none, and
never INT8 because it ought to be faster. Where TensorRT and a GPU are at hand, fresh processes time all of them, and
a quantized one that is not faster than every float one does not ship.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import msgspec

from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.types.target import Target
from medfm_compress.compress.quantization.build_candidate import GraphBuilder
from medfm_compress.compress.quantization.candidate_trial import Attempt, CandidateTrial, Limits, infidelity, trials_of
from medfm_compress.compress.quantization.fidelity import case_logits, check_reference, fidelity
from medfm_compress.compress.quantization.final_timing import Timer
from medfm_compress.compress.quantization.float16_emulation import EmulatedSession
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.methods import DEFAULT_ESTIMATOR, SECOND_ESTIMATOR, DoesNotApply, Method
from medfm_compress.export.build import Export, make_variant, open_export
from medfm_compress.runtime.bundle.manifest import Backend, Precision
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.table import is_available

BACKEND: Backend = "tensorrt"
DEFAULT_PRECISION: Precision = "fp16"
"""Of a target that names none: the network's own accuracy with half of the memory, fast on every GPU that has Tensor
Cores."""

_QUANTIZED: tuple[Precision, ...] = ("int8", "int8-fp16", "fp8", "fp8-fp16")
_METHODS = tuple(
    Method(estimator=estimator, smoothquant=smoothed)
    for smoothed in (False, True)
    for estimator in (DEFAULT_ESTIMATOR, SECOND_ESTIMATOR)
)


def gpu_precisions(targets: Sequence[str], columns: Sequence[Column] = ()) -> tuple[Precision, ...]:
    """The precisions that ``targets`` (``tensorrt:cuda[:precision]``) ask for, each once; for a network of ``columns``.

    Raises:
        InputError: a precision that TensorRT does not run in, or a network that takes more than the image.
    """
    if targets and columns:
        raise InputError(
            f"the network takes columns beside the image ({columns[0].name} …), and {targets[0]} has the image alone; "
            "give targets of openvino:cpu or onnxruntime:cpu"
        )
    named = [Target.parse(target).precision if target.count(":") > 1 else DEFAULT_PRECISION for target in targets]
    return tuple(dict.fromkeys(named))


def gpu_attempts(
    precisions: Sequence[Precision],
    builder: GraphBuilder,
    validation: ValidationSet,
    limits: Limits,
    progress: Progress,
    timer: Timer | None = None,
) -> tuple[Attempt, ...]:
    """The candidates of each precision with their outcomes: the most faithful within the limits is kept.

    Args:
        precisions: of the variants.
        builder: makes the graphs.
        validation: validation cases.
        limits: of fidelity.
        progress: told what begins.
        timer: times trials in fresh processes; used where `can_time`.
    """
    fp32 = case_logits(EmulatedSession(builder.tensorrt_graph("fp32"), limits.threads), validation.inputs)
    check_reference(fp32, validation.cases)
    keep: tuple[str, ...] = ()
    if any("fp16" in precision for precision in precisions):
        progress(f"{BACKEND}: which nodes FP16 suffices for")
        keep = builder.islands(validation.task).keep
    attempts: list[Attempt] = []
    for precision in precisions:
        progress(f"{BACKEND}: {precision}")
        beside = keep if "fp16" in precision else ()
        trials = [_judged(trial, validation, fp32) for trial in _trials(precision, builder, beside, limits)]
        attempts += _settled(trials, limits)
    return _by_time(attempts, timer) if timer is not None and can_time() else tuple(attempts)


def can_time() -> bool:
    """Whether TensorRT and a GPU are at hand."""
    return is_available(BACKEND).ok


def _trials(
    precision: Precision, builder: GraphBuilder, keep: Collection[str], limits: Limits
) -> Iterator[CandidateTrial]:
    """The candidates of one precision; ``keep`` are the nodes that stay in FP32 beside FP16."""
    islands = f"-beside-{len(keep)}-nodes-in-fp32" if keep else ""
    methods = _METHODS if precision in _QUANTIZED else (None,)
    for method in methods:
        if method is None or not method.smoothquant or builder.smooths():
            name = (precision if method is None else str(method).replace("int8", precision, 1)) + islands
            yield _opened(name, precision, method, partial(builder.tensorrt_graph, precision, method, keep), limits)


def _opened(
    name: str, precision: Precision, method: Method | None, make: Callable[[], bytes], limits: Limits
) -> CandidateTrial:
    """A candidate with the session that judges it: of the GPU where there is one, else an emulation on the CPU."""
    trial = CandidateTrial(name=name, method=method, variant=make_variant(BACKEND, precision, device="cuda"))
    try:
        content = make()
        trial = msgspec.structs.replace(trial, size_bytes=len(content))
        if can_time():
            return msgspec.structs.replace(trial, export=open_export(trial.variant, (content,), limits.threads))
        session = EmulatedSession(content, limits.threads)
        return msgspec.structs.replace(
            trial, export=Export(variant=trial.variant, contents=(content,), session=session)
        )
    except MedfmError as exc:
        return msgspec.structs.replace(trial, reason=f"cannot be made: {exc}")


def _judged(trial: CandidateTrial, validation: ValidationSet, fp32_logits: Logits) -> CandidateTrial:
    if trial.export is None:
        return trial
    logits = case_logits(trial.export.session, validation.inputs)
    error, drop, changed = fidelity(logits, fp32_logits, validation)
    return msgspec.structs.replace(trial, logits=logits, error=error, accuracy_drop=drop, changed_decisions=changed)


def _settled(trials: Sequence[CandidateTrial], limits: Limits) -> list[CandidateTrial]:
    """Of one precision: each with its reason, the most faithful kept, the others closed."""
    objections = [_objection(trial, limits) for trial in trials]
    eligible = [trial for trial, objection in zip(trials, objections, strict=True) if not objection]
    best = min(eligible, key=lambda trial: trial.error, default=None)
    return [
        msgspec.structs.replace(trial, kept=True, reason=_KEPT)
        if trial is best
        else _closed(trial, objection or "another one is more faithful")
        for trial, objection in zip(trials, objections, strict=True)
    ]


_KEPT = "within the limits on the CPU; not timed, for no GPU was at hand"


def _objection(trial: CandidateTrial, limits: Limits) -> str:
    if trial.export is None:
        return trial.reason
    return infidelity(trial, limits)


def _closed(trial: CandidateTrial, reason: str) -> CandidateTrial:
    return msgspec.structs.replace(trial, kept=False, reason=reason, export=None, logits=None)


def _by_time(attempts: Sequence[Attempt], timer: Timer) -> tuple[Attempt, ...]:
    """The kept ones with their latency; a quantized one that is not surely faster than every float one is dropped."""
    kept = [trial for trial in trials_of(attempts) if trial.kept]
    measured = dict(zip(map(id, kept), timer(kept) if kept else (), strict=True))
    floats = [measured[id(trial)] for trial in kept if trial.method is None]

    def outcome(attempt: Attempt) -> Attempt:
        if isinstance(attempt, DoesNotApply) or not attempt.kept:
            return attempt
        measurement = measured[id(attempt)]
        timed = msgspec.structs.replace(attempt, p50_ms=measurement.quantile_ms(0.5), reason="within the limits")
        gains = [speedup(other, measurement) for other in floats] if attempt.method is not None else []
        if all(gain.low > 1 for gain in gains):
            return timed
        return _closed(timed, "not faster than the float variants on this GPU")

    return tuple(map(outcome, attempts))
