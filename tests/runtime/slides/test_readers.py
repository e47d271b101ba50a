"""Every reader gives the same pixels; what is damaged, absurd or no slide is refused or named, never white."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.slides import table
from medfm_compress.runtime.slides.slide import RegionUnreadable
from medfm_compress.runtime.slides.table import open_slide
from medfm_compress.runtime.threads import map_in_threads


def check_pixels(slide, picture, tolerance=0):
    assert (slide.levels[0].width, slide.levels[0].height) == (picture.shape[1], picture.shape[0])
    for x, y, width, height in ((0, 0, 300, 200), (190, 90, 257, 129), (850, 650, 100, 100), (-20, -10, 60, 50)):
        region = slide.read_region(x, y, 0, width, height)
        expected = np.full((height, width, 3), 255, np.uint8)
        top, left = max(0, y), max(0, x)
        part = picture[top : max(0, y + height), left : max(0, x + width)]
        expected[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        assert region.dtype == np.uint8 and region.shape == expected.shape
        assert np.abs(region.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("reader", ["", "tifffile", "pillow", "openslide"])
def test_a_tiled_pyramid_by_every_reader(scene, picture, tmp_path, reader):
    if reader == "openslide":
        pytest.importorskip("openslide")
    path = scene.write_deflate(tmp_path / "slide.tif", picture)
    with open_slide(path, reader=reader) as slide:
        assert slide.backend == (reader or "tifffile")
        assert [tuple(level[:2]) for level in slide.levels] == [(900, 700), (450, 350)]
        assert slide.um_per_px == pytest.approx((0.5, 0.5))
        check_pixels(slide, picture)
        assert np.array_equal(slide.read_region(100, 50, 1, 200, 150), picture[::2, ::2][50:200, 100:300])


def test_jpeg_tiles_are_what_openslide_makes_of_them(scene, picture, tmp_path):
    pytest.importorskip("openslide")
    path = scene.write_jpeg(tmp_path / "slide.tif", picture)
    with open_slide(path, reader="tifffile") as ours, open_slide(path, reader="openslide") as theirs:
        assert ours.um_per_px == pytest.approx(theirs.um_per_px)
        for level in (0, 1):
            first, second = (slide.read_region(90, 90, level, 300, 200).astype(int) for slide in (ours, theirs))
            assert np.abs(first - second).max() <= 4  # two builds of libjpeg


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("reader", ["tifffile", "pillow"])
def test_strips_of_every_compression(scene, picture, tmp_path, compression, reader):
    if compression == "jpeg":
        picture = np.full_like(picture, 128)  # its losses are none where nothing changes
    path = scene.save(tmp_path / "slide.tif", picture, compression=compression)
    with open_slide(path, reader=reader) as slide:
        check_pixels(slide, picture, tolerance=2 if compression == "jpeg" else 0)
        assert slide.um_per_px is None


@pytest.mark.parametrize("predictor", [False, True])
def test_horizontal_differences(scene, picture, tmp_path, predictor):
    with open_slide(scene.write_deflate(tmp_path / "slide.tif", picture, predictor=predictor)) as slide:
        check_pixels(slide, picture)


def test_a_grey_slide_and_a_png(scene, picture, tmp_path):
    grey = picture[..., 0]
    with open_slide(scene.write_deflate(tmp_path / "grey.tif", grey, photometric="minisblack")) as slide:
        check_pixels(slide, grey[..., None].repeat(3, 2))
    with open_slide(scene.save(tmp_path / "slide.png", picture)) as slide:
        assert slide.backend == "picture" and slide.um_per_px is None
        check_pixels(slide, picture)


def test_without_tifffile_and_openslide_pillow_reads(scene, picture, tmp_path, monkeypatch):
    path = scene.write_deflate(tmp_path / "slide.tif", picture)
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    with open_slide(path) as slide:
        assert slide.backend == "pillow"
        check_pixels(slide, picture)
    with pytest.raises(ImageRefused, match=r"pip install 'medfm-compress\[slides\]'"):
        open_slide(path, reader="tifffile")


def test_a_dicom_slide(shared_data):
    pytest.importorskip("openslide")
    with open_slide(shared_data / "dicom" / "highdicom" / "sm_image.dcm") as slide:
        assert slide.backend == "openslide" and slide.levels[0][:2] == (50, 50)
        assert slide.um_per_px == pytest.approx((0.499, 0.499))
        assert slide.read_region(0, 0, 0, 50, 50).min() < 255


@pytest.mark.parametrize("kind", ["deflate", "jpeg"])
@pytest.mark.parametrize("reader", ["tifffile", "pillow"])
def test_a_damaged_tile_is_said_and_the_others_are_read(scene, picture, tmp_path, kind, reader):
    path = tmp_path / "slide.tif"
    (scene.write_deflate if kind == "deflate" else scene.write_jpeg)(path, picture)
    side, number = (128, 19) if kind == "deflate" else (256, 5)
    scene.damage_tile(path, number)
    row, column = divmod(number, -(-900 // side))
    with open_slide(path, reader=reader) as slide:
        with pytest.raises(RegionUnreadable, match="tile"):
            slide.read_region(column * side + 5, row * side + 5, 0, 20, 20)
        assert slide.read_region(0, 0, 0, 60, 60).min() > 200


def test_openslide_loses_the_damaged_region_alone_whatever_other_threads_read(scene, picture, tmp_path):
    pytest.importorskip("openslide")
    path = scene.write_deflate(tmp_path / "slide.tif", picture)
    scene.lose_tile(path, 19)

    def read(number):
        row, column = divmod(number % 40, 8)
        try:
            part = slide.read_region(column * 128 + 5, row * 128 + 5, 0, 20, 20)
        except RegionUnreadable:
            return False
        return np.array_equal(part, picture[row * 128 + 5 :, column * 128 + 5 :][:20, :20]) or column == 7

    with open_slide(path, reader="openslide") as slide:
        read_well = list(map_in_threads(read, range(120), 4))
    assert [number for number, good in enumerate(read_well) if not good] == [19, 59, 99]


def test_a_truncated_slide_is_said(scene, picture, tmp_path):
    path = tmp_path / "slide.tif"
    scene.write_jpeg(path, picture)  # its directories stand at the end
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for reader in ("tifffile", "pillow"):
        with pytest.raises(ImageRefused):
            open_slide(path, reader=reader)


def tiff(change=None, following=0):
    """A classic TIFF of one 64 × 64 grey strip: tags changed, and where its next directory is said to be."""
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: 4096} | (change or {})
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = struct.pack("<2sHI", b"II", 42, 8 + 4096) + b"\7" * 4096 + struct.pack("<H", len(tags))
    return head + body + struct.pack("<I", following)


@pytest.mark.parametrize("reader", ["tifffile", "pillow"])
def test_directories_that_run_in_a_circle_end(tmp_path, reader):
    path = tmp_path / "circle.tif"
    path.write_bytes(tiff(following=8 + 4096))
    with open_slide(path, reader=reader) as slide:
        assert len(slide.levels) == 1 and (slide.read_region(0, 0, 0, 64, 64) == 7).all()


@pytest.mark.parametrize("reader", ["tifffile", "pillow"])
@pytest.mark.parametrize("change", [{256: 2**31 - 1}, {257: 2**31 - 1}, {256: 0}, {259: 6}, {258: 16}, {277: 2}])
def test_absurd_directories_are_refused(tmp_path, reader, change):
    path = tmp_path / "absurd.tif"
    path.write_bytes(tiff(change))
    with pytest.raises(ImageRefused):
        open_slide(path, reader=reader)


@pytest.mark.parametrize(
    "content", [b"", b"no slide at all", b"\x89PNG\r\n\x1a\nrubbish", b"II*\0\xff\xff\xff\xff", b"II+\0"]
)
def test_what_is_no_slide_is_refused_with_the_reason_of_each_reader(tmp_path, content):
    path = tmp_path / "slide.tif"
    path.write_bytes(content)
    with pytest.raises(ImageRefused, match=r"slide\.tif"):
        open_slide(path)
    for absent in (tmp_path, tmp_path / "absent.tif"):
        with pytest.raises(ImageRefused, match="give the file of a slide"):
            open_slide(absent)


def test_one_strip_of_the_whole_slide_is_not_decoded_at_once(tmp_path):
    path = tmp_path / "strip.tif"
    path.write_bytes(tiff({256: 30_000, 257: 30_000, 278: 30_000, 259: 8}))
    with pytest.raises(ImageRefused, match="write it again in tiles"):
        open_slide(path, reader="tifffile")


def test_cut_off_every_way_nothing_but_a_refusal_comes(scene, picture, tmp_path):
    """Each byte of the directories may lie: a refusal, a region that cannot be read, or pixels; nothing else."""
    path = scene.write_deflate(tmp_path / "slide.tif", picture[:200, :300], levels=1, tile=(64, 64))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, min(len(broken), 700), 3):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        for reader in ("tifffile", "pillow"):
            try:
                with open_slide(path, reader=reader) as slide:
                    slide.read_region(0, 0, 0, 100, 100)
                    outcomes.add("read")
            except ImageRefused:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
