"""Ranges chosen tensor by tensor by what they do to the logits, not to the tensor.

Every estimator of `range_estimators` proposes an interval for each activation. From one estimator's intervals, one
activation after another takes the proposal with the least

    Σ ‖z_q − z‖²

over calibration cases, z the float network's logits and z_q those with all other choices as they stand: coordinate
descent, in one pass, the activations first whose proposals differ most (the per-tensor form of the search for clipping
thresholds of Nahshan et al. 2021, https://arxiv.org/abs/1911.07190, section 3.2). One session serves all trials, since
scales and zero points enter it as inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.qdq import Placement, affine, write_qdq
from medfm_compress.compress.quantization.range_estimators import Range
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

Ranges = Mapping[str, tuple[float, float]]
_FATAL = 4
_SAME = 1.05  # widths that differ by less are not tried
_LEAST_GAIN = 0.995  # of the squared error; less is chance


def search_ranges(
    model: ir.Model,
    placement: Placement,
    proposals: Sequence[Ranges],
    inputs: NDArray[np.float32],
    *,
    deadline: float = math.inf,
) -> dict[str, Range]:
    """The first of ``proposals`` with the ranges that others improve.

    Args:
        model: the float graph.
        placement: where it will be quantized.
        proposals: ranges by value name, of different estimators; all with the same names.
        inputs: calibration cases ``[n, C, H, W]``.
        deadline: `time.monotonic` at which to stop.
    """
    chosen = {name: Range(*ends) for name, ends in proposals[0].items()}
    trials = _Trials(model, placement, proposals[0], inputs)
    least = trials.error()
    ranked = sorted(trials.names, key=lambda name: -_disagreement([ranges[name] for ranges in proposals]))
    for name in ranked:
        for ranges in proposals[1:]:
            if time.monotonic() > deadline:
                return chosen
            if _disagreement([chosen[name], ranges[name]]) < math.log(_SAME):
                continue
            error = trials.error(name, ranges[name])
            if error < _LEAST_GAIN * least:
                least, chosen[name] = error, Range(*ranges[name])
                trials.keep(name, ranges[name])
    return chosen


def _disagreement(ranges: Sequence[tuple[float, float]]) -> float:
    widths = [high - low for low, high in ranges]
    return math.log(max(widths) / min(widths))


class _Trials:
    """The network with Q/DQ whose scales and zero points are inputs, and the logits that it should give.

    Activations that are tied to another, or hold the same numbers as another, follow the one whose range they have.
    """

    def __init__(self, model: ir.Model, placement: Placement, ranges: Ranges, inputs: NDArray[np.float32]) -> None:
        self._image = str(model.graph.inputs[0].name)
        self._inputs = inputs
        plain = msgspec.structs.replace(placement, biases=False)
        quantized = write_qdq(model, plain, ranges)
        self._signed = {name: placement.signed or name in placement.symmetric for name in placement.activations}
        made = quantized.graph.initializers
        pairs = [name for name in placement.activations if f"{name}_scale" in made]
        self._followers: dict[str, list[str]] = {}
        ties = dict(placement.ties)
        for name in pairs:
            origin = name
            for _ in range(len(ties) + 1):
                origin = ties.get(origin, origin)
            if origin in ranges:
                self._followers.setdefault(origin, []).append(name)
        self.names = tuple(self._followers)
        self._constants: dict[str, NDArray[Any]] = {}
        for name in pairs:
            for what in ("scale", "zero"):
                value = made[f"{name}_{what}"]
                assert value.const_value is not None  # noqa: S101 - the writer put it there
                self._constants[f"{name}_{what}"] = value.const_value.numpy()
                quantized.graph.inputs.append(value)
        self._session = _session(quantized)
        self._wanted = self._run_all(_session(model), {})

    def error(self, name: str | None = None, ends: tuple[float, float] | None = None) -> float:
        """Squared error of the logits, with the range of ``name`` replaced for this once."""
        changed = {} if name is None or ends is None else self._feeds(name, ends)
        logits = self._run_all(self._session, {**self._constants, **changed})
        return float(((logits - self._wanted) ** 2).sum())

    def keep(self, name: str, ends: tuple[float, float]) -> None:
        """Replace the range of ``name`` from now on."""
        self._constants |= self._feeds(name, ends)

    def _feeds(self, name: str, ends: tuple[float, float]) -> dict[str, NDArray[Any]]:
        feeds: dict[str, NDArray[Any]] = {}
        for follower in self._followers[name]:
            scale, zero = affine(*ends, signed=self._signed[follower])
            feeds |= {f"{follower}_scale": np.asarray(scale), f"{follower}_zero": np.asarray(zero)}
        return feeds

    def _run_all(self, session: Any, constants: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        logits = [
            session.run(None, {self._image: self._inputs[i : i + 1], **constants})[0] for i in range(len(self._inputs))
        ]
        return np.stack(logits).reshape(len(logits), -1).astype(np.float64)


def _session(model: ir.Model) -> Any:
    import onnx_ir as ir

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = _FATAL
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
