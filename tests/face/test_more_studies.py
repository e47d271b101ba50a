"""Other studies to learn from: never what the study that is judged on holds back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.data.open import open_study
from medfm_compress.steps.studies import open_more

SPLITS = ("train", "train", "val", "test")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """24 images of 12 patients: a table with splits, one of the same images, all of them train, and one of copies."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(24):
        pixels = random.integers(0, 255, (40, 40), dtype=np.uint8)
        for folder in ("own", "copies"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
        patient = number // 2
        label = "lesion" if patient % 3 == 0 else "skin"
        lines.append((f"{number}.png", label, f"p{patient}", SPLITS[patient % 4]))

    def write(path: Path, rows: list[tuple[str, ...]]) -> None:
        path.write_text("\n".join(["image,label,patient,split", *map(",".join, rows)]) + "\n")

    write(tmp_path / "own" / "cases.csv", lines)
    write(tmp_path / "own" / "raw.csv", [(*line[:3], "train") for line in lines])
    # Half of each patient's images, so that a patient of test has an image here that test has not.
    write(tmp_path / "copies" / "cases.csv", [(*line[:3], "train") for line in lines])
    return tmp_path


def learned(tables: Path, more: Path, normal: tuple[str, ...] = ()) -> tuple[set[str], list[str], tuple[str, ...]]:
    first = open_study(tables / "own" / "cases.csv", normal=normal)
    lines: list[str] = []
    (other,) = open_more(first, (str(more),), lambda line: lines.append(str(line)), normal=normal)
    return {Path(case.image).name for case in other.cases}, lines, other.normal


@pytest.mark.parametrize("table", ["own/raw.csv", "copies/cases.csv"])
def test_images_of_val_and_test_are_left_out_wherever_they_lie(tables: Path, table: str) -> None:
    names, lines, _ = learned(tables, tables / table)
    held = {f"{number}.png" for number in range(24) if SPLITS[number // 2 % 4] in ("val", "test")}
    assert len(held) == 12 and names == {f"{number}.png" for number in range(24)} - held
    assert any("12 of the 24 images" in line and "back in val or test" in line for line in lines)


def test_other_images_of_their_patients_are_left_out_where_patients_are_named_alike(tables: Path) -> None:
    """One image of a patient of test is only in the other table."""
    own = tables / "own" / "cases.csv"
    own.write_text("".join(line for line in own.read_text().splitlines(keepends=True) if not line.startswith("7.png")))
    names, _, _ = learned(tables, tables / "own" / "raw.csv")
    assert SPLITS[3 % 4] == "test" and "7.png" not in names
    for number in range(24):  # and another hospital's p3 is another patient
        pixels = np.random.default_rng(100 + number).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tables / "copies" / f"{number}.png")
    names, lines, _ = learned(tables, tables / "copies" / "cases.csv")
    assert len(names) == 24 and not [line for line in lines if "left out" in line]


def test_of_an_anomaly_study_the_others_have_the_same_normal_labels(tables: Path) -> None:
    assert learned(tables, tables / "copies" / "cases.csv", ("skin",))[2] == ("skin",)
    assert learned(tables, tables / "copies" / "cases.csv")[2] == ()
