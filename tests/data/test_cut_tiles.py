"""Tiles cover their image, lie on their masks, and keep what the table says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from medfm_compress.data.cut_tiles import cut_tiles
from medfm_compress.data.masks import label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import Tiles


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A large image, one smaller than a tile, and one that nobody drew."""
    rows = ["image,split,label,patient,mask:lesion,sex"]
    for name, (height, width), mask in (("a", (70, 91), "a"), ("b", (20, 91), "b"), ("c", (40, 40), "")):
        values = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        Image.fromarray((values[..., 0] > 127).astype(np.uint8)).save(tmp_path / f"{name}-mask.png")
        rows.append(f"{name}.png,train,x,{'p1' if name == 'a' else ''},{mask and mask + '-mask.png'},F")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    return open_study(tmp_path, structures=("lesion",))


def test_tiles_cover_the_image_and_lie_on_their_masks(study: Study, tmp_path: Path) -> None:
    cut = cut_tiles(study, 32, Tiles(overlap=0.25), tmp_path / "out")
    assert (cut.images, cut.smaller) == (3, 1)
    opened = open_study(tmp_path / "out")
    assert (opened.kind, opened.labels) == ("segmentation", ("lesion",))
    image, mask = study.source.read("a.png").values, label_map(study, study.cases[0])
    covered = np.zeros(mask.shape, bool)
    tiles = [case for case in opened.cases if case.image.startswith("images/a-")]
    for case in tiles:
        top, left = (int(found) for found in re.findall(r"-[yx](\d{5})", case.image))
        covered[top : top + 32, left : left + 32] = True
        part = (slice(top, top + 32), slice(left, left + 32))
        assert np.array_equal(opened.source.read(case.image).values, image[part])
        assert np.array_equal(label_map(opened, case), mask[part])
        assert (case.split, case.patient, case.subgroups) == ("train", "p1", {"image_label": "x", "sex": "F"})
    assert covered.all()
    assert len(tiles) == 3 * 4  # 0, 24, 38 and 0, 24, 48, 59


def test_an_image_smaller_than_a_tile_lies_in_its_middle(study: Study, tmp_path: Path) -> None:
    cut = cut_tiles(study, 32, Tiles(overlap=0.0), tmp_path / "out").study
    small = next(case for case in cut.cases if case.image.startswith("images/b-"))
    tile = cut.source.read(small.image).values
    assert np.array_equal(tile[6:26], study.source.read("b.png").values[:, :32])
    assert not tile[:6].any() and not tile[26:].any() and not label_map(cut, small)[:6].any()
    assert small.patient.startswith("b-")  # one name for all tiles of an image, without its path
    undrawn = [case for case in cut.cases if not case.masks]
    assert {case.image[:9] for case in undrawn} == {"images/c-"}


def test_a_second_call_writes_nothing_anew(study: Study, tmp_path: Path) -> None:
    cut_tiles(study, 32, Tiles(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    cut_tiles(study, 32, Tiles(), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")} == before
    cut_tiles(study, 40, Tiles(), tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) > len(before)


def test_dicom_tiles_come_at_a_resolution(tmp_path: Path) -> None:
    drawn = draw_study(tmp_path / "drawn", patients=20, seed=1, size_px=128, masks=True)
    spaced = [case for case in drawn.cases if drawn.source.read(case.image).spacing_mm]
    spacing = drawn.source.read(spaced[0].image).spacing_mm
    assert spacing and len(spaced) < len(drawn.cases)
    with pytest.raises(StudyError, match="leave --mm-per-px out"):
        cut_tiles(drawn, 32, Tiles(mm_per_px=1.0), tmp_path / "none")
    drawn = replace(drawn, cases=tuple(spaced))
    cut = cut_tiles(drawn, 32, Tiles(overlap=0.0, mm_per_px=2 * spacing), tmp_path / "out").study
    assert len(cut.cases) == 4 * len(drawn.cases)
    first = cut.source.read(cut.cases[0].image)
    assert first.values.dtype == np.uint16 and first.values.shape == (32, 32)
    whole = sum(label_map(drawn, case).mean() for case in drawn.cases) / len(drawn.cases)
    parts = sum(label_map(cut, case).mean() for case in cut.cases) / len(cut.cases)
    assert parts == pytest.approx(whole, rel=0.1)


def test_what_cannot_be_cut_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study of masks"):
        cut_tiles(open_study(write_labels(tmp_path / "labels")), 32, Tiles(), tmp_path / "out")
    with pytest.raises(StudyError, match=r"image 'a\.png'.*it does not say the distance"):
        cut_tiles(study, 32, Tiles(mm_per_px=0.5), tmp_path / "out")
    with pytest.raises(InputError, match="--size is 4"):
        cut_tiles(study, 4, Tiles(), tmp_path / "out")
    assert not (tmp_path / "out" / "cases.csv").exists()


def write_labels(folder: Path) -> Path:
    folder.mkdir()
    for name in "ab":
        Image.fromarray(np.full((40, 40), ord(name), np.uint8)).save(folder / f"{name}.png")
    (folder / "cases.csv").write_text("image,split,label\na.png,train,x\nb.png,train,y\n")
    return folder
