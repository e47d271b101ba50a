"""An ONNX file from anywhere: its content in one piece, what it says of itself, and why it cannot be taken over.

Exporters keep large weights in a second file beside the first. Such a file is read where it lies in the same folder
under a plain name, and becomes part of the content; any other place is refused, since it may be any file there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medfm_compress.export.passes.read import NEWEST_OPSET, parse_onnx
from medfm_compress.runtime.errors import ModelError, in_one_line, quoted, refusing
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_OLDEST_OPSET = 7  # that ONNX Runtime runs
_INTEGER = frozenset({"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"})
_INTEGER_BEGINS = (
    "QLinear",
    "QGemm",
    "QAttention",
    "QMoE",
    "DynamicQuantize",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlock",
)


class Port(NamedTuple):
    """An input or output.

    Attributes:
        name: in the graph.
        dtype: ``float32``, ``float16``, ``uint8`` …; empty where the file does not say it.
        shape: its sides, a name or ``?`` where one is free; None where the file does not say it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sides = "of unknown shape" if self.shape is None else f"[{', '.join(map(str, self.shape))}]"
        return f"{self.name!r} {self.dtype or 'of unknown type'} {sides}"


class OnnxFacts(NamedTuple):
    """What an ONNX file says of itself.

    Attributes:
        inputs: without those that are weights.
        outputs: of the graph.
        opset: of ONNX's own operators; 0 where none is named.
        producer: what wrote it, with its version.
        metadata: what its maker noted in it.
        weight_types: of floating point, e.g. ``float32``.
        integer_operators: kinds of a quantized network.
        domains: of operators that are neither ONNX's nor ONNX Runtime's.
        nested: nodes that hold a graph of their own (If, Loop, Scan), as ``If 'name'``.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    producer: str
    metadata: Mapping[str, str]
    weight_types: tuple[str, ...]
    integer_operators: tuple[str, ...]
    domains: tuple[str, ...]
    nested: tuple[str, ...]

    @property
    def precision(self) -> str:
        """In words: ``quantized (QuantizeLinear, …)``, ``bf16``, ``fp16`` or ``fp32``."""
        if self.integer_operators:
            return f"quantized ({', '.join(self.integer_operators)})"
        kinds = (*self.weight_types, *(port.dtype for port in (*self.inputs, *self.outputs)))
        words = {"bfloat16": "bf16", "float16": "fp16"}
        return next((word for kind, word in words.items() if kind in kinds), "fp32")


def read_onnx_file(path: str | Path) -> bytes:
    """The content of an ONNX file, its weights inside wherever they lay.

    Raises:
        ModelError: it cannot be read, is no ONNX file, is too large, or keeps weights in a file that is missing, cut
            short, or not in its own folder.
    """
    content = read_regular(path, MAX_MODEL_BYTES, "model")
    if not content:
        raise ModelError(f"{path} is empty; give what an exporter to ONNX wrote")
    if is_ort_format(content):
        raise ModelError(f"{path} is in ONNX Runtime's own format, optimised for one engine; give the .onnx file")
    try:
        operators = read_operators(content)
    except ValueError as exc:
        raise ModelError(f"{path} is not an ONNX file: {exc}; give what an exporter to ONNX wrote") from None
    if not operators.kinds:
        raise ModelError(f"{path} holds no ONNX graph; give what an exporter to ONNX wrote")
    return _with_weights_inside(Path(path), content) if operators.external else content


def read_facts(content: bytes) -> OnnxFacts:
    """What the ONNX file ``content`` says of itself; raises ModelError where it cannot be read."""
    proto = parse_onnx(content)
    with refusing(ModelError, "the ONNX file is damaged"):
        return _facts(proto)


def _facts(proto: Any) -> OnnxFacts:
    weights = {tensor.name for tensor in proto.graph.initializer} | {
        tensor.values.name for tensor in proto.graph.sparse_initializer
    }
    nodes = list(_nodes(proto))
    kinds = sorted({node.op_type for node in nodes})
    return OnnxFacts(
        inputs=tuple(_port(value) for value in proto.graph.input if value.name not in weights),
        outputs=tuple(map(_port, proto.graph.output)),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        weight_types=_weight_types(proto, nodes),
        integer_operators=tuple(kind for kind in kinds if kind in _INTEGER or kind.startswith(_INTEGER_BEGINS)),
        domains=tuple(sorted({node.domain for node in nodes} - _STANDARD - {f.domain for f in proto.functions})),
        nested=tuple(f"{node.op_type} {node.name!r}" for node in nodes if any(map(_graphs_of, node.attribute))),
    )


def refuse_unfit(name: str, facts: OnnxFacts) -> None:
    """Raise ModelError, with the reason and the way out, where the network cannot become a bundle's float network."""
    reason = (
        _quantized(name, facts)
        or _ports(facts)
        or _types(facts)
        or _operators(facts)  # what is said first matters most
    )
    if reason:
        raise ModelError(f"{name} {reason}")


