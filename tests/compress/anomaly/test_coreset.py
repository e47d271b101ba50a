"""The coreset covers: against brute force, and never worse than twice the best."""

from __future__ import annotations

import itertools

import torch

from medfm_compress.compress.anomaly.coreset import greedy_coreset


def radius(rows: torch.Tensor, index: tuple[int, ...]) -> float:
    return float(torch.cdist(rows, rows[list(index)]).min(1).values.max())


def test_the_radius_is_the_greatest_distance_to_a_chosen_row_and_at_most_twice_the_best() -> None:
    rows = torch.randn(14, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float() + 100
    coreset = greedy_coreset(rows, 4)
    assert len(set(coreset.index.tolist())) == 4
    own = radius(rows, tuple(coreset.index.tolist()))
    best = min(radius(rows, index) for index in itertools.combinations(range(14), 4))
    assert abs(coreset.radius - own) < 1e-3
    assert best <= own <= 2 * best


def test_a_memory_that_holds_all_keeps_their_order() -> None:
    rows = torch.randn(5, 2)
    coreset = greedy_coreset(rows, 9)
    assert coreset.index.tolist() == list(range(5))
    assert coreset.radius == 0


def test_copies_are_not_chosen_twice_while_others_are_left() -> None:
    rows = torch.tensor([[0.0, 0.0]] * 6 + [[3.0, 0.0], [0.0, 4.0]])
    assert {6, 7} < set(greedy_coreset(rows, 3).index.tolist())
