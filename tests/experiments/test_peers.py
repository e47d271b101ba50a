"""The peers still quantize a small network, each in its own environment where ``MEDFM_PEERS`` names their folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfm_compress.runtime.golden_cases import relative_logit_error

pytestmark = pytest.mark.slow
SIDE = 32
FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "peers"
PEERS = {
    "ort_static.py": ("onnxruntime", ".onnx"),
    "ort_dynamic.py": ("onnxruntime", ".onnx"),
    "nncf_default.py": ("nncf", ".onnx"),
    "nncf_default.py as IR": ("nncf", ".xml"),
    "optimum_static.py": ("optimum", ".onnx"),
    "modelopt_onnx.py": ("modelopt", ".onnx"),
    "executorch_xnnpack.py": ("executorch", ".pte"),
    "litert_int8.py": ("litert", ".tflite"),
}
OWN_RUNTIME = (".pte", ".tflite")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.onnx`` (a small CNN with a dense layer) and ``calibration.npz``."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 64, 4),
    ).eval()
    program = torch.onnx.export(
        module,
        (torch.zeros(1, 3, SIDE, SIDE),),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        opset_version=20,
        verbose=False,
    )
    program.save(folder / "model.onnx")
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, SIDE, SIDE),)), folder / "eager.pt2")
    images = np.random.default_rng(0).normal(size=(24, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(folder / "calibration.npz", image=images)
    return folder


def python_of(environment: str, package: str) -> str:
    """The interpreter that has the peer."""
    own = Path(os.environ.get("MEDFM_PEERS", "")) / environment / "bin" / "python"
    if os.environ.get("MEDFM_PEERS") and own.is_file():
        return str(own)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed, and MEDFM_PEERS names no environment that has it")
    return sys.executable


def logits(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if path.suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([np.array(model({"image": image[None]})[0]) for image in images])
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def worker_logits(python: str, model: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of a model that only its peer's environment can run."""
    cases, out = model.with_name("cases.npy"), model.with_name("logits.npy")
    np.save(cases, images)
    request = json.dumps({"inputs": str(cases), "out": str(out)}) + "\n"
    np.save(model.with_name("first.npy"), images[:1])
    command = [python, str(FOLDER / "network_worker.py"), str(model), "1", str(model.with_name("first.npy"))]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout.splitlines()[-1]) == {"rows": len(images)}
    loaded: np.ndarray[Any, Any] = np.load(out)
    return loaded


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_writes_int8_that_runs_and_is_near(peer: str, network: Path, tmp_path: Path) -> None:
    environment, suffix = PEERS[peer]
    python = python_of(environment, environment)
    out = tmp_path / f"int8{suffix}"
    script = FOLDER / peer.split(maxsplit=1)[0]
    source = network / ("eager.pt2" if suffix in OWN_RUNTIME else "model.onnx")
    command = [python, script, source, network / "calibration.npz", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    images = np.load(network / "calibration.npz")["image"]
    measured = worker_logits(python, out, images) if suffix in OWN_RUNTIME else logits(out, images)
    error = relative_logit_error(measured, logits(network / "model.onnx", images))
    assert 0 < error < 0.5  # quantized, and still the same function; LiteRT averages ranges over cases, and clips


def test_a_failing_peer_says_why_in_its_last_line(network: Path, tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "ort_static.py", network / "absent.onnx"]
    command += [network / "calibration.npz", tmp_path / "int8.onnx"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    assert "absent.onnx" in done.stderr.strip().splitlines()[-1]
