"""``medfm-compress study check`` and ``study split``: exit codes, tables, JSON, and a new table outside the study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medfm_compress.cli.study import app
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError, StudyError


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Forty patients of two images; one of them stands in train and in test."""
    folder = tmp_path / "study"
    folder.mkdir()
    rows = ["image,split,label,patient,site"]
    for number in range(80):
        values = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        split = "test" if number > 49 else "train"
        rows.append(f"{number}.png,{split},{('normal', 'mass')[number // 2 % 2]},p{(number + 1) // 2},{number % 3}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_leakage_fails_unless_accepted(study: Path) -> None:
    code, text = run("check", study)
    assert code == 2
    assert "1 image(s) of train share a patient with 1 image(s) of test" in text
    assert "site: 0 27, 1 27, 2 26" in text
    code, text = run("check", study, "--accept-leakage")
    assert code == 0
    assert "accepted leakage" in text


def test_a_policy_says_how_many_patients_it_takes(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "non_inferiority:\n  - {metric: auroc, margin: 0.4}\n  - {metric: sensitivity, margin: 0.02}\n"
        "  - {metric: accuracy, margin: 0.4}\n"
        "  - {metric: auroc, margin: 0.4, subgroup: site}\nsubgroups: [{column: site}]\n"
    )
    code, text = run("check", study, "--accept-leakage", "--policy", policy)
    assert code == 3
    # 3.84 · 0.98 / 0.02 = 188.2; the 30 test images are of 15 or 16 patients.
    (row,) = [line for line in text.splitlines() if "sensitivity of mass, margin 0.02" in line]
    assert row.split()[-1] == "189" and row.split()[-2] == row.split()[-3]  # each has one image with it
    # 30 images of 16 patients, of whom 14 have two: 15 count.
    (row,) = [line for line in text.splitlines() if line.startswith("accuracy, margin 0.4")]
    assert row.split()[-5:] == ["in", "all", "16", "15", "6"]
    assert "in test   that count   needed" in text and "images divided by the most that one patient has" in text
    assert "cannot be shown on this split, however good the bundle" in text
    assert "auroc of mass, site = 0, margin 0.4" in text
    needs = json.loads(run("check", study, "--accept-leakage", "--policy", policy, "--json")[1])["patients_needed"]
    whole = {(need["requirement"], need["whose"]): need for need in needs}
    assert whole["auroc of mass, margin 0.4", "with it"]["needed"] == 6
    assert 5 <= whole["auroc of mass, margin 0.4", "without it"]["present"] <= 16
    accuracy = whole["accuracy, margin 0.4", "in all"]
    assert (accuracy["patients"], accuracy["present"]) == (16, 15)


def test_a_policy_says_how_many_patients_a_floor_takes(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("non_inferiority: [{metric: auroc, margin: 0.4, teacher_floor: 0.6, bundle_floor: 0.9}]\n")
    code, text = run("check", study, "--accept-leakage", "--policy", policy)
    assert code == 3
    rows = [line for line in text.splitlines() if "auroc of mass, floor 0.9" in line]
    # 3.84 · 0.9 / 0.1 = 34.6: a perfect area of as many ill patients reaches down to 0.9.
    assert [row.split()[-1] for row in rows] == ["35", "35"]
    policy.write_text("non_inferiority: [{metric: auroc, margin: 0.4}]\nrobustness: [{margin: 0.05}]\n")
    text = run("check", study, "--accept-leakage", "--policy", policy)[1]
    rows = [line for line in text.splitlines() if "auroc of mass, margin 0.05, perturbed" in line]
    assert [row.split()[-1] for row in rows] == ["73", "73"]  # 3.84 · 0.95 / 0.05
    policy.write_text("non_inferiority: [{metric: brier, margin: 0.4, teacher_floor: 0.1}]\n")  # a ceiling
    assert "floor" not in run("check", study, "--accept-leakage", "--policy", policy)[1]


def test_a_split_that_is_none_is_named_beside_those_that_are(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("non_inferiority:\n  - {metric: auroc, margin: 0.4}\n")
    with pytest.raises(StudyError, match=r"no labelled case in split 'vall'; .*: train \(50\), test \(30\); name one"):
        run("check", study, "--policy", policy, "--split", "vall")


def test_json_is_one_document(study: Path) -> None:
    code, text = run("check", study, "--json")
    actual = json.loads(text)
    assert code == 2
    assert actual["images"] == {"train": 50, "test": 30}
    assert actual["labels"] == ["normal", "mass"]
    assert len(actual["leakage"]) == 1


def test_an_unreadable_image_fails_whatever_is_accepted(study: Path) -> None:
    (study / "7.png").write_bytes(b"no image")
    code, text = run("check", study, "--accept-leakage")
    assert code == 2
    assert "1 image(s) cannot be read, first 7.png" in text


def test_split_keeps_test_and_drops_what_leaks(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "cases.csv"
    with pytest.raises(StudyError, match="--drop-leaking"):
        run("split", study, "--out", out, "--keep-test")
    assert not out.parent.exists()
    code, text = run("split", study, "--out", out, "--val", 0.2, "--keep-test", "--drop-leaking")
    assert code == 0
    assert "dropped 1 images" in text
    assert run("check", out)[0] == 0
    assert len(open_study(out).split("test")) == 30
    assert len(open_study(study).cases) == 80  # unchanged


def test_split_cuts_all_three_anew(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.csv"
    assert run("split", study, "--out", out, "--val", 0.2, "--test", 0.3, "--seed", 4)[0] == 0
    first = out.read_bytes()
    assert {case.split for case in open_study(out).cases} == {"train", "val", "test"}
    again = ("split", study, "--out", out, "--val", 0.2, "--test", 0.3, "--seed", 4)
    with pytest.raises(InputError, match=r"new\.csv exists; .* --overwrite"):
        run(*again)
    assert run(*again, "--overwrite")[0] == 0
    assert out.read_bytes() == first


def test_split_counts_no_patients_where_none_are_known(study: Path, tmp_path: Path) -> None:
    unknown = study / "unknown.csv"
    unknown.write_text((study / "cases.csv").read_text().replace("patient", "group"))
    code, text = run("split", unknown, "--out", tmp_path / "new.csv", "--val", 0.2, "--test", 0.3)
    rows = [line.split() for line in text.splitlines() if line.split()[:1] in (["train"], ["val"], ["test"])]
    assert code == 0 and [row[2] for row in rows] == ["-", "-", "-"]


def test_options_that_do_not_fit_together(study: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match="leave the one that the study has as it is with --keep-test, or cut a new one"
    ):
        run("split", study, "--out", tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"--out is .*; give the path of a \.csv file"):
        run("split", study, "--out", tmp_path / "x.txt", "--keep-test")
    with pytest.raises(StudyError, match="does not exist"):
        run("check", tmp_path / "none")


def test_no_obstacle_is_found_only_where_nothing_was_remarked(study: Path) -> None:
    table = study / "cases.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text(
        "\n".join([head, *(row.replace(",train,", ",more,").replace(",test,", ",other,") for row in rows)])
    )
    code, text = run("check", study)
    assert code == 0
    assert "no train cases" in text
    assert "no obstacle found" not in text
    assert "no error found; the notes above" in text


def test_a_class_that_cannot_be_learned_is_unusable(study: Path) -> None:
    table = study / "cases.csv"
    head, *rows = table.read_text().splitlines()
    rows = [row.replace(",train,", ",more,") if ",mass," in row else row for row in rows]
    table.write_text("\n".join([head, *(row for row in rows if ",test,mass," not in row)]))
    code, text = run("check", study, "--accept-leakage")
    assert code == 2
    assert "train has no case of 'mass', which can therefore not be learned" in text
    assert "no obstacle" not in text


def test_an_image_of_the_other_kind_of_colour_is_named(study: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(study / "3.png")
    _, text = run("check", study)
    assert "of the other kind of colour: 1" in text
    assert "  3.png: of the other kind of colour" in text
    assert "1 of 80 images are in colour among grey images, first 3.png" in text
    assert json.loads(run("check", study, "--json")[1])["other_colour"] == ["3.png"]


def test_a_policy_of_another_finding_is_unusable(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("non_inferiority: [{metric: auroc, margin: 0.02, finding: xyz}]\n")
    with pytest.raises(InputError, match="the policy names finding 'xyz', which this task lacks; it has mass"):
        run("check", study, "--policy", policy)


def test_columns_are_proposed_and_what_is_left_out_is_said(study: Path, tmp_path: Path) -> None:
    lines = (study / "cases.csv").read_text().splitlines()
    head, *rows = (line.split(",") for line in lines)
    ages = ["57", "045Y", "", "63"]
    table = [[*head, "age", "sex", "birth_date"]] + [
        [*row, ages[n % 4], ("female", "male")[n % 2], "1960-01-01"] for n, row in enumerate(rows)
    ]
    (study / "cases.csv").write_text("\n".join(map(",".join, table)) + "\n")
    out = tmp_path / "columns.yaml"
    code, text = run("columns", study, "--out", out)
    assert code == 0
    assert '{kind: numeric, name: age, unit: "years", minimum: 0, maximum: 120, missing: impute' in out.read_text()
    assert "left out birth_date: it may identify patients (by its name)" in text
    code, text = run("columns", study, "--out", out, "--overwrite", "--json")
    assert json.loads(text)["columns"] == ["site", "age", "sex"]
    with pytest.raises(InputError, match="exists; name another"):
        run("columns", study, "--out", out)


def test_a_study_without_anything_beside_its_images(study: Path, tmp_path: Path) -> None:
    rows = [line.rsplit(",", 1)[0] for line in (study / "cases.csv").read_text().splitlines()]
    (study / "cases.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(StudyError, match="nothing beside the images"):
        run("columns", study, "--out", tmp_path / "columns.yaml")
    assert not (tmp_path / "columns.yaml").exists()
