"""Masks of other forms become label maps; what stands for nothing is refused; an interrupted conversion goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.data.convert_masks import Conversion, conversion_from, convert_masks, structure_from
from medfm_compress.data.instances import inside_and_boundary
from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError, StudyError


def study_of(folder: Path, *masks: np.ndarray, suffix: str = "png", **options: object) -> Path:
    rows = ["image,split,mask,sex"]
    for number, values in enumerate(masks):
        height, width = values.shape[:2]
        image = np.random.default_rng(number).integers(0, 255, (height, width), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(values).save(folder / f"{number}-mask.{suffix}", **options)
        rows.append(f"{number}.png,train,{number}-mask.{suffix},F")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def options(*structures: str, background: tuple[str, ...] = (), nearest: bool = False) -> Conversion:
    return conversion_from(structures, background, False, 1, nearest)


VALUES = np.repeat(np.array([[0, 64, 128, 255]], np.uint8), 16, axis=0).repeat(4, axis=1)


def converted(study: Path, conversion: Conversion, out: Path) -> np.ndarray:
    convert_masks(study, conversion, out)
    opened = open_study(out)
    assert (opened.kind, opened.labels) == ("segmentation", conversion.labels)
    assert opened.cases[0].subgroups == {"sex": "F"}
    return label_map(opened, opened.cases[0])


def test_values_become_structures(tmp_path: Path) -> None:
    study = study_of(tmp_path, VALUES)
    drawn = converted(study, options("a=128", "b=64,255"), tmp_path / "out")
    assert np.array_equal(drawn[0, ::4], [0, 2, 1, 2])
    drawn = converted(study, options("a=128", background=("64", "255")), tmp_path / "other")
    assert np.array_equal(drawn[0, ::4], [0, 0, 1, 0])


def test_colours_become_structures(tmp_path: Path) -> None:
    values = np.zeros((16, 16, 3), np.uint8)
    values[:8, :8], values[8:, 8:] = (255, 0, 0), (0, 128, 255)
    study = study_of(tmp_path, values)
    drawn = converted(study, options("red=#FF0000", "blue=#0080ff"), tmp_path / "out")
    assert (drawn[0, 0], drawn[15, 15], drawn[0, 15]) == (1, 2, 0)
    with pytest.raises(StudyError, match=r"#0080FF, which stand for nothing"):
        convert_masks(study, options("red=#FF0000"), tmp_path / "none")
    assert not (tmp_path / "none" / "cases.csv").exists()


def test_what_stands_for_nothing_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path, VALUES)
    with pytest.raises(StudyError, match=r"values 64, 255, which stand for nothing.*--background"):
        convert_masks(study, options("a=128"), tmp_path / "out")
    with pytest.raises(StudyError, match="values 64, 128, 255"):
        convert_masks(study, options("a"), tmp_path / "out")


def test_a_jpeg_is_taken_for_the_nearest_values_where_that_is_asked_for(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :48]
    disc = ((y - 20) ** 2 + (x - 25) ** 2 < 150).astype(np.uint8) * 255
    study = study_of(tmp_path, disc, suffix="jpg", quality=90)
    with pytest.raises(StudyError, match="--nearest"):
        convert_masks(study, options("a=255"), tmp_path / "out")
    drawn = converted(study, options("a=255", nearest=True), tmp_path / "out")
    assert np.mean(drawn != (disc > 0)) < 0.005


def test_a_conversion_goes_on_where_it_stood(tmp_path: Path) -> None:
    study = study_of(tmp_path, VALUES, VALUES[:, ::-1].copy(), np.full((16, 16), 9, np.uint8))
    with pytest.raises(StudyError, match=r"'2\.png'"):
        convert_masks(study, options("a=128", "b=64,255"), tmp_path / "out")
    assert not (tmp_path / "out" / "cases.csv").exists()
    Image.fromarray(VALUES).save(study / "2-mask.png")
    done = convert_masks(study, options("a=128", "b=64,255"), tmp_path / "out")
    assert (done.made, done.kept) == (1, 2)
    again = convert_masks(study, options("a=64", "b=128,255"), tmp_path / "out")
    assert (again.made, again.kept) == (3, 0)


def test_instances_come_apart_at_their_boundary(tmp_path: Path) -> None:
    instances = np.zeros((20, 24), np.uint16)
    instances[4:14, 3:12], instances[4:14, 12:20], instances[0:2, 20:24] = 700, 65000, 3
    study = study_of(tmp_path, instances)
    drawn = converted(study, conversion_from(["cell"], (), True, 1, False), tmp_path / "out")
    assert np.array_equal(drawn > 0, instances > 0)
    assert (drawn[4:14, 11:13] == 2).all() and (drawn[5:13, 4:11] == 1).all() and (drawn[5:13, 13:19] == 1).all()
    assert drawn[0, 22] == 1 and drawn[1, 22] == 2  # no boundary where the image's edge cuts the object


@pytest.mark.parametrize("reach", [1, 2, 5])
def test_the_boundary_is_what_its_formula_says(reach: int) -> None:
    instances = np.random.default_rng(1).integers(0, 3, (7, 9)).repeat(4, axis=0).repeat(4, axis=1)
    expected = np.zeros(instances.shape, np.uint8)
    for y, x in np.ndindex(*instances.shape):
        if instances[y, x]:
            near = instances[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            expected[y, x] = 2 if (near != instances[y, x]).any() else 1
    assert np.array_equal(inside_and_boundary(instances, reach), expected)


@pytest.mark.parametrize("text", ["", "=1", "a=", "a=x", "a=1,#FF0000", "a=#F00", "a=-1"])
def test_a_structure_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write NAME"):
        structure_from(text)


@pytest.mark.parametrize(
    ("structures", "background", "instances", "boundary", "match"),
    [
        (["a=1", "b"], (), False, 1, "some --structure have values"),
        (["a=1", "a=2"], (), False, 1, "each name once"),
        (["a=1", "b=1"], (), False, 1, "two things"),
        (["a=1", "b=#FF0000"], (), False, 1, "mixed"),
        (["a", "b"], (), True, 1, "one --structure NAME"),
        (["a"], (), True, 0, "1 to 64"),
        (["a=1"], ("#FF0000",), False, 1, "--background"),
    ],
)
def test_a_conversion_that_makes_no_sense_is_refused(
    structures: list[str], background: tuple[str, ...], instances: bool, boundary: int, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        conversion_from(structures, background, instances, boundary, False)


@pytest.mark.shared
def test_real_nuclei_come_apart(shared_data: Path, tmp_path: Path) -> None:
    from scipy import ndimage

    done = convert_masks(shared_data / "nuclei", conversion_from(["nucleus"], (), True, 1, False), tmp_path)
    case = done.study.cases[0]
    drawn = label_map(done.study, case)
    instances = np.asarray(Image.open(shared_data / "nuclei" / "masks" / f"{Path(case.image).stem}.png"))
    assert np.array_equal(drawn > 0, instances > 0)
    count = len(np.unique(instances)) - 1
    assert abs(ndimage.label(drawn == 1)[1] - count) <= 0.1 * count
    assert ndimage.label(drawn > 0)[1] < count
