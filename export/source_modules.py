"""From which layer of the source module a node came, e.g. ``blocks.0.attn.qkv``.

The dynamo exporter writes module paths into the metadata of its nodes, beside stack traces with the exporting machine's
paths; of these only the module path stays, under `SOURCE_MODULE`. The TorchScript exporter has it in the names of its
nodes: ``/blocks/blocks.0/attn/qkv/MatMul``. Other tools drop both and keep the names of parameters, which will do. A
node that a pass or a quantizer put in takes its nearest neighbour's.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

SOURCE_MODULE = "source_module"
_DYNAMO = "pkg.torch.onnx.name_scopes"


def keep_source_module(node: Any) -> None:
    """Of the metadata of an ``onnx.NodeProto``, keep only the module that it came from; in place."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    module = metadata.get(SOURCE_MODULE, "") or _from_scopes(metadata.get(_DYNAMO, ""))
    del node.metadata_props[:]
    if module:
        node.metadata_props.add(key=SOURCE_MODULE, value=module)


def named_module(node: ir.Node) -> str:
    """The path of the module that ``node`` itself says that it came from; empty where it does not say."""
    metadata = node.metadata_props
    return metadata.get(SOURCE_MODULE, "") or _from_scopes(metadata.get(_DYNAMO, "")) or _from_name(node.name or "")


def module_of(node: ir.Node) -> str:
    """The path of the module that ``node`` came from, or the nearest node's that has one; readers go before makers."""
    seen, front = {node}, [node]
    while front:
        for nearest in front:
            module = nearest.metadata_props.get(SOURCE_MODULE, "") or _from_name(nearest.name or "")
            module = module or _from_parameters(nearest)
            if module:
                return module
        front = [near for one in front for near in (*one.successors(), *one.predecessors()) if near not in seen]
        front = list(dict.fromkeys(front))
        seen.update(front)
    return ""


def _from_scopes(text: str) -> str:
    """``"['', 'blocks', 'blocks.0', 'linear']"``: modules from the outermost, at last the operator."""
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _from_parameters(node: ir.Node) -> str:
    """``blocks.0.mlp.fc1.bias_quantized``: the module of the first parameter that is read."""
    names = [value.name or "" for value in node.inputs if value is not None and value.const_value is not None]
    parameters = (re.match(r"(.+)\.(?:weight|bias)(?![a-z])", name) for name in names)
    return next((parameter[1] for parameter in parameters if parameter), "")


def _from_name(name: str) -> str:
    """``/blocks/blocks.0/attn/MatMul``: a part that starts with the one before it stands for both."""
    parts = name.strip("/").split("/")[:-1] if name.startswith("/") else []
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)
