"""A process that runs one torch network and is timed from outside, in turns with others.

python torch_worker.py MODEL THREADS BATCH

MODEL is a model folder (PyTorch eager, FP32) or a ``.pt2`` of `torchao_pt2e` (compiled by Inductor). Once it is warm it
writes one JSON line; then it answers each line that it reads, in JSON too:

    {"calls": 3, "image": "one.npy"}             -> {"ms": [latencies of 3 calls]}
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


def load_module(folder: str) -> Any:
    """The network of a model folder, in eval mode: timm's, with the folder's weights."""
    import timm
    from safetensors.torch import load_file

    about = json.loads((Path(folder) / "model.json").read_text())["architecture"]
    module = timm.create_model(about["name"], pretrained=False, **about["arguments"])
    module.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return module.eval()


def open_run(model: str, threads: int) -> Run:
    """A function from ``[n, C, H, W]`` to logits."""
    import torch

    torch.set_num_threads(threads)
    if not model.endswith(".pt2"):
        eager: Run = load_module(model)
        return eager
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401 - registers operators and passes
    from torch._inductor import config

    config.freezing = True
    compiled: Run = torch.compile(torch.export.load(model).module())
    return compiled


def answer(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    """Time, or write logits."""
    import torch

    if "calls" in request:
        image = torch.from_numpy(np.load(request["image"]))
        spent = []
        for _ in range(request["calls"]):
            start = time.perf_counter()
            run(image)
            spent.append(1000 * (time.perf_counter() - start))
        return {"ms": spent}
    cases = torch.from_numpy(np.load(request["inputs"]))
    logits = torch.cat([run(cases[i : i + 1]) for i in range(len(cases))]).numpy()
    np.save(request["out"], logits)
    return {"rows": len(logits)}


def main(model: str, threads: str, batch: str) -> None:
    """Open, warm up, answer until standard input ends."""
    import torch

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    with torch.inference_mode() if not model.endswith(".pt2") else torch.no_grad():
        run = open_run(model, int(threads))
        for _ in range(3):
            run(torch.zeros(int(batch), 3, 224, 224))
        replies.write(json.dumps({"torch": torch.__version__}) + "\n")
        for line in sys.stdin:
            replies.write(json.dumps(answer(run, json.loads(line))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
