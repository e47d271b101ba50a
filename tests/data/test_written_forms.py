"""One thing written in several ways is one thing: patients, classes, images, words for no value."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from pydicom import dcmread

from medfm_compress.data.check import check_study
from medfm_compress.data.labels import exclusive_study
from medfm_compress.data.missing_values import is_missing
from medfm_compress.data.open import open_study
from medfm_compress.data.recorded_groups import recorded
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Case, Study
from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.errors import StudyError

SPLITS = ("train",) * 4 + ("val",) * 4 + ("test",) * 4
ODD_WORDS = (
    "-nan", "1.#IND", "-1.#QNAN", "-nan(ind)", "#VALUE!", "#REF!", "#DIV/0!", "#N/A", "#NAME?", "pd.NA", "(null)", "?",
    "-", "--", "\u2013", "\u2212", "...", "n / a", "not available", "Not_Recorded", "\uff4e\uff41\uff4e",
    "\u200b", "\u3164",
)  # fmt: skip
WAYS = [
    (unicodedata.normalize("NFC", "Mü{}"), unicodedata.normalize("NFD", "Mü{}")),
    ("p{}", "\uff30{}"),  # full-width
    ("a {}", "a\u00a0{}"),  # no-break space
    ("a {}", "a  {}"),
    ("a{}", "a\u200b{}"),  # zero width
    ("a-{}", "a\u2013{}"),  # en dash
    ("p{}", "P{}"),
    ("straße{}", "STRASSE{}"),
    ("1{}", "1{}.0"),
    ("1{}", "001{}"),
    ("Doe^Jane{}", "DOE^JANE{}^^"),
    ("X{}", "X{}\0"),
    ("1{}", "1{},0"),
    ("1{}", "'1{}'"),
    ("1{}", '\u201e1{}"'),
    ("1{}", "'1{}"),  # a spreadsheet's sign for text
    ("O'Hara {}", "O\u2019Hara {}"),
    ("1{}", "\u0661{}"),  # Arabic digit
    ("1{}", "\u0967{}"),  # Devanagari digit
    ("-1{}", "\u22121{}"),  # minus sign
    ("a{}", "a\u034f{}"),
    ("a{}", "a\ufe0f{}"),
    ("a{}", "\u3164a{}"),
    ("e\u0301{}", "e\u034f\u0301{}"),
]


def table(folder: Path, head: str, cell: Callable[[int], str], name: str = "cases.csv") -> Path:
    """Twelve images, four a split, and one more column or several."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,{SPLITS[number]},{cell(number)}\n" for number in range(12))
    (folder / name).write_text(f"image,split,{head}\n{rows}", encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(("one", "other"), WAYS)
def test_a_patient_written_in_two_ways_is_one_and_said_to_be(
    in_memory: Callable[..., Study], one: str, other: str
) -> None:
    cases = [
        Case(image=f"{n}", split=split, target=(n % 2,), patient=f"v{n}" if split == "val" else way.format(n % 4))
        for n, (split, way) in enumerate(zip(SPLITS, (one,) * 8 + (other,) * 4, strict=True))
    ]
    study = in_memory(cases)
    assert [case.cluster for case in study.split("train")] == [case.cluster for case in study.split("test")]
    actual = check_study(study)
    assert actual.leakage == ("4 image(s) of train share a patient with 4 image(s) of test (4 patient(s))",)
    assert len(actual.shared_patients) == 4
    (remark,) = [text for text in actual.remarks if "written in several ways" in text]
    assert remark.startswith("4 patient(s)")
    assert f"{one.format(0)!a} and {other.format(0)!a}" in remark


def test_a_patient_written_in_two_ways_goes_to_one_split(in_memory: Callable[..., Study]) -> None:
    cases = [
        Case(image=f"{n}", split="train", target=(n % 2,), patient=f"{'00' if n >= 100 else ''}{n % 100 + 1}")
        for n in range(200)
    ]
    study = split_study(in_memory(cases), SplitPlan(val=0.2, test=0.2, keep_test=False)).study
    splits = [case.split for case in study.cases]
    assert splits[:100] == splits[100:]
    # What a person wrote stays as it is.
    assert [case.patient for case in study.cases] == [case.patient for case in cases]


@pytest.mark.parametrize(
    ("one", "other"), [("7", "70"), ("7", "7.1"), ("a1", "a01"), ("a1", "a 1"), ("7", "-7"), ("0", ""), ("a_1", "a-1")]
)
def test_keys_that_differ_in_more_stay_apart(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


def test_numbers_with_and_without_leading_zeros_are_to_be_looked_at(in_memory: Callable[..., Study]) -> None:
    cases = [Case(image="a", split="train", target=(0,), patient="007"), Case(image="b", split="train", patient="7")]
    remarks = check_study(in_memory(cases)).remarks
    assert any("look at '007' and '7'" in text and "may be different people" in text for text in remarks)


def test_words_for_no_patient_are_no_patient(tmp_path: Path) -> None:
    study = open_study(table(tmp_path, "label,patient", lambda n: f"{n % 2},{'nan' if n % 4 == 0 else f'p{n}'}"))
    assert [case.patient for case in study.cases[:2]] == ["", "p1"]
    actual = check_study(study)
    assert not actual.leakage
    assert any("'patient' counts as not recorded for 3 image(s): 'nan' (3)" in text for text in actual.remarks)
    assert any("3 of 12 images have no patient" in text for text in actual.remarks)


def dicom(drawn: Study, folder: Path, **headers: tuple[str, str]) -> list[Case]:
    """Files with these Patient IDs and issuers, and the cases that a folder of them makes."""
    for number, (name, (patient, issuer)) in enumerate(headers.items()):
        dataset = dcmread(drawn.root.parent / drawn.cases[number].image)
        dataset.PatientID = patient
        if issuer:
            dataset.IssuerOfPatientID = issuer
        dataset.save_as(folder / f"{name}.dcm")
    return list(open_study(folder).cases)


def test_an_issuer_in_one_file_only_makes_no_second_patient(drawn: Study, tmp_path: Path) -> None:
    a, b, c = dicom(drawn, tmp_path, a=("4711", ""), b=("4711", "HOSPITAL-A"), c=("12", "HOSPITAL-A"))
    assert a.cluster == b.cluster != c.cluster
    (remark,) = [text for text in check_study(open_study(tmp_path)).remarks if "Issuer" in text]
    assert remark.startswith("1 Patient ID(s)")
    assert "a.dcm and b.dcm" in remark
    assert "4711" not in remark


def test_two_issuers_are_two_patients_and_said_to_be(drawn: Study, tmp_path: Path) -> None:
    a, b, c = dicom(drawn, tmp_path, a=("1", "NORTH"), b=("1", "SOUTH"), c=("1", "north "))
    assert a.cluster == c.cluster != b.cluster
    assert any("stand under several issuers" in text for text in check_study(open_study(tmp_path)).remarks)


def test_patient_ids_of_dicom_files_written_in_two_ways_are_one(drawn: Study, tmp_path: Path) -> None:
    a, b = dicom(drawn, tmp_path, a=("ab 7", ""), b=("AB  7", ""))
    assert a.cluster == b.cluster
    assert any(
        "1 Patient ID(s) of DICOM headers are written in" in t for t in check_study(open_study(tmp_path)).remarks
    )


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "null", "NULL", "<NA>", " nan "])
def test_a_word_for_no_value_is_no_class(tmp_path: Path, word: str) -> None:
    with pytest.raises(StudyError, match=r"\(2 cases, first '3.png'\), which reads like a missing value"):
        open_study(table(tmp_path, "label", lambda n: word if n in (3, 9) else f"{n % 2}"))


