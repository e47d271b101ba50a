"""ONNX Runtime with the CUDA provider as one more form beside PyTorch's, on the same buffers; or why it is left out.

The provider of a release is built for one major version of CUDA; where the wheel's and the machine's differ, ONNX
Runtime falls back to the CPU without a word. So what really runs is asked of the session, never taken for granted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch


class LeftOut(Exception):
    """Why ONNX Runtime is not among the forms."""


def open_form(path: Path, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What runs the network of ``path``: images float32 ``[n, 3, h, w]`` on ``device`` to logits ``[n, labels]`` there.

    Raises:
        LeftOut: the file or the provider is not there.
    """
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if not path.is_file():
        raise LeftOut(f"{path.name} was not written; run the part graphs first")
    if provider not in onnxruntime.get_available_providers():
        raise LeftOut(f"onnxruntime {onnxruntime.__version__} here has no {provider}")
    options: list[str | tuple[str, dict[str, str]]] = [provider]
    if device == "cuda":
        options = [(provider, {"use_tf32": "0"})]
    session = onnxruntime.InferenceSession(path, providers=options)
    if session.get_providers()[0] != provider:
        raise LeftOut(f"{provider} could not be loaded; the session runs on {session.get_providers()[0]}")
    return _bound(session, device)


def _bound(session: onnxruntime.InferenceSession, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    labels = int(session.get_outputs()[0].shape[1])

    def run(images: torch.Tensor) -> torch.Tensor:
        logits = torch.empty(len(images), labels, device=images.device)
        binding = session.io_binding()
        binding.bind_input("image", device, 0, "float32", tuple(images.shape), images.data_ptr())
        binding.bind_output("logits", device, 0, "float32", tuple(logits.shape), logits.data_ptr())
        session.run_with_iobinding(binding)
        return logits

    return run
