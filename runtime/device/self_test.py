"""What a bundle must show on this device before it may become active."""

from __future__ import annotations

import statistics
import time

import msgspec

from medfm_compress.runtime.device.options import DEFAULT_MAX_LATENCY_MS
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.golden_cases import read_golden_inputs
from medfm_compress.runtime.network_inputs import NetworkInputs

_RUNS = 8


class SelfTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A self-test that was passed.

    Attributes:
        variant: that this device runs.
        golden_cases: all of the bundle, replayed.
        golden_error: relative logit error on them.
        latency_ms: median of one network run.
    """

    variant: str
    golden_cases: int
    golden_error: float
    latency_ms: float


def self_test(engine: Engine, max_latency_ms: float = DEFAULT_MAX_LATENCY_MS) -> SelfTest:
    """Replay every golden case of the variant that the device would run, and time it.

    That it opened means that a passing verdict stands for that variant and that this machine has what it needs.

    Args:
        engine: the bundle, opened as the device would.
        max_latency_ms: for one network run, the median of 8.

    Raises:
        BundleRefused: a golden case gives another result, or it is too slow.
    """
    error = engine.replay_goldens()
    inputs = read_golden_inputs(engine.bundle)
    latency_ms = statistics.median(_time_ms(engine, inputs[i % len(inputs) :][:1]) for i in range(_RUNS))
    if latency_ms > max_latency_ms:
        raise BundleRefused(
            f"variant {engine.variant.name} takes {latency_ms:.3g} ms for one image on this machine, allowed are "
            f"{max_latency_ms:g} ms"
        )
    return SelfTest(variant=engine.variant.name, golden_cases=len(inputs), golden_error=error, latency_ms=latency_ms)


def _time_ms(engine: Engine, inputs: NetworkInputs) -> float:
    start = time.perf_counter()
    engine.logits(inputs)
    return (time.perf_counter() - start) * 1e3
