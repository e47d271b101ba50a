"""A slide from file to result: equal to the engine tile by tile, resumable, with every gap named."""

from __future__ import annotations

import csv
import errno
import json
import os

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import MacenkoStain, Tiles
from medfm_compress.runtime.slides import journal as journal_module
from medfm_compress.runtime.slides import scan as scan_module
from medfm_compress.runtime.slides.outputs import write_outputs
from medfm_compress.runtime.slides.scan import SlideFile, answer_tiles, open_scan
from medfm_compress.runtime.slides.table import open_slide


@pytest.fixture(scope="module")
def classifier(scene, tmp_path_factory):
    with Engine(scene.classifier(tmp_path_factory.mktemp("bundle") / "tiny.medfm"), threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def segmenter(scene, tmp_path_factory):
    path = scene.segmenter(tmp_path_factory.mktemp("bundle") / "dense.medfm")
    with Engine(path, threads=1, unverified=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def windowed(scene, tmp_path_factory):
    path = scene.segmenter(tmp_path_factory.mktemp("bundle") / "tiles.medfm", tiles=Tiles(mm_per_px=0.001))
    with Engine(path, threads=1, unverified=True) as engine:
        yield engine


@pytest.fixture
def slide(scene, picture, tmp_path):
    return scene.write_deflate(tmp_path / "slide.tif", picture)


def scan(engine, path, settings, out, *, threads=1, um_per_px=None):
    with open_scan(engine, SlideFile(path, um_per_px), settings, out) as opened:
        answer_tiles(opened, engine, threads)
        result = write_outputs(opened, engine, out)
        opened.journal.path.unlink()
    return result


def rows_of(out):
    with (out / "tiles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def level_0(path):
    with open_slide(path) as file:
        level = file.levels[0]
        return file.read_region(0, 0, 0, level.width, level.height)[..., 0]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_tile_is_what_the_engine_says_of_that_region(classifier, scene, picture, slide, tmp_path, threads):
    result = scan(classifier, slide, scene.SETTINGS, tmp_path / "out", threads=threads)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == result.tiles.tissue == result.tiles.answered and 50 < len(rows) < result.tiles.all
    half = picture[::2, ::2]
    expected = []
    for row in rows:
        y, x = int(row["y"]) // 2, int(row["x"]) // 2
        region = np.full((32, 32, 3), 255, np.uint8)
        part = half[y : y + 32, x : x + 32]
        region[: part.shape[0], : part.shape[1]] = part
        expected.append(classifier.predict(region).probabilities["opacity"])
        assert float(row["opacity"]) == pytest.approx(expected[-1], rel=1e-4)
    top = sorted(expected)[-10:]
    assert result.probabilities["opacity"] == pytest.approx(sum(top) / 10, rel=1e-5)
    assert [tile.probabilities["opacity"] for tile in result.top["opacity"]] == pytest.approx(
        sorted(expected, reverse=True)[:12], rel=1e-5
    )
    heat = level_0(tmp_path / "out" / "heat-opacity.tif")
    assert heat.shape == (88, 113)  # 8 cells a tile of 64 px
    for row, score in zip(rows, expected, strict=True):
        cells = heat[int(row["row"]) * 8 : int(row["row"]) * 8 + 8, int(row["column"]) * 8 : int(row["column"]) * 8 + 8]
        assert np.abs(cells.astype(int) - (1 + round(254 * score))).max() <= 1
    assert (heat == 0).mean() == pytest.approx(1 - len(rows) * 64 / heat.size, abs=0.05)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_segmentation_is_stitched_to_what_one_pass_would_give(segmenter, scene, picture, slide, tmp_path, overlap):
    settings = replace(scene.SETTINGS, overlap=overlap, tissue="everything")
    result = scan(segmenter, slide, settings, tmp_path / "out")
    half = picture[::2, ::2].astype(np.float64) / 255
    powers = np.exp(20 * half[..., :2] - 10)
    expected = powers / (1 + powers.sum(axis=2, keepdims=True))
    for number, finding in enumerate(("red", "green")):
        heat = level_0(tmp_path / "out" / f"heat-{finding}.tif")
        assert heat.shape == half.shape[:2]
        assert np.abs((heat.astype(float) - 1) / 254 - expected[..., number]).max() < 0.008
    labels = level_0(tmp_path / "out" / "labels.tif")
    best = np.where(expected.max(2) >= 1 - expected.sum(2), expected.argmax(2) + 1, 0)
    assert (labels == best).mean() > 0.99
    assert result.area_mm2["red"] == pytest.approx((labels == 1).sum() * 1e-6, rel=1e-6)
    assert result.findings == {"red": None, "green": None}


def test_a_bundle_of_a_sliding_window_gives_the_same_on_a_slide(segmenter, windowed, scene, slide, tmp_path):
    plain, tiled = (scan(engine, slide, scene.SETTINGS, tmp_path / engine.manifest.model_digest[:8]) for engine in
                    (segmenter, windowed))  # fmt: skip
    assert plain.probabilities == tiled.probabilities and plain.area_mm2 == tiled.area_mm2
    with pytest.raises(InputError, match="trained at 1 µm a pixel"):
        scan(windowed, slide, replace(scene.SETTINGS, tile_um_per_px=2.0), tmp_path / "out")


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(classifier, scene, slide, tmp_path, monkeypatch):
    scan(classifier, slide, scene.SETTINGS, tmp_path / "whole")
    real, calls = scan_module.Journal.add, []

    def dies(self, answer):
        calls.append(1)
        if len(calls) == 40:
            with self.path.open("ab") as file:  # half a record, as kill -9 may leave
                file.write(b"\1\2\3")
            raise KeyboardInterrupt
        real(self, answer)

    monkeypatch.setattr(scan_module.Journal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        scan(classifier, slide, scene.SETTINGS, tmp_path / "killed")
    monkeypatch.setattr(scan_module.Journal, "add", real)
    lines = []
    with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "killed") as opened:
        assert opened.journal.done == 39
        answer_tiles(opened, classifier, 1, lines.append)
        write_outputs(opened, classifier, tmp_path / "killed")
        opened.journal.path.unlink()
    assert any(line.startswith("39 of") for line in lines)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_journal_of_another_slide_setting_or_model_is_not_gone_on_with(
    classifier, segmenter, scene, picture, slide, tmp_path
):
    other = scene.write_deflate(tmp_path / "other.tif", picture[:, ::-1])
    for file, settings, um_per_px in (
        (other, scene.SETTINGS, None),
        (slide, replace(scene.SETTINGS, overlap=0.5), None),
        (slide, scene.SETTINGS, 0.6),
    ):
        with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "out") as opened:
            answer_tiles(opened, classifier)
        with open_scan(classifier, SlideFile(file, um_per_px), settings, tmp_path / "out") as opened:
            assert opened.journal.done == 0
    with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "out") as opened:
        answer_tiles(opened, classifier)
    summed = replace(scene.SETTINGS, aggregation="max", thresholds={"opacity": 0.5})  # no tile's answer depends on it
    with open_scan(classifier, SlideFile(slide), summed, tmp_path / "out") as opened:
        assert opened.journal.done == len(opened.tiles)


def test_a_damaged_record_and_all_behind_it_are_answered_again(classifier, scene, slide, tmp_path):
    with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "out") as opened:
        answer_tiles(opened, classifier)
        path, size = opened.journal.path, opened.journal._size
    data = bytearray(path.read_bytes())
    data[-3 * size + 2] ^= 255
    path.write_bytes(data)
    with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "out") as opened:
        assert opened.journal.done == len(opened.tiles) - 3


