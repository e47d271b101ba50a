"""The study tables of docs/results/distillation.md, cut from public sets.

python experiments/distillation_studies.py OUT --chest FOLDER --lung FOLDER --skin FOLDER

- ``chest.csv``: the official test split; training images that share a patient with it are left out; val is an eighth
  of the other patients. ``chest-tenth.csv``: the same with the labels of 90% of the training patients hidden.
- ``lung.csv``: ten groups of near-duplicates a class keep their label in train, and ten in val; the other training
  tiles have none, the other val tiles go to ``choice``: labelled, never trained on, for choosing between losses.
- ``skin.csv``: test and val are cut from the labelled images; the set's own unlabelled images stay so.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import write_table

SEED = 0
CHEST = SplitPlan(val=0.125, keep_test=True, drop_leaking=True, seed=SEED)
CHEST_LABELLED = 0.1
SKIN = SplitPlan(val=0.07, test=0.465, keep_test=False, seed=SEED)
LUNG_GROUPS = 10
CHOICE = "choice"
UNLABELLED = "unlabelled"


def write_chest(source: Path, out: Path) -> None:
    """Write ``chest.csv`` and ``chest-tenth.csv``."""
    study = split_study(open_study(source), CHEST).study
    write_table(study, out / "chest.csv")
    write_table(hide_labels(study, shown_share(study, CHEST_LABELLED)), out / "chest-tenth.csv")


def write_lung(source: Path, out: Path) -> None:
    """Write ``lung.csv``."""
    study = open_study(source)
    kept = shown_groups(study, "train", LUNG_GROUPS)
    checked = shown_groups(study, "val", LUNG_GROUPS)
    hidden = hide_labels(study, kept)
    write_table(moved(hidden, "val", CHOICE, checked), out / "lung.csv")


def write_skin(source: Path, out: Path) -> None:
    """Write ``skin.csv``."""
    write_table(split_study(open_study(source), SKIN).study, out / "skin.csv")


def clusters_by_label(cases: Iterable[Case]) -> dict[tuple[int, ...], list[str]]:
    """Label → its clusters, shuffled; a cluster of several labels counts for its first."""
    result: dict[str, tuple[int, ...]] = {}
    for case in cases:
        if case.target:
            result.setdefault(case.cluster, case.target)
    by_label: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for cluster, target in result.items():
        by_label[target].append(cluster)
    rng = np.random.default_rng(SEED)
    return {
        target: [by_label[target][i] for i in rng.permutation(len(by_label[target]))] for target in sorted(by_label)
    }


def shown_share(study: Study, share: float) -> set[str]:
    """Training clusters that keep their label: of every label's clusters ``share``, at least one."""
    by_label = clusters_by_label(study.split("train"))
    return {single for names in by_label.values() for single in names[: max(round(share * len(names)), 1)]}


def shown_groups(study: Study, split: str, groups: int) -> set[str]:
    """``groups`` clusters of every label in ``split``."""
    return {single for names in clusters_by_label(study.split(split)).values() for single in names[:groups]}


def hide_labels(study: Study, kept: set[str]) -> Study:
    """``study`` with training cases outside the clusters ``kept`` moved to split ``unlabelled``, without label.

    Whatever else the table knows of a case and would give its label away, such as a subtype, goes too.
    """

    def hidden(case: Case) -> Case:
        if case.split != "train" or case.cluster in kept:
            return case
        return msgspec.structs.replace(case, split=UNLABELLED, target=(), subgroups={})

    return _with_cases(study, map(hidden, study.cases))


def moved(study: Study, split: str, to: str, kept: set[str]) -> Study:
    """``study`` with the cases of ``split`` outside the clusters ``kept`` in split ``to``."""

    def place(case: Case) -> Case:
        return msgspec.structs.replace(case, split=to) if case.split == split and case.cluster not in kept else case

    return _with_cases(study, map(place, study.cases))


def _with_cases(study: Study, cases: Iterable[Case]) -> Study:
    # Every row needs the same columns; those that may give a label away are dropped from all.
    every = tuple(cases)
    columns = {name for case in every for name in case.subgroups} - {"subtype"}
    filled = tuple(
        msgspec.structs.replace(case, subgroups={name: case.subgroups.get(name, "") for name in sorted(columns)})
        for case in every
    )
    return msgspec.structs.replace(study, cases=filled)


def counts(path: Path) -> Mapping[str, str]:
    """Split → cases of each label, as a sentence."""
    study = open_study(path)
    by_split: dict[str, Counter[str]] = defaultdict(Counter)
    for case in study.cases:
        by_split[case.split][study.labels[case.target[0]] if case.target else "no label"] += 1
    return {split: ", ".join(f"{n} {label}" for label, n in result.items()) for split, result in by_split.items()}


WRITERS = {"chest": write_chest, "lung": write_lung, "skin": write_skin}


def main() -> None:
    """Write the tables of the sets that are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name in WRITERS:
        parser.add_argument(f"--{name}", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        source = getattr(arguments, name)
        if source is not None:
            write(source, arguments.out)
    for path in sorted(arguments.out.glob("*.csv")):
        for split, sentence in counts(path).items():
            sys.stdout.write(f"{path.name} {split}: {sentence}\n")


if __name__ == "__main__":
    main()
