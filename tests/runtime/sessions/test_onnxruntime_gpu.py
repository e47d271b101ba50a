"""ONNX Runtime's GPU providers on a GPU: the network's own numbers, and the provider that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from medfm_compress.runtime.sessions.onnxruntime_providers import PROVIDERS

pytestmark = pytest.mark.gpu
FP32_LIMIT = 1e-3  # other summation orders; TF32 would be above it on most networks


@pytest.mark.parametrize("device", [device for device in PROVIDERS if device != "cpu"])
def test_a_provider_computes_what_the_cpu_computes(tiny, device: str) -> None:
    available = ort_backend.is_available(device)
    if not available.ok:
        pytest.skip(available.reason)
    images = np.random.default_rng(0).normal(size=(8, 1, 1, 32, 32)).astype(np.float32)

    def logits(where: str) -> np.ndarray:
        session = ort_backend.from_bytes([tiny.network()], 1, "fp32", where)
        assert session.info.provider == PROVIDERS[where].name
        return np.concatenate([session.run({"image": image})["logits"] for image in images])

    assert relative_logit_error(logits(device), logits("cpu"), tiny.TASK) < FP32_LIMIT
