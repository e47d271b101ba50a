"""Weights of products that are smaller than any normal float32 number become 0.

Weight decay leaves channels that a network does not use with weights about 1e-40. Beside an ordinary term such a
product is nothing that float32 could hold, and some CPUs compute with subnormal numbers (IEEE 754-2019, clause 3.4) up
to a hundred times slower than with others. Constants of other operators stay: one may be there to keep a divisor from
being 0. A network that multiplies such products up again to ordinary size is changed; export's parity refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_LEAST_NORMAL = np.finfo(np.float32).smallest_normal


def flush_subnormals(model: ir.Model) -> int:
    """Flush in place; in how many weights and biases there were any."""
    return sum(_flush(value) for value in tuple(model.graph.initializers.values()) if _is_of_product(value))


def _is_of_product(value: ir.Value) -> bool:
    """Whether products alone read it, and nobody outside the graph."""
    users = value.consumers()
    return (
        bool(users)
        and not value.is_graph_output()
        and all(user.domain == "" and user.op_type in _PRODUCTS for user in users)
    )


def _flush(value: ir.Value) -> bool:
    import onnx_ir as ir

    numbers = constant(value)
    if numbers is None or numbers.dtype != np.float32:
        return False
    subnormal = (np.abs(numbers) < _LEAST_NORMAL) & (numbers != 0)
    if not subnormal.any():
        return False
    value.const_value = ir.tensor(np.where(subnormal, np.float32(0), numbers), name=value.name)
    return True
