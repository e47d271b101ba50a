"""From a torch module to one self-contained ONNX file: static batch 1, float32, no trace of the exporting machine.

The dynamo exporter is tried first; the TorchScript exporter is the fall-back, and what the first one said is returned
with the file. Both traces go through the portable passes of `passes.pipeline`.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from medfm_compress.export.module_outputs import EXTRA, LOGITS, named, output_names
from medfm_compress.export.passes.compact_memory import compact_memory
from medfm_compress.export.passes.features_output import FEATURES, features_output
from medfm_compress.export.passes.pipeline import simplify
from medfm_compress.export.quiet_exporter import quiet_exporter
from medfm_compress.export.source_modules import keep_source_module
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.tasks.table import rules_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medfm_compress.runtime.columns import Column
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.task import Task

INPUT = "image"
OUTPUT = LOGITS
OPSET = 20  # the first with Gelu, which both engines have a kernel for


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """An ONNX file and how it came about.

    Attributes:
        content: the serialized model, weights inside; equal bytes for an equal module.
        exporter: which of torch's exporters made it.
        reason: why the dynamo exporter did not, empty where it did.
    """

    content: bytes
    exporter: Literal["dynamo", "torchscript"]
    reason: str = ""


def export_onnx(
    module: nn.Module, spec: ImageSpec, task: Task, *, columns: Sequence[Column] = (), features: bool = False
) -> Exported:
    """Export ``module`` with input ``image`` ``spec.shape`` and output ``logits`` as its task has it, float32.

    A network with ``columns`` is called as ``module(image, *columns)``; each is an input of its own name. Further
    outputs are those that it names (see `module_outputs`). With ``features`` the graph has one of that name behind the
    logits, where there is one (see `features_output`).

    The module itself is left as it is: a float32 CPU copy in eval mode is traced, contiguous.

    Raises:
        ModelError: it does not take the spec's input and the columns, does not give one logit a label (one map a
            structure), does not read a column, or neither exporter can trace it.
    """
    import torch

    copied = copy.deepcopy(module).float().cpu().eval()
    copied.to(memory_format=torch.contiguous_format)  # of one with channels last, strides would be written as Gathers
    example = (torch.zeros(spec.shape), *(torch.zeros(1, column.width) for column in columns))
    names = [INPUT, *(column.name for column in columns)]
    shape = rules_of(task).logits_shape(task, spec)
    _check_output(copied, example, task, shape)
    with quiet_exporter(), torch.no_grad():
        model, exporter, reason = _trace(copied, example, names)
        model = simplified(model, features=features)
    return Exported(content=finished(model, spec, columns), exporter=exporter, reason=reason)


def simplified(model: Any, *, features: bool = False) -> Any:
    """A ``ModelProto`` after the portable passes, with a second output for ``features`` (see `features_output`)."""
    import onnx_ir as ir

    graph = ir.from_proto(model)
    simplify(graph)
    if features:
        features_output(graph)
    compact_memory(graph)
    return ir.to_proto(graph)


def finished(model: Any, spec: ImageSpec, columns: Sequence[Column] = ()) -> bytes:
    """The serialized ``model``, without a trace of the machine that made it; equal bytes for an equal model.

    Raises:
        ModelError: its inputs or output are not what a bundle's has.
    """
    _strip(model)
    _check_model(model, spec, columns)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _check_output(module: nn.Module, example: tuple[Tensor, ...], task: Task, expected: tuple[int, ...]) -> None:
    import torch

    try:
        with torch.no_grad():
            output = named(module, module(*example))[OUTPUT]
    except (RuntimeError, AssertionError, ValueError, TypeError) as exc:
        message = _one_line(exc)
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in example)
        raise ModelError(f"the model does not take an input of shape {shapes}: {message}") from exc
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != expected:
        raise ModelError(f"the model returns {shape}; the task's labels {task.labels} need one tensor {expected}")


def _trace(
    module: nn.Module, example: tuple[Tensor, ...], names: list[str]
) -> tuple[Any, Literal["dynamo", "torchscript"], str]:
    try:
        return _dynamo(module, example, names), "dynamo", ""
    except Exception as first:  # noqa: BLE001 - exporters raise anything; the other one may still work
        reason = _one_line(first)
    try:
        return _torchscript(module, example, names), "torchscript", reason
    except Exception as second:
        message = f"dynamo: {reason}; torchscript: {_one_line(second)}"
        raise ModelError(f"the model cannot be exported to ONNX ({message})") from second


def _dynamo(module: nn.Module, example: tuple[Tensor, ...], names: list[str]) -> Any:
    import torch

    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        input_names=names,
        output_names=list(output_names(module)),
        opset_version=OPSET,
        verbose=False,
        optimize=True,
    )
    return program.model_proto  # type: ignore[union-attr]


def _torchscript(module: nn.Module, example: tuple[Tensor, ...], names: list[str]) -> Any:
    import onnx
    import torch

    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        example,
        buffer,  # type: ignore[arg-type]
        dynamo=False,
        input_names=names,
        output_names=list(output_names(module)),
        opset_version=OPSET,
        do_constant_folding=True,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _strip(model: Any) -> None:
    """Remove what names the exporting machine: the dynamo exporter writes stack traces into every node.

    Which module a node came from stays, so that a node that an engine refuses can be named by its layer.
    """
    del model.metadata_props[:]
    model.doc_string = ""
    _strip_graph(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
        for node in function.node:
            _strip_node(node)


def _strip_graph(graph: Any) -> None:
    for part in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: Any) -> None:
    node.doc_string = ""
    keep_source_module(node)
    for attribute in node.attribute:
        attribute.doc_string = ""
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            _strip_graph(graph)


def _check_model(model: Any, spec: ImageSpec, columns: Sequence[Column]) -> None:
    import onnx

    onnx.checker.check_model(model)
    inputs = [(value.name, tuple(dim.dim_value for dim in _sides(value))) for value in model.graph.input]
    expected = [(INPUT, spec.shape), *((column.name, (1, column.width)) for column in columns)]
    outputs = [value.name for value in model.graph.output]
    known = [OUTPUT, *(name for name in (FEATURES, *EXTRA) if name in outputs)]
    if inputs != expected or outputs != known:
        raise ModelError(
            f"the exported graph has the inputs {inputs} and the outputs {outputs}, not {expected} and {known}"
        )
    read = {name for node in model.graph.node for name in node.input}
    unread = [column.name for column in columns if column.name not in read]
    if unread:
        raise ModelError(f"the network does not read its column {unread[0]!r}; leave it out of the columns")


def _sides(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
