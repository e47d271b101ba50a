"""`Measurement`: raw samples of one session on one target."""

from __future__ import annotations

import msgspec
import numpy as np


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raw samples of one session on one target, from a fresh process; quantiles are derived, never stored.

    Attributes:
        name: what was measured, e.g. ``bundle`` or ``teacher``.
        target: what the engine says really ran.
        session_ms: latency of ``Session.run`` alone, one value a call.
        cpu_ms: processor time of one call of all threads together, the mean of each round; unlike the latency it does
            not grow while the process waits for a processor. Empty where not measured.
        end_to_end_ms: from file to prediction, one value a call; empty where not measured.
        first_prediction_ms: process start to first prediction.
        peak_rss_bytes: peak resident memory of the fresh process.
        size_bytes: files this variant needs.
        warm_up_calls: calls made before the first sample.
        warm_up_stable: whether the latency had settled before the first sample (see `measure`).
        calls_per_round: consecutive ``session_ms`` that belong to one interleaved round; 0 where there were no rounds.
        stages_ms: stage name → one value a call, in the order in which they run (``read``, ``preprocess``, ``infer``,
            ``postprocess``); they split ``end_to_end_ms``. Empty where that was not measured.
        peak_gpu_bytes: largest GPU memory of the fresh process; 0 where no GPU was used.
        energy_mj: energy of one call in mJ, from the counter named in ``energy_source``; None where there is none.
        energy_source: ``rapl`` or ``nvml``, or why there is no figure.
    """

    name: str
    target: str
    session_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...] = ()
    end_to_end_ms: tuple[float, ...] = ()
    first_prediction_ms: float = 0.0
    peak_rss_bytes: int = 0
    size_bytes: int = 0
    warm_up_calls: int = 0
    warm_up_stable: bool = True
    calls_per_round: int = 0
    stages_ms: dict[str, tuple[float, ...]] = {}
    peak_gpu_bytes: int = 0
    energy_mj: float | None = None
    energy_source: str = ""

    def quantile_ms(self, q: float) -> float:
        """Quantile ``q`` in [0, 1] of the session latency, in ms."""
        return float(np.quantile(self.session_ms, q))
