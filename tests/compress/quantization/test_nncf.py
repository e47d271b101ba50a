"""NNCF as a maker of candidates: what it writes, that it is quiet, and that whatever it does the search goes on."""

import json
import os
import subprocess
import sys
import time

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from medfm_compress.compress.quantization import nncf_job
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.nncf_job import NncfJob, NncfReply, quantize_with_nncf
from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.stored_weights import largest_weight
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.sessions.openvino import import_openvino
from medfm_compress.runtime.sessions.table import open_session_from_bytes

CNN = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[32, 3, 3, 3] w0, float[32] b0, float[32, 32, 3, 3] w1, float[32] b1, float[5, 32] w2, float[5] b2>
{
  [first] a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w0, b0)
  [act] r = Relu (a)
  [second] c = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)
  [sum] s = Add (c, r)
  [act2] t = Relu (s)
  [pool] p = GlobalAveragePool (t)
  [flat] f = Flatten (p)
  [head] logits = Gemm <transB = 1> (f, w2, b2)
}
"""
VIT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[64, 3, 4, 4] w0, float[64] b0, int64[3] tokens = {1, 64, 16}, float[64, 64] wq, float[64, 64] wk,
 float[64, 64] wv, float[64] gamma, float[64] beta, float[64, 256] w1, float[256] b1, float[256, 64] w2,
 int64[1] axis = {1}, float[5, 64] w3,
 float[5] b3>
{
  [patches] c = Conv <strides = [4, 4]> (image, w0, b0)
  [view] v = Reshape (c, tokens)
  [turn] j = Transpose <perm = [0, 2, 1]> (v)
  [norm] x = LayerNormalization (j, gamma, beta)
  [query] q = MatMul (x, wq)
  [key] k = MatMul (x, wk)
  [value] u = MatMul (x, wv)
  [turn_key] kt = Transpose <perm = [0, 2, 1]> (k)
  [scores] s = MatMul (q, kt)
  [soft] p = Softmax <axis = -1> (s)
  [attend] o = MatMul (p, u)
  [residual] y = Add (j, o)
  [one] m = MatMul (y, w1)
  [bias] h = Add (m, b1)
  [act] g = Gelu (h)
  [two] z = MatMul (g, w2)
  [mean] e = ReduceMean <keepdims = 0> (z, axis)
  [head] logits = Gemm <transB = 1> (e, w3, b3)
}
"""
MLP = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[768, 64] w0, float[64, 64] w1, float[64, 5] w2>
{
  [flat] f = Flatten (image)
  [one] a = MatMul (f, w0)
  [act] r = Relu (a)
  [two] b = MatMul (r, w1)
  [act2] s = Relu (b)
  [head] logits = MatMul (s, w2)
}
"""
EXPLICIT = NncfSettings(preset="mixed", transformer=True, smoothquant=0.5, estimator="minmax")
JOBS = {
    "openvino": (CNN, "openvino", Method(nncf=NncfSettings(estimator="mean-no-outliers", bias_correction="accurate"))),
    "openvino again": (
        CNN,
        "openvino",
        Method(nncf=NncfSettings(estimator="mean-no-outliers", bias_correction="accurate")),
    ),
    "onnxruntime": (CNN, "onnxruntime", Method(nncf=NncfSettings(preset="mixed", bias_correction="fast"))),
    "onnxruntime again": (CNN, "onnxruntime", Method(nncf=NncfSettings(preset="mixed", bias_correction="fast"))),
    "openvino vit": (VIT, "openvino", Method(nncf=NncfSettings(preset="mixed", transformer=True))),
    "onnxruntime vit": (VIT, "onnxruntime", Method(nncf=EXPLICIT)),
    "openvino reduced": (VIT, "openvino", Method(nncf=EXPLICIT, reduced=True)),
    "onnxruntime reduced": (VIT, "onnxruntime", Method(nncf=EXPLICIT, reduced=True)),
    "openvino without": (CNN, "openvino", Method(nncf=NncfSettings(), excluded=("second",))),
    "onnxruntime without": (CNN, "onnxruntime", Method(nncf=NncfSettings(preset="mixed"), excluded=("second",))),
    "unknown layer": (CNN, "openvino", Method(nncf=NncfSettings(), excluded=("third",))),
    "controlled": (CNN, "openvino", Method(nncf=NncfSettings(error_limit=1e-6))),
    "openvino 8": (VIT, "openvino", Method(nncf=NncfSettings(), weight_bits=8)),
    "onnxruntime 8": (VIT, "onnxruntime", Method(nncf=NncfSettings(), weight_bits=8)),
    "openvino 4": (VIT, "openvino", Method(nncf=NncfSettings(), weight_bits=4)),
    "gptq": (MLP, "openvino", Method(nncf=NncfSettings(rounding="gptq"), weight_bits=4)),
    "onnxruntime 4": (VIT, "onnxruntime", Method(nncf=NncfSettings(rounding="awq+scale-estimation"), weight_bits=4)),
    "damaged": ("", "onnxruntime", Method(nncf=NncfSettings())),
}
SCRIPT = """
import json, socket, sys, warnings
from pathlib import Path
def refuse(*_):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
from medfm_compress.compress.quantization.nncf_worker import main
for folder in sys.argv[1:]:
    main(Path(folder))
    warnings.simplefilter("error")
