"""Prepared masks lie on the prepared images, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.prepared_masks import prepared_masks
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec, Resize, Tiles
from medfm_compress.runtime.preprocess import prepare

SIZES = ((40, 40), (37, 61), (90, 33), (128, 200))


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Images whose brightness is their mask, of several sizes."""
    folder = tmp_path_factory.mktemp("same")
    rows = ["image,split,mask:lesion"]
    for number, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        disc = (y - height * 0.4) ** 2 + (x - width * 0.55) ** 2 < (min(height, width) * 0.3) ** 2
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / f"{number}.png")
        rows.append(f"{number}.png,train,{number}.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return open_study(folder)


def spec_of(height: int, width: int, resize: Resize) -> ImageSpec:
    return ImageSpec(
        height_px=height, width_px=width, colour="grey", mean=(0.0,), std=(1.0,), resize=resize, filter="nearest"
    )


@pytest.mark.parametrize("resize", ["stretch", "longest"])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (33, 47), (151, 64), (257, 255)])
def test_a_mask_goes_where_its_image_goes(same: Study, height: int, width: int, resize: Resize) -> None:
    spec = spec_of(height, width, resize)
    maps = prepared_masks(same, same.cases, spec, None)
    for case, drawn in zip(same.cases, maps, strict=True):
        image = prepare(same.source.read(case.image), spec)[0]
        assert np.array_equal(image > 0.5, drawn == 1)
        assert drawn.any()


@pytest.mark.parametrize(("height", "width"), [(24, 24), (33, 47), (151, 64)])
def test_of_tiles_the_middle_one_goes_where_its_image_goes(same: Study, height: int, width: int) -> None:
    spec = replace(spec_of(height, width, "stretch"), tiles=Tiles())
    for case, drawn in zip(same.cases, prepared_masks(same, same.cases, spec, None), strict=True):
        assert np.array_equal(prepare(same.source.read(case.image), spec)[0] > 0.5, drawn == 1)
    with pytest.raises(InputError, match="study tiles"):
        prepared_masks(same, same.cases, replace(spec, tiles=Tiles(mm_per_px=0.1)), None)


def test_the_cache_gives_the_same_and_follows_the_masks(same: Study, tmp_path: Path) -> None:
    spec = spec_of(24, 24, "longest")
    direct = prepared_masks(same, same.cases, spec, None)
    for _ in range(2):
        assert np.array_equal(prepared_masks(same, same.cases, spec, tmp_path), direct)
    assert len(list(tmp_path.iterdir())) == 1
    backwards = prepared_masks(same, same.cases[::-1], spec, tmp_path)
    assert np.array_equal(backwards, direct[::-1])
    assert not np.array_equal(prepared_masks(same, same.cases, spec_of(24, 24, "stretch"), tmp_path), direct)
    assert prepared_masks(same, (), spec, tmp_path).shape == (0, 24, 24)


def test_a_spec_that_crops_is_refused(same: Study) -> None:
    with pytest.raises(InputError, match="shortest"):
        prepared_masks(same, same.cases, spec_of(24, 24, "shortest"), None)


def test_a_mask_of_another_size_is_refused_where_it_is_used(same: Study, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.ones((30, 20), np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "cases.csv").write_text("image,split,mask:lesion\nimage.png,train,mask.png\n")
    study = open_study(tmp_path)
    with pytest.raises(StudyError, match=r"20×30 px and the image 30×20 px; it lies on its side"):
        label_map(study, study.cases[0])
    with pytest.raises(StudyError, match="30×20"):
        prepared_masks(study, study.cases, spec_of(24, 24, "stretch"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
