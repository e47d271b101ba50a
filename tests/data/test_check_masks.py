"""A study's check finds every mask that cannot be used, and says what the others show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.data.check import StudyCheck, check_study
from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.errors import StudyError


def write(folder: Path, masks: dict[str, np.ndarray | str], split: str = "train") -> StudyCheck:
    """Check a study of one image a mask; a text is the name of another's file."""
    rows = ["image,split,mask:lesion"]
    for number, (name, values) in enumerate(masks.items()):
        image = np.random.default_rng(number).integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
        file = values if isinstance(values, str) else f"{name}-mask.png"
        if not isinstance(values, str):
            Image.fromarray(values).save(folder / file)
        rows.append(f"{name}.png,{split},{file}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return check_study(open_study(folder, read_masks=False))


def square(side: int, value: int = 255) -> np.ndarray:
    values = np.zeros((40, 50), np.uint8)
    values[5 : 5 + side, 5 : 5 + side] = value
    return values


def test_areas_empty_and_undrawn_are_counted(tmp_path: Path) -> None:
    checked = write(tmp_path, {"a": square(10), "b": square(20), "c": square(0), "d": ""})
    assert checked.masks is not None
    found = checked.masks.splits["train"]
    assert (found.drawn, found.empty, found.undrawn) == (3, 1, 1)
    assert found.structures["lesion"].cases == 2
    assert found.structures["lesion"].area_median == pytest.approx((0.05 + 0.2) / 2)
    assert checked.errors == ()
    assert any("1 of 4 images of train have no mask" in remark for remark in checked.remarks)
    assert any("empty masks" in remark for remark in checked.remarks)


def test_every_unusable_mask_is_named(tmp_path: Path) -> None:
    values = square(10)
    values[0, 0] = 7
    checked = write(tmp_path, {"good": square(10), "odd": values, "small": square(10)[:30], "turned": square(9).T})
    assert checked.masks is not None
    reasons = {bad.image: bad.reason for bad in checked.masks.unusable}
    assert set(reasons) == {"odd.png", "small.png", "turned.png"}
    assert "0, 7, 255" in reasons["odd.png"]
    assert "50×30 px and the image 50×40" in reasons["small.png"]
    assert "lies on its side" in reasons["turned.png"]
    assert any("3 mask(s) cannot be used" in error for error in checked.errors)


def test_a_structure_that_is_drawn_with_several_values_is_remarked_on(tmp_path: Path) -> None:
    checked = write(tmp_path, {"a": square(10, 1), "b": square(11, 2), "c": square(12, 1), "d": square(0)})
    assert checked.masks is not None
    assert checked.masks.values == {"lesion": {1: 2, 2: 1}}
    assert any("'lesion' is drawn with 2 values, 1 in 2, 2 in 1 mask(s)" in remark for remark in checked.remarks)
    (tmp_path / "same").mkdir()
    checked = write(tmp_path / "same", {"a": square(10, 2), "b": square(11, 2), "c": square(0)})
    assert not any("values" in remark for remark in checked.remarks)


def test_one_file_for_two_images_is_an_error_where_it_shows_something(tmp_path: Path) -> None:
    checked = write(tmp_path, {"a": square(10), "b": "a-mask.png", "c": square(12), "d": square(12)})
    assert any("2 images share a mask file" in error for error in checked.errors)
    assert any("equal drawings, first c.png and d.png" in remark for remark in checked.remarks)
    (tmp_path / "empty").mkdir()
    checked = write(tmp_path / "empty", {"a": square(0), "b": "a-mask.png", "c": square(9)})
    assert checked.errors == ()


def test_masks_that_show_nothing_or_nearly_everything(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    checked = write(tmp_path / "a", {"a": square(0)})
    assert any("no case of 'lesion'" in error for error in checked.errors)
    checked = write(tmp_path, {"a": 255 - square(10)})
    assert any("more than half" in remark for remark in checked.remarks)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return draw_study(tmp_path_factory.mktemp("masked"), patients=40, seed=3, size_px=64, masks=True)


def test_a_drawn_study_of_masks_is_sound(masked: Study) -> None:
    checked = check_study(masked)
    assert checked.errors == checked.leakage == ()
    assert checked.masks is not None
    assert checked.classes["train"]["opacity"] == checked.masks.splits["train"].structures["opacity"].cases


def test_splits_are_cut_by_patient_and_by_what_the_masks_show(masked: Study) -> None:
    result = split_study(masked, SplitPlan(val=0.2, test=0.3, keep_test=False, seed=1)).study
    clusters = [{case.cluster for case in result.split(name)} for name in ("train", "val", "test")]
    assert not clusters[0] & clusters[1] and not clusters[0] & clusters[2] and not clusters[1] & clusters[2]
    shares = [np.mean([case.target for case in result.split(name)]) for name in ("train", "val", "test")]
    assert max(shares) - min(shares) < 0.25


def test_what_nobody_drew_is_set_apart(masked: Study) -> None:
    from msgspec.structs import replace

    cases = (replace(masked.cases[0], masks=(), target=(), split="train"), *masked.cases[1:])
    result = split_study(replace(masked, cases=cases), SplitPlan(val=0.2, test=0.3, keep_test=False))
    assert [case.image for case in result.undrawn] == [masked.cases[0].image]
    assert result.study.cases[0].split == "unlabelled"


def test_opening_refuses_what_the_check_names(tmp_path: Path) -> None:
    write(tmp_path, {"good": square(10), "odd": square(10, 7) + square(3, 1)})
    with pytest.raises(StudyError, match=r"mask of 'odd.png'.*study masks"):
        open_study(tmp_path)


@pytest.mark.shared
def test_real_masks(shared_data: Path) -> None:
    checked = check_study(open_study(shared_data / "polyps", structures=("polyp",), read_masks=False))
    assert checked.errors == ()
    assert checked.masks is not None
    assert checked.masks.splits["anomaly"].empty == 20
    assert checked.masks.splits["train"].structures["polyp"].cases == 112
    assert checked.subgroups["label"] == {"polyp": 200, "ulcerative-colitis": 20}
