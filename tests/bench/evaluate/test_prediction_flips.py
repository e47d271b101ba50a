"""Decisions that changed: who was right, and a table that no spreadsheet runs."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.prediction_flips import find_flips, write_flips
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.errors import InputError


def evaluation(
    name: str, truth: list[list[int]], decisions: list[list[int]], scores: list[list[float]] | None = None, **changes
) -> Evaluation:
    cases, findings = np.array(truth).shape
    table = np.array(decisions, dtype=float) * 0.8 + 0.1 if scores is None else np.array(scores)
    made = Evaluation(
        name=name,
        images=tuple(f"{n}.png" for n in range(cases)),
        logits=table,
        scores=table,
        truth=np.array(truth),
        decisions=np.array(decisions),
        clusters=tuple(f"p{n}" for n in range(cases)),
        findings=("spot", "node", "ring")[:findings],
        subgroups={"sex": ("F",) * cases},
    )
    return msgspec.structs.replace(made, **changes)


def test_every_kind_of_change_of_a_finding() -> None:
    truth = [[1], [0], [1], [0], [1], [0]]
    before = evaluation("teacher", truth, [[1], [0], [0], [1], [1], [0]])
    after = evaluation("v", truth, [[0], [1], [1], [0], [1], [0]])
    kinds = {flip.case: (flip.kind, flip.direction) for flip in find_flips(before, after)}
    assert kinds == {
        0: ("newly missed", "harmful"),
        1: ("new false alarm", "harmful"),
        2: ("newly found", "beneficial"),
        3: ("false alarm gone", "beneficial"),
    }
    first = find_flips(before, after)[0]
    assert (first.truth, first.teacher, first.bundle) == ("spot", "spot", "no spot")


def test_no_change_is_no_flip() -> None:
    same = evaluation("teacher", [[1], [0]], [[1], [1]])
    assert find_flips(same, msgspec.structs.replace(same, name="v")) == ()


def test_harm_comes_first_and_then_the_largest_change() -> None:
    truth = [[0], [1], [1]]
    before = evaluation("teacher", truth, [[1], [1], [1]], [[0.99], [0.6], [0.9]])
    after = evaluation("v", truth, [[0], [0], [0]], [[0.01], [0.4], [0.1]])
    assert [flip.case for flip in find_flips(before, after)] == [2, 1, 0]


def test_labels_that_exclude_each_other_give_one_flip_a_case() -> None:
    truth = [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    before = evaluation("teacher", truth, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    after = evaluation("v", truth, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    flips = find_flips(before, after)
    assert [(flip.case, flip.direction) for flip in flips] == [(0, "harmful"), (2, "neither"), (1, "beneficial")]
    assert (flips[1].truth, flips[1].teacher, flips[1].bundle) == ("spot", "node", "ring")
    assert (flips[0].teacher_score, flips[0].bundle_score) == pytest.approx((0.9, 0.1))


def test_other_cases_are_refused() -> None:
    teacher = evaluation("teacher", [[1], [0]], [[1], [1]])
    with pytest.raises(InputError, match="images"):
        find_flips(teacher, evaluation("v", [[1], [0]], [[1], [1]], images=("a", "b")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "'="])
def test_file_holds_real_names_and_no_formula(tmp_path: Path, start: str) -> None:
    evil = f'{start}HYPERLINK("x","y"),z'
    truth = [[1], [0]]
    common = {"images": (evil, "b.png"), "clusters": (evil, "p"), "subgroups": {evil: (evil, "")}}
    before = evaluation("teacher", truth, [[1], [0]], **common)
    path = write_flips(tmp_path, before, [evaluation("v", truth, [[0], [0]], **common)])
    with path.open(encoding="utf-8", newline="") as file:
        head, row, *rest = list(csv.reader(file))
    assert rest == []
    cells = dict(zip(head, row, strict=True))
    assert cells["image"] == cells["patient"] == cells[f"'{evil}"] == f"'{evil}"
    assert (cells["case"], cells["kind"], cells["teacher_score"]) == ("1", "newly missed", "0.900000")


def test_older_file_does_not_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "flips.csv").write_text("old")
    same = evaluation("teacher", [[1], [0]], [[1], [1]])
    path = write_flips(tmp_path, same, [msgspec.structs.replace(same, name="v")])
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1
