"""`Measurement`: raw samples of one session on one target."""

from __future__ import annotations

import msgspec
import numpy as np

from medfm_compress.bench.types.gpu_state import GpuState


class BatchTiming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several images at once.

    Attributes:
        batch: images of one call.
        session_ms: latency of ``Session.run`` alone, one value a call; empty where it cannot run.
        reason: why it cannot run, e.g. that the session is of a fixed batch; empty where it can.
    """

    batch: int
    session_ms: tuple[float, ...] = ()
    reason: str = ""

    @property
    def p50_ms(self) -> float:
        """Median latency of one call."""
        return float(np.median(self.session_ms))

    @property
    def images_per_s(self) -> float:
        """Images a second at the median latency."""
        return 1000 * self.batch / self.p50_ms


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
        device_ms: time on the GPU of one call, by its own events, copies included; empty where not measured.
        gpu_states: clocks, power, temperature and throttling of the GPU before, amid and after the calls of every turn.
        batches: several images at once, by the size of the batch; empty where not measured.
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
    device_ms: tuple[float, ...] = ()
    gpu_states: tuple[GpuState, ...] = ()
    batches: tuple[BatchTiming, ...] = ()

    @property
    def throttling(self) -> str:
        """What held the GPU's clocks back and in how many readings, in words; empty where nothing did."""
        throttled = [state for state in self.gpu_states if state.throttling]
        if not throttled:
            return ""
        reasons = dict.fromkeys(reason for state in throttled for reason in state.throttling)
        return f"{', '.join(reasons)}; in {len(throttled)} of {len(self.gpu_states)} readings"

    def quantile_ms(self, q: float) -> float:
        """Quantile ``q`` in [0, 1] of the session latency, in ms."""
        return float(np.quantile(self.session_ms, q))
