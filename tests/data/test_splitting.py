"""Cutting splits: disjoint patients, copies kept together, equal shares of each label, the same from the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfm_compress.data.check import check_study
from medfm_compress.data.labels import class_counts
from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.errors import StudyError

NEW = SplitPlan(val=0.1, test=0.2, keep_test=False)
KEEP = SplitPlan(val=0.2, keep_test=True)


@pytest.fixture(scope="module")
def clustered(in_memory: Callable[..., Study]) -> Study:
    """600 images of 210 patients who have 1 to 8 each; a quarter of the patients are ill."""
    rng = np.random.default_rng(0)
    cases = [
        Case(image=f"{patient}-{number}", split="train", target=(int(patient % 4 == 0),), patient=f"p{patient}")
        for patient in range(210)
        for number in range(int(rng.integers(1, 6)))
    ]
    return in_memory(cases)


def test_patients_are_disjoint_and_shares_hold(clustered: Study) -> None:
    study = split_study(clustered, NEW).study
    total = len(study.cases)
    assert not check_study(study).leakage
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert len(study.split(split)) / total == pytest.approx(share, abs=0.02)
        ill = class_counts(study, split)["mass"] / len(study.split(split))
        assert ill == pytest.approx(class_counts(clustered, "train")["mass"] / total, abs=0.04)


def test_the_seed_decides(clustered: Study) -> None:
    def cut(seed: int) -> list[str]:
        plan = SplitPlan(val=0.1, test=0.2, keep_test=False, seed=seed)
        return [case.split for case in split_study(clustered, plan).study.cases]

    assert cut(0) == cut(0) != cut(1)


def test_copies_go_to_one_split(in_memory: Callable[..., Study]) -> None:
    cases = [Case(image=f"{n}", split="train", target=(n % 2,), patient=f"p{n}") for n in range(200)]
    pairs = [(f"{n}", f"{n + 100}") for n in range(100)]
    study = split_study(in_memory(cases, same=pairs), NEW).study
    splits = {case.image: case.split for case in study.cases}
    assert all(splits[a] == splits[b] for a, b in pairs)


@pytest.fixture
def leaking(in_memory: Callable[..., Study]) -> Study:
    """A given test split; patient p0 stands in it and in train, and train image 3 is a copy of a test image."""
    learned = [
        Case(image=f"{n}", split="val" if n > 57 else "train", target=(n % 2,), patient=f"p{n}") for n in range(60)
    ]
    test = [Case(image=f"t{n}", split="test", target=(n % 2,), patient=f"p{n and n + 100}") for n in range(20)]
    others = [
        Case(image="u", split="unlabelled", patient="p0"),
        Case(image="x", split="anomaly", target=(1,), patient="p105"),
    ]
    return in_memory([*learned, *test, *others], same=[("3", "t5")])


def test_a_kept_test_split_and_leaking_train_cases(leaking: Study) -> None:
    with pytest.raises(StudyError, match="2 images outside the test split share a patient or an image"):
        split_study(leaking, KEEP)
    result = split_study(leaking, SplitPlan(val=0.2, keep_test=True, drop_leaking=True))
    assert [case.image for case in result.dropped] == ["0", "3"]
    assert result.study.split("test") == leaking.split("test")
    assert not check_study(result.study).leakage
    assert len(result.study.split("val")) == pytest.approx(0.2 * 58, abs=2)
    # Splits of other names are none of its business.
    assert result.study.split("anomaly") == leaking.split("anomaly")
    assert result.study.split("unlabelled") == leaking.split("unlabelled")


def test_rare_combinations_of_findings_reach_val(in_memory: Callable[..., Study]) -> None:
    rng = np.random.default_rng(3)
    cases = [
        Case(image=f"{n}", split="train", target=tuple(int(v) for v in rng.uniform(size=8) < 0.3), patient=f"p{n}")
        for n in range(400)
    ]
    study = split_study(in_memory(cases, tuple("abcdefgh")), SplitPlan(val=0.2, test=0.2, keep_test=False)).study
    for split in ("val", "test"):
        counts = class_counts(study, split)
        assert len(study.split(split)) == pytest.approx(80, abs=4)
        assert all(12 <= counts[label] <= 38 for label in study.labels)  # 24 in the mean, sd 4


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"val": 0.0}, "above 0"),
        ({"val": 0.5, "test": 0.5, "keep_test": False}, "below 1"),
        ({"val": float("nan")}, "fractions"),
        ({"test": 0.2, "keep_test": True}, "keep_test leaves the test split as it is, and test 0.2 cuts a new one"),
        ({"test": 0.0, "keep_test": False}, "or cut a new one, e.g. --test 0.2"),
        ({"test": 0.2, "keep_test": False, "drop_leaking": True}, "goes with keep_test"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_plans_that_contradict_themselves(fields: dict[str, float], complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        SplitPlan(**fields)  # type: ignore[arg-type]


def test_studies_that_cannot_be_cut(in_memory: Callable[..., Study]) -> None:
    few = in_memory([Case(image=f"{n}", split="train", target=(n % 2,), patient=f"p{n % 2}") for n in range(20)])
    with pytest.raises(StudyError, match="too few patients"):
        split_study(few, NEW)
    with pytest.raises(StudyError, match="no test split to keep"):
        split_study(few, KEEP)


@pytest.mark.shared
def test_the_traps_of_the_official_chest_xray_split(shared_data: Path, tmp_path: Path) -> None:
    study = open_study(shared_data / "chest-xray-pneumonia")
    actual = check_study(study)
    assert [int(number) for number in re.findall(r"\d+", actual.leakage[0])] == [457, 320, 170]
    assert len(actual.leakage) == 1
    assert len(actual.copies) == 30
    assert all(len(group.splits) == 1 for group in actual.copies)
    assert any("val has 16 images" in remark for remark in actual.remarks)

    result = split_study(study, SplitPlan(val=0.1, keep_test=True, drop_leaking=True))
    assert len(result.dropped) == 457
    assert {case.split for case in result.dropped} == {"train"}
    assert len(result.study.split("test")) == 624
    assert len(result.study.cases) == 5856 - 457
    write_table(result.study, tmp_path / "cases.csv")
    again = check_study(open_study(tmp_path))
    assert not again.leakage
    assert not again.errors
    assert again.images["val"] == pytest.approx(0.1 * (5856 - 457 - 624), abs=5)


@pytest.mark.shared
def test_the_given_lung_split_is_by_group_and_a_random_one_is_not(shared_data: Path) -> None:
    from msgspec.structs import replace

    study = open_study(shared_data / "lung-histology")
    assert not check_study(study).leakage
    shuffled = np.random.default_rng(0).permutation([case.split for case in study.cases])
    cases = tuple(replace(case, split=str(split)) for case, split in zip(study.cases, shuffled, strict=True))
    assert "share a patient" in check_study(replace(study, cases=cases)).leakage[0]