from nncf.telemetry.wrapper import NNCFTelemetry, telemetry
seen = {"telemetry": isinstance(telemetry, NNCFTelemetry), "torch": sys.modules["torch"] is not None}
Path(sys.argv[1], "seen.json").write_text(json.dumps(seen))
"""


def graph(text):
    if not text:
        return b"no graph"
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[-1]
        weight = (random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def images(count=8):
    return np.random.default_rng(1).standard_normal((count, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every job's reply and files, by one process, since importing NNCF takes longer than the jobs; and its traces."""
    pytest.importorskip("openvino")
    root = tmp_path_factory.mktemp("nncf")
    (root / "home").mkdir()
    (root / "fake").mkdir()
    fake = "class Telemetry:\n    def __init__(self, **_): raise SystemExit(9)"
    (root / "fake" / "openvino_telemetry.py").write_text(fake)
    folders = {}
    for name, (text, backend, method) in JOBS.items():
        folder = folders[name] = root / name
        folder.mkdir()
        (folder / nncf_job.GRAPH).write_bytes(graph(text))
        (folder / nncf_job.JOB).write_bytes(msgspec.json.encode(NncfJob.of(method, backend, None)))
        np.save(folder / nncf_job.INPUTS, images())
    environment = {**os.environ, "HOME": str(root / "home"), "PYTHONPATH": str(root / "fake")}
    command = [sys.executable, "-c", SCRIPT, *map(str, folders.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    replies = {}
    for name, folder in folders.items():
        reply = msgspec.json.decode((folder / nncf_job.REPLY).read_bytes(), type=NncfReply)
        replies[name] = reply.error or tuple((folder / str(number)).read_bytes() for number in range(reply.files))
    seen = json.loads((folders["openvino"] / "seen.json").read_text())
    seen["home"] = [str(path) for path in (root / "home").rglob("*") if path.is_file()]
    return replies, seen


def files(made, name):
    contents = made[0][name]
    assert isinstance(contents, tuple), contents
    return contents


def logits(contents, count=8):
    """What the file says, without an engine's integer kernels: they differ between CPUs; the search judges them."""
    images_ = images(count)
    if len(contents) == 1:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(contents[0], options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images_])
    core = import_openvino().Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    model = core.compile_model(core.read_model(*contents), "CPU", settings)
    return np.concatenate([model(image[None])[0] for image in images_])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("kind", "text"), [("", CNN), (" vit", VIT)])
def test_what_nncf_makes_opens_and_is_near(made, backend, kind, text):
    open_session_from_bytes(backend, files(made, backend + kind), 1, "int8")
    expected = logits((graph(text),))
    measured = logits(files(made, backend + kind))
    assert 0 < np.linalg.norm(measured - expected) < 0.1 * np.linalg.norm(expected)
    assert sum(map(len, files(made, backend + kind)[-1:])) < 0.5 * len(graph(text))


def test_two_runs_give_the_same_bytes(made):
    assert files(made, "openvino") == files(made, "openvino again")
    assert files(made, "onnxruntime") == files(made, "onnxruntime again")


