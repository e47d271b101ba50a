"""Engines built by TensorRT 11's own Python bindings, over TensorRT-RTX's library, on a machine without a GPU.

What is shown: the adapter's calls are right, and TensorRT's parser and builder take our files or say where they do not.
Nothing is run. Needs ``pip install 'medfm-compress[acceptance]'`` and a C compiler; each build is a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle

SHIM = Path(tiny_bundle.__file__).with_name("tensorrt_over_rtx.c")
BINDINGS, LIBRARY = "tensorrt-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13"
SCRIPT = """
import importlib, pathlib, sys
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.sessions.tensorrt_api import bindings_of
from medfm_compress.runtime.sessions.tensorrt_build import Profile, build
bindings = bindings_of(importlib.import_module("tensorrt_bindings"))
profiles = {"image": Profile(smallest=(1, 1, 32, 32), best=(4, 1, 32, 32), largest=(8, 1, 32, 32))}
try:
    built = build(bindings, pathlib.Path(sys.argv[1]).read_bytes(), sys.argv[2],
                  profiles=profiles if sys.argv[3] == "profile" else None)
    print("built", bindings.version, len(built.engine), len(built.timings))
except MedfmError as exc:
    print(type(exc).__name__, exc)
"""


def located(distribution: str, pattern: str) -> Path:
    """The one file of an installed package that fits; importing the package would write into it."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed: pip install 'medfm-compress[acceptance]'")
    return next(Path(str(file.locate())) for file in files if file.match(pattern))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Where the bindings find the library, under the names that they ask for."""
    rtx, parser = located(LIBRARY, "libtensorrt_rtx.so.*"), located(LIBRARY, "libtensorrt_onnxparser_rtx.so.*")
    located(BINDINGS, "tensorrt_bindings/__init__.py")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to put the bindings over TensorRT-RTX")
    folder = tmp_path_factory.mktemp("tensorrt")
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        name = f"lib{library}.so.11"
        words = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(SHIM), "-ldl"]
        subprocess.run([compiler, *words], check=True)
    for file in (rtx, parser):
        (folder / file.name.rpartition(".so.")[0]).with_suffix(".so.1").symlink_to(file)
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "RTX_LIBRARY": str(rtx), "RTX_PARSER": str(parser)}


def answer(environment, folder, content, precision="fp32", profile=""):
    path = folder / "model.onnx"
    path.write_bytes(content)
    call = [sys.executable, "-P", "-c", SCRIPT, str(path), precision, profile]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


def with_node(kind, *, free=False, **attributes):
    """A network of one node between ``image`` and ``logits``."""
    from onnx import TensorProto, helper

    shape = ["n", 1, 32, 32] if free else [1, 1, 32, 32]
    graph = helper.make_graph(
        [helper.make_node(kind, ["image"], ["logits"], name="/blocks.3/odd", **attributes)],
        "single",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


def test_a_network_is_built(environment, tmp_path):
    built, version, size, timings = answer(environment, tmp_path, tiny_bundle.network()).split()
    assert built == "built" and version.startswith("11.") and int(size) > 1000 and int(timings) > 0


def test_an_operator_that_it_lacks_is_named_with_its_node(environment, tmp_path):
    said = answer(environment, tmp_path, with_node("NoSuchOperator"))
    assert said.startswith("BundleRefused TensorRT 11.") and "node /blocks.3/odd (NoSuchOperator)" in said


def test_a_zero_point_that_is_not_zero_is_refused(environment, tmp_path):
    assert "BundleRefused" in answer(environment, tmp_path, tiny_bundle.quantized_network(), "int8")


def test_a_free_side_needs_a_profile(environment, tmp_path):
    free = with_node("Relu", free=True)
    assert "input image of (-1, 1, 32, 32) has a free side" in answer(environment, tmp_path, free)
    assert answer(environment, tmp_path, free, profile="profile").startswith("built")


def test_a_profile_that_does_not_fit_is_refused(environment, tmp_path):
    from onnx import TensorProto, helper, load_from_string

    model = load_from_string(with_node("Relu", free=True))
    for end in (*model.graph.input, *model.graph.output):
        end.CopyFrom(helper.make_tensor_value_info(end.name, TensorProto.FLOAT, ["n", 3, 64, 64]))
    said = answer(environment, tmp_path, model.SerializeToString(), profile="profile")
    assert "shape (1, 1, 32, 32) does not fit input image of (-1, 3, 64, 64)" in said


def test_what_is_no_network_is_refused(environment, tmp_path):
    noise = np.random.default_rng(0).bytes(2000)
    assert answer(environment, tmp_path, noise).startswith("BundleRefused")
