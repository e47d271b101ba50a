"""Latency in OpenVINO on a lesser CPU than this one: its kernels obey ``ONEDNN_MAX_CPU_ISA``, read once a process.

The models are timed by `measure`, in turns, each in a fresh process with that variable. What stays of the larger CPU is
its clock and its caches; a ratio between two models carries over better than a time. ONNX Runtime has no such switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.model_files import EngineFiles, write_model
from medfm_compress.bench.measure.speedup import cost_ratio
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.task import Task

Isa = Literal["AVX2", "AVX512_CORE", "DEFAULT"]
"""The first two are without VNNI (``AVX512_CORE`` is AVX-512 F, BW, VL and DQ); ``DEFAULT`` is this CPU as it is."""

DEFAULT_PLAN = Plan(rounds=20, turn_ms=50.0, warm_up_s=3.0)


class Model(NamedTuple):
    """An OpenVINO IR (``.xml``, ``.bin``) or one ONNX file, the precision to run it in, and the columns it takes."""

    contents: tuple[bytes, ...]
    precision: str
    columns: tuple[Column, ...] = ()


def p50_ms_on(
    isa: Isa, models: Sequence[Model], spec: ImageSpec, task: Task, plan: Plan = DEFAULT_PLAN
) -> tuple[float, ...]:
    """Median latency in ms of each model with the instructions of ``isa`` alone.

    Args:
        isa: largest instruction set that the kernels may use; a CPU that lacks it is timed as it is.
        models: to be timed against each other.
        spec: of their one input.
        task: what their logits mean.
        plan: how long, and on how many threads.

    Raises:
        InputError: a model cannot run there, e.g. because its precision needs other instructions.
    """
    return tuple(measurement.quantile_ms(0.5) for measurement in _measured(isa, models, spec, task, plan))


def speedup_on(
    isa: Isa, models: tuple[Model, Model], spec: ImageSpec, task: Task, plan: Plan = DEFAULT_PLAN
) -> Interval:
    """How many times faster the second model is than the first there; arguments and errors like `p50_ms_on`."""
    return cost_ratio(*_measured(isa, models, spec, task, plan))


def _measured(isa: Isa, models: Sequence[Model], spec: ImageSpec, task: Task, plan: Plan) -> tuple[Measurement, ...]:
    with scratch_folder("medfm-isa-") as folder:
        written = [
            _restricted(write_model(folder / str(number), f"model {number}", files, spec, task), isa)
            for number, files in enumerate(_files_of(model, plan.threads) for model in models)
        ]
        try:
            return measure(written, plan)
        except InputError as exc:
            raise InputError(f"a model cannot be timed with {isa}: {exc}") from None


def _files_of(model: Model, threads: int) -> EngineFiles:
    return EngineFiles("openvino", model.contents, model.precision, threads, columns=model.columns)


def _restricted(model: ModelUnderTest, isa: Isa) -> ModelUnderTest:
    return msgspec.structs.replace(model, environment={"ONEDNN_MAX_CPU_ISA": isa})
