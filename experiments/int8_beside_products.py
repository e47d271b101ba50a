"""Where an INT8 graph spends its time beside the products: OpenVINO's and ONNX Runtime's own counters, by operator.

    python experiments/int8_beside_products.py NETWORK --engine openvino --placement default --rounds 20

NETWORK is a classifier of timm, seeded, at 224 px, with every parameter moved a little so that no bias is zero (engines
drop an addition of zeros, and what they would have fused into it). It goes through the export's passes but those named
in ``--without``, is quantized on synthetic images and timed on one thread, one image. Speed only: untrained weights say
nothing of errors, but for the difference that the passes make to the float graph, which is printed first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from medfm_compress.compress.quantization.build_candidate import GraphBuilder, serialise
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.export.passes.graph import remove_unused
from medfm_compress.export.passes.pipeline import PORTABLE
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime, session_options
from medfm_compress.runtime.sessions.openvino import import_openvino

SIDE_PX, CASES = 224, 4
Times = Counter[str]  # operator → ms


def export(name: str) -> bytes:
    """The network as torch exports it, before any pass."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=3).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        program = torch.onnx.export(module, (torch.zeros(1, 3, SIDE_PX, SIDE_PX),), dynamo=True, verbose=False)
    if program is None:
        raise SystemExit(f"torch cannot export {name}")
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def simplified(content: bytes, without: list[str]) -> bytes:
    """After the portable passes but those named."""
    model = read_graph(content)
    for rewrite in PORTABLE:
        if rewrite.__name__ not in without:
            rewrite(model)
    remove_unused(model)
    return serialise(model)


def images() -> NDArray[np.float32]:
    """Smooth noise ``[cases, 3, height, width]``, about as spread as normalised images."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(CASES, 3, SIDE_PX // 8, SIDE_PX // 8)).repeat(8, 2).repeat(8, 3)
    return (coarse + 0.2 * random.normal(size=coarse.shape)).astype(np.float32)


def openvino_times(files: tuple[bytes, ...], precision: str, rounds: int) -> tuple[list[float], Times]:
    """Milliseconds a run, and the median a kind of operator."""
    core = import_openvino().Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": "1", "PERF_COUNT": "YES"}
    request = core.compile_model(core.read_model(*files), "CPU", options | {"NUM_STREAMS": "1"}).create_infer_request()
    runs, counts = [], []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        request.infer({0: images()[:1]})
        runs.append((time.perf_counter() - begun) * 1e3)
        times: Times = Counter()
        for part in request.profiling_info:
            times[f"{part.node_type} {part.exec_type}"] += part.real_time.total_seconds() * 1e3
        counts.append(times)
    return runs[2:], Counter({kind: median(times[kind] for times in counts[2:]) for kind in counts[0]})


def onnxruntime_times(content: bytes, rounds: int) -> tuple[list[float], Times]:
    """Milliseconds a run, and the mean a kind of operator."""
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime, 1)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name, runs = session.get_inputs()[0].name, []
        for _ in range(rounds):
            begun = time.perf_counter()
            session.run(None, {name: images()[:1]})
            runs.append((time.perf_counter() - begun) * 1e3)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    times: Times = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / 1e3 / rounds
    return runs, times


def float_difference(before: bytes, after: bytes) -> float:
    """Largest difference of the logits, over the largest logit."""
    onnxruntime = import_onnxruntime()
    results = []
    for content in (before, after):
        session = onnxruntime.InferenceSession(content, session_options(onnxruntime, 1))
        results.append(session.run(None, {session.get_inputs()[0].name: images()[:1]})[0])
    return float(np.abs(results[0] - results[1]).max() / np.abs(results[0]).max())


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--engine", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--placement", default="default")
    parser.add_argument("--precision", choices=("bf16", "f32"), default="bf16", help="of OpenVINO's float rest")
    parser.add_argument("--without", nargs="*", default=[], help="names of portable passes")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    plain = export(options.network)
    content = simplified(plain, options.without)
    lines = [f"passes move the float logits by {float_difference(plain, content):.1e}"]
    builder = GraphBuilder(content, calibrate(content, [images()]), images())
    files = builder.build(options.engine, Method(placement=options.placement))
    if options.engine == "openvino":
        runs, times = openvino_times(files, options.precision, options.rounds)
    else:
        runs, times = onnxruntime_times(files[0], options.rounds)
    low, middle, high = np.quantile(runs, (0.25, 0.5, 0.75))
    lines.append(f"{middle:.2f} ms [{low:.2f}, {high:.2f}] with counters on")
    lines += [f"{spent:8.3f} ms  {kind}" for kind, spent in times.most_common(20)]
    print("\n".join(lines))  # noqa: T201 - a script's result


if __name__ == "__main__":
    main()