def test_none_as_a_finding_stays_a_class(tmp_path: Path) -> None:
    assert open_study(table(tmp_path, "label", lambda n: ("none", "mass")[n % 2])).labels == ("none", "mass")


@pytest.mark.parametrize(
    ("one", "other"), [("Mass", "mass"), ("a b", "a  b"), ("Mu\u0308", "Mü"), ("1", "1.0"), ("No_mass", "no mass")]
)
def test_classes_that_differ_in_writing_only_are_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(StudyError, match="differ only in case, spaces"):
        open_study(table(tmp_path, "label", lambda n: (one, "other", other)[n % 3]))
    with pytest.raises(StudyError, match="the findings"):
        open_study(table(tmp_path, f"label:{one},label:{other}", lambda n: f"{n % 2},{1 - n % 2}"))


def test_labels_of_opposite_sign_are_different(tmp_path: Path) -> None:
    assert open_study(table(tmp_path, "label", lambda n: ("-1", "1")[n % 2])).labels == ("-1", "1")


def test_a_word_for_no_value_is_no_split(tmp_path: Path) -> None:
    path = table(tmp_path, "label", lambda n: f"{n % 2}")
    path.write_text(path.read_text().replace("3.png,train", "3.png,nan"))
    with pytest.raises(StudyError, match=r"split of '3\.png' is 'nan'"):
        open_study(path)


