"""What `check_study` sees, and what it leaves in peace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.data.check import StudyCheck, check_study
from medfm_compress.data.study import Case, Study


def plain(count: int = 120) -> list[Case]:
    splits = ("train", "train", "val", "test")
    return [
        Case(image=f"{n}", split=splits[n // 2 % 4], target=(n % 2,), patient=f"p{n}", subgroups={"sex": "FM"[n % 2]})
        for n in range(count)
    ]


def test_a_sound_study_has_counts_and_no_complaints(in_memory: Callable[..., Study]) -> None:
    actual = check_study(in_memory(plain(480)))
    assert actual.images == {"train": 240, "val": 120, "test": 120}
    assert actual.classes["val"] == {"normal": 60, "mass": 60}
    assert actual.patients == actual.images
    assert actual.subgroups == {"sex": {"F": 240, "M": 240}}
    assert actual.leakage == actual.errors == actual.remarks == ()
    assert actual.copies == actual.shared_patients == actual.odd_sizes == actual.unreadable == ()
    assert "'normal' first" in actual.label_order


def test_a_patient_in_two_splits_is_leakage(in_memory: Callable[..., Study]) -> None:
    cases = plain()
    cases[4] = replace(cases[4], patient="p0")  # 0 is in train, 4 in val
    actual = check_study(in_memory(cases))
    assert actual.leakage == ("1 image(s) of train share a patient with 1 image(s) of val (1 patient(s))",)
    assert actual.shared_patients[0].images == {"train": 1, "val": 1}


def test_a_patient_in_an_unlabelled_split_is_not(in_memory: Callable[..., Study]) -> None:
    extra = Case(image="u", split="unlabelled", patient="p0")
    assert not check_study(in_memory([*plain(), extra])).leakage


def test_copies_across_splits_are_leakage_and_within_one_are_not(in_memory: Callable[..., Study]) -> None:
    within = check_study(in_memory(plain(), same=[("0", "2")]))
    assert not within.leakage
    assert within.copies[0].images == ("0", "2")
    across = check_study(in_memory(plain(), same=[("0", "6")]))
    assert across.leakage == ("1 image(s) of train are exact copies of 1 image(s) of test",)


def test_copies_with_different_labels_are_an_error(in_memory: Callable[..., Study]) -> None:
    actual = check_study(in_memory(plain(), same=[("0", "1")]))
    assert actual.copies[0].contradict
    assert "different labels, first 0 and 1" in actual.errors[0]


def test_unreadable_blank_and_odd_images_are_named(in_memory: Callable[..., Study]) -> None:
    study = in_memory(plain())
    study.source.broken = ("5",)  # type: ignore[attr-defined]
    study.source.arrays["7"] = np.full((40, 40), 9, np.uint8)  # type: ignore[attr-defined]
    study.source.arrays["9"] = np.eye(200, 40, dtype=np.uint8)  # type: ignore[attr-defined]
    actual = check_study(study)
    assert [(bad.image, bad.reason) for bad in actual.unreadable] == [("5", "5: truncated")]
    assert actual.errors == ("1 image(s) cannot be read, first 5: truncated",)
    assert actual.blank == ("7",)
    assert [(odd.image, odd.height_px, odd.width_px) for odd in actual.odd_sizes] == [("9", 200, 40)]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda case: replace(case, patient=""), "no patient column"),
        (lambda case: replace(case, split="train"), "no val cases"),
        (lambda case: replace(case, split="test" if case.split == "train" else case.split), "no train cases"),
    ],
)
def test_remarks(in_memory: Callable[..., Study], change: Callable[[Case], Case], remark: str) -> None:
    actual = check_study(in_memory([change(case) for case in plain()]))
    assert any(remark in text for text in actual.remarks)


def test_a_tiny_val_split_is_remarked(in_memory: Callable[..., Study]) -> None:
    assert any("val has 30 images" in remark for remark in check_study(in_memory(plain())).remarks)


def test_progress_is_told(in_memory: Callable[..., Study]) -> None:
    lines: list[str] = []
    check_study(in_memory(plain(1200)), progress=lines.append)
    assert lines[-1] == "read images: 1200 of 1200"


def test_a_class_that_train_lacks_is_an_error_and_no_remark(in_memory: Callable[..., Study]) -> None:
    cases = [replace(case, target=(0,) if case.split == "train" else case.target) for case in plain()]
    actual = check_study(in_memory(cases))
    assert any("train has no case of 'mass'" in text for text in actual.errors)


def patients(in_memory: Callable[..., Study], names: dict[str, str]) -> StudyCheck:
    """Train and test hold one patient each, called so there."""
    cases = [replace(case, patient=names.get(case.split, f"{case.split} {n}")) for n, case in enumerate(plain())]
    return check_study(in_memory(cases))


@pytest.mark.parametrize(("here", "there"), [("a-12", "a 12"), ("x 03", "x3"), ("p_1", "p 1")])
def test_keys_that_may_be_one_patients_are_named_with_their_splits(
    in_memory: Callable[..., Study], here: str, there: str
) -> None:
    actual = patients(in_memory, {"train": here, "test": there})
    (remark,) = [text for text in actual.remarks if "patient keys differ" in text]
    assert "1 of them in several splits, which would be leakage" in remark
    assert repr(here) in remark
    assert repr(there) in remark


def test_unlike_keys_are_not_named(in_memory: Callable[..., Study]) -> None:
    actual = patients(in_memory, {"train": "p1", "test": "p10"})
    assert not [text for text in actual.remarks if "patient keys differ" in text]


def test_what_is_not_recorded_is_counted(in_memory: Callable[..., Study]) -> None:
    cases = [replace(case, subgroups={"sex": "F" if n % 4 else ""}) for n, case in enumerate(plain())]
    actual = check_study(in_memory(cases))
    assert any("not recorded: 'sex' of" in text for text in actual.remarks)
