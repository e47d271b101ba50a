"""How long untrained networks take on a target: an estimate of each, then all that come near against each other.

Latency does not depend on the weights, nor INT8 latency on the calibration, so nothing is trained and the calibration
sees noise. The estimate, by the stopwatch in this process, rules out only what takes over twice the budget.
`bench.measure` then times the others in turns, each in a fresh process with its CPUs pinned. What was measured is kept,
raw samples and all, and not measured again on the same machine with the same engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.measure.model_files import EngineFiles, write_model
from medfm_compress.bench.measure.stopwatch import Effort, interleaved_p50_ms
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.latency.json_cache import JsonCache
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.quantization.methods import Method, Rest
from medfm_compress.compress.quantization.qdq import Symmetric
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.golden_columns import golden_columns
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, with_columns
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.sessions.instruction_sets import favours_symmetric, multiplies_exactly
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.task import Task

CLEARLY_OVER = 2.0  # times the budget: not worth a measurement
_IN_A_ROW = 2  # so many clearly over end the search, since MACs order latencies only roughly
_EFFORT = Effort(least_rounds=10, most_rounds=1000, seconds=0.5)
_FORMAT = "network latencies, 2"
_NOISE = 4  # made-up cases for the ranges of INT8


class NetworkLatency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one network on the target.

    Attributes:
        name: timm name.
        macs: of one image.
        parameters: of the network.
        estimate_ms: median by the stopwatch in this process; 0 where there was none.
        measurement: of the interleaved rounds; None where the estimate was enough.
        reason: why it was not measured, empty where it was.
    """

    name: str
    macs: int = 0
    parameters: int = 0
    estimate_ms: float = 0.0
    measurement: Measurement | None = None
    reason: str = ""

    @property
    def median_ms(self) -> float:
        """The median latency where it was measured, else its estimate; 0 where nothing is known."""
        return self.measurement.quantile_ms(0.5) if self.measurement else self.estimate_ms


class LatencyRequest(NamedTuple):
    """What is measured: networks of ``task`` on images of ``spec`` under ``goal``; ``plan`` says how long."""

    task: Task
    spec: ImageSpec
    goal: LatencyGoal
    plan: Plan


def measure_networks(
    names: Sequence[str], request: LatencyRequest, record: Path, progress: Progress
) -> tuple[NetworkLatency, ...]:
    """A row for each of ``names``, in their order; those after the budget is clearly exceeded are left out.

    Args:
        names: timm names, those with the fewest MACs first.
        request: see `LatencyRequest`.
        record: JSON file of what was measured before, and of what is now.
        progress: told what begins.
    """
    if describe_machine().busy:
        progress("other work runs on this machine, so that latencies will look longer than they are")
    cache = LatencyCache(record, request)
    with scratch_folder("medfm-students-") as scratch:
        prepared = _Prepared(request, scratch)
        rows = _estimated(names, prepared, cache, progress)
        return _timed(rows, prepared, cache, progress)


class LatencyCache:
    """The rows of a record that hold for this machine with its engines, and for one target and input."""

    def __init__(self, path: Path, request: LatencyRequest) -> None:
        """Read the record at ``path``; one that is missing or of another version holds nothing."""
        target, shape = str(request.goal.target), request.spec.shape
        self._conditions = [describe_machine().fingerprint, target, shape, len(request.task.labels)]
        self._rows = JsonCache(path, _FORMAT, NetworkLatency)

    def get(self, name: str) -> NetworkLatency | None:
        """What is known of the network ``name``."""
        return self._rows.get(digest([name, *self._conditions]))

    def put(self, row: NetworkLatency) -> NetworkLatency:
        """Write ``row`` into the record, and give it back."""
        self._rows[digest([row.name, *self._conditions])] = row
        return row


class _Prepared:
    """Untrained networks, and their files for the engine; made when they are first needed."""

    def __init__(self, request: LatencyRequest, folder: Path) -> None:
        self.request, self._folder = request, folder
        self._models: dict[str, ModelUnderTest] = {}

    def model(self, name: str) -> Model:
        """The network; whoever draws random numbers after it draws the same ones with or without it."""
        spec = self.request.spec
        with torch.random.fork_rng(devices=[]):
            return build_model(name, self.request.task, size_px=spec.height_px, colour=spec.colour, spec=spec)

    def write(self, name: str, model: Model) -> tuple[bytes, ...]:
        """The network as the engine reads it, written for `measure`; the contents of the files."""
        request, target = self.request, self.request.goal.target
        contents = engine_files(model, request.goal)
        files = EngineFiles(request.goal.backend, contents, target.precision, target.threads, target.device)
        self._models[name] = write_model(self._folder / name, name, files, request.spec, request.task)
        return contents

    def model_under_test(self, name: str) -> ModelUnderTest:
        """What `measure` is given."""
        if name not in self._models:
            self.write(name, self.model(name))
        return self._models[name]