def test_words_for_no_value_and_impossible_ages_make_no_group(tmp_path: Path) -> None:
    ages = ["34", "nan", "411", "-1", "045Y", "", "NaN", "0", "89.9", "6M", "inf", "70"]
    sexes = ["F", "nan", "None", "M", "F", "M", "", "F", "M", "null", "NA", "F"]
    study = open_study(table(tmp_path, "label,age,sex", lambda n: f"{n % 2},{ages[n]},{sexes[n]}"))
    assert [case.subgroups["age"] for case in study.cases] == [
        "30-39", "", "", "", "40-49", "", "", "0-9", "80-89", "0-9", "", "70-79",
    ]  # fmt: skip
    assert {case.subgroups["sex"] for case in study.cases} == {"", "F", "M"}
    remarks = [text for text in check_study(study).remarks if "counts as not recorded" in text]
    assert "'age' counts as not recorded for 5 image(s): " in remarks[0]
    assert "'411' (1)" in remarks[0]
    assert remarks[1].startswith("'sex' counts as not recorded for 4 image(s)")


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("90+", "90+"), ("89 +", "89+"), ("\u226590", "90+"), (">89", "89+"), ("> 89 y", "89+"),
        ("90 years and older", "90+"), ("90y+", "90+"), ("\uff1e89", "89+"), (">=1080 months", "90+"), ("<1", "0-9"),
        ("<30 d", "0-9"),
        ("< 18", "<18"),        ("<=18", "<=18"), ("under 240 m", "<20"), ("0-17", "0-17"), ("60\u201369", "60-69"),
        ("34-36 years", "30-39"),
        ("45 y", "40-49"), ("45yo", "40-49"), ("034Y", "30-39"), ("400d", "0-9"), ("34,5", "30-39"),
        ("\u0664\u0665", "40-49"), ("411+", ""), ("<0", ""), (">999", ""), ("Infinity", ""), ("?", ""),
        ("4_5", "4_5"), ("4_5Y", "4_5Y"), ("4\u00b2", "4\u00b2"),
        ("1Y6M", "1Y6M"), ("0x20", "0x20"), ("elderly", "elderly"), ("79-70", "79-70"),
    ],
)  # fmt: skip
def test_ages_are_read_as_people_write_them(written: str, group: str) -> None:
    assert recorded("age", written) == group


def test_an_age_column_in_years_keeps_years_and_open_ends() -> None:
    ages = ["41.5", "045Y", "6M", "> 89 y", "90+", "<18", "411"]
    assert [recorded("age_years", age) for age in ages] == ["41.5", "45", "0.5", "89+", "90+", "<18", ""]
    assert recorded("site", "> 89 y") == "> 89 y"


def test_an_age_that_is_not_read_is_named(tmp_path: Path) -> None:
    ages = ["elderly", "90+", "0x20"] + ["50"] * 9
    study = open_study(table(tmp_path, "label,age", lambda n: f"{n % 2},{ages[n]}"))
    (remark,) = [text for text in study.remarks if "is no age" in text]
    assert remark.startswith("'age' is no age for 2 image(s): 'elderly' (1), '0x20' (1); ")


def test_an_impossible_age_in_a_header_is_no_age(drawn: Study, tmp_path: Path) -> None:
    for number, age in enumerate(("411Y", "041Y")):
        dataset = dcmread(drawn.root.parent / drawn.cases[number].image)
        dataset.PatientAge = age
        dataset.save_as(tmp_path / f"{number}.dcm")
    assert [case.subgroups["age"] for case in open_study(tmp_path).cases] == ["", "40-49"]


