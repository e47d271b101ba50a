"""Which search finds the least damage for a budget: uniform, knapsack or evolution, on damage that was measured before.

python experiments/pruning_search.py MODEL DAMAGE.json

MODEL is the model folder that was pruned, DAMAGE.json what a measured allocation left in ``training/step-1``. Budgets
are fractions of the MACs, so that nothing is timed and figures repeat. Damage is the sum of squared relative logit
errors.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import torch

from medfm_compress.bench.types.sensitivity import SensitivityPoint
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import load_model
from medfm_compress.compress.pruning.allocate import Allocation, Sensitivities, evolve, knapsack, uniform
from medfm_compress.compress.pruning.cost_model import macs_cost
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import Evidence, importance_scores
from medfm_compress.compress.pruning.sensitivity import sensitivity_at_levels
from medfm_compress.compress.pruning.width_search import all_channel_groups

BUDGETS = (0.7, 0.5, 0.3, 0.2)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("damage", type=Path)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    module, example = model.module.requires_grad_(True), torch.zeros(model.spec.shape)
    groups, _ = all_channel_groups(module, example, PruningGoal(macs=0.5, allocation="measured"))
    kept = msgspec.json.decode(arguments.damage.read_bytes())["entries"]
    sensitivities = {
        group.name: sensitivity_at_levels(group, msgspec.convert(kept[group.name], tuple[SensitivityPoint, ...]))
        for group in groups
    }
    ranking = {group.name: importance_scores(group, Evidence("magnitude")) for group in groups if group.kind != "block"}
    macs = count_macs(module, example)
    cost_model = macs_cost(macs, groups)
    sys.stdout.write(
        "| MACs | uniform | knapsack | evolution | seconds (knapsack, evolution) |\n|---|---|---|---|---|\n"
    )
    for budget in BUDGETS:
        limit = budget * macs.total
        even = uniform(groups, ranking, cost_model, limit)
        start = time.perf_counter()
        greedy = knapsack(groups, sensitivities, cost_model, limit)
        between = time.perf_counter()
        evolved = evolve(groups, sensitivities, cost_model, limit, greedy)
        took = f"{between - start:.2f}, {time.perf_counter() - between:.1f}"
        cells = [f"{sensitivity_at(sensitivities, entry):.5f}" for entry in (even, greedy, evolved)]
        sys.stdout.write(f"| {budget} | {' | '.join(cells)} | {took} |\n")


def sensitivity_at(sensitivities: Sensitivities, allocation: Allocation) -> float:
    """Sum over units."""
    return sum(sensitivities[name][width] for name, width in allocation.widths.items())


if __name__ == "__main__":
    main()
