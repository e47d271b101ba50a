"""Does the demo's verdict depend on luck? Its teacher and student for several seeds, held against each other.

    python experiments/demo_seeds.py OUT [SEED …]

Each seed draws its own study and trains as the demo does; the student in FP32 is compared with its teacher on the test
split, with the gate's interval. ``OUT/seeds.json`` gets a row a seed, as it ends; seeds that have ended are skipped.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import msgspec
import torch

from medfm_compress import steps
from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.dataset import load_dataset
from medfm_compress.compress.training.validation_score import logits_of
from medfm_compress.data.open import open_study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.demo import PATIENTS, POLICY, SHARES, demo_recipe
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.strict_json import decode, encode


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One seed: AUROC of both on the test split, the difference with its 95% interval, and what it took."""

    seed: int
    teacher: float
    student: float
    difference: float
    low: float
    high: float
    passes: bool
    threads: int
    seconds: float


def row_of(seed: int, out: Path) -> Row:
    """Draw, train and compare."""
    begin, folder = time.monotonic(), out / str(seed)
    study, recipe = folder / "study", demo_recipe(seed)
    draw_study(study, patients=PATIENTS, seed=seed, shares=SHARES)
    write_atomically(folder / "policy.yaml", POLICY.encode())
    assert recipe.teacher is not None and recipe.distill is not None  # noqa: S101 - the demo has both
    teacher = steps.finetune(study, recipe.teacher, no_progress, folder / "teacher")
    source = (TeacherSource(source=str(folder / "teacher")),)
    student = steps.distill(study, source, recipe.distill, no_progress, folder / "student")
    policy = load_policy(folder / "policy.yaml").policy
    tables = [_table(model, study, name) for model, name in ((teacher, "teacher"), (student, "student"))]
    (area,) = [c for c in compare(tables[0], tables[1], policy) if c.metric == "auroc" and not c.subgroup]
    shutil.rmtree(folder)
    return Row(
        seed=seed,
        teacher=round(area.teacher.estimate, 4),
        student=round(area.bundle.estimate, 4),
        difference=round(area.difference.estimate, 4),
        low=round(area.difference.low, 4),
        high=round(area.difference.high, 4),
        passes=area.margin is not None and area.difference.low > -area.margin,
        threads=torch.get_num_threads(),
        seconds=round(time.monotonic() - begin, 1),
    )


def _table(model: Model, study: Path, name: str) -> Evaluation:
    cases = open_study(study)
    test = load_dataset(cases, "test", model.spec, study.parent / "cache", no_progress)
    logits = logits_of(model.module, test.images, model.spec).numpy()
    return tabulate(logits, cases, tuple(case for case in cases.split("test") if case.target), model.task, name=name)


def main() -> None:
    """Seeds 0 to 9, or those that are named."""
    out, seeds = Path(sys.argv[1]), [int(word) for word in sys.argv[2:]] or list(range(10))
    path = out / "seeds.json"
    for seed in seeds:
        done = decode(path.read_bytes(), list[Row], source=str(path)) if path.is_file() else []
        if all(row.seed != seed for row in done):
            row = row_of(seed, out)
            done = decode(path.read_bytes(), list[Row], source=str(path)) if path.is_file() else []
            write_atomically(path, encode(sorted([*done, row], key=lambda each: each.seed)))
            sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main()
