"""Which passes run, and in which order: the portable ones at export, those of one backend before it gets the graph.

A pass changes a graph in place and says how often it applied, 0 where it does not. Values that survive keep their
names, and layers theirs, because calibration and placements go by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from medfm_compress.export.passes.add_without_reshapes import add_without_reshapes
from medfm_compress.export.passes.average_pool_to_conv import average_pool_to_conv
from medfm_compress.export.passes.batch_norm_to_conv import batch_norm_to_conv
from medfm_compress.export.passes.channels_last_sums import channels_last_sums
from medfm_compress.export.passes.flatten_tokens import flatten_tokens, tokens_on_three_axes
from medfm_compress.export.passes.flush_subnormals import flush_subnormals
from medfm_compress.export.passes.fold_affine_after import fold_affine_after
from medfm_compress.export.passes.fold_affine_before import fold_affine_before
from medfm_compress.export.passes.gelu_of_parts import gelu_of_parts
from medfm_compress.export.passes.global_pool import global_pool
from medfm_compress.export.passes.layer_norm_of_parts import layer_norm_of_parts
from medfm_compress.export.passes.matmul_to_gemm import matmul_to_gemm
from medfm_compress.export.passes.multi_head_attention import multi_head_attention
from medfm_compress.export.passes.quick_gelu import quick_gelu
from medfm_compress.export.passes.remove_empty_pads import remove_empty_pads
from medfm_compress.export.passes.space_to_depth import space_to_depth
from medfm_compress.export.passes.split_attention import split_attention
from medfm_compress.export.passes.split_layers import split_layers
from medfm_compress.export.passes.tidy import tidy

if TYPE_CHECKING:
    import onnx_ir as ir

Pass = Callable[["ir.Model"], int]

PORTABLE: tuple[Pass, ...] = (
    tidy,
    gelu_of_parts,
    layer_norm_of_parts,
    remove_empty_pads,
    channels_last_sums,
    fold_affine_after,
    fold_affine_before,
    split_layers,
    add_without_reshapes,
    split_attention,
    tokens_on_three_axes,
    flush_subnormals,
)
ONNXRUNTIME: tuple[Pass, ...] = (multi_head_attention, flatten_tokens, matmul_to_gemm)
ONNXRUNTIME_INT8: tuple[Pass, ...] = (
    batch_norm_to_conv,
    average_pool_to_conv,
    global_pool,
    quick_gelu,
    space_to_depth,
)


def simplify(model: ir.Model) -> tuple[str, ...]:
    """Run the portable passes in place; the names of those that applied. A second run finds nothing to do."""
    return _run(model, PORTABLE)


def for_onnxruntime(model: ir.Model, *, quantized: bool) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph as ONNX Runtime's CPU provider runs it fastest, and the names of the passes that applied.

    Args:
        model: a portable graph; it is left as it is.
        quantized: Q/DQ will be put into the result.
    """
    changed = model.clone()
    return changed, _run(changed, (*ONNXRUNTIME, *(ONNXRUNTIME_INT8 if quantized else ())))


def _run(model: ir.Model, passes: tuple[Pass, ...]) -> tuple[str, ...]:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    applied = tuple(pass_.__name__ for pass_ in passes if pass_(model))
    RemoveUnusedNodesPass()(model)
    return applied
