"""An IR's weights are used where they are: the session keeps them, and leaves every byte as it was."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import numpy as np
import pytest

from medfm_compress.runtime.sessions.openvino import from_bytes, import_openvino, is_available


@pytest.fixture
def ir(tmp_path: Path) -> tuple[bytes, bytes]:
    """``image [1, 3, 8, 8]`` → 4 ReLUs of a convolution → their means, as ``.xml`` and ``.bin``."""
    if not is_available().ok:
        pytest.skip("openvino is not installed")
    openvino = import_openvino()
    from openvino import opset13 as ops

    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    image = ops.parameter([1, 3, 8, 8], np.float32, name="image")
    image.output(0).set_names({"image"})
    made = ops.relu(ops.convolution(image, ops.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1]))
    result = ops.reduce_mean(made, ops.constant(np.array([2, 3])), keep_dims=False)
    result.output(0).set_names({"logits"})
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([result], [image]), path, compress_to_fp16=False)
    return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def test_the_weights_outlive_the_caller_and_do_not_change(ir: tuple[bytes, bytes]) -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)
    before = hashlib.sha256(ir[1]).digest()
    session = from_bytes(ir, 1)
    expected = session.run({"image": image})["logits"]
    assert hashlib.sha256(ir[1]).digest() == before

    alone = from_bytes([bytes(bytearray(part)) for part in ir], 1)  # nobody else holds these bytes
    gc.collect()
    spoilers = [bytearray(len(ir[1])) for _ in range(200)]  # would lie where they were
    assert np.array_equal(alone.run({"image": image})["logits"], expected) and len(spoilers) == 200