def test_no_telemetry_no_pytorch_and_nothing_at_home(made):
    assert made[1] == {"telemetry": False, "torch": False, "home": []}


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_seven_bit_weights_are_stored_as_such(made, backend):
    assert largest_weight(files(made, f"{backend} vit")) > 64
    assert 0 < largest_weight(files(made, f"{backend} reduced")) <= 64


def test_an_excluded_layer_stays_in_float(made):
    model = onnx.load_from_string(files(made, "onnxruntime without")[0])
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    kinds = {node.name: makers.get(node.input[1], "float") for node in model.graph.node if node.op_type == "Conv"}
    assert kinds == {"first": "DequantizeLinear", "second": "float"}
    stored = [len(files(made, name)[1]) for name in ("openvino without", "openvino")]
    assert stored[0] - stored[1] > 2.5 * 32 * 32 * 9  # its weights in 4 bytes instead of 1


def test_a_layer_that_nncf_does_not_know_is_said(made):
    assert "'third' cannot be left in float" in made[0]["unknown layer"]


def test_accuracy_control_gives_layers_back_until_the_limit_is_met(made):
    expected = logits((graph(CNN),))
    controlled = logits(files(made, "controlled"))
    assert np.linalg.norm(controlled - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("bits", "error", "share"), [(8, 0.02, 0.4), (4, 0.3, 0.35)])
def test_weights_alone_are_small_and_near(made, backend, bits, error, share):
    expected = logits((graph(VIT),))
    contents = files(made, f"{backend} {bits}")
    measured = logits(contents)
    assert 0 < np.linalg.norm(measured - expected) < error * np.linalg.norm(expected)
    assert len(contents[-1]) < share * len(graph(VIT))


def test_what_nncf_cannot_read_is_one_sentence(made):
    assert isinstance(made[0]["damaged"], str) and "\n" not in made[0]["damaged"]


def played(monkeypatch, tmp_path, code):
    """Put a module of the name ``nncf`` before the real one."""
    (tmp_path / "nncf.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = NncfJob.of(Method(nncf=NncfSettings()), "onnxruntime", None)
    return lambda seconds=60.0: quantize_with_nncf(graph(CNN), images(2), job, time.monotonic() + seconds)


def test_an_error_of_nncf_is_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="NNCF does not quantize it: no such pattern in this graph"):
        played(monkeypatch, tmp_path, "raise RuntimeError('no such pattern\\n  in this graph')")()


def test_a_death_of_its_process_is_said(monkeypatch, tmp_path):
    code = "import os, sys\nprint('out of luck', file=sys.stderr, flush=True)\nos._exit(7)"
    with pytest.raises(ModelError, match="ended with code 7: out of luck"):
        played(monkeypatch, tmp_path, code)()


def test_it_ends_with_the_time_budget(monkeypatch, tmp_path):
    started = time.monotonic()
    with pytest.raises(ModelError, match="time budget was used up"):
        played(monkeypatch, tmp_path, "import time\ntime.sleep(600)")(0.2)
    assert time.monotonic() - started < 60


def test_an_interrupt_passes_through_and_leaves_no_process(monkeypatch, tmp_path):
    processes = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            processes.append(self)
            if len(processes) == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(nncf_job.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        played(monkeypatch, tmp_path, "import time\ntime.sleep(600)")()
    assert processes[0].returncode is not None


def test_seven_bits_that_are_eight_are_refused(monkeypatch, made):
    eight = files(made, "onnxruntime")[0]
    monkeypatch.setattr(nncf_job, "_run", lambda folder, timeout_s: _answer(folder, eight))
    job = NncfJob.of(Method(nncf=EXPLICIT, reduced=True), "onnxruntime", None)
    with pytest.raises(ModelError, match="reach ±127; without VNNI they must stay within ±64"):
        quantize_with_nncf(graph(VIT), images(2), job, time.monotonic() + 60)


def _answer(folder, content):
    (folder / "0").write_bytes(content)
    (folder / nncf_job.REPLY).write_bytes(msgspec.json.encode(NncfReply(files=1)))
