"""TensorRT's session around a simulated GPU: the same results, engines kept and dropped, refusals that say why."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import sys
import threading

import numpy as np
import pytest
import simulated_gpu

from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.columns import encode_columns
from medfm_compress.runtime.doctor import examine
from medfm_compress.runtime.errors import BundleRefused, InputError, MissingDependency
from medfm_compress.runtime.sessions import cuda_driver, tensorrt
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from medfm_compress.runtime.sessions.cuda_driver import CudaFailed, Driver, OutOfGpuMemory
from tests.helpers import tiny_columns

TRT = Variant(
    name="tensorrt-cuda-fp16", files=("model.onnx",), backend="tensorrt", device="cuda", precision="fp16",
    golden_tolerance=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return simulated_gpu.compile_driver(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def trt(library, monkeypatch):
    """The simulated bindings, in place of ``tensorrt``; the driver is the stub."""
    module = simulated_gpu.bindings(library)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, str(library))
    return module


@pytest.fixture
def image():
    return {"image": np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)}


def expected(tiny, image):
    return ort_backend.from_bytes([tiny.network()], 1).run(image)["logits"]


def test_it_computes_what_the_file_says_and_says_what_runs(tiny, trt, image):
    session = tensorrt.from_bytes([tiny.network()], 1, "fp32")
    assert np.array_equal(session.run(image)["logits"], expected(tiny, image))
    assert session.input_names == ("image",) and session.output_names == ("logits",)
    assert session.info.provider == "CUDA Stub GPU" and session.info.version == "11.4.0"
    assert session.device_ms(image) == 0.25


@pytest.mark.parametrize("captured", [True, False])
def test_captured_or_not_the_results_are_the_same(tiny, trt, image, monkeypatch, captured):
    if not captured:
        monkeypatch.setenv("STUB_NO_CAPTURE", "1")
    monkeypatch.setattr(tensorrt.TensorRtSession, "_median_ms", lambda self: float(not self._graph))
    session = tensorrt.from_bytes([tiny.network()], 1)
    assert bool(session._graph) == captured
    for seed in range(3):  # new inputs reach a captured graph
        inputs = {"image": np.random.default_rng(seed).normal(size=(1, 1, 32, 32)).astype(np.float32)}
        assert np.array_equal(session.run(inputs)["logits"], expected(tiny, inputs))


def test_columns_are_inputs_by_their_names(tiny, trt, image):
    columns = encode_columns(tiny_columns.COLUMNS, {"age": 63, "sex": "male", "view": "AP"})
    inputs = {**columns, **image}  # in another order than the network has them
    session = tensorrt.from_bytes([tiny_columns.network()], 1)
    plain = ort_backend.from_bytes([tiny_columns.network()], 1).run(inputs)["logits"]
    assert session.input_names == ("image", "age", "sex", "view") and session.batch == 1
    assert np.array_equal(session.run(inputs)["logits"], plain)
    with pytest.raises(InputError, match="tensorrt cannot run on sex of"):
        session.run({**inputs, "sex": np.zeros((1, 2), np.float32)})
    with pytest.raises(InputError, match="inputs are"):
        session.run(image)


def test_a_bundle_with_columns_is_qualified_and_predicts(tiny, trt, tmp_path):
    path = tiny_columns.bundle(tmp_path / "columns.medfm", (TRT,))
    with Engine(path) as engine:
        prediction = engine.predict(tiny.image(), columns={"age": 63})
    assert prediction.variant == TRT.name and prediction.columns["age"] == "argument"


def test_a_graph_that_is_not_faster_is_not_used(tiny, trt, image, monkeypatch):
    monkeypatch.setattr(tensorrt.TensorRtSession, "_median_ms", lambda self: 1.0 + bool(self._graph))
    session = tensorrt.from_bytes([tiny.network()], 1)
    assert not session._graph and np.array_equal(session.run(image)["logits"], expected(tiny, image))


def test_results_of_an_earlier_run_stay_as_they_were(tiny, trt, image):
    session = tensorrt.from_bytes([tiny.network()], 1)
    first = session.run(image)["logits"]
    kept = first.copy()
    session.run({"image": image["image"] + 1})
    assert np.array_equal(first, kept)


def test_threads_get_their_own_results(tiny, trt):
    session = tensorrt.from_bytes([tiny.network()], 1)
    inputs = [{"image": np.full((1, 1, 32, 32), value, np.float32)} for value in range(8)]
    wanted = [expected(tiny, each) for each in inputs]
    found: dict[int, bool] = {}

    def many(number):
        found[number] = all(np.array_equal(session.run(inputs[number])["logits"], wanted[number]) for _ in range(50))

    threads = [threading.Thread(target=many, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


def test_all_memory_is_given_back(tiny, trt, library):
    used = ctypes.CDLL(str(library)).stub_used
    used.restype = ctypes.c_size_t
    gc.collect()
    before = used()
    session = tensorrt.from_bytes([tiny.network()], 1)
    assert used() > before
    del session
    gc.collect()
    assert used() == before


def test_wrong_inputs_are_named(tiny, trt):
    session = tensorrt.from_bytes([tiny.network()], 1)
    with pytest.raises(InputError, match=r"the engine takes \(1, 1, 32, 32\)"):
        session.run({"image": np.zeros((1, 1, 16, 16), np.float32)})
    with pytest.raises(InputError, match="inputs are"):
        session.run({"picture": np.zeros((1, 1, 32, 32), np.float32)})


def test_an_engine_is_kept_and_built_anew_when_anything_changes(tiny, trt, tmp_path, monkeypatch, image):
    folder = str(tmp_path / "cache")

    def opened(model=None, precision="fp16"):
        before = trt.builds
        session = tensorrt.from_bytes([model or tiny.network()], 1, precision, folder)
        assert session.run(image)["logits"].shape == (1, 2)
        return trt.builds - before

    assert [opened(), opened()] == [1, 0]
    assert [opened(tiny.network(seed=1)), opened(precision="fp32")] == [1, 1]
    monkeypatch.setenv("STUB_DRIVER", "13010")
    assert [opened(), opened()] == [1, 0]
    monkeypatch.setenv("STUB_NAME", "Another GPU")
    assert [opened(), opened()] == [1, 0]
    trt.__version__ = "11.5.0"
    assert [opened(), opened()] == [1, 0]


def test_what_a_build_learned_of_the_device_helps_the_next_one_there_and_on_no_other(tiny, trt, tmp_path, monkeypatch):
    folder = str(tmp_path / "cache")
    for seed in range(3):
        tensorrt.from_bytes([tiny.network(seed=seed)], 1, "fp32", folder)
    assert trt.timings == [b"", b"+", b"++"]
    monkeypatch.setenv("STUB_NAME", "Another GPU")
    tensorrt.from_bytes([tiny.network(seed=3)], 1, "fp32", folder)
    tensorrt.from_bytes([tiny.network(seed=4)], 1)
    assert trt.timings[3:] == [b"", b""]


@pytest.mark.parametrize("damage", ["flip", "cut", "foreign"])
def test_a_damaged_engine_is_built_anew(tiny, trt, tmp_path, image, damage):
    folder = tmp_path / "cache"
    tensorrt.from_bytes([tiny.network()], 1, "fp32", str(folder))
    (path,) = folder.glob("tensorrt-[0-9a-f]*.blob")
    whole = bytearray(path.read_bytes())
    if damage == "flip":
        whole[len(whole) // 2] ^= 1
    if damage == "foreign":
        tensorrt.from_bytes([tiny.network(seed=1)], 1, "fp32", str(folder))
        (other,) = set(folder.glob("tensorrt-[0-9a-f]*.blob")) - {path}
        whole = bytearray(other.read_bytes())
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole)
    builds = trt.builds
    session = tensorrt.from_bytes([tiny.network()], 1, "fp32", str(folder))
    assert trt.builds == builds + 1
    assert np.array_equal(session.run(image)["logits"], expected(tiny, image))


def test_every_engine_is_qualified_and_one_that_fails_is_forgotten(tiny, trt, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm", (TRT,))
    folder = tmp_path / "cache"
    trt.flaw = 5.0  # two builds of one file can differ: this one is wrong
    with pytest.raises(BundleRefused, match=r"relative logit error .* allowed is 0\.01"):
        Engine(path, threads=1, cache_dir=folder)
    assert not list(folder.glob("tensorrt-[0-9a-f]*.blob"))
    trt.flaw = 0.0
    with Engine(path, threads=1, cache_dir=folder) as engine:
        assert engine.variant.name == TRT.name and engine.golden_error < 1e-5
        assert engine.predict(tiny.image()).probabilities.keys() == {"opacity"}
    builds = trt.builds
    with Engine(path, threads=1, cache_dir=folder):
        assert trt.builds == builds


def test_a_cpu_falls_back_where_the_gpu_is_missing(tiny, trt, tmp_path, monkeypatch):
    path = tiny.bundle(tmp_path / "a.medfm", (TRT, tiny.ORT))
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, "libno_such_driver.so")
    with Engine(path, threads=1) as engine:
        assert engine.variant.name == tiny.ORT.name
    only = tmp_path / "b.medfm"
    only.write_bytes(path.read_bytes())
    with pytest.raises(BundleRefused, match="no CUDA driver is loaded: install NVIDIA's driver"):
        Engine(only, threads=1, backend="tensorrt")


def test_what_tensorrt_refuses_is_named_with_its_node(tiny, trt):
    trt.refusal = "Unsupported operator Einsum"
    with pytest.raises(BundleRefused, match=r"node /blocks\.2/attn/Einsum \(Einsum\): Unsupported operator"):
        tensorrt.from_bytes([tiny.network()], 1)


def test_too_little_memory_is_said_at_the_build_and_at_the_buffers(tiny, trt, monkeypatch):
    trt.said = "Requested amount of GPU memory could not be allocated: out of memory"
    with pytest.raises(OutOfGpuMemory, match="does not suffice to build"):
        tensorrt.from_bytes([tiny.network()], 1)
    trt.said = ""
    monkeypatch.setenv("STUB_MEMORY", "16")
    with pytest.raises(OutOfGpuMemory, match="no memory left"):
        tensorrt.from_bytes([tiny.network()], 1)


@pytest.mark.parametrize("version", ["12.0.1", "9.3.0", "8.5.3", "7.1", ""])
def test_a_version_that_the_table_does_not_know_is_refused(tiny, trt, version):
    trt.__version__ = version
    with pytest.raises(MissingDependency, match=r"is not known here; install 8\.6, 10, 11"):
        tensorrt.from_bytes([tiny.network()], 1)
    assert not tensorrt.is_available().ok


def test_precisions_of_the_version_are_held(tiny, trt):
    trt.__version__ = "8.6.1"
    with pytest.raises(InputError, match="runs fp32, fp16, int8, int8-fp16, not 'bf16'"):
        tensorrt.from_bytes([tiny.network()], 1, "bf16")
    with pytest.raises(InputError, match="not 'int4-weights'"):
        tensorrt.from_bytes([tiny.network()], 1, "int4-weights")


def test_no_device_an_old_driver_and_no_driver(trt, monkeypatch, tmp_path, library):
    monkeypatch.setenv("STUB_DEVICES", "0")
    with pytest.raises(CudaFailed, match="no CUDA device 0"):
        Driver()
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, ctypes.util.find_library("m") or "libm.so.6")
    with pytest.raises(CudaFailed, match="too old: it has no cuInit"):
        Driver()


def test_doctor_names_the_gpu_or_what_is_missing(trt, monkeypatch):
    found = {finding.name: finding for finding in examine().backends}
    assert found["tensorrt"].ok and found["tensorrt"].detail == "11.4.0"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    found = {finding.name: finding for finding in examine().backends}
    assert not found["tensorrt"].ok and "pip install tensorrt" in found["tensorrt"].detail