def test_a_corrupt_tile_is_named_and_its_place_is_no_part_of_the_answer(classifier, scene, slide, tmp_path):
    scene.damage_tile(slide, 1 * 4 + 1, level=1)  # 128..255 down and across of level 1
    settings = replace(scene.SETTINGS, max_missing=0.5)
    result = scan(classifier, slide, settings, tmp_path / "out")
    assert result.tiles.unread == 16 and result.flags == ("unread-regions",) and result.probabilities
    assert {(tile.x, tile.y) for tile in result.unread} == {
        (x, y) for x in range(256, 512, 64) for y in range(256, 512, 64)
    }
    heat = level_0(tmp_path / "out" / "heat-opacity.tif")
    assert (heat[32:64, 32:64] == 0).all() and (heat[14:30, 40:60] > 0).all()
    assert sum(row["status"] == "unread" and row["opacity"] == "" for row in rows_of(tmp_path / "out")) == 16
    strict = scan(classifier, slide, replace(settings, unread="refuse"), tmp_path / "strict")
    assert not strict.probabilities and not strict.findings and "could not be read" in strict.withheld
    many = scan(classifier, slide, replace(settings, max_missing=0.05), tmp_path / "many")
    assert not many.probabilities and "16 of" in many.withheld


@pytest.mark.parametrize("kind", ["colour_classifier", "segmenter"])
def test_a_tile_that_the_bundle_refuses_is_not_reliable_and_the_others_are_answered(kind, scene, slide, tmp_path):
    stain = MacenkoStain(
        hematoxylin=(0.65, 0.7, 0.29), eosin=(0.07, 0.99, 0.11), concentrations=(2.0, 1.0), others="refuse"
    )
    bundle = getattr(scene, kind)(tmp_path / "stained.medfm", stain=stain)
    with Engine(bundle, threads=1, unverified=True) as engine:
        result = scan(engine, slide, scene.SETTINGS, tmp_path / "out")
    assert result.tiles.not_reliable > 0 and result.tiles.unread == 0
    assert result.tiles.answered + result.tiles.not_reliable == result.tiles.tissue
    assert "refused by the bundle's rules" in result.withheld
    refused = [row for row in rows_of(tmp_path / "out") if row["status"] == "not reliable"]
    assert len(refused) == result.tiles.not_reliable and all(row["red"] == "" for row in refused)


