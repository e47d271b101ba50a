"""How long untrained networks take on a target: a first look at each, then all that come near against each other.

Latency does not depend on the weights, nor INT8 latency on the calibration, so nothing is trained and the calibration
sees noise. The first look, in this process, counts the fastest of a few calls: no median lies below it, whatever else
the machine does, so that it rules a network out safely. `bench.measure` then times the others in turns, each in a fresh
process with its CPUs pinned. What was measured is kept, raw samples and all, and not measured again on the same machine
with the same engines.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.quantization.methods import Method, Rest
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly
from medfm_compress.runtime.sessions.protocol import Session, SessionRef
from medfm_compress.runtime.sessions.table import BACKENDS, open_session_from_bytes
from medfm_compress.runtime.strict_json import decode, digest, encode
from medfm_compress.runtime.task import Task

CLEARLY_OVER = 2.0  # times the budget: not worth a second look
_IN_A_ROW = 2  # so many clearly over end the search, since MACs order latencies only roughly
_WARM_UP = 3
_LOOKS = 10
_LOOK_S = 0.5
_NOISE = 4  # made-up cases for the ranges of INT8


class NetworkLatency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one network on the target.

    Attributes:
        name: timm name.
        macs: of one image.
        parameters: of the network.
        look_ms: fastest call of the first look; 0 where there was none.
        measurement: of the interleaved rounds; None where the first look was enough.
        reason: why it was not measured, empty where it was.
    """

    name: str
    macs: int = 0
    parameters: int = 0
    look_ms: float = 0.0
    measurement: Measurement | None = None
    reason: str = ""

    @property
    def least_ms(self) -> float:
        """The median latency where it was measured, else what it cannot be below; 0 where nothing is known."""
        return self.measurement.quantile_ms(0.5) if self.measurement else self.look_ms


