"""What an ``auto`` student must keep to: a latency, and where it holds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from medfm_compress.bench.types.target import Target
from medfm_compress.runtime.bundle.manifest import Backend, Device, Precision
from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.instruction_sets import instructions
from medfm_compress.runtime.sessions.table import is_available

PRECISIONS: Mapping[tuple[str, Device], tuple[Precision, ...]] = MappingProxyType(
    {
        ("openvino", "cpu"): ("fp32", "bf16", "fp16", "int8", "int8-bf16"),
        ("onnxruntime", "cpu"): ("fp32", "int8"),
        ("onnxruntime", "cuda"): ("fp32",),
        ("tensorrt", "cuda"): ("fp32",),
    }
)
"""What a student can be measured in: the precisions that are made of an untrained network."""
_ALLOWED = (
    "openvino:cpu or onnxruntime:cpu, if need be with a precision (fp32, int8; openvino also bf16, fp16, int8-bf16) "
    "and threads behind it, e.g. openvino:cpu:int8:2, or onnxruntime:cuda:fp32 or tensorrt:cuda:fp32"
)


class LatencyGoal(msgspec.Struct, frozen=True, kw_only=True):
    """The median latency of one image, session alone, that a student may take.

    Attributes:
        budget_ms: above 0.
        target: engine, precision and threads.
    """

    budget_ms: float
    target: Target

    @property
    def backend(self) -> Backend:
        """The engine, which is never PyTorch."""
        return self.target.backend  # type: ignore[return-value]


def parse_goal(budget_ms: float, target: str, threads: int) -> LatencyGoal:
    """The goal of ``--max-latency`` and ``--target``.

    Args:
        budget_ms: above 0.
        target: e.g. ``openvino:cpu`` or ``onnxruntime:cuda``, fp32 unless a precision is added.
        threads: of the engine, unless the target names them.

    Raises:
        InputError: no budget, a target that is unknown, contradicts ``threads``, or cannot run on this machine.
    """
    if not 0 < budget_ms < float("inf"):
        raise InputError("student 'auto' is chosen by its latency; give --max-latency, e.g. --max-latency 10ms")
    parsed = _target(target)
    named = parsed.threads if target.count(":") == 3 else threads
    if threads not in (1, named):
        raise InputError(f"target {target!r} has {named} threads and threads is {threads}; give one of them")
    if named < 1:
        raise InputError(f"threads is {threads}; it must be at least 1")
    available = is_available(parsed.backend, parsed.device)
    if not available.ok:
        raise InputError(f"target {target!r} cannot be measured here: {available.reason}")
    return LatencyGoal(budget_ms=budget_ms, target=msgspec.structs.replace(parsed, threads=named))


def _target(text: str) -> Target:
    try:
        target = Target.parse(text)
    except InputError:
        raise InputError(f"target is {text!r}; it must be {_ALLOWED}") from None
    if target.precision not in PRECISIONS.get((target.backend, target.device), ()):
        raise InputError(f"target is {text!r}; it must be {_ALLOWED}")
    # Weights of 7 bits take the same time as those of 8, and need no instructions of their own.
    backend: Backend = target.backend  # type: ignore[assignment]
    needed = instructions(backend, target.precision, reduced=True) if target.device == "cpu" else ()
    missing = missing_flags(needed, read_cpu())
    if missing:
        raise InputError(f"target {text!r} cannot be measured here, this CPU lacks {', '.join(missing)}; take fp32")
    return target
