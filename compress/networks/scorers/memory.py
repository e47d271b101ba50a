r"""A memory of normal embeddings in few bytes, and the nearest of them to a query.

.. math:: \arg\min_j \|q - m_j\|^2 = \arg\min_j \bigl(\|m_j\|^2 - 2 q^\top m_j\bigr)

One matrix product finds the nearest rows, and since what is left out is the same for all of them, it orders them
rightly. The difference of large squares would lose the digits of a small distance, so that the distances of the k rows
that were found are computed anew from :math:`q - m_j`. Rows are held as

- float16, or
- int8 with one float32 scale a row: :math:`m_j = s_j q_j`, :math:`s_j = \max|m_j| / 127`,

and made float32 in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Storage = Literal["float16", "int8"]
_LEAST = 1e-8
_NUMBER_BYTES = 4  # of a row's training case, and of its scale


class Memory(nn.Module):
    """Rows ``[rows, width]`` of normal cases.

    Attributes:
        cases: ``[rows]`` int32, the number of the training case that each row is of.
    """

    rows: Tensor
    scales: Tensor
    cases: Tensor

    def __init__(self, rows: int, width: int, storage: Storage) -> None:
        super().__init__()
        self.storage = storage
        self.register_buffer("rows", torch.zeros(rows, width, dtype=_DTYPES[storage]))
        self.register_buffer("cases", torch.zeros(rows, dtype=torch.int32))
        if storage == "int8":
            self.register_buffer("scales", torch.ones(rows, 1))

    def fill(self, rows: Tensor, cases: Tensor) -> None:
        """Store float32 ``rows`` ``[rows, width]``, and the number of each one's training case."""
        if self.storage == "int8":
            self.scales.copy_(rows.abs().amax(1, keepdim=True).clamp(min=_LEAST) / 127)
            rows = (rows / self.scales).round()
        self.rows.copy_(rows.to(self.rows.dtype))
        self.cases.copy_(cases.to(torch.int32))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows ``[rows, width]`` as they are compared."""
        rows = self.rows.to(dtype)
        return rows * self.scales.to(dtype) if self.storage == "int8" else rows

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances and row numbers ``[n, count]`` of the rows nearest to ``queries`` ``[n, width]``, nearest first."""
        rows = self.dense(queries.dtype)
        order = rows.square().sum(1) - 2 * queries @ rows.transpose(0, 1)
        index = torch.topk(order, count, dim=1, largest=False).indices
        difference = rows[index] - queries[:, None, :]
        return difference.square().sum(2).sqrt(), index

    def case_numbers(self, index: Tensor) -> Tensor:
        """Float32 numbers of the training cases of rows ``index``."""
        return self.cases[index].float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        """Moves between devices; ``.half()`` and ``.float()`` leave the stored numbers as they are."""
        for name, buffer in self.named_buffers():
            setattr(self, name, buffer.to(fn(buffer).device))
        return self


_DTYPES = {"float16": torch.float16, "int8": torch.int8}


def row_bytes(width: int, storage: Storage) -> int:
    """Bytes that one row of ``width`` numbers takes, with what belongs to it."""
    return 2 * width + _NUMBER_BYTES if storage == "float16" else width + 2 * _NUMBER_BYTES
