"""What can be chosen of in pruning, by the names that recipes and the command line give."""

from __future__ import annotations

from typing import Literal, get_args

Importance = Literal["taylor", "hessian", "magnitude", "activation"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
AllocationName = Literal["measured", "global", "uniform"]
ALLOCATIONS: tuple[AllocationName, ...] = get_args(AllocationName)
Search = Literal["knapsack", "evolution"]
SEARCHES: tuple[Search, ...] = get_args(Search)
