"""Read an ONNX file that is to be changed: refuse beforehand what would fail later and less clearly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.sessions.operators import read_self_contained

if TYPE_CHECKING:
    import onnx_ir as ir

OLDEST_OPSET = 13  # the first with quantization scales a channel
NEWEST_OPSET = 23  # the newest that the oldest supported ONNX Runtime (1.23) runs


def read_graph(onnx: bytes) -> ir.Model:
    """The graph of a serialized ONNX model, with the shapes of its values.

    Args:
        onnx: one self-contained file: weights inside, static height and width.

    Raises:
        ModelError: not ONNX, an opset outside 13 to 23, weights in other files, a free height or width.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    proto = parse_onnx(onnx)
    _check_opset(proto)
    _check_inputs(proto)
    return ShapeInferencePass()(ir.from_proto(proto)).model


def parse_onnx(content: bytes) -> Any:
    """The ``onnx.ModelProto`` of a serialized model, none of whose tensors lies in another file.

    onnx_ir opens what a tensor names as its external data, wherever in the model the tensor stands.

    Raises:
        ModelError: not ONNX, no graph, or weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    read_self_contained(content, f"{len(content)} bytes are not a self-contained ONNX model", ModelError)
    try:
        proto = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as exc:
        raise ModelError(f"{len(content)} bytes are not an ONNX model; give the content of an .onnx file") from exc
    if not proto.graph.node:
        raise ModelError(f"{len(content)} bytes hold no ONNX graph; give the content of an .onnx file")
    return proto


def _check_opset(proto: Any) -> None:
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ModelError(
            f"the model has opset {version}; allowed are {OLDEST_OPSET} to {NEWEST_OPSET}. Export it again with "
            f"opset_version=20, or convert it with onnx.version_converter"
        )


def _check_inputs(proto: Any) -> None:
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        dims = [_size(dim) for dim in value.type.tensor_type.shape.dim]
        if value.name not in initializers and (not dims or any(not isinstance(size, int) for size in dims[1:])):
            raise ModelError(
                f"input {value.name!r} has shape [{', '.join(map(str, dims))}]; height and width must be numbers. "
                f"Export the model without dynamic axes, at the size it will run at"
            )


def _size(dim: Any) -> int | str:
    """A dimension: its size, or its name where it is free."""
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