def test_thresholds_call(classifier, scene, slide, tmp_path):
    result = scan(classifier, slide, scene.SETTINGS, tmp_path / "a")
    score = result.probabilities["opacity"]
    for threshold, called in ((score - 1e-6, True), (score + 1e-6, False)):
        settings = replace(scene.SETTINGS, thresholds={"opacity": threshold})
        assert scan(classifier, slide, settings, tmp_path / str(called)).findings == {"opacity": called}
    with pytest.raises(InputError, match="thresholds for tumour"):
        scan(classifier, slide, replace(scene.SETTINGS, thresholds={"tumour": 0.5}), tmp_path / "b")


def test_a_slide_without_resolution_needs_one(classifier, scene, picture, tmp_path):
    path = scene.write_deflate(tmp_path / "plain.tif", picture, um_per_px=None)
    with pytest.raises(ImageRefused, match="--um-per-px"):
        scan(classifier, path, scene.SETTINGS, tmp_path / "out")
    assert scan(classifier, path, scene.SETTINGS, tmp_path / "out", um_per_px=0.5).um_per_px == (0.5, 0.5)


def test_a_slide_without_tissue_is_refused(classifier, scene, tmp_path):
    path = scene.write_deflate(tmp_path / "glass.tif", np.full((600, 600, 3), 243, np.uint8))
    with pytest.raises(ImageRefused, match="shows no tissue"):
        scan(classifier, path, scene.SETTINGS, tmp_path / "out")
    everything = replace(scene.SETTINGS, tissue="everything")
    assert scan(classifier, path, everything, tmp_path / "out").tiles.answered == 100


def test_a_full_disk_is_said_and_what_is_done_is_kept(classifier, scene, slide, tmp_path, monkeypatch):
    real, left = os.pwrite, [20]

    def full(handle, data, offset):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(journal_module.os, "pwrite", full)
    with pytest.raises(InputError, match="No space left on device; make room, what is done is kept"):
        scan(classifier, slide, scene.SETTINGS, tmp_path / "out")
    monkeypatch.setattr(journal_module.os, "pwrite", real)
    with open_scan(classifier, SlideFile(slide), scene.SETTINGS, tmp_path / "out") as opened:
        assert opened.journal.done == 19


def test_pictures_can_be_opened_and_show_the_heat(classifier, scene, slide, tmp_path):
    scan(classifier, slide, scene.SETTINGS, tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlay-opacity.png") as file:
        overlay = np.asarray(file)
    assert np.ptp(overlay[:60, 30:800].astype(int)) < 15  # glass stays glass
    stained, plain = overlay[300:400, 300:600].astype(int), scene.picture()[300:400, 300:600].astype(int)
    assert np.abs(stained - plain).mean() > 10
    with Image.open(tmp_path / "out" / "top-opacity.png") as sheet:
        assert sheet.size[0] == 4 * 240 + 16 and sheet.size[1] > 3 * 224
    assert json.loads((tmp_path / "out" / "result.json").read_text())["slide"] == "slide.tif"
