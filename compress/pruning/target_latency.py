"""Latency on the target of networks of one model: short measurements while widths are chosen, then the comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from medfm_compress.bench.measure.latency import Plan, measure
from medfm_compress.bench.measure.model_files import EngineFiles, write_model
from medfm_compress.bench.measure.speedup import cost_ratio
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.latency.layer_table import LatencyTable, default_record, measure_ms
from medfm_compress.compress.latency.network_latency import engine_files
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.pruning.channel_groups import ChannelGroup
from medfm_compress.compress.pruning.cost_model import CostModel
from medfm_compress.compress.pruning.latency_cost import latency_cost
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.scratch_folder import scratch_folder

_QUICK_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """A cost model with every cost multiplied by ``scale``."""

    cost_model: CostModel
    scale: float

    @property
    def fixed(self) -> float:
        return self.cost_model.fixed * self.scale

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        return self.cost_model.layers

    def of(self, layer: str, inputs: float, outputs: float) -> float:
        return self.cost_model.of(layer, inputs, outputs) * self.scale


class TargetLatency:
    """What networks with the spec and task of one model cost on a target. See `width_search.LatencyMeter`."""

    def __init__(self, model: Model, goal: LatencyGoal, progress: Progress, record: Path | None = None) -> None:
        """Keep ``model`` for its spec and task; layer times are kept in ``record``, by default the user's own."""
        self._model, self._goal = model, goal
        self._table = LatencyTable(goal, record or default_record(), progress)

    @property
    def target(self) -> str:
        """Where it is measured."""
        return str(self._goal.target)

    @property
    def threads(self) -> int:
        """Of the engine."""
        return self._goal.target.threads

    @cached_property
    def floor_ms(self) -> float:
        """What an empty graph takes."""
        return self._table.floor_ms(self._model.spec.shape)

    def cost_model(self, module: nn.Module, groups: Sequence[ChannelGroup]) -> CostModel:
        """Time in ms by layer of ``module``.

        Table and whole network are compared as one instrument sees them, in this process; the sum is then brought to
        the scale of `measure`, which is slower by much the same factor for every layer.
        """
        example = torch.zeros(self._model.spec.shape)
        model = self._model
        in_process_ms = measure_ms(self._files(module), self._goal, model.spec.shape, model.columns)
        return _Scaled(latency_cost(module, example, self._table, in_process_ms), self.measure(module) / in_process_ms)

    def measure(self, module: nn.Module) -> float:
        """Median time of one image in ms, session alone, by `bench.measure`.

        A candidate is timed in turns with the model itself, and its time is given on the scale of when that was timed
        first: what slows both down for a while changes nothing. On one thread of a CPU processor times are compared.
        """
        if module is self._model.module:
            return self._own_ms
        own, candidate = self.compare({"original": self._model.module, "candidate": module}, self._plan(_QUICK_ROUNDS))
        return self._own_ms * cost_ratio(candidate, own).estimate

    @cached_property
    def _own_ms(self) -> float:
        (own,) = self.compare({"original": self._model.module}, self._plan(_QUICK_ROUNDS))
        return own.quantile_ms(0.5)

    def _plan(self, rounds: int) -> Plan:
        return Plan(rounds=rounds, threads=self.threads, turn_ms=100.0, warm_up_s=3.0)

    def size(self, module: nn.Module) -> int:
        """Bytes of the files that the target reads."""
        return sum(len(content) for content in self._files(module))

    def compare(self, modules: Mapping[str, nn.Module], plan: Plan) -> tuple[Measurement, ...]:
        """Time networks in turns, each in a fresh process with its CPUs pinned."""
        target, spec, task = self._goal.target, self._model.spec, self._model.task
        with scratch_folder("medfm-prune-") as scratch:
            models = []
            for number, (name, module) in enumerate(modules.items()):
                files = EngineFiles(
                    self._goal.backend,
                    self._files(module),
                    target.precision,
                    target.threads,
                    target.device,
                    self._model.columns,
                )
                models.append(write_model(scratch / str(number), name, files, spec, task))
            return measure(models, plan)

    @cached_property
    def _own_files(self) -> tuple[bytes, ...]:
        return self._exported(self._model.module)

    def _files(self, module: nn.Module) -> tuple[bytes, ...]:
        return self._own_files if module is self._model.module else self._exported(module)

    def _exported(self, module: nn.Module) -> tuple[bytes, ...]:
        return engine_files(dataclasses.replace(self._model, module=module.eval()), self._goal)
