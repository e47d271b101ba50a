"""Which operators of an ONNX graph make its first output: the look at structure behind `graph_ending`."""

from __future__ import annotations

from typing import Any, Literal

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.operators import read_self_contained

Maker = Literal["softmax", "sigmoid", "log-softmax", "log", "product", "squashed", ""]

# Probabilities stay probabilities; of maps also where they are turned or made larger.
_PASSING = frozenset(
    {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear"}
    | {"Transpose", "Resize"}
)
_MAKERS: dict[str, Maker] = {
    "Softmax": "softmax",
    "QLinearSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "QLinearSigmoid": "sigmoid",
    "LogSoftmax": "log-softmax",
}
_PAIRS: dict[tuple[str, str], Maker] = {
    ("LogSoftmax", "Exp"): "softmax",
    ("Softmax", "Log"): "log-softmax",
    ("QLinearSoftmax", "Log"): "log-softmax",
    ("Softplus", "Neg"): "log",  # log σ(z) = −softplus(−z)
}
_SQUASHING = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Softplus",
        "Softsign",
        "Hardmax",
        "Tanh",
        "Erf",
        "Exp",
        "Log",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Clip",
        "Min",
        "Max",
        "Atan",
        "Sin",
        "Cos",
        "Round",
        "Floor",
        "Ceil",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Where",
        "ArgMax",
        "TopK",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "QLinearSoftmax",
        "QLinearSigmoid",
        "BiasSoftmax",
        "QuickGelu",
        "Swish",
    }
)
_AFFINE = _PASSING | frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Transpose",
        "Sum",
        "Mean",
        "ReduceMean",
        "ReduceSum",
        "GlobalAveragePool",
        "AveragePool",
        "BatchNormalization",
        "Expand",
        "QLinearAdd",
        "QLinearMul",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "Dropout",
    }
)
_EITHER = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Einsum", "MatMulInteger", "MatMulIntegerToFloat")
_SECOND = ("Conv", "ConvTranspose", "FusedConv", "ConvInteger", "DynamicQuantizeMatMul", "MatMulNBits", "Attention")
# Operators of a product -> which of their inputs may be the weights.
_PRODUCTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_EITHER, (0, 1)),
    **dict.fromkeys(_SECOND, (1,)),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv", "QGemm"), (0, 3)),
}


def maker_of_output(content: bytes) -> Maker:
    """What makes the first output, behind operators that only pass values on or store them in bytes.

    ``product`` where only sums and factors lie between it and products with weights, ``squashed`` where something lies
    there that bounds values or takes their exponential or logarithm. Empty where it is something else, or where the
    package ``onnx`` is not installed to look.

    Raises:
        InputError: it is no whole model, or a tensor of it lies in another file.
    """
    try:
        import onnx
    except ImportError:
        return ""
    read_self_contained(content, error=InputError)
    model: Any = onnx.load_model_from_string(content)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = model.graph
    nodes = {name: node for node in graph.node for name in node.output}
    return _named_ending(nodes, graph.output[0].name) or _by_operators(_behind_products(nodes, graph))


def _named_ending(nodes: dict[str, Any], output: str) -> Maker:
    """What the last one or two operators are called; empty where that is none of the usual endings."""
    node = _behind(nodes, output)
    if node is None or node.op_type in _MAKERS:
        return _MAKERS[node.op_type] if node is not None else ""
    before = _behind(nodes, node.input[0]) if node.input else None
    last = (before.op_type if before is not None else "", node.op_type)
    if last[1] == "Log" and last not in _PAIRS:
        return "log"
    return _PAIRS.get(last, "")


def _by_operators(between: set[str]) -> Maker:
    if between & _SQUASHING:
        return "squashed"
    return "product" if between <= _AFFINE else ""


def _behind(nodes: dict[str, Any], name: str) -> Any:
    """The node that makes the value ``name``, those that only pass it on left out; None at the graph's input."""
    node = nodes.get(name)
    while node is not None and node.op_type in _PASSING:
        node = nodes.get(node.input[0])
    return node


def _behind_products(nodes: dict[str, Any], graph: Any) -> set[str]:
    """Operators between the first output and the products with weights, those of nested graphs too."""
    constants = {tensor.name for tensor in graph.initializer}
    found: set[str] = set()
    waiting, seen = [graph.output[0].name], set()
    while waiting:
        name = waiting.pop()
        node = nodes.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        at = _PRODUCTS.get(node.op_type, ())
        if any(index < len(node.input) and _is_constant(node.input[index], nodes, constants) for index in at):
            continue
        if not _is_constant(name, nodes, constants):
            found |= {node.op_type, *_nested_operators(node)}
            waiting += node.input
    return found


def _is_constant(name: str, nodes: dict[str, Any], constants: set[str]) -> bool:
    """Whether a value follows from the file alone; what it finds out is noted in ``constants``."""
    waiting, seen = [name], set()
    while waiting:
        at = waiting.pop()
        if at in seen or at in constants or not at:
            continue
        seen.add(at)
        node = nodes.get(at)
        if node is None or (not node.input and node.op_type != "Constant"):
            return False  # an input of the graph, or chance
        waiting += node.input
    constants |= seen
    return True


def _nested_operators(node: Any) -> set[str]:
    """Operators of the graphs that a node such as If holds."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    found: set[str] = set()
    while graphs:
        for inner in graphs.pop().node:
            found.add(inner.op_type)
            graphs += [graph for attribute in inner.attribute for graph in (attribute.g, *attribute.graphs)]
    return found
