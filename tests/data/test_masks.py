"""What masks may look like, what is refused of them, and where they lie on an image that is turned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.masks import label_map, read_label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.images.read_mask import read_mask

SHAPE = (12, 17)
DRAWN = np.zeros(SHAPE, np.uint8)
DRAWN[3:7, 5:11] = 1


def saved(path: Path, values: NDArray[Any] | Image.Image, **options: Any) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


def table(folder: Path, text: str) -> Path:
    (folder / "cases.csv").write_text(text)
    return folder


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_every_lossless_form_of_one_structure_is_read(tmp_path: Path, suffix: str) -> None:
    forms: list[NDArray[Any] | Image.Image] = [DRAWN, DRAWN * 255, Image.fromarray(DRAWN.astype(bool))]
    palette = Image.fromarray(DRAWN, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    forms += [palette, np.stack([DRAWN * 7] * 3, axis=-1)]
    if suffix != "bmp":
        forms.append(DRAWN.astype(np.uint16) * 40000)
    for number, form in enumerate(forms):
        path = saved(tmp_path / f"{number}.{suffix}", form)
        assert np.array_equal(read_label_map([path], ["lesion"]), DRAWN), number


def test_several_structures_in_one_file_or_in_one_each(tmp_path: Path) -> None:
    both = DRAWN.copy()
    both[9:, :4] = 2
    one = saved(tmp_path / "both.png", both)
    a, b = saved(tmp_path / "a.png", DRAWN * 255), saved(tmp_path / "b.png", (both == 2).astype(np.uint8))
    assert np.array_equal(read_label_map([one], ["a", "b"]), both)
    assert np.array_equal(read_label_map([a, b], ["a", "b"]), both)
    assert np.array_equal(read_label_map([None, b], ["a", "b"]), np.where(both == 2, 2, 0))
    with pytest.raises(ImageRefused, match="24 pixels that an earlier structure has"):
        read_label_map([a, a], ["a", "b"])
    with pytest.raises(ImageRefused, match=r"values 3, which stand for nothing.*study masks"):
        read_label_map([saved(tmp_path / "c.png", np.where(both == 2, 3, both).astype(np.uint8))], ["a", "b"])
    with pytest.raises(ImageRefused, match="values 0, 1, 2; 0 and one other"):
        read_label_map([one], ["a"])


def refused(path: Path) -> str:
    with pytest.raises(ImageRefused) as caught:
        read_mask(path)
    return str(caught.value)


def test_what_would_be_read_wrongly_is_refused(tmp_path: Path) -> None:
    assert "--nearest" in refused(saved(tmp_path / "a.jpg", DRAWN * 255))
    assert "jpeg compression" in refused(saved(tmp_path / "b.tif", DRAWN * 255, compression="jpeg"))
    pages = [Image.fromarray(DRAWN)] * 2
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    assert "2 pages" in refused(tmp_path / "c.tif")
    coloured = np.stack([DRAWN * 255, DRAWN * 0, DRAWN * 0], axis=-1)
    assert "#RRGGBB" in refused(saved(tmp_path / "d.png", coloured))
    clear = np.stack([DRAWN * 0, DRAWN * 0, DRAWN * 0, DRAWN * 255], axis=-1)
    assert "transparent" in refused(saved(tmp_path / "e.png", clear))
    assert "whole number" in refused(saved(tmp_path / "f.tif", DRAWN.astype(np.float32)))
    (tmp_path / "g.png").write_text("no image")
    assert "no known format" in refused(tmp_path / "g.png")


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_no_cut_file_gives_a_mask(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8)
    data = saved(tmp_path / f"whole.{suffix}", noise).read_bytes()
    for part in (0.3, 0.6, 0.9):
        cut = tmp_path / f"{part}.{suffix}"
        cut.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageRefused):
            read_mask(cut)


def test_a_small_file_that_claims_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(data)
    assert "60000×60000" in refused(tmp_path / "bomb.png") or "damaged" in refused(tmp_path / "bomb.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_a_mask_lies_on_its_image_as_that_is_read(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = np.random.default_rng(0).integers(100, 110, SHAPE, dtype=np.uint8) + DRAWN * 120
    saved(tmp_path / f"i.{kind}", image, exif=exif)
    saved(tmp_path / "turned.png", DRAWN * 255, exif=exif)
    study = open_study(table(tmp_path, f"image,split,mask:lesion\ni.{kind},train,turned.png\n"))
    upright = study.source.read(f"i.{kind}").values
    drawn = label_map(study, study.cases[0])
    assert drawn.shape == upright.shape
    assert upright[drawn == 1].min() > upright[drawn == 0].max() - 60
    assert np.corrcoef(drawn.ravel(), upright.ravel())[0, 1] > 0.9
    saved(tmp_path / "turned.png", DRAWN * 255)
    if orientation >= 5:
        with pytest.raises(StudyError, match="lies on its side"):
            label_map(study, study.cases[0])


def test_masks_that_never_show_a_structure_are_refused_for_training(tmp_path: Path) -> None:
    saved(tmp_path / "i.png", DRAWN)
    saved(tmp_path / "empty.png", DRAWN * 0)
    table(tmp_path, "image,split,mask:lesion\ni.png,train,empty.png\n")
    with pytest.raises(StudyError, match="none of the 1 masks of train shows 'lesion'"):
        open_study(tmp_path)
    table(tmp_path, "image,split,mask:lesion\ni.png,test,empty.png\n")
    assert open_study(tmp_path).cases[0].target == (0,)


def test_a_written_table_opens_to_the_same_study(tmp_path: Path) -> None:
    both = DRAWN.copy()
    both[9:, :4] = 2
    for name, values in {"i": DRAWN, "j": DRAWN, "k": DRAWN, "both": both, "a": DRAWN}.items():
        saved(tmp_path / f"{name}.png", values)
    text = "image,split,label,mask,sex\ni.png,train,polyp,both.png,F\nj.png,train,normal,both.png,M\nk.png,odd,,,\n"
    study = open_study(table(tmp_path, text), structures=("lesion", "scar"))
    assert study.cases[0].subgroups == {"sex": "F", "label": "polyp"}
    for place in (tmp_path / "again.csv", tmp_path / "else" / "where.csv"):
        write_table(study, place)
        again = open_study(place, structures=("lesion", "scar"))
        assert (again.kind, again.labels) == (study.kind, study.labels)
        assert [(c.split, c.target, c.subgroups) for c in again.cases] == [
            (c.split, c.target, c.subgroups) for c in study.cases
        ]
        assert study_fingerprint(again) == study_fingerprint(study)
        assert np.array_equal(label_map(again, again.cases[0]), both)
    labelled = open_study(tmp_path / "cases.csv")
    assert labelled.kind == "binary"
    write_table(labelled, tmp_path / "labelled.csv")
    assert [case.masks for case in open_study(tmp_path / "labelled.csv").cases] == [("both.png",), ("both.png",), ()]


def test_a_table_of_labels_with_several_masks_keeps_its_columns(tmp_path: Path) -> None:
    for name in ("i", "j", "a", "b"):
        saved(tmp_path / f"{name}.png", DRAWN)
    text = "image,split,label,mask:a,mask:b\ni.png,train,x,a.png,\nj.png,train,y,a.png,b.png\n"
    study = open_study(table(tmp_path, text))
    write_table(study, tmp_path / "again.csv")
    again = open_study(tmp_path / "again.csv")
    assert (again.cases, again.mask_columns) == (study.cases, ("mask:a", "mask:b"))


def test_the_fingerprint_follows_the_masks(tmp_path: Path) -> None:
    saved(tmp_path / "i.png", DRAWN)
    saved(tmp_path / "m.png", DRAWN)
    table(tmp_path, "image,split,mask:lesion\ni.png,train,m.png\n")
    before = study_fingerprint(open_study(tmp_path))
    saved(tmp_path / "m.png", np.roll(DRAWN, 1))
    assert study_fingerprint(open_study(tmp_path)) != before


@pytest.mark.parametrize(
    ("columns", "structures", "match"),
    [
        ("mask,mask:a", ("a",), "keep one kind"),
        ("mask:a,mask: a", (), "one name of its own"),
        ("mask:,x", (), "one name of its own"),
        ("mask,x", ("a", "a"), "one name of its own"),
        ("mask,x", ("a", "A"), "differ only in case"),
        ("mask:a,x", ("b",), "they must agree"),
        ("x,y", ("a",), "no column 'mask'"),
        ("masks:a,x", (), "has a column 'masks:a'; write 'mask:a' if it is that"),
        ("Masks,x", (), "has a column 'Masks' and none 'mask'; write 'mask' if it is that"),
        ("labels,x", (), "has a column 'labels' and none 'label'; write 'label' if it is that"),
        ("mask:a,Label: b", (), "has a column 'Label: b'; write 'label:b' if it is that"),
    ],
)
def test_structures_that_are_in_doubt_are_refused(
    tmp_path: Path, columns: str, structures: tuple[str, ...], match: str
) -> None:
    saved(tmp_path / "i.png", DRAWN)
    table(tmp_path, f"image,split,{columns}\ni.png,train,i.png,i.png\n")
    with pytest.raises(StudyError, match=match):
        open_study(tmp_path, structures=structures)