def test_groups_that_differ_in_writing_only_are_remarked(in_memory: Callable[..., Study]) -> None:
    cases = [Case(image=f"{n}", split="train", target=(n % 2,), subgroups={"sex": "Ff"[n % 2]}) for n in range(4)]
    remarks = check_study(in_memory(cases)).remarks
    assert any("'sex'" in text and "'F' and 'f'" in text for text in remarks)


@pytest.mark.parametrize("how", ["dots", "absolute"])
def test_an_image_listed_by_another_path_is_the_same_image(tmp_path: Path, how: str) -> None:
    path = table(tmp_path / "s", "label", lambda n: f"{n % 2}")
    again = {"dots": "../s/1.png", "absolute": str(tmp_path / "s/1.png")}[how]
    path.write_text(path.read_text() + f"{again},test,1\n")
    with pytest.raises(StudyError, match=r"lists the image .* twice, before as '1\.png', in two splits, which is leak"):
        open_study(path)
    path.write_text(path.read_text().replace(f"{again},test", f"{again},train"))
    with pytest.raises(StudyError, match=r"twice, before as '1\.png'; keep one row"):
        open_study(path)


@pytest.mark.parametrize("how", ["link", "folder link", "hard link", "copy"])
def test_an_image_under_two_names_in_two_splits_is_leakage(tmp_path: Path, how: str) -> None:
    path = table(tmp_path / "s", "label", lambda n: f"{n % 2}")
    name = "../t/1.png" if how == "folder link" else "again.png"
    if how == "link":
        (tmp_path / "s/again.png").symlink_to(tmp_path / "s/1.png")
    elif how == "folder link":
        (tmp_path / "t").symlink_to(tmp_path / "s")
    elif how == "hard link":
        (tmp_path / "s/again.png").hardlink_to(tmp_path / "s/1.png")
    else:
        (tmp_path / "s/again.png").write_bytes((tmp_path / "s/1.png").read_bytes())
    path.write_text(path.read_text() + f"{name},test,1\n")
    study = open_study(path)
    assert check_study(study).leakage == ("1 image(s) of train are exact copies of 1 image(s) of test",)
    splits = {
        case.image: case.split for case in split_study(study, SplitPlan(val=0.3, seed=1, drop_leaking=True)).study.cases
    }
    assert "1.png" not in splits


def test_a_row_of_an_archive_is_one_however_its_number_is_written(tmp_path: Path) -> None:
    stacks = {f"{split}_images": np.zeros((2, 28, 28), np.uint8) for split in ("train", "val", "test")}
    np.savez(tmp_path / "x.npz", **stacks)
    (tmp_path / "cases.csv").write_text("image,split,label\nx.npz#train/1,train,a\nx.npz#train/01,test,b\n")
    with pytest.raises(StudyError, match="twice"):
        open_study(tmp_path)


def test_words_for_no_value() -> None:
    assert all(map(is_missing, ("", " ", "NaN", "None", "NULL", "n/a", "<NA>", "nat", *ODD_WORDS)))
    assert not any(
        map(is_missing, ("none", "0", "no", "negative", "other", "nano", "-1", "unknown", "+", "1.5", "\u2713"))
    )
    assert not any(map(is_missing, ("value", "ref", "name", "1-ind", "error")))


@pytest.mark.parametrize("word", [*ODD_WORDS, "unknown", "Missing", "UNK", "not known", "<unlabelled>"])
def test_a_word_for_no_label_is_no_class(tmp_path: Path, word: str) -> None:
    with pytest.raises(StudyError, match=r"\(3 cases, first '3\.png'\), which reads like a missing value"):
        open_study(table(tmp_path, "label", lambda n: word if n in (3, 7, 11) else f"{n % 2}"))
    grouped = open_study(table(tmp_path, "label,sex", lambda n: f"{n % 2},{'unknown' if n == 3 else 'F'}"))
    assert grouped.cases[3].subgroups["sex"] == "unknown"


