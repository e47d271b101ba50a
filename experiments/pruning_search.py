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

from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import load_model
from medfm_compress.compress.pruning.allocate import Allocation, Damage, evolve, knapsack, uniform
from medfm_compress.compress.pruning.cost_model import macs_price
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import Evidence, scores
from medfm_compress.compress.pruning.sensitivity import Trial, damage_of
from medfm_compress.compress.pruning.width_search import all_units

BUDGETS = (0.7, 0.5, 0.3, 0.2)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("damage", type=Path)
    asked = parser.parse_args()
    model = load_model(asked.model)
    module, example = model.module.requires_grad_(True), torch.zeros(model.spec.shape)
    units, _ = all_units(module, example, PruningGoal(macs=0.5, allocation="measured"))
    kept = msgspec.json.decode(asked.damage.read_bytes())["trials"]
    damage = {unit.name: damage_of(unit, msgspec.convert(kept[unit.name], tuple[Trial, ...])) for unit in units}
    ranking = {unit.name: scores(unit, Evidence("magnitude")) for unit in units if unit.kind != "block"}
    macs = count_macs(module, example)
    price = macs_price(macs, units)
    sys.stdout.write(
        "| MACs | uniform | knapsack | evolution | seconds (knapsack, evolution) |\n|---|---|---|---|---|\n"
    )
    for budget in BUDGETS:
        limit = budget * macs.total
        even = uniform(units, ranking, price, limit)
        start = time.perf_counter()
        greedy = knapsack(units, damage, price, limit)
        between = time.perf_counter()
        evolved = evolve(units, damage, price, limit, greedy)
        took = f"{between - start:.2f}, {time.perf_counter() - between:.1f}"
        cells = [f"{damage_at(damage, each):.5f}" for each in (even, greedy, evolved)]
        sys.stdout.write(f"| {budget} | {' | '.join(cells)} | {took} |\n")


def damage_at(damage: Damage, allocation: Allocation) -> float:
    """Sum over units."""
    return sum(damage[name][width] for name, width in allocation.widths.items())


if __name__ == "__main__":
    main()
