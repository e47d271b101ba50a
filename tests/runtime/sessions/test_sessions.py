"""Backends: what was asked for is what runs, or there is no session."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError, MissingDependency
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from medfm_compress.runtime.sessions import openvino as ov_backend
from medfm_compress.runtime.sessions import table
from medfm_compress.runtime.sessions.instruction_sets import FP16, multiplies_exactly
from medfm_compress.runtime.sessions.protocol import SessionRef

BOTH = [pytest.param(ort_backend, id="onnxruntime"), pytest.param(ov_backend, id="openvino")]


@pytest.fixture(autouse=True)
def _engines():
    for backend in ("onnxruntime", "openvino"):
        if not table.is_available(backend).ok:
            pytest.skip(f"{backend} is not installed")


@pytest.fixture(scope="module")
def tensors():
    return np.random.default_rng(0).normal(size=(8, 1, 1, 32, 32)).astype(np.float32)


def reference(model, tensor):
    """The peer: onnx's own reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, {"image": tensor})[0]


@pytest.mark.parametrize("backend", BOTH)
def test_fp32_agrees_with_the_onnx_reference(tiny, tensors, backend):
    session = backend.from_bytes([tiny.network()], 1)
    assert session.input_names == ("image",) and session.output_names == ("logits",)
    np.testing.assert_allclose(
        session.run({"image": tensors[0]})["logits"], reference(tiny.network(), tensors[0]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("backend", BOTH)
def test_int8_runs_in_8_bits_and_agrees_with_the_reference(tiny, tensors, backend):
    session = backend.from_bytes([tiny.quantized_network()], 1, "int8")
    assert session.info.precision == "int8"
    if not multiplies_exactly(read_cpu()):
        pytest.skip("this CPU saturates where weights use all 8 bits")
    expected = reference(tiny.quantized_network(), tensors[0])
    np.testing.assert_allclose(session.run({"image": tensors[0]})["logits"], expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("backend", BOTH)
def test_it_says_what_runs(tiny, backend):
    info = backend.from_bytes([tiny.network()], 1).info
    assert info.backend == backend.BACKEND and info.version[0].isdigit()
    assert info.provider in ("CPUExecutionProvider", "CPU")
    assert (info.precision, info.threads) == ("fp32", 1)


def test_openvino_runs_the_precision_it_was_given(tiny, tensors):
    fp32 = ov_backend.from_bytes([tiny.network()], 1, "fp32").run({"image": tensors[0]})["logits"]
    if not {"avx512_bf16", "amx_bf16"} & read_cpu().flags:  # a refusal where the CPU has bf16 is a failure
        pytest.skip("this CPU has no bf16")
    session = ov_backend.from_bytes([tiny.network()], 1, "bf16")
    difference = np.abs(session.run({"image": tensors[0]})["logits"] - fp32).max()
    assert session.info.precision == "bf16"
    assert 0 < difference < 0.1


def test_openvino_does_not_run_a_precision_that_the_cpu_lacks(tiny):
    if not missing_flags(FP16, read_cpu()):
        pytest.skip("this CPU has fp16")
    with pytest.raises(BundleRefused, match="asked was fp16"):
        ov_backend.from_bytes([tiny.network()], 1, "fp16")


@pytest.mark.parametrize("backend", BOTH)
def test_a_declared_precision_that_the_graph_lacks_is_refused(tiny, backend):
    with pytest.raises(BundleRefused, match="declared int8"):
        backend.from_bytes([tiny.network()], 1, "int8")
    with pytest.raises(BundleRefused, match="declared fp32"):
        backend.from_bytes([tiny.quantized_network()], 1, "fp32")


@pytest.mark.parametrize("backend", BOTH)
def test_what_it_cannot_open(backend, tmp_path, capfd):
    with pytest.raises(BundleRefused, match="cannot load the model"):
        backend.from_bytes([b"garbage"], 1)
    with pytest.raises(InputError, match="not 'int4'"):
        backend.from_bytes([b""], 1, "int4")
    with pytest.raises(InputError, match="at least 1 thread"):
        backend.from_bytes([b""], 0)
    with pytest.raises(InputError, match="cannot read model"):
        backend.open_session(str(tmp_path / "absent.onnx"), 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BOTH)
def test_names_that_are_no_text_are_refused_in_silence(tiny, backend, capfd):
    with pytest.raises(BundleRefused, match="cannot load the model"):
        backend.from_bytes([tiny.network().replace(b"logits", b"l\xff\xfe\xfdts")], 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BOTH)
def test_inputs_it_does_not_have(tiny, tensors, backend, capfd):
    session = backend.from_bytes([tiny.network()], 1)
    for bad in ({"image": tensors[0, :, :, :16]}, {"other": tensors[0]}, {"image": tensors[0], "other": tensors[0]}):
        with pytest.raises(InputError):
            session.run(bad)
    assert capfd.readouterr() == ("", "")


def test_openvino_says_how_many_threads_it_really_uses(tiny):
    with pytest.raises(InputError, match="not 4096; ask for"):
        ov_backend.from_bytes([tiny.network()], 4096)


def test_onnxruntime_reads_no_file_that_the_bundle_does_not_hold(tiny, tmp_path):
    import onnx

    model = onnx.load_from_string(tiny.network())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(BundleRefused, match="in another file"):
        ort_backend.open_session(str(tmp_path / "m.onnx"), 1)


def test_onnxruntime_keeps_no_copy_of_the_file(tiny, tensors):
    session = ort_backend.from_bytes([tiny.network()], 1)
    assert session._session._model_bytes is None
    assert np.isfinite(session.run({"image": tensors[0]})["logits"]).all()


@pytest.mark.parametrize("backend", BOTH)
def test_eight_threads_get_what_one_gets(tiny, tensors, backend):
    session = backend.from_bytes([tiny.network()], 1)
    alone = [session.run({"image": tensor})["logits"].copy() for tensor in tensors]
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i % 8, pool.submit(session.run, {"image": tensors[i % 8]})) for i in range(200)]
    for i, job in jobs:
        assert np.array_equal(job.result()["logits"], alone[i])


@pytest.mark.parametrize("backend", BOTH)
def test_an_earlier_result_is_not_overwritten(tiny, tensors, backend):
    session = backend.from_bytes([tiny.network()], 1)
    first = session.run({"image": tensors[0]})["logits"]
    kept = first.copy()
    session.run({"image": tensors[1]})
    assert np.array_equal(first, kept)


def test_openvino_opens_its_own_format_and_keeps_a_cache_only_when_told(tiny, tensors, tmp_path):
    ov = ov_backend.import_openvino()
    core = ov.Core()
    ov.save_model(core.read_model(tiny.network()), tmp_path / "m.xml", compress_to_fp16=False)
    ir = [(tmp_path / name).read_bytes() for name in ("m.xml", "m.bin")]
    expected = ov_backend.from_bytes([tiny.network()], 1).run({"image": tensors[0]})["logits"]
    for _ in range(2):
        session = ov_backend.from_bytes(ir, 1, cache_dir=str(tmp_path / "cache"))
        np.testing.assert_allclose(session.run({"image": tensors[0]})["logits"], expected, rtol=1e-5)
    assert list((tmp_path / "cache").iterdir())
    assert ov_backend.open_session(str(tmp_path / "m.xml"), 1).info.precision == "fp32"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_reference_opens_a_variant_of_a_bundle(tiny, tensors, tmp_path, backend):
    variant = {"onnxruntime": tiny.ORT, "openvino": tiny.OV}[backend]
    path = tiny.bundle(tmp_path / "a.medfm", (variant,), outcome=None)
    arguments = {"bundle": str(path), "variant": variant.name, "threads": 1}
    session = SessionRef(opener="medfm_compress.runtime.sessions.table:open_bundle_variant", arguments=arguments).open()
    assert session.info.backend == backend
    assert session.run({"image": tensors[0]})["logits"].shape == (1, 2)


def test_a_missing_backend_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"pip install 'medfm-compress\[openvino\]'"):
        ov_backend.from_bytes([b"x"], 1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not table.is_available("onnxruntime").ok
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert "pip install tensorrt" in table.is_available("tensorrt").reason
    with pytest.raises(InputError, match="choose one of openvino, onnxruntime, tensorrt"):
        table.is_available("tflite")


def test_openvino_does_not_report_home(tmp_path):
    """Its telemetry would otherwise start on import, and leave an id in the home folder."""
    code = (
        "import sys\n"
        "from medfm_compress.runtime.sessions.openvino import is_available\n"
        "assert is_available().ok\n"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry')]\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("operator", "error"),
    [
        ("QGemm", "Failed to find kernel for com.microsoft.QGemm(1) (node:'/Gemm_quant' ep:'CPUExecutionProvider')."),
        ("QLinearConv", "Could not find an implementation for QLinearConv(10) node with name ''"),
        ("QLinearAdd", "Could not find an implementation for com.microsoft.QLinearAdd(1) node with name 'sum'"),
        ("QAttention", "Could not find an implementation for QAttention(1) node with name 'QLinearConv(1)'"),
        ("MatMulInteger", "Could not find an implementation for MatMulInteger(10) node with name ''"),
    ],
)
def test_signed_products_are_said_in_words_where_there_is_no_exact_kernel(operator, error):
    raised = RuntimeError(f"[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : {error}")
    said = ort_backend.reason_in_words(raised, is_exact=False)
    assert f"signed by signed bytes ({operator})" in said and "QUInt8" in said and "NOT_IMPLEMENTED" not in said
    assert ort_backend.reason_in_words(raised, is_exact=True) == str(raised)


@pytest.mark.parametrize(
    "error", ["NOT_IMPLEMENTED : Conv(11) of QLinearConv", "FAIL : QGemm(1)", "NOT_IMPLEMENTED : Q"]
)
def test_other_errors_of_loading_are_kept(error):
    assert ort_backend.reason_in_words(RuntimeError(error), is_exact=False) == error