def engine_files(model: Model, goal: LatencyGoal) -> tuple[bytes, ...]:
    """What the goal's engine opens, in its precision.

    Raises:
        ModelError: the network cannot be exported, or the engine cannot read it.
    """
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.export.onnx_export import export_onnx
    from medfm_compress.export.openvino_ir import to_openvino_ir

    onnx = export_onnx(model.module, model.spec, model.task, columns=model.columns).content
    precision = goal.target.precision
    if precision in ("int8", "int8-bf16"):
        onnx, noise = portable(onnx), noisy_inputs(model.spec, model.columns)
        return GraphBuilder(onnx, calibrate(onnx, [noise]), noise).build(goal.backend, int8_method(goal))
    return tuple(to_openvino_ir(onnx)) if goal.backend == "openvino" else (onnx,)


def int8_method(goal: LatencyGoal) -> Method:
    """The usual INT8 candidate for the goal, with weights that this machine multiplies exactly."""
    rest: Rest = "bf16" if goal.target.precision == "int8-bf16" else "fp32"
    cpu = read_cpu()
    symmetric: Symmetric = "balanced" if favours_symmetric(goal.backend, cpu) else "none"
    return Method(rest=rest, reduced=not multiplies_exactly(cpu), symmetric=symmetric)


def _estimated(
    names: Sequence[str], prepared: _Prepared, cache: LatencyCache, progress: Progress
) -> list[NetworkLatency]:
    rows: list[NetworkLatency] = []
    limit = CLEARLY_OVER * prepared.request.goal.budget_ms
    for name in names:
        known = [row for row in rows if not row.reason]
        if len(known) >= _IN_A_ROW and all(row.median_ms > limit for row in known[-_IN_A_ROW:]):
            before = " and ".join(row.name for row in known[-_IN_A_ROW:])
            rows.append(NetworkLatency(name=name, reason=f"not tried, since {before} take over twice the budget"))
        else:
            rows.append(cache.get(name) or cache.put(_estimate(name, prepared, progress)))
    return rows


def _estimate(name: str, prepared: _Prepared, progress: Progress) -> NetworkLatency:
    goal, spec = prepared.request.goal, prepared.request.spec
    try:
        model = prepared.model(name)
        contents = prepared.write(name, model)
        session = open_session_from_bytes(
            goal.backend, contents, goal.target.threads, goal.target.precision, device=goal.target.device
        )
        image = feed(session.input_names, noisy_inputs(spec, model.columns, 1))
        (estimate_ms,) = interleaved_p50_ms([lambda: session.run(image)], _EFFORT)
    except (InputError, Refused) as exc:
        progress(f"{name}: left out, {exc}")
        return NetworkLatency(name=name, reason=str(exc))
    macs = count_macs(model.module, torch.zeros(spec.shape)).total
    progress(f"{name}: {macs / 1e6:.0f} M MACs, about {estimate_ms:.3g} ms on {goal.target}")
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    return NetworkLatency(name=name, macs=macs, parameters=parameters, estimate_ms=round(estimate_ms, 4))


def _timed(
    rows: list[NetworkLatency], prepared: _Prepared, cache: LatencyCache, progress: Progress
) -> tuple[NetworkLatency, ...]:
    """``rows`` with the measurement of those that come near the budget and have none yet."""
    limit = CLEARLY_OVER * prepared.request.goal.budget_ms
    near = [row.name for row in rows if not row.reason and row.measurement is None and row.estimate_ms <= limit]
    if not near:
        return tuple(rows)
    progress(f"timing {len(near)} networks in turns")
    models = [prepared.model_under_test(name) for name in near]
    measurements = {measurement.name: measurement for measurement in measure(models, prepared.request.plan)}
    return tuple(
        cache.put(msgspec.structs.replace(row, measurement=measurements[row.name])) if row.name in measurements else row
        for row in rows
    )


def noisy_inputs(spec: ImageSpec, columns: Sequence[Column] = (), count: int = _NOISE) -> NetworkInputs:
    """Made-up normalised images ``[count, c, h, w]`` float32, and made-up values of ``columns``."""
    images = np.random.default_rng(0).standard_normal((count, *spec.shape[1:]), dtype=np.float32)
    return with_columns(images, golden_columns(columns, count))
