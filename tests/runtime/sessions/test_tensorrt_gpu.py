"""TensorRT itself on a GPU: what `test_tensorrt` shows of a simulated one, and that its numbers are the network's."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from medfm_compress.runtime.sessions import tensorrt
from medfm_compress.runtime.sessions.cuda_driver import CudaFailed

AVAILABLE = tensorrt.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not AVAILABLE.ok, reason=AVAILABLE.reason)]
FP32_LIMIT = 1e-3  # other summation orders
TRT = Variant(
    name="tensorrt-cuda-fp32", files=("model.onnx",), backend="tensorrt", device="cuda", precision="fp32",
    golden_tolerance=FP32_LIMIT,
)  # fmt: skip


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(8, 1, 1, 32, 32)).astype(np.float32)


def logits(session, images) -> np.ndarray:
    return np.concatenate([session.run({"image": image})["logits"] for image in images])


@pytest.fixture
def expected(tiny, images) -> np.ndarray:
    return logits(ort_backend.from_bytes([tiny.network()], 1), images)


def test_an_engine_computes_what_onnx_runtime_computes_on_the_cpu(tiny, images, expected) -> None:
    session = tensorrt.from_bytes([tiny.network()], 1, "fp32")
    assert relative_logit_error(logits(session, images), expected, tiny.TASK) < FP32_LIMIT
    assert session.info.provider.startswith("CUDA ") and session.batch == 1
    assert 0 < session.device_ms({"image": images[0]}) < 1000


@pytest.mark.parametrize("captured", [True, False])
def test_with_a_cuda_graph_and_without_the_results_are_the_same(
    tiny, images, expected, monkeypatch, captured: bool
) -> None:
    ranks = iter((1.0, 0.0) if captured else (0.0, 1.0))  # of the plain launch, then of the graph
    monkeypatch.setattr(tensorrt.TensorRtSession, "_median_ms", lambda self: next(ranks))
    session = tensorrt.from_bytes([tiny.network()], 1, "fp32")
    assert bool(session._graph) == captured
    assert relative_logit_error(logits(session, images), expected, tiny.TASK) < FP32_LIMIT


def test_an_engine_from_the_cache_answers_to_the_bit_as_the_one_that_was_built(tiny, images, tmp_path) -> None:
    folder = str(tmp_path / "cache")
    built = logits(tensorrt.from_bytes([tiny.network()], 1, "fp32", folder), images)
    (path,) = (tmp_path / "cache").glob("tensorrt-*.blob")
    written = path.stat().st_mtime_ns
    loaded = logits(tensorrt.from_bytes([tiny.network()], 1, "fp32", folder), images)
    assert np.array_equal(built, loaded) and path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-100])
    again = logits(tensorrt.from_bytes([tiny.network()], 1, "fp32", folder), images)
    assert relative_logit_error(again, built, tiny.TASK) < FP32_LIMIT and path.stat().st_mtime_ns != written


def test_two_threads_get_their_own_results(tiny, images, expected) -> None:
    session = tensorrt.from_bytes([tiny.network()], 1, "fp32")
    found: dict[int, bool] = {}

    def many(number: int) -> None:
        answers = [session.run({"image": images[number]})["logits"] for _ in range(50)]
        found[number] = all(np.allclose(answer, expected[number], atol=1e-2) for answer in answers)

    threads = [threading.Thread(target=many, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: True, 1: True}


def test_an_engine_is_qualified_before_it_answers(tiny, tmp_path) -> None:
    path = tiny.bundle(tmp_path / "a.medfm", (TRT,))
    with Engine(path, threads=1, cache_dir=tmp_path / "cache") as engine:
        assert engine.variant.name == TRT.name and engine.golden_error < FP32_LIMIT
        assert engine.predict(tiny.image()).probabilities.keys() == {"opacity"}


def test_memory_is_given_back(tiny) -> None:
    driver = tensorrt.Driver()
    tensorrt.from_bytes([tiny.network()], 1, "fp32").run({"image": np.zeros((1, 1, 32, 32), np.float32)})
    before = driver.free_bytes()
    for _ in range(3):
        tensorrt.from_bytes([tiny.network()], 1, "fp32").run({"image": np.zeros((1, 1, 32, 32), np.float32)})
    assert driver.free_bytes() > before - (64 << 20)  # other programs may use the card, too


def test_more_memory_than_there_is_is_refused_by_name() -> None:
    with pytest.raises(CudaFailed, match="memory"):
        tensorrt.Driver().allocate(1 << 50)
