"""Planted damage on real masks: what the gate says of a bundle whose label maps are spoilt on purpose.

The bundle's own label maps are the reference; the candidates are the same maps untouched, with small regions lost, with
every outline drawn in by 3 and by 5 px, and with those of one group of patients drawn in by 8 px.

    python experiments/segmentation_damage.py BUNDLE.medfm cases.csv GROUP_COLUMN GROUP OUT.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.mask_evaluation import tabulate_masks
from medfm_compress.bench.gate.gate import gather, judge_evidence
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import NonInferiority, Policy, SubgroupRule
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Case
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.segmentation.regions import find_runs
from medfm_compress.runtime.segmentation.segment import Segmented

LabelMap = NDArray[np.uint8]
SMALL_SHARE = 0.04
"""Of the image: about the smallest fifth of the lesions."""


def eroded(shown: LabelMap, px: int) -> LabelMap:
    """``shown`` less ``px`` pixels on every side."""
    inside = np.pad(shown > 0, 1)
    for _ in range(px):
        core = inside.copy()
        core[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = core
    return inside[1:-1, 1:-1].astype(np.uint8)


def without_small(shown: LabelMap) -> LabelMap:
    """``shown`` without regions below `SMALL_SHARE` of the image."""
    runs, kept = find_runs(shown > 0), shown.copy()
    length = runs.end - runs.start
    area = np.bincount(runs.region, length) if len(length) else np.zeros(0)
    for row, start, end, region in zip(*(part.tolist() for part in runs), strict=True):
        if area[region] < SMALL_SHARE * shown.size:
            kept[row, start:end] = 0
    return kept


def main() -> None:
    """Predict, spoil, judge, write."""
    bundle, table, column, group, out = sys.argv[1:]
    study = open_study(table)
    cases = tuple(case for case in study.split("test") if case.target)
    with Engine(bundle, threads=1, unverified=True) as engine:
        task = engine.task
        answers = [engine.predict(Path(table).parent / case.image, atypical="flag").segmentation for case in cases]
    maps = [answer.label_map for answer in answers if answer is not None]
    policy = Policy(
        non_inferiority=(
            NonInferiority(metric="dice", margin=0.02),
            NonInferiority(metric="dice", margin=0.04, subgroup=column),
            NonInferiority(metric="lesion_sensitivity", margin=0.05),
        ),
        subgroups=(SubgroupRule(column=column, when_too_few="named"),),
    )
    damages: dict[str, Callable[[LabelMap, Case], LabelMap]] = {
        "untouched": lambda shown, case: shown,
        "small regions lost": lambda shown, case: without_small(shown),
        "outlines drawn in by 3 px": lambda shown, case: eroded(shown, 3),
        "outlines drawn in by 5 px": lambda shown, case: eroded(shown, 5),
        f"{column} = {group} drawn in by 8 px": lambda shown, case: (
            eroded(shown, 8) if case.subgroups.get(column) == group else shown
        ),
    }

    def judged_as(name: str, spoilt: list[LabelMap]) -> Evaluation:
        drawn = [Segmented(shown, np.array([0.99 if shown.any() else 0.1])) for shown in spoilt]
        return tabulate_masks(drawn, study, cases, task, name=name)

    teacher = judged_as("teacher", maps)
    result = {}
    for name, damage in damages.items():
        spoilt = [damage(shown, case) for shown, case in zip(maps, cases, strict=True)]
        candidate = judged_as("bundle", spoilt)
        verdict = judge_evidence(gather(teacher, [candidate], policy, task), policy, policy_sha256="0" * 64)
        result[name] = {
            "verdict": verdict.outcome,
            "not passed": {
                check.name: check.outcome for check in verdict.variants[0].checks if check.outcome != "pass"
            },
            "changed maps": sum(not np.array_equal(a, b) for a, b in zip(maps, spoilt, strict=True)),
            "cases": len(cases),
        }
        sys.stdout.write(f"{name}: {result[name]}\n")
    Path(out).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
