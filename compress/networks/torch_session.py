"""A model folder as a `Session`: PyTorch eager, the row that everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.protocol import Array, SessionInfo

OPENER = "medfm_compress.compress.networks.torch_session:open_session"


class TorchSession:
    """Eager float32 inference of one module."""

    input_names: tuple[str, ...] = ("image",)
    output_names: tuple[str, ...] = ("logits",)

    def __init__(self, model: Model, device: str, threads: int) -> None:
        self._module = model.module.to(device).eval()
        self._device = device
        self.info = SessionInfo(
            backend="torch", version=str(torch.__version__), provider=device, precision="fp32", threads=threads
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Logits ``[n, labels]`` float32 of images ``[n, channels, height, width]`` float32."""
        with torch.inference_mode():
            logits = self._module(torch.from_numpy(inputs["image"]).to(self._device))
        return {"logits": logits.cpu().numpy()}


def open_session(model: str, threads: int = 1, precision: str = "fp32", device: str = "cpu") -> TorchSession:
    """Open a model folder; sets the process's thread count.

    Raises:
        InputError: a precision other than fp32, or a CUDA device that is not there.
    """
    if precision != "fp32":
        raise InputError(f"the torch row runs in fp32, not {precision!r}; quantize makes other precisions")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is at hand; use torch:cpu")
    torch.set_num_threads(threads)
    return TorchSession(load_model(model), device, threads)
