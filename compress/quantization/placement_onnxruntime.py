"""Where ONNX Runtime wants Q/DQ: around operators, because it fuses DQ → operator → Q, and for Conv nothing less.

Activations are U8 (signed ones are up to 2.4 times slower), biases int32. A ReLU or Clip between an operator and its Q
disappears, since the zero point does its work. Products of matrices need no Q behind them: they give floats to what
stays in float anyway (SiLU, GELU, softmax, LayerNorm). What only passes numbers on is done in bytes where bytes come
in and bytes are wanted behind it, so that no value is rounded for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

from medfm_compress.compress.quantization.qdq import Placement, values_by_name
from medfm_compress.compress.quantization.weights import Layer, attribute, is_constant, is_probability, layers

if TYPE_CHECKING:
    import onnx_ir as ir

Products = Literal["none", "scores", "all"]
"""Of two activations in bytes: none; those without what a softmax gives (QKᵀ, not PV); these too, which is faster, but
most probabilities are below one step of 1/255."""

_ABSORBED = ("Relu", "Clip")
_MOVES_NUMBERS = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
_PATCH = 4  # least size of a patch in pixels
_PASSES_ON = ("Add", "Concat", "GlobalAveragePool", "Resize", *_MOVES_NUMBERS)


def place(
    model: ir.Model,
    exclude: Collection[str] = (),
    *,
    products: Products = "scores",
    sums: bool = True,
    joined: bool = False,
    gates: bool = False,
    reduced: bool = False,
) -> Placement:
    """Pairs around every layer with constant weights and around what passes bytes on between them.

    Args:
        model: the float graph.
        exclude: names of nodes that stay in float.
        products: of two activations, see `Products`; fused attention operators stay in float.
        sums: residual sums too; in float they are slower, but rounding does not add up along the residuals.
        joined: all that is concatenated shares one range, so that concatenating is copying; coarser steps for the
            parts with small values.
        gates: products of an image in bytes with one number a channel (squeeze and excite) too, the gates in steps of
            1/255; in float the whole image goes through float for them.
        reduced: 7-bit weights.
    """
    chosen = [layer for layer in layers(model.graph) if layer.name not in exclude and _is_fused(layer)]
    multiplied = _products(model, exclude, products)
    nodes = [*(layer.node for layer in chosen), *multiplied]
    needed = {value.name for value in _inputs(nodes)}
    made = {_result(layer).name for layer in chosen} | {node.outputs[0].name for node in multiplied}
    ties: dict[str, str] = {}
    operators = tuple(operator for operator in _PASSES_ON if sums or operator != "Add")
    operators += ("Mul",) if gates else ()
    for node in reversed(_passing(model, exclude, operators, needed | made)):
        result = _last(node)
        if result.name in needed or node.op_type == "GlobalAveragePool":
            needed |= {result.name, *(value.name for value in _inputs([node]))}
            made.add(result.name)
            nodes.append(node)
            if node.op_type in _MOVES_NUMBERS or node.op_type == "Resize":
                ties[result.name or ""] = _inputs([node])[0].name or ""
    needed |= {_result(layer).name for layer in chosen if layer.node.op_type == "Conv"}
    if joined:
        ties |= _joined([node for node in nodes if node.op_type == "Concat"], ties)
    values = values_by_name(model.graph)
    return Placement(
        activations=tuple(name for name in values if name in needed),
        layers=tuple(layer.name for layer in chosen),
        floats=frozenset(exclude),
        reads=_float_reads([values[name] for name in values if name in needed and name not in made], nodes),
        ties=tuple(ties.items()),
        reduced=reduced,
        biases=True,
    )


def _is_fused(layer: Layer) -> bool:
    """Whether the layer gets an integer kernel, and should.

    A Conv has one only before a Q. That Q would round the network's output, or, behind patches of an image, the first
    tokens, to which every later block adds: the largest single error of a ViT, for 1% of its time.
    """
    if layer.node.op_type != "Conv":
        return bool(layer.node.op_type != "ConvTranspose")
    return not (_result(layer).is_graph_output() or _embeds_patches(layer))


def _embeds_patches(layer: Layer) -> bool:
    kernel, strides = (tuple(attribute(layer.node, name, ())) for name in ("kernel_shape", "strides"))
    return bool(layer.input.is_graph_input() and kernel == strides and min(kernel, default=0) >= _PATCH)


def _float_reads(values: Iterable[ir.Value], in_bytes: Collection[ir.Node]) -> frozenset[tuple[str, str]]:
    """Reads of values that exist in float by nodes that work in float: the detour over bytes would only round them."""
    return frozenset(
        (value.name or "", user.name or "") for value in values for user, _ in value.uses() if user not in in_bytes
    )


def _joined(concats: list[ir.Node], ties: Collection[str]) -> dict[str, str]:
    """Each part and each result → the result of the last Concat that they are in.

    Args:
        concats: the last one first.
        ties: names of what only moves numbers; the parts' origins are tied instead of them.
    """
    last: dict[str, str] = {}
    for node in concats:
        origins = [_origin(value, ties) for value in _inputs([node])]
        free = [value for value in origins if not _is_absorbed(value)]  # a ReLU needs a range that starts at 0
        names = [value.name or "" for value in (*free, node.outputs[0])]
        root = next((last[name] for name in names if name in last), names[-1])
        last.update(dict.fromkeys(names, root))
    return {name: root for name, root in last.items() if name != root}


def _origin(value: ir.Value, ties: Collection[str]) -> ir.Value:
    """The value whose range a tied one has."""
    producer = value.producer()
    while value.name in ties and producer is not None:
        value = _inputs([producer])[0]
        producer = value.producer()
    return value


def _is_absorbed(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in _ABSORBED


def _products(model: ir.Model, exclude: Collection[str], products: Products) -> list[ir.Node]:
    """Products of two activations that neither ``products`` nor an excluded name forbids."""
    nodes = [node for node in model.graph if node.op_type == "MatMul" and len(_inputs([node])) == len(node.inputs)]
    if products != "all":
        nodes = [node for node in nodes if products == "scores" and not any(map(is_probability, node.inputs))]
    return [node for node in nodes if node.name not in exclude]


def _passing(
    model: ir.Model, exclude: Collection[str], operators: Collection[str], in_bytes: Collection[str | None]
) -> list[ir.Node]:
    """Nodes that could work on bytes, since all that enters can be in bytes, in graph order."""
    possible, passing = set(in_bytes), []
    for node in model.graph:
        if node.op_type not in operators or node.domain not in ("", "ai.onnx") or node.name in exclude:
            continue
        entering = _inputs([node])
        complete = node.op_type not in ("Add", "Concat", "Mul") or len(entering) == len(node.inputs)
        if node.op_type == "Mul":
            entering = [value for value in entering if not _is_gate(value, node)]
            complete = complete and len(entering) == 1
        if complete and entering and all(value.name in possible for value in entering):
            possible.add(_last(node).name)
            passing.append(node)
    return passing


def _is_gate(value: ir.Value, node: ir.Node) -> bool:
    """One number a channel, where the result is an image."""
    shapes = (value.shape, node.outputs[0].shape)
    gate, image = (shape.numpy() if shape is not None and shape.is_static() else () for shape in shapes)
    return len(gate) == len(image) == 4 and gate[2:] == (1, 1) != image[2:]


def _inputs(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """The activations that enter, without constants."""
    return [value for node in nodes for value in node.inputs if value is not None and not is_constant(value)]


def _result(layer: Layer) -> ir.Value:
    """What the layer gives once bias and activation are in it."""
    bias = layer.bias
    return _last(layer.node if bias is None else bias.node)


def _last(node: ir.Node) -> ir.Value:
    """The node's result, or that of the ReLU or Clip behind it when nothing else reads the result."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) == 1 and uses[0].node.op_type in _ABSORBED and not value.is_graph_output():
        return uses[0].node.outputs[0]
    return value
