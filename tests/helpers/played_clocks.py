"""Quantization without a clock: what INT8 and FP32 take is what a test says."""

from __future__ import annotations

from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization import candidate_search
from medfm_compress.compress.quantization import quantize_bundle as quantizing
from medfm_compress.compress.quantization.options import QuantizeOptions

FEW = QuantizeOptions(samples=16, rounds=5, error_limit=10.0, auroc_limit=1.0, time_budget_s=0.0, optimised=False)


def play_clocks(monkeypatch, fp32_ms, int8_ms, fresh_ms=None):
    """Stand in for both clocks: floats of any precision take as long as FP32.

    ``fresh_ms`` gives the latency of a trial in its fresh process; without it the two clocks agree.
    """

    def in_process(sessions, image, rounds):
        return [[int8_ms if session.info.precision == "int8" else fp32_ms] * 5 for session in sessions]

    def of_trial(trial):
        return int8_ms if trial.variant.precision == "int8" else fp32_ms

    def fresh(trials, spec, task, plan, columns=()):
        latencies = [(fresh_ms or of_trial)(trial) for trial in trials]
        return [
            Measurement(name=str(number), target="played", session_ms=(ms,) * 20, calls_per_round=2)
            for number, ms in enumerate(latencies)
        ]

    monkeypatch.setattr(candidate_search, "session_ms", in_process)
    monkeypatch.setattr(quantizing, "time_in_fresh_processes", fresh)
