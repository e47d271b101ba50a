"""A process that runs one network of another runtime and is timed from outside, in turns with others.

python network_worker.py MODEL THREADS IMAGE.npy [PRECISION]

MODEL is a model folder or ``eager.pt2`` (PyTorch eager, in FP32, or with PRECISION ``bf16`` in that), another
``.pt2`` (`torchao_pt2e`, compiled by Inductor), a ``.pte`` (`executorch_xnnpack`), a ``.tflite`` (`litert_int8`), or a
``.json`` with the ``backend``, ``files`` and ``precision`` of a session of `medfm_compress.runtime`. IMAGE is one input
``[b, C, H, W]``. Once it is warm it writes one JSON line; then it answers each line that it reads, in JSON too:

    {"calls": 3, "image": "one.npy"}             -> {"ms": [latencies of 3 calls], "cpu_ms": [processor time of each]}
    {"inputs": "cases.npy", "out": "logits.npy"} -> {"rows": how many were written}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]
EAGER = "eager.pt2"
_WARM_UP = 3


def load_module(path: str) -> Any:
    """The network of a model folder, in eval mode, or of an exported program."""
    if path.endswith(EAGER):
        import torch

        return torch.export.load(path).module()
    import timm
    from safetensors.torch import load_file

    about = json.loads((Path(path) / "model.json").read_text())["architecture"]
    module = timm.create_model(about["name"], pretrained=False, **about["arguments"])
    module.load_state_dict(load_file(Path(path) / "model.safetensors"))
    return module.eval()


def open_torch(model: str, threads: int, precision: str = "fp32") -> Run:
    """PyTorch, eager or compiled; with ``bf16`` weights and arithmetic are in it."""
    import torch

    torch.set_num_threads(threads)
    without_gradients: Any
    if not model.endswith(".pt2") or model.endswith(EAGER):
        module, without_gradients = load_module(model), torch.inference_mode()
    else:
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401 - registers operators and passes
        from torch._inductor import config

        config.freezing = True
        module, without_gradients = torch.compile(torch.export.load(model).module()), torch.no_grad()

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    if kind != torch.float32:
        module = module.to(kind)

    def run(image: Any) -> Any:
        with without_gradients:
            return module(torch.from_numpy(image).to(kind)).float().numpy()

    return run


def open_executorch(model: str, threads: int) -> Run:
    """ExecuTorch's own runtime, with XNNPACK's threads."""
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    module = portable_lib._load_for_executorch(model)
    return lambda image: module.forward((torch.from_numpy(image),))[0].numpy()


def open_litert(model: str, threads: int) -> Run:
    """LiteRT's interpreter, which delegates to XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: Any) -> Any:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def open_product(model: str, threads: int) -> Run:
    """A session as the product opens it."""
    from medfm_compress.runtime.sessions.table import open_session_from_bytes

    about = json.loads(Path(model).read_text())
    files = [Path(file).read_bytes() for file in about["files"]]
    session = open_session_from_bytes(about["backend"], files, threads, about["precision"])
    source, result = session.input_names[0], session.output_names[0]
    return lambda image: session.run({source: image})[result]


OPENERS = {".json": open_product, ".pte": open_executorch, ".tflite": open_litert}


def answer(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    """Time, or write logits."""
    if "calls" in request:
        image = np.load(request["image"])
        wall, cpu = [], []
        for _ in range(request["calls"]):
            start, start_cpu = time.perf_counter(), time.process_time()
            run(image)
            wall.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.process_time() - start_cpu))
        return {"ms": wall, "cpu_ms": cpu}
    cases = np.load(request["inputs"])
    logits = np.concatenate([np.array(run(cases[i : i + 1])) for i in range(len(cases))])
    np.save(request["out"], logits)
    return {"rows": len(logits)}


def main(model: str, threads: str, image: str, *precision: str) -> None:
    """Open, warm up, answer until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    run, first = OPENERS.get(Path(model).suffix, open_torch)(model, int(threads), *precision), np.load(image)
    for _ in range(_WARM_UP):
        run(first)
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        replies.write(json.dumps(answer(run, json.loads(line))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
