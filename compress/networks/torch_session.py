"""A model folder as a `Session` in PyTorch, eager or compiled: what everything else is compared with.

In ``bf16`` and ``fp16`` weights and images are cast and the logits are cast back: what ``.half()`` gives, not autocast,
which leaves parts in float32. ``fp32`` is IEEE single precision: TF32, PyTorch's default for convolutions, is off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from medfm_compress.bench.types.target import DEVICES
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.export.module_outputs import output_names
from medfm_compress.runtime.errors import InputError, MissingDependency, refusing
from medfm_compress.runtime.sessions.protocol import Array, SessionInfo

OPENER = "medfm_compress.compress.networks.torch_session:open_session"
_DTYPES = MappingProxyType({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16})


class TorchSession:
    """Inference of one module; the model given is left as it is."""

    def __init__(
        self, model: Model, device: str, threads: int, precision: str = "fp32", *, compiled: bool = False
    ) -> None:
        """Put a copy on ``device`` in ``precision``; where it is compiled, that happens now, for a batch of one.

        Raises:
            MissingDependency: ``torch.compile`` fails here, e.g. because there is no C++ compiler.
        """
        self._device, self._dtype = device, _DTYPES[precision]
        self.input_names = ("image", *(column.name for column in model.columns))
        self.output_names = output_names(model.module)
        module = model.module.eval()
        if device != "cpu" or precision != "fp32":
            module = copy.deepcopy(module).to(device, self._dtype)
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._module: Callable[..., Any] = module
        if compiled:
            self._module = torch.compile(module)
            self._compile(model)
        self.info = SessionInfo(
            backend="torch-compile" if compiled else "torch",
            version=str(torch.__version__),
            provider=device,
            precision=precision,
            threads=threads,
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Logits ``[n, labels]``, and whatever else the module returns, of images ``[n, channels, height, width]``.

        A network with columns takes them beside the images, ``[n, width]`` each.

        All are float32. They are copied to the host, which waits for the GPU.
        """
        answers = self._answers(inputs)
        return {name: answer.float().cpu().numpy() for name, answer in zip(self.output_names, answers, strict=True)}

    def device_ms(self, inputs: Mapping[str, Array]) -> float | None:
        """Time on the GPU of one run, copies included, by CUDA events; ms. None on a CPU."""
        if self._device == "cpu":
            return None
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        for answer in self._answers(inputs):
            answer.float().cpu()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def _answers(self, inputs: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            arguments = [torch.from_numpy(inputs[name]).to(self._device).to(self._dtype) for name in self.input_names]
            answer = self._module(*arguments)
        return answer if isinstance(answer, tuple) else (answer,)

    def _compile(self, model: Model) -> None:
        columns = {column.name: np.zeros((1, column.width), np.float32) for column in model.columns}
        with refusing(MissingDependency, "torch.compile cannot compile the network here"):
            self._answers({"image": np.zeros(model.spec.shape, np.float32), **columns})


def unavailable(device: str) -> str:
    """Why PyTorch cannot run on ``device`` here, as a phrase; empty where it can."""
    if device == "cpu" or torch.cuda.is_available():
        return ""
    built = torch.version.cuda
    return "PyTorch finds no CUDA device" if built else "this PyTorch is built without CUDA: install its CUDA build"


def open_session(
    model: str, threads: int = 1, precision: str = "fp32", device: str = "cpu", compiled: bool = False
) -> TorchSession:
    """Open a model folder; sets the process's thread count.

    Raises:
        InputError: a precision or device that PyTorch does not have, or a CUDA device that is not there.
        MissingDependency: it cannot be compiled.
    """
    allowed: Mapping[str, tuple[str, ...]] = DEVICES["torch"]  # type: ignore[assignment]
    if device not in allowed or precision not in allowed[device]:
        requested = f"{device}:{precision}"
        raise InputError(f"torch runs on {', '.join(allowed)} in {', '.join(allowed['cpu'])}, not as {requested!r}")
    missing = unavailable(device)
    if missing:
        raise InputError(f"{missing}; use torch:cpu")
    torch.set_num_threads(threads)
    return TorchSession(load_model(model), device, threads, precision, compiled=compiled)