@pytest.mark.parametrize("number", ["-1", "9999", "-9.0", "99"])
def test_a_number_for_no_value_beside_words_is_no_class(tmp_path: Path, number: str) -> None:
    with pytest.raises(StudyError, match=rf"the label '{number}' \(3 cases\) stands beside words"):
        open_study(table(tmp_path, "label", lambda n: number if n in (3, 7, 11) else ("cyst", "mass")[n % 2]))
    study = open_study(table(tmp_path, "label", lambda n: number if n in (3, 7, 11) else f"{n % 2}"))
    (remark,) = [text for text in check_study(study).remarks if "is a class of its own" in text]
    assert remark.startswith(f"the label '{number}' (3 images)")


def test_classes_that_are_counted_are_no_numbers_for_no_value(in_memory: Callable[..., Study], tmp_path: Path) -> None:
    cases = [Case(image=f"{n}", split="train") for n in range(100)]
    study = exclusive_study(tmp_path, in_memory(cases).source, cases, [f"{n}" for n in range(100)])
    assert not study.remarks


def folders(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(values).save(root / name)
        else:
            (root / name).write_bytes(b"RIFF" + os.urandom(20))
    return root


def test_images_that_nothing_reads_are_counted_by_suffix_and_are_an_error(tmp_path: Path) -> None:
    names = ("mass/3.webp", "mass/4.WEBP", "cyst/1.heic", "cyst/2.gif", "notes.txt", "mass/report.pdf", "loose.png")
    study = open_study(folders(tmp_path, "normal/1.png", "mass/1.png", *names))
    actual = check_study(study)
    assert {bad.image for bad in actual.unreadable} == {"mass/3.webp", "mass/4.WEBP", "cyst/1.heic", "cyst/2.gif"}
    assert any("4 image(s) cannot be read (2 .webp, 1 .heic, 1 .gif" in text for text in actual.errors)
    (others,) = [text for text in actual.remarks if "passed over 2 file(s)" in text]
    assert "1 .txt" in others
    assert "1 .pdf" in others
    assert any("passed over 1 image(s)" in text and "loose.png" in text for text in actual.remarks)


def test_a_study_of_files_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"every label is 'normal'.*passed over 1 file\(s\) .*1 \.pcx"):
        open_study(folders(tmp_path / "a", "normal/1.png", "mass/1.pcx"))
    with pytest.raises(StudyError, match=r"is no study.*passed over 1 file\(s\) .*1 \.tga"):
        open_study(folders(tmp_path / "b", "1.tga"))


def test_a_class_without_training_cases_is_an_error(in_memory: Callable[..., Study]) -> None:
    cases = [Case(image=f"{n}", split=("train", "extra")[n % 2], target=(n % 2,), patient=f"p{n}") for n in range(8)]
    assert any("train has no case of 'mass'" in text for text in check_study(in_memory(cases)).errors)


def test_a_finding_that_every_training_case_has_is_an_error(in_memory: Callable[..., Study]) -> None:
    cases = [Case(image=f"{n}", split="train", target=(1, n % 2), patient=f"p{n}") for n in range(8)]
    assert any("every case of train has 'normal'" in text for text in check_study(in_memory(cases)).errors)


@pytest.mark.parametrize("odd", ["grey", "equal channels", "colour"])
def test_images_of_the_other_kind_of_colour_are_named(in_memory: Callable[..., Study], odd: str) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,), patient=f"p{n}") for n in range(9)])
    arrays = study.source.arrays  # type: ignore[attr-defined]
    for name, values in arrays.items():
        if (name == "7") == (odd == "colour"):
            arrays[name] = np.stack([values, np.roll(values, 7), values // 3], axis=-1)
        elif odd == "equal channels":
            arrays[name] = np.stack([values] * 3, axis=-1)
    actual = check_study(study)
    assert actual.other_colour == ("7",)
    what = "in colour among grey images" if odd == "colour" else "grey among images in colour"
    assert any(f"1 of 9 images are {what}, first 7" in text for text in actual.remarks)
    alike = check_study(replace(study, cases=study.cases[:7]))
    assert alike.other_colour == ()
    assert not any("among" in text for text in alike.remarks)
