"""What a study says beside its images: exact values, what a column does not take, and a file of columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from medfm_compress.data.case_columns import case_columns
from medfm_compress.data.column_proposal import propose_columns
from medfm_compress.data.columns_file import load_columns
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.columns import CategoricalColumn, NumericColumn
from medfm_compress.runtime.errors import InputError, StudyError

AGE = NumericColumn(name="age", unit="years", minimum=0, maximum=120, mean=50, standard_deviation=10)
SEX = CategoricalColumn(name="sex", categories=("F", "M"), missing="category", dicom="PatientSex")
ROWS = [("57", "female"), ("045Y", "M"), ("6 months", "f "), ("50,5", "unknown"), ("  60.0", "MALE"), ("70", "")]


def write_study(folder: Path, rows: list[tuple[str, str]], splits: str = "train") -> Study:
    lines = ["image,split,label,age,sex"]
    for number, (age, sex) in enumerate(rows):
        values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        lines.append(f'{number}.png,{splits},{("a", "b")[number % 2]},"{age}",{sex}')
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return open_study(folder)


def test_values_are_exact_and_words_are_normalised(tmp_path: Path) -> None:
    study = write_study(tmp_path, ROWS)
    assert study.cases[0].subgroups["age"] == "50-59"
    columns = case_columns(study, study.cases, (AGE, SEX))
    np.testing.assert_allclose(columns["age"][:, 0], [0.7, -0.5, -4.95, 0.05, 1.0, 2.0], rtol=1e-5)
    np.testing.assert_array_equal(columns["sex"].argmax(1), [0, 1, 0, 2, 1, 2])


def test_exact_values_survive_a_split_and_change_no_fingerprint(tmp_path: Path) -> None:
    study = write_study(tmp_path, ROWS * 4)
    cut = split_study(study, SplitPlan(val=0.3, test=0.3, keep_test=False)).study
    write_table(cut, tmp_path / "cut.csv")
    again = open_study(tmp_path / "cut.csv")
    np.testing.assert_array_equal(
        case_columns(again, again.cases, (AGE,))["age"], case_columns(cut, cut.cases, (AGE,))["age"]
    )
    assert study_fingerprint(again) == study_fingerprint(cut)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, ("130", "F"), ("411", "F")], r"2 of 8 cases .*age 2\); first row 7, '6.png': age is 130 years"),
        ([*ROWS, ("60-69", "F")], "'60-69', which is no exact age"),
        ([*ROWS, ("000Y", "F")], "'000Y', which is no exact age"),
        ([*ROWS, ("", "F")], "row 7.*age is missing"),
        ([*ROWS, ("3", "diverse")], "row 7.*sex is 'diverse'; the model takes F, M"),
    ],
)
def test_what_a_column_does_not_take_is_counted_and_named(
    tmp_path: Path, rows: list[tuple[str, str]], said: str
) -> None:
    study = write_study(tmp_path, rows)
    with pytest.raises(StudyError, match=said):
        case_columns(study, study.cases, (AGE, SEX))


def test_a_column_that_the_study_does_not_have(tmp_path: Path) -> None:
    study = write_study(tmp_path, ROWS)
    weight = NumericColumn(name="weight", unit="kg", minimum=0, maximum=300)
    with pytest.raises(StudyError, match="no column 'weight'; its columns are age, sex"):
        case_columns(study, study.cases, (weight,))


def test_a_proposed_file_is_read_back_with_what_was_measured(tmp_path: Path) -> None:
    study = write_study(tmp_path, [*ROWS, ("", "F")])
    proposal = propose_columns(study)
    (tmp_path / "columns.yaml").write_text(proposal.text)
    age, sex = load_columns(tmp_path / "columns.yaml", study)
    assert isinstance(age, NumericColumn) and isinstance(sex, CategoricalColumn)
    numbers = [57, 45, 0.5, 50.5, 60, 70]
    assert age.mean == pytest.approx(np.mean(numbers), rel=1e-4)
    assert age.standard_deviation == pytest.approx(np.std(numbers), rel=1e-4)
    assert (age.missing, age.dicom, sex.categories, sex.missing) == ("impute", "PatientAge", ("F", "M"), "category")


@pytest.mark.parametrize(
    ("third", "words"),
    [
        (lambda number: ("normal", ("virus", "bacteria")[number % 4 == 1])[number % 2], "the same"),  # a subtype
        (lambda number: ("", number + 0.5)[number % 2], "filled in"),  # a size, of the ill alone
        (lambda number: ("", "drawn", "read")[number % 2 and 1 + number % 4 // 2], "the same"),
        (lambda number: ("left", "right")[number % 3 == 0], ""),
        (lambda number: number + 0.5, ""),
    ],
)
def test_a_column_that_says_the_label_is_left_out(tmp_path: Path, third: Callable[[int], object], words: str) -> None:
    write_study(tmp_path, [("57", "M"), ("45", "F"), ("50", "F"), ("", "M")] * 5)  # neither says the label
    table = (tmp_path / "cases.csv").read_text().splitlines()
    lines = [f"{line},{third(number)}" for number, line in enumerate(table[1:])]
    (tmp_path / "cases.csv").write_text("\n".join([f"{table[0]},third", *lines]) + "\n")
    proposal = propose_columns(open_study(tmp_path))
    assert proposal.columns == (("age", "sex") if words else ("age", "sex", "third"))
    if words:
        assert f"where it is {words}, so is the label" in proposal.left_out["third"]


def test_the_imputed_category_is_the_most_frequent_one(tmp_path: Path) -> None:
    study = write_study(tmp_path, [*ROWS, ("3", "M")])
    file = tmp_path / "columns.yaml"
    file.write_text("columns: [{kind: categorical, name: sex, categories: [F, M], missing: impute, dicom: PatientSex}]")
    (sex,) = load_columns(file, study)
    assert isinstance(sex, CategoricalColumn) and sex.imputed == "M"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("columns: []", "names no column"),
        ("columns: [{kind: numeric, name: age, unit: years, minimum: 0, maximum: 120, median: 3}]", "median"),
        ("columns: [{kind: numeric, name: age, unit: years, minimum: 0, maximum: 40}]", "age is 57 years"),
        ("columns: [{kind: categorical, name: sex, categories: [F]}]", "different ones"),
        ("columns: [{kind: categorical, name: sex, categories: [F, M], dicom: PatientName}]", "PatientName"),
        (2 * "age: 1\n", "twice"),
    ],
)
def test_a_file_of_columns_that_makes_no_sense(tmp_path: Path, text: str, said: str) -> None:
    study = write_study(tmp_path, ROWS)
    (tmp_path / "columns.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        load_columns(tmp_path / "columns.yaml", study)


def test_a_constant_column_teaches_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path, [("57", "F"), ("57", "M")])
    (tmp_path / "columns.yaml").write_text(
        "columns: [{kind: numeric, name: age, unit: years, minimum: 0, maximum: 99}]"
    )
    with pytest.raises(StudyError, match="57 in every training case"):
        load_columns(tmp_path / "columns.yaml", study)


def test_dicom_headers_fill_what_a_table_leaves_open(tmp_path: Path) -> None:
    draw_study(tmp_path, patients=20, seed=0)
    study = open_study(tmp_path)
    for case, view in zip(study.cases[:3], ("PA", "AP", ""), strict=True):
        path = study.source.root / case.image  # type: ignore[attr-defined]
        ds = dcmread(path)
        ds.ViewPosition = view
        ds.save_as(path)
    column = CategoricalColumn(name="view_position", categories=("AP", "PA"), missing="category", dicom="ViewPosition")
    rows = case_columns(study, study.cases[:3], (column,))["view_position"]
    np.testing.assert_array_equal(rows, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_a_deviation_that_no_network_could_divide_by_is_refused() -> None:
    with pytest.raises(InputError, match="at least a billionth of its width"):
        NumericColumn(name="age", unit="years", minimum=0, maximum=110, mean=50, standard_deviation=1e-310)
    NumericColumn(name="age", unit="years", minimum=0, maximum=110, mean=50, standard_deviation=0.5)
