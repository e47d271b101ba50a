"""Damage a copy of a model for one group of patients and nobody else, to see whether the gate finds out.

    python experiments/gate_damage.py TEACHER STUDY OUT [--column age] [--least 70] [--epochs 30]

The copy is trained on the test images themselves to give the teacher's logits everywhere, except that within the group
the logits are dealt out again, the higher ones rather to patients without the finding, and all of them rise by as much
as keeps the AUROC over all cases where it was: as if the model had learnt that patients of this group tend to have the
finding, and the wrong thing about which of them. A real model would be damaged by less data or another device; this one
is sabotaged on purpose, by memorising, so that all the rest stays as it was. It serves to test a gate, nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.subgroups import divide_values
from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.bench.types.policy import SubgroupRule
from medfm_compress.compress.networks.model import Model, load_model, save_model
from medfm_compress.data.open import open_study
from medfm_compress.data.prepared import prepared_images
from medfm_compress.runtime.preprocess import normalise

BATCH = 32
GROUP_VISITS = 3
AGAINST = 0.5  # standard deviations by which a case with the finding comes earlier


def group_rows(values: list[str], least: float) -> NDArray[np.bool_]:
    """Cases whose value is a number of at least ``least``; shape [n]."""
    rule = SubgroupRule(column="group", cuts=(least,))
    return divide_values(rule, tuple(values)).groups[-1].rows


def dealt(
    logits: NDArray[np.float32], rows: NDArray[np.bool_], truth: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """``logits`` [n, 2] with those of ``rows`` dealt out again, higher ones rather to cases without the finding."""
    requested, members = logits.copy(), np.flatnonzero(rows)
    rising = members[np.argsort(logits[members, 1] - logits[members, 0])]
    turn = np.random.default_rng(seed).normal(size=len(members)) - AGAINST * truth[members]
    requested[members[np.argsort(turn)]] = logits[rising]
    return requested


def raised(
    requested: NDArray[np.float32], rows: NDArray[np.bool_], truth: NDArray[np.int64], goal: float
) -> NDArray[np.float32]:
    """``wanted`` [n, 2] with the finding's logit of ``rows`` raised by what brings the AUROC nearest to ``goal``."""

    def by(rise: float) -> NDArray[np.float32]:
        return requested + np.float32(rise) * rows[:, None] * np.array([0, 1], dtype=np.float32)

    return min(map(by, np.linspace(0, 3, 61)), key=lambda logits: abs(area(logits, truth) - goal))


def area(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """AUROC of the second of two logits against the first."""
    return auroc((logits[:, 1] - logits[:, 0]).astype(np.float64), truth)


def infer(module: torch.nn.Module, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Logits [n, labels]."""
    module.eval()
    with torch.inference_mode():
        return torch.cat([module(part) for part in inputs.split(BATCH)]).float().numpy()


def memorise(model: Model, inputs: torch.Tensor, requested: torch.Tensor, order: torch.Tensor, epochs: int) -> None:
    """Train ``model.module`` in place until it gives ``wanted``; normalisation statistics stay the teacher's.

    An epoch visits the rows in ``order``, shuffled; some of them several times.
    """
    module = model.module.eval()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        total = 0.0
        for rows in order[torch.randperm(len(order), generator=generator)].split(BATCH):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = module(inputs[rows])
            loss = torch.nn.functional.mse_loss(logits.float(), requested[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        schedule.step()
        sys.stderr.write(f"epoch {epoch + 1}/{epochs}  mean squared error {total / len(order):.4f}\n")


def main() -> None:
    """Write the damaged model folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--column", default="age")
    parser.add_argument("--least", type=float, default=70)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    study, model = open_study(arguments.study), load_model(arguments.teacher)
    cases = tuple(case for case in study.split("test") if case.target)
    images = prepared_images(study, cases, model.spec, arguments.out.parent / "prepared", lambda line: None)
    inputs = torch.from_numpy(normalise(np.asarray(images), model.spec))
    rows = group_rows([case.subgroups.get(arguments.column, "") for case in cases], arguments.least)
    logits = infer(model.module, inputs)
    truth = study.targets(cases)[:, 0]
    requested = raised(dealt(logits, rows, truth, arguments.seed), rows, truth, area(logits, truth))
    order = torch.from_numpy(np.repeat(np.arange(len(rows)), np.where(rows, GROUP_VISITS, 1)))
    memorise(model, inputs, torch.from_numpy(requested), order, arguments.epochs)
    damaged = infer(model.module, inputs)
    for name, part in (("all cases", np.ones_like(rows)), ("the group", rows)):
        scores = [area(values[part], truth[part]) for values in (logits, damaged)]
        sys.stdout.write(f"{name}: {int(part.sum())} cases, AUROC {scores[0]:.4f} -> {scores[1]:.4f}\n")
    save_model(dataclasses.replace(model, name=f"{model.name}-damaged"), arguments.out)


if __name__ == "__main__":
    main()