def _quantized(name: str, facts: OnnxFacts) -> str:
    if not facts.integer_operators:
        return ""
    return (
        f"is quantized already ({', '.join(facts.integer_operators)}), and what is quantized and judged here begins "
        "with float weights; give the float file that it was made from, and hold this one against the result with "
        f"'medfm-compress bench BUNDLE --against {name}.onnx'"
    )


def _ports(facts: OnnxFacts) -> str:
    if len(facts.inputs) != 1 or len(facts.outputs) != 1:
        inputs, outputs = (", ".join(map(str, ports)) for ports in (facts.inputs, facts.outputs))
        return (
            f"has {len(facts.inputs)} inputs ({inputs}) and {len(facts.outputs)} outputs ({outputs}); a network of "
            "images has one input and one output of logits or probabilities: export it again without the others"
        )
    (image,), (output,) = facts.inputs, facts.outputs
    if image.shape is None or len(image.shape) != 4:
        return (
            f"has the input {image}; an image has four sides, [n, channels, height, width] or [n, height, width, "
            "channels]: volumes, texts and tables are not supported"
        )
    if output.shape is not None and len(output.shape) not in (2, 4):
        return (
            f"has the output {output}; a classifier gives [n, labels], a segmentation [n, maps, height, width]: "
            "detection and reading of text are not supported"
        )
    return ""


def _types(facts: OnnxFacts) -> str:
    image = facts.inputs[0]
    if image.dtype in ("uint8", "int8"):
        return (
            f"has the input {image}: it takes stored pixels and normalises them itself, and here the one preprocessing "
            "(ImageSpec) does so; export it without its first Cast and normalisation, with a float32 input"
        )
    if "float64" in (image.dtype, facts.outputs[0].dtype):
        return "computes in float64, which no engine has fast kernels for; export it after model.float()"
    if "bfloat16" in (image.dtype, *facts.weight_types):
        return "computes in bfloat16, which engines read in part only; export it after model.float()"
    if image.dtype not in ("float32", "float16"):
        return f"has the input {image}; it must be float32 or float16"
    return ""


def _operators(facts: OnnxFacts) -> str:
    if facts.domains:
        return (
            f"has operators of the domain {', '.join(facts.domains)}, which no engine here knows; export it with "
            "operators of ONNX alone"
        )
    if not _OLDEST_OPSET <= facts.opset <= NEWEST_OPSET:
        return (
            f"has opset {facts.opset}; allowed are {_OLDEST_OPSET} to {NEWEST_OPSET}: export it again with "
            "opset_version=20"
        )
    return ""


def _with_weights_inside(path: Path, content: bytes) -> bytes:
    import onnx
    from onnx import external_data_helper

    with refusing(ModelError, f"{path} is not an ONNX file"):
        proto = onnx.load_model_from_string(content)
    tensors = list(external_data_helper._get_all_tensors(proto))
    for location in sorted(
        {_location(tensor) for tensor in tensors if external_data_helper.uses_external_data(tensor)}
    ):
        beside = path.parent / location
        if not location or location != Path(location).name or location == ".." or beside.is_symlink():
            raise ModelError(
                f"{path} keeps weights in {quoted(location)}, and only a file of its own folder is read, under "
                "its plain name; save it again with its weights inside (onnx.save with save_as_external_data=False)"
            )
        if not beside.is_file():
            raise ModelError(
                f"{path} keeps weights in {in_one_line(location)}, which is not in its folder; put that file beside it"
            )
        if beside.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(
                f"{beside} has {beside.stat().st_size} bytes, more than the {MAX_MODEL_BYTES} that are read"
            )
    with refusing(ModelError, f"{path}: its weights cannot be read from the file beside it"):
        external_data_helper.load_external_data_for_model(proto, str(path.parent.resolve()))
        embedded: bytes = proto.SerializeToString()
        return embedded


def _location(tensor: Any) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _port(value: Any) -> Port:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    sides = tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in tensor.shape.dim
    )
    names = {"FLOAT": "float32", "DOUBLE": "float64", "UNDEFINED": ""}
    kind = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in TensorProto.DataType.values() else ""
    return Port(value.name, names.get(kind, kind.lower()), sides if tensor.HasField("shape") else None)


def _weight_types(proto: Any, nodes: list[Any]) -> tuple[str, ...]:
    from onnx import TensorProto

    constants = [attribute.t for node in nodes for attribute in node.attribute if attribute.name == "value"]
    kinds = {tensor.data_type for tensor in (*proto.graph.initializer, *constants) if len(tensor.dims)}
    words = {
        TensorProto.FLOAT: "float32",
        TensorProto.FLOAT16: "float16",
        TensorProto.BFLOAT16: "bfloat16",
        TensorProto.DOUBLE: "float64",
    }
    return tuple(word for kind, word in words.items() if kind in kinds)


def _nodes(proto: Any) -> Iterator[Any]:
    """Every node: of the graph, of graphs within nodes, and of functions."""
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for attribute in node.attribute for graph in _graphs_of(attribute) for inner in graph.node]


def _graphs_of(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