class LatencyRequest(NamedTuple):
    """What is measured: networks of ``task`` on images of ``spec`` under ``goal``; ``plan`` says how long."""

    task: Task
    spec: ImageSpec
    goal: LatencyGoal
    plan: Plan


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of the file that spares a second measurement."""

    rows: dict[str, NetworkLatency]


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
    with tempfile.TemporaryDirectory(prefix="medfm-students-") as scratch:
        prepared = _Prepared(request, Path(scratch))
        rows = _looked_at(names, prepared, cache, progress)
        return _timed(rows, prepared, cache, progress)


class LatencyCache:
    """The rows of a record that hold for this machine with its engines, and for one target and input."""

    def __init__(self, path: Path, request: LatencyRequest) -> None:
        """Read the record at ``path``; one that is missing or of another version holds nothing."""
        target, shape = str(request.goal.target), request.spec.shape
        self._path = path
        self._about = [describe_machine().fingerprint, target, shape, len(request.task.labels)]
        try:
            self._rows = decode(path.read_bytes(), _Kept, source=str(path)).rows
        except (OSError, InputError):
            self._rows = {}

    def get(self, name: str) -> NetworkLatency | None:
        """What is known of the network ``name``."""
        return self._rows.get(digest([name, *self._about]))

    def put(self, row: NetworkLatency) -> NetworkLatency:
        """Write ``row`` into the record, and give it back."""
        self._rows = {**self._rows, digest([row.name, *self._about]): row}
        write_atomically(self._path, encode(_Kept(rows=self._rows)))
        return row


class _Prepared:
    """Untrained networks, and their files for the engine; made when they are first asked for."""

    def __init__(self, request: LatencyRequest, folder: Path) -> None:
        self.request, self._folder = request, folder

    def model(self, name: str) -> Model:
        """The network; whoever draws random numbers after it draws the same ones with or without it."""
        spec = self.request.spec
        with torch.random.fork_rng(devices=[]):
            return build_model(name, self.request.task, size_px=spec.height_px, colour=spec.colour, spec=spec)

    def files(self, name: str, model: Model | None = None) -> tuple[Path, ...]:
        """The network as the engine reads it: ``.onnx``, or ``.xml`` and ``.bin``."""
        suffixes = (".xml", ".bin") if self.request.goal.backend == "openvino" else (".onnx",)
        paths = tuple(self._folder / f"{name}{suffix}" for suffix in suffixes)
        if not paths[0].is_file():
            contents = engine_files(model or self.model(name), self.request.goal)
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
        return paths


def engine_files(model: Model, goal: LatencyGoal) -> tuple[bytes, ...]:
    """What the goal's engine opens, in its precision.

    Raises:
        ModelError: the network cannot be exported, or the engine cannot read it.
    """
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.export.onnx_export import export_onnx
    from medfm_compress.export.openvino_ir import to_openvino_ir

    onnx = export_onnx(model.module, model.spec, model.task).content
    precision = goal.target.precision
    if precision in ("int8", "int8-bf16"):
        onnx, noise = portable(onnx), _noise(model.spec)
        return GraphBuilder(onnx, calibrate(onnx, [noise]), noise).build(goal.backend, int8_method(goal))
    return tuple(to_openvino_ir(onnx)) if goal.backend == "openvino" else (onnx,)


def int8_method(goal: LatencyGoal) -> Method:
    """The usual INT8 candidate for the goal, with weights that this machine multiplies exactly."""
    rest: Rest = "bf16" if goal.target.precision == "int8-bf16" else "fp32"
    return Method(rest=rest, reduced=not multiplies_exactly(read_cpu()))


def _looked_at(
    names: Sequence[str], prepared: _Prepared, cache: LatencyCache, progress: Progress
) -> list[NetworkLatency]:
    rows: list[NetworkLatency] = []
    limit = CLEARLY_OVER * prepared.request.goal.budget_ms
    for name in names:
        known = [row for row in rows if not row.reason]
        if len(known) >= _IN_A_ROW and all(row.least_ms > limit for row in known[-_IN_A_ROW:]):
            before = " and ".join(row.name for row in known[-_IN_A_ROW:])
            rows.append(NetworkLatency(name=name, reason=f"not tried, since {before} take over twice the budget"))
        else:
            rows.append(cache.get(name) or cache.put(_look(name, prepared, progress)))
    return rows


def _look(name: str, prepared: _Prepared, progress: Progress) -> NetworkLatency:
    goal, spec = prepared.request.goal, prepared.request.spec
    try:
        model = prepared.model(name)
        contents = [path.read_bytes() for path in prepared.files(name, model)]
        session = open_session_from_bytes(goal.backend, contents, goal.target.threads, goal.target.precision)
        took = _fastest_ms(session, _noise(spec)[:1])
    except (InputError, Refused) as exc:
        progress(f"{name}: left out, {exc}")
        return NetworkLatency(name=name, reason=str(exc))
    macs = count_macs(model.module, torch.zeros(spec.shape)).total
    progress(f"{name}: {macs / 1e6:.0f} M MACs, at best {took:.3g} ms on {goal.target}")
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    return NetworkLatency(name=name, macs=macs, parameters=parameters, look_ms=round(took, 4))


def _fastest_ms(session: Session, image: NDArray[np.float32]) -> float:
    """Time in ms of the fastest of `_LOOKS` calls, or of as many as fit into `_LOOK_S`; the first ones do not count."""
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) < _WARM_UP + _LOOKS or time.perf_counter() < begin + _LOOK_S:
        start = time.perf_counter()
        session.run({session.input_names[0]: image})
        took.append((time.perf_counter() - start) * 1e3)
    return min(took[_WARM_UP:])


def _timed(
    rows: list[NetworkLatency], prepared: _Prepared, cache: LatencyCache, progress: Progress
) -> tuple[NetworkLatency, ...]:
    """``rows`` with the measurement of those that come near the budget and have none yet."""
    goal, task, spec = prepared.request.goal, prepared.request.task, prepared.request.spec
    limit = CLEARLY_OVER * goal.budget_ms
    near = [row.name for row in rows if not row.reason and row.measurement is None and row.look_ms <= limit]
    if not near:
        return tuple(rows)
    progress(f"timing {len(near)} networks in turns")
    opener = f"{BACKENDS[goal.backend]}:open_session"
    options = {"threads": goal.target.threads, "precision": goal.target.precision}
    models = []
    for name in near:
        paths = prepared.files(name)
        session = SessionRef(opener=opener, arguments={"model": str(paths[0]), **options})
        size = sum(path.stat().st_size for path in paths)
        models.append(ModelUnderTest(name=name, session=session, spec=spec, task=task, size_bytes=size))
    found = {each.name: each for each in measure(models, prepared.request.plan)}
    return tuple(
        cache.put(msgspec.structs.replace(row, measurement=found[row.name])) if row.name in found else row
        for row in rows
    )


def _noise(spec: ImageSpec) -> NDArray[np.float32]:
    """Made-up normalised inputs ``[4, c, h, w]`` float32."""
    return np.random.default_rng(0).standard_normal((_NOISE, *spec.shape[1:]), dtype=np.float32)
