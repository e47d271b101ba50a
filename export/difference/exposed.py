"""Intermediate values of a whole network, as few at a time as leave its own output as it is.

An exposed value is one more reader: an engine may then not fuse what made it, and compute something else. So the output
of the exposed network is held against that of the network as it is. Where they differ, fewer values are exposed at a
time, by halves; what is left of the difference with one alone is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medfm_compress.export.difference.graph import Array, Network, Run
from medfm_compress.export.difference.result import Exposure

_MOST_HALVINGS = 24
_UNCHANGED = 1e-6  # relative, of float32's own rounding


class ExposedNetwork:
    """A network with its plain output ``[1, outputs]`` on one case, kept to notice what exposing changes."""

    def __init__(self, network: Network, case: Array) -> None:
        """Run ``network`` as it is on ``case``, a network input ``[1, C, H, W]``."""
        self.network = network
        self._case = {network.topology.inputs[0]: case}
        self._plain_run = network.expose(())
        self._plain = self._plain_run(self._case)[0]
        self._halvings = 0
        self._change = 0.0
        self._runs = 0

    @property
    def exposure(self) -> Exposure:
        """What exposing changed so far."""
        return Exposure(change=self._change, runs=self._runs)

    def output(self, case: Array) -> Array:
        """The network's own output on one case, nothing exposed."""
        return self._plain_run({self.network.topology.inputs[0]: case})[0]

    def open(self, values: Sequence[str]) -> Run:
        """A run that gives ``values`` as readers see them, in this order, without the network's output."""
        names = list(dict.fromkeys(values))
        runs = self._opened(names)
        self._runs += len(runs)

        def run(inputs: Mapping[str, Array]) -> list[Array]:
            results: dict[str, Array] = {}
            for portion, portion_run in runs:
                results.update(zip(portion, portion_run(inputs)[1:], strict=True))
            return [results[name] for name in values]

        return run

    def _opened(self, values: list[str]) -> list[tuple[list[str], Run]]:
        run = self.network.expose([self.network.topology.shown(value) for value in values])
        change = relative(run(self._case)[0], self._plain)
        if change > _UNCHANGED and len(values) > 1 and self._halvings < _MOST_HALVINGS:
            self._halvings += 1
            middle = len(values) // 2
            return [*self._opened(values[:middle]), *self._opened(values[middle:])]
        self._change = max(self._change, change)
        return [(values, run)]


def relative(values: Array, reference: Array) -> float:
    """‖values − reference‖ / ‖reference‖; infinite where shapes differ or a value is not finite."""
    if values.shape != reference.shape or not np.isfinite(values).all():
        return float("inf")
    difference = float(np.linalg.norm((values - reference).astype(np.float64)))
    return difference / max(float(np.linalg.norm(reference.astype(np.float64))), 1e-30)
