"""Timing on a lesser CPU: the restriction is in force, in another process alone."""

from __future__ import annotations

import os

import pytest

from medfm_compress.bench.measure.restricted_isa import Model, p50_ms_on
from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.instruction_sets import BF16
from medfm_compress.runtime.sessions.openvino import from_bytes, is_available


@pytest.fixture(autouse=True)
def _engine():
    if not is_available().ok:
        pytest.skip("openvino is not installed")


def test_models_are_timed_in_turns(tiny):
    models = [Model((tiny.network(),), "fp32"), Model((tiny.quantized_network(),), "int8")]
    before = dict(os.environ)
    medians_ms = p50_ms_on("AVX2", models, tiny.SPEC.shape, rounds=3)
    assert len(medians_ms) == 2 and all(ms > 0 for ms in medians_ms) and dict(os.environ) == before


def test_what_the_lesser_cpu_lacks_cannot_run_there(tiny):
    if missing_flags(BF16, read_cpu()):
        pytest.skip("this CPU has no bf16 either")
    assert from_bytes([tiny.network()], 1, "bf16").info.precision == "bf16"
    with pytest.raises(InputError, match="timed with AVX2: openvino"):
        p50_ms_on("AVX2", [Model((tiny.network(),), "bf16")], tiny.SPEC.shape)


def test_a_model_that_cannot_be_opened_is_said(tiny):
    with pytest.raises(InputError, match="timed with AVX512_CORE: openvino cannot load the model"):
        p50_ms_on("AVX512_CORE", [Model((b"garbage",), "fp32")], tiny.SPEC.shape)
