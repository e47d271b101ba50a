"""What INT8 does on a CPU without VNNI: tables for docs/results/int8-cpu.md.

    python experiments/int8_without_vnni.py
    python experiments/int8_without_vnni.py --models fp32.onnx int8.onnx reduced.onnx

The first compares 8-bit operators with exact integer arithmetic: natively, under ``ONEDNN_MAX_CPU_ISA`` (OpenVINO's
oneDNN obeys it), and on a Haswell that ``qemu-x86_64`` (Debian: ``qemu-user``) emulates, where it is installed; ONNX
Runtime has no such switch. Weights of the full range are ±127, of the reduced range ±64. Activations are large, as
after a saturated ReLU, so that sums of two products leave 16 bits: the worst case, not the usual one. The second times
networks in OpenVINO under each instruction set, interleaved, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.restricted_isa import Isa, Model, p50_ms_on
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.onnxruntime import holds_integers
from medfm_compress.runtime.sessions.openvino import import_openvino
from medfm_compress.runtime.task import Task

OPERATORS = ("MatMul", "Gemm", "Conv", "dynamic MatMul")
RANGES = {"full": 127, "reduced": 64}
ISAS: tuple[Isa, ...] = ("AVX2", "AVX512_CORE", "DEFAULT")
DEPTH, WIDTH = 256, 64
_SHAPES = {"Gemm": (8, DEPTH), "Conv": (1, DEPTH, 7, 7)}


def build(operator: str, largest: int) -> tuple[bytes, NDArray[np.float32], NDArray[Any]]:
    """A network of one 8-bit ``operator``, an input, and the output by exact arithmetic."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = random.integers(-largest, largest + 1, (DEPTH, WIDTH)).astype(np.int8)
    weights[:, :8] = largest
    scale, shape = np.full(WIDTH, 1 / largest, np.float32), _SHAPES.get(operator, (1, 50, DEPTH))
    x = random.integers(150, 256, shape).astype(np.uint8)
    stored = weights.T.reshape(WIDTH, DEPTH, 1, 1) if operator == "Conv" else weights
    constants = {"W": stored, "ws": scale, "wz": np.zeros(WIDTH, np.int8), "s": np.float32(1 / 255), "z": np.uint8(0)}
    constants |= {"ys": np.float32(4), "yz": np.uint8(128)} if operator == "Conv" else {}
    exact = np.tensordot(x.astype(np.int64), weights.astype(np.int64), axes=(1 if operator == "Conv" else -1, 0))
    y = exact * (1 / largest / 255)
    y = np.moveaxis(y, -1, 1) if operator == "Conv" else y
    graph = helper.make_graph(
        [helper.make_node(kind, i.split(), o.split(), **about) for kind, i, o, about in _nodes(operator)],
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return model.SerializeToString(), (x / 255).astype(np.float32), y


def _nodes(operator: str) -> list[tuple[str, str, str, dict[str, int]]]:
    if operator.startswith("dynamic"):
        dynamic = [("DynamicQuantizeLinear", "x", "q qs qz"), ("MatMulInteger", "q W qz", "i"), ("Mul", "qs ws", "f")]
        rest = [("Cast", "i", "c", {"to": 1}), ("Mul", "c f", "y", {})]
        return [(kind, i, o, {}) for kind, i, o in dynamic] + rest
    ends: list[tuple[str, str, str, dict[str, int]]] = [
        ("QuantizeLinear", "y0 ys yz", "y1", {}),
        ("DequantizeLinear", "y1 ys yz", "y", {}),
    ]
    return [
        ("QuantizeLinear", "x s z", "q", {}),
        ("DequantizeLinear", "q s z", "d", {}),
        ("DequantizeLinear", "W ws wz", "w", {"axis": 0 if operator == "Conv" else 1}),
        (operator, "d w", "y0" if operator == "Conv" else "y", {}),
        *(ends if operator == "Conv" else []),
    ]


def errors(backend: str) -> dict[str, float]:
    """Relative error of each operator and range on ``backend``: ``openvino``, ``onnxruntime``, or the latter exact."""
    result = {}
    for operator in OPERATORS:
        for name, largest in RANGES.items():
            model, x, exact = build(operator, largest)
            measured = _run(backend, model, x)
            result[f"{operator}, {name}"] = float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))
    return result


def _run(backend: str, model: bytes, x: NDArray[np.float32]) -> NDArray[Any]:
    if backend == "openvino":
        core = import_openvino().Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
        return np.asarray(core.compile_model(core.read_model(model, b""), "CPU", settings)([x])[0])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry("session.x64quantprecision", "1" if backend.endswith("exact") else "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


_SPEC = ImageSpec(height_px=224, width_px=224, colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)
_TASK = Task(kind="binary", labels=("absent", "present"))


def timings(paths: list[str]) -> dict[str, dict[str, float]]:
    """Median ms of each ONNX file in OpenVINO, by instruction set."""
    contents = [Path(path).read_bytes() for path in paths]
    models = [Model((content,), "int8" if holds_integers(content) else "fp32") for content in contents]
    names = [Path(path).name for path in paths]
    return {isa: dict(zip(names, p50_ms_on(isa, models, _SPEC, _TASK), strict=True)) for isa in ISAS}


def _ask(backend: str, isa: Isa = "DEFAULT", emulator: tuple[str, ...] = ()) -> dict[str, float]:
    """The `errors` of ``backend`` in a process of its own, on a lesser CPU where one is given."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    command = [*emulator, sys.executable, str(Path(__file__).resolve()), "--job", backend]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _columns() -> Iterator[tuple[str, dict[str, float]]]:
    for isa in ISAS:
        yield f"OpenVINO, {'native' if isa == 'DEFAULT' else isa}", _ask("openvino", isa)
    yield "ONNX Runtime, native", _ask("onnxruntime")
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        print("qemu-x86_64 is not installed: no emulated Haswell")  # noqa: T201 - a script's result
        return
    haswell = (qemu, "-cpu", "Haswell")
    yield "OpenVINO, Haswell", _ask("openvino", emulator=haswell)
    yield "ONNX Runtime, Haswell", _ask("onnxruntime", emulator=haswell)
    yield "ONNX Runtime told to be exact, Haswell", _ask("onnxruntime-exact", emulator=haswell)


def _tell(columns: dict[str, dict[str, float]], form: str) -> None:
    rows = list(next(iter(columns.values())))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(format(values[row], form) for values in columns.values())] for row in rows]
    for line in lines:
        print("| " + " | ".join(line) + " |")  # noqa: T201 - a script's result


def main() -> None:
    """Print a Markdown table: relative errors of operators, or milliseconds of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", help="ONNX files with an image input of 1×3×224×224")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(errors(options.job)))  # noqa: T201
    elif options.models:
        _tell(timings(options.models), ".1f")
    else:
        _tell(dict(_columns()), ".1e")


if __name__ == "__main__":
    main()
