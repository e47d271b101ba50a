"""The memory finds the nearest rows, and their distances survive half precision, bytes and cancellation."""

from __future__ import annotations

import pytest
import torch

from medfm_compress.compress.networks.scorers.memory import Memory, Storage, row_bytes


def filled(rows: torch.Tensor, storage: Storage) -> Memory:
    memory = Memory(len(rows), rows.shape[1], storage)
    memory.fill(rows, torch.arange(len(rows)) * 10)
    return memory


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_distances_are_those_to_the_stored_rows(storage: Storage) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    memory = filled(rows, storage)
    queries = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    distances, index = memory.nearest(queries, 3)
    expected = torch.cdist(queries, memory.dense()).sort(1)
    torch.testing.assert_close(distances, expected.values[:, :3])
    assert torch.equal(index, expected.indices[:, :3])
    assert torch.equal(memory.case_numbers(index), index * 10.0)
    assert float((memory.dense() - rows).abs().max()) < (0.002 if storage == "float16" else 0.02)


def test_a_small_distance_far_from_the_origin_keeps_its_digits() -> None:
    rows = torch.full((4, 16), 8.0) + torch.arange(4)[:, None]
    memory = filled(rows, "float16")
    query = rows[2:3] + 0.001
    distances, index = memory.nearest(query, 1)
    assert int(index) == 2
    # ‖a‖² + ‖b‖² − 2ab in float32 is wrong by more than the whole squared distance here
    assert float(distances) == pytest.approx(0.001 * 4, rel=1e-2)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_casting_a_network_leaves_the_stored_bytes(storage: Storage) -> None:
    memory = filled(torch.randn(5, 4), storage)
    before = {name: buffer.clone() for name, buffer in memory.named_buffers()}
    memory.half().float()
    for name, buffer in memory.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])
    assert memory.nearest(torch.randn(2, 4).half(), 2)[0].dtype == torch.float16


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_row_takes_the_bytes_that_the_budget_counts(storage: Storage) -> None:
    memory = Memory(10, 24, storage)
    assert sum(buffer.nbytes for buffer in memory.buffers()) == 10 * row_bytes(24, storage)
