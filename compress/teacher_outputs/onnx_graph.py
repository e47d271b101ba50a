"""A teacher's network with its features as one ONNX graph of a fixed batch: what a CPU engine runs faster than PyTorch.

The portable passes fold what bf16 and INT8 would otherwise round for nothing. Normalisation stays outside: subtracting
a mean in bf16 would cost more than the whole network does.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.compress.networks.features import Tapped
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.teacher import batch_of
from medfm_compress.export.onnx_export import OPSET
from medfm_compress.export.quiet_exporter import quiet_exporter
from medfm_compress.runtime.errors import ModelError

IMAGE = "image"
LOGITS = "logits"


class _Listed(nn.Module):
    """Outputs in a row instead of by name, as an exporter wants them."""

    def __init__(self, network: nn.Module, features: tuple[str, ...]) -> None:
        super().__init__()
        self.tapped = Tapped(network, features)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.tapped(images)
        return (outputs.logits, *(outputs.features[name] for name in self.tapped.requested))


def export_graph(model: Model, features: tuple[str, ...]) -> bytes:
    """Serialized ONNX: ``image`` ``[n, c, h, w]`` normalised → ``logits`` and the named ``features``, float32.

    n is fixed, see `batch_of`.
    The module itself is left as it is: a float32 CPU copy in eval mode is traced.

    Raises:
        ModelError: the network cannot be traced, or is too large for one file.
    """
    listed = nn.Module.eval(_Listed(copy.deepcopy(model.module).float().cpu(), features))
    try:
        with quiet_exporter(), torch.no_grad():
            traced = _traced(listed, torch.zeros(batch_of(model.task), *model.spec.shape[1:]), [LOGITS, *features])
            return _simplified(traced)
    except Exception as exc:  # exporters raise anything; PyTorch still runs what they cannot trace
        cause = " ".join(str(exc).split())[:200] or type(exc).__name__
        raise ModelError(f"{model.name} cannot be exported to ONNX: {cause}") from exc


def quantized_graph(onnx: bytes, inputs: NDArray[np.float32]) -> tuple[bytes, ...]:
    """OpenVINO IR with the products in INT8, calibrated on normalised ``inputs`` ``[n, c, h, w]``.

    Raises:
        InputError: an activation that is not finite.
    """
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.compress.quantization.methods import Method

    statistics = calibrate(onnx, [inputs], threads=torch.get_num_threads())
    return GraphBuilder(onnx, statistics, inputs).build("openvino", Method())


def _traced(module: nn.Module, example: Tensor, outputs: list[str]) -> Any:
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        input_names=[IMAGE],
        output_names=outputs,
        opset_version=OPSET,
        verbose=False,
        optimize=True,
    )
    return program.model_proto  # type: ignore[union-attr]


def _simplified(proto: Any) -> bytes:
    import onnx_ir as ir

    from medfm_compress.export.passes.pipeline import simplify

    graph = ir.from_proto(proto)
    simplify(graph)
    content: bytes = ir.to_proto(graph).SerializeToString()
    return content
