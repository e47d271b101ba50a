"""Opening studies: every form, and one clear sentence for every way it can be wrong."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.data.check import check_study
from medfm_compress.data.labels import label_names
from medfm_compress.data.open import open_study
from medfm_compress.data.sources import load_array
from medfm_compress.data.study import Study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.errors import ImageRefused, StudyError


def draw(folder: Path, *names: str, size: int = 40) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 255, (size, size), dtype=np.uint8)
        Image.fromarray(values).save(path)


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.csv").write_bytes(text.encode(encoding))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path, "a.png", "b.png", "c.png", "d.png")
    return tmp_path


TABLE = """image,split,label,patient,sex,age
a.png,train,opacity,p1,F,41
b.png,train,normal,p2,M,
c.png,val,opacity,p3,F,unknown
d.png,anomaly,,p4,M,7
"""


def test_a_table_gives_cases_targets_patients_and_subgroups(folder: Path) -> None:
    study = open_study(write(folder, TABLE))
    assert (study.kind, study.labels) == ("binary", ("normal", "opacity"))
    assert [case.target for case in study.cases] == [(1,), (0,), (1,), ()]
    assert study.cases[0].patient == "p1"
    assert study.cases[0].subgroups == {"sex": "F", "age": "40-49"}
    assert [case.subgroups["age"] for case in study.cases[1:]] == ["", "unknown", "0-9"]
    assert study.source.read("a.png").values.shape == (40, 40)


def test_excel_writes_a_byte_order_mark(folder: Path) -> None:
    assert open_study(write(folder, TABLE, "utf-8-sig")).labels == ("normal", "opacity")


def test_label_columns_of_0_and_1_make_a_multilabel_study(folder: Path) -> None:
    text = "image,split,label:effusion,label:nodule\na.png,train,0,1\nb.png,train,1,0\nc.png,val,0,0\nd.png,extra,,\n"
    study = open_study(write(folder, text))
    assert (study.kind, study.labels) == ("multilabel", ("effusion", "nodule"))
    assert [case.target for case in study.cases] == [(0, 1), (1, 0), (0, 0), ()]


def test_a_table_with_masks_needs_no_labels(folder: Path) -> None:
    study = open_study(write(folder, "image,split,mask\na.png,train,b.png\n"))
    assert study.labels == ()
    assert study.cases[0].masks == ("b.png",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("image,split,label\n", "no rows"),
        ("image,label\na.png,x\n", "no column 'split'; it has image, label"),
        ("split,label\ntrain,x\n", "no column 'image'"),
        ("image,split,diagnosis\na.png,train,x\n", "no column 'label'; it has image, split, diagnosis"),
        ("image;split;label\na.png;train;x\n", "by commas"),
        ("image,split,label,label\na.png,train,x,x\n", "'label' twice"),
        ("image,split,label,\na.png,train,x,\n", "without a name"),
        ("image,split,label\na.png,train\n", "line 2 has 2 cells"),
        ('image,split,label\n"a.png,train,x\n', "not valid CSV"),
        ("image,split,label\na.png,train,x\n./a.png,train,y\n", "twice"),
        ("image,split,label\na.png,train,x\nz.png,train,y\n", "1 of 2 files do not exist, first 'z.png'"),
        ("image,split,label,mask\na.png,train,x,z.png\n", "first 'z.png'"),
        ("image,split,label\n,train,x\n", "no image"),
        ("image,split,label\na.png,train,x\nb.png,train,\nc.png,val,y\n", "1 cases .* no label, first 'b.png'"),
        ("image,split,label\na.png,train,x\nb.png,val,x\n", "every label is 'x'"),
        (
            "image,split,label\na.png,train,0\nb.png,train,1\nc.png,test,nan\n",
            r"'nan' \(1 cases, first 'c.png'",
        ),
        ("image,split,label\na.png,train,0\nb.png,train,None\n", "'None' .*, which reads like a missing value"),
        ("image,split,label\na.png,train,Mass\nb.png,train,mass\n", "'Mass' and 'mass' differ only in case, spaces"),
        ("image,split,label\na.png,train,x\nb.png,train,y\nc.png,test,z\n", "class 'z' occurs in test"),
        ("image,split,label\na.png,Train,x\n", "'Train'; write train"),
        ("image,split,label\na.png,valid,x\n", "'valid'; write val"),
        ("image,split,label\na.png,,x\n", "split of 'a.png' is ''"),
        ("image,split,label:x,label\na.png,train,1,x\n", "keep one kind"),
        ("image,split,label:x\na.png,train,-1\n", "'-1'; it must be 0 or 1"),
        ("image,split,label:x,label:y\na.png,train,1,\n", "''; it must be 0 or 1"),
        ("image,split,label\nbrain.nii.gz,train,x\n", "NIfTI 3-D volume, which is out of scope"),
        ("image,split,label\nx.npz#train/0,train,x\na.png,train,y\n", "mixes"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint) as caught:
        open_study(write(folder, text))
    assert "\n" not in str(caught.value)


def test_words_for_nothing_and_impossible_ages_are_not_recorded(folder: Path) -> None:
    rows = [("nan", "411"), ("None", "-1"), ("F", "57"), ("", "nan"), ("NA", "60-69")]
    files = ("a", "b", "c", "d", "e")
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes())
    lines = [f"{name}.png,extra,{sex},{age}" for name, (sex, age) in zip(files, rows, strict=True)]
    study = open_study(write(folder, "\n".join(["image,split,sex,age", *lines])))
    assert [case.subgroups["sex"] for case in study.cases] == ["", "", "F", "", ""]
    assert [case.subgroups["age"] for case in study.cases] == ["", "", "50-59", "", "60-69"]


def test_one_key_in_two_encodings_is_one_patient(folder: Path) -> None:
    keys = ["M\u00fc ller", "Mu\u0308  ller", "M\u00fc\u00a0ller", "\uff2d\u00fc ller"]
    lines = [f"{name}.png,extra,{key}" for name, key in zip("abcd", keys, strict=True)]
    study = open_study(write(folder, "\n".join(["image,split,patient", *lines])))
    assert {case.patient_key for case in study.cases} == {"m\u00fc ller"}
    assert [case.patient for case in study.cases] == keys  # what a person wrote stays as it is


def test_images_that_nothing_reads_are_listed_and_not_passed_over(tmp_path: Path) -> None:
    for label in ("mass", "normal"):
        (tmp_path / label).mkdir()
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / label / "a.png")
        for suffix in ("webp", "heic", "gif"):
            (tmp_path / label / f"b.{suffix}").write_bytes(b"no image that is read here")
    checked = check_study(open_study(tmp_path))
    assert {Path(bad.image).name for bad in checked.unreadable} == {"b.webp", "b.heic", "b.gif"}
    assert checked.errors


def test_other_encodings_are_refused(folder: Path) -> None:
    with pytest.raises(StudyError, match="not UTF-8"):
        open_study(write(folder, TABLE.replace("opacity", "öpacity"), "latin-1"))
    with pytest.raises(StudyError, match="not UTF-8"):
        open_study(write(folder, TABLE, "utf-16"))


def test_a_study_for_testing_only_needs_no_train_cases(folder: Path) -> None:
    assert open_study(write(folder, "image,split,label\na.png,test,x\nb.png,test,y\n")).labels == ("x", "y")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["pneumonia", "normal"], ("normal", "pneumonia")),
        (["melanoma", "Other"], ("Other", "melanoma")),
        (["benign", "normal"], ("normal", "benign")),
        (["No_Finding", "Cardiomegaly"], ("No_Finding", "Cardiomegaly")),
        (["cyst", "abscess"], ("abscess", "cyst")),
        (["10", "9", "0"], ("0", "9", "10")),
        (["squamous", "benign", "adenocarcinoma"], ("benign", "adenocarcinoma", "squamous")),
    ],
)
def test_label_order_puts_nothing_found_first(names: list[str], order: tuple[str, ...]) -> None:
    assert label_names(names) == label_names(reversed(names)) == order


def test_a_written_table_opens_to_the_same_cases_anywhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = open_study(write(folder, TABLE))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "cut" / "cases.csv"
    write_table(study, elsewhere)
    again = open_study(elsewhere)
    assert [Path(case.image).is_absolute() for case in again.cases] == [True] * 4
    assert [(c.split, c.target, c.patient, c.subgroups) for c in again.cases] == [
        (c.split, c.target, c.patient, c.subgroups) for c in study.cases
    ]
    assert np.array_equal(again.source.read(again.cases[0].image).values, study.source.read("a.png").values)
    write_table(study, folder / "cases2.csv")
    assert open_study(folder / "cases2.csv").cases == study.cases


@pytest.mark.parametrize("column", ["patient_id", "Patient", "PatientID", "subject"])
def test_a_column_that_tells_patients_apart_under_another_name_is_refused(folder: Path, column: str) -> None:
    """Each image would be a patient of its own, in whatever split."""
    with pytest.raises(StudyError, match=f"has a column '{column}' and no column 'patient'.*rename it to 'patient'"):
        open_study(write(folder, TABLE.replace("patient", column)))
    both = TABLE.replace("patient,sex", f"patient,{column}")
    assert {case.patient for case in open_study(write(folder, both)).cases} == {"p1", "p2", "p3", "p4"}


def test_a_name_that_a_cell_does_not_keep_is_refused_before_a_table_is_written(tmp_path: Path) -> None:
    draw(tmp_path / "s", *(f"train/{label}/{n}.png" for label in (" normal", "mass") for n in range(2)))
    study = open_study(tmp_path / "s" / "train")
    with pytest.raises(StudyError, match="begins or ends with a space"):
        write_table(study, tmp_path / "s" / "train" / "cases.csv")
    write_table(study, tmp_path / "cases.csv")  # there the space lies within
    assert len(open_study(tmp_path / "cases.csv").cases) == 4


def test_class_folders_with_and_without_splits(tmp_path: Path) -> None:
    draw(tmp_path / "flat", "normal/1.png", "mass/1.png", "mass/deep/2.png", "__MACOSX/mass/1.png")
    (tmp_path / "flat/mass/notes.txt").write_text("not an image")
    flat = open_study(tmp_path / "flat")
    assert flat.labels == ("normal", "mass")
    assert [(c.image, c.split) for c in flat.cases] == [
        ("mass/1.png", "train"), ("mass/deep/2.png", "train"), ("normal/1.png", "train"),
    ]  # fmt: skip
    draw(tmp_path / "cut", "train/normal/1.png", "train/mass/1.png", "validation/mass/2.png")
    assert [c.split for c in open_study(tmp_path / "cut").cases] == ["train", "train", "val"]


def test_a_broken_image_in_a_class_folder_is_kept_for_the_check_to_name(tmp_path: Path) -> None:
    draw(tmp_path, "normal/1.png", "mass/1.png")
    (tmp_path / "mass/2.png").write_bytes(b"not an image")
    study = open_study(tmp_path)
    assert "mass/2.png" in [case.image for case in study.cases]
    with pytest.raises(ImageRefused):
        study.source.read("mass/2.png")


def test_folders_and_files_that_are_no_study(tmp_path: Path) -> None:
    for name in ("missing", ""):
        with pytest.raises(StudyError, match=r"does not exist|is no study"):
            open_study(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StudyError, match="is no study"):
        open_study(tmp_path / "notes.txt")
    (tmp_path / "brain.nii.gz").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "brain.nii.gz"):
        with pytest.raises(StudyError, match="NIfTI 3-D volume, which is out of scope"):
            open_study(path)
    draw(tmp_path / "one", "normal/1.png")
    with pytest.raises(StudyError, match="every label is 'normal'"):
        open_study(tmp_path / "one")


def save_npz(path: Path, images: tuple[int, ...], labels: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    stacks = {f"{split}_images": rng.integers(0, 255, images, dtype=np.uint8) for split in ("train", "val", "test")}
    np.savez_compressed(path, **stacks, **{f"{split}_labels": labels for split in ("train", "val", "test")})
    return path


def test_medmnist_single_label(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "pneumoniamnist.npz", (4, 28, 28), np.array([[0], [1], [1], [0]], np.uint8))
    study = open_study(path)
    assert (study.kind, study.labels, len(study.cases)) == ("binary", ("0", "1"), 12)
    assert study.cases[5].image == "val/1"
    with np.load(path) as arrays:
        assert np.array_equal(study.source.read("val/1").values, arrays["val_images"][1])
    with pytest.raises(ImageRefused, match="no image 'val/9'"):
        study.source.read("val/9")


def test_medmnist_multilabel_colour_survives_a_table(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0]], np.uint8)
    study = open_study(save_npz(tmp_path / "chest.npz", (3, 28, 28, 3), labels))
    assert (study.kind, study.labels, study.cases[1].target) == ("multilabel", ("0", "1", "2"), (1, 0, 1))
    write_table(study, tmp_path / "out" / "cases.csv")
    again = open_study(tmp_path / "out")
    assert [(c.image, c.target) for c in again.cases] == [(c.image, c.target) for c in study.cases]
    assert again.source.read("test/2").values.shape == (28, 28, 3)


@pytest.mark.parametrize(
    ("shape", "labels", "complaint"),
    [
        ((3, 28, 28, 28), np.zeros((3, 1), np.uint8), "3-D volumes .* out of scope"),
        ((3, 28), np.zeros((3, 1), np.uint8), "uint8 .n, height, width."),
        ((3, 28, 28), np.zeros((2, 1), np.uint8), "one row for each of the 3 images"),
        ((3, 28, 28), np.array([[2, 0]] * 3, np.uint8), "0 and 1 only"),
        ((3, 28, 28), np.array([[object()]] * 3), "cannot be read as plain numbers"),
    ],
)
def test_medmnist_that_cannot_be_used(
    tmp_path: Path, shape: tuple[int, ...], labels: np.ndarray, complaint: str
) -> None:
    with pytest.raises(StudyError, match=complaint):
        open_study(save_npz(tmp_path / "x.npz", shape, labels))


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(StudyError, match=r"not an \.npz archive"):
        open_study(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(StudyError, match="no array 'train_images'; it has other"):
        open_study(tmp_path / "y.npz")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "kind", "labels", "cases"),
    [
        ("chest-xray-pneumonia", "binary", ("normal", "pneumonia"), 5856),
        ("skin-lesion", "binary", ("other", "melanoma"), 2750),
        ("lung-histology", "multiclass", ("benign", "adenocarcinoma", "squamous"), 2959),
        ("polyps", "binary", ("polyp", "ulcerative-colitis"), 220),
        ("nuclei", "binary", (), 107),
    ],
)
def test_real_studies_open_as_they_stand(
    shared_data: Path, name: str, kind: str, labels: tuple[str, ...], cases: int
) -> None:
    study: Study = open_study(shared_data / name)
    assert (study.kind, study.labels, len(study.cases)) == (kind, labels, cases)


@pytest.mark.shared
def test_the_dicom_collection_holds_slices_of_series(shared_data: Path) -> None:
    with pytest.raises(StudyError, match="series, a 3-D volume, which is out of scope"):
        open_study(shared_data / "dicom")


def write_npy_claim(path: Path, shape: tuple[int, ...], content: bytes) -> None:
    """An ``.npz`` whose images claim ``shape``, whatever ``content`` they have."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.zeros((10, 1), np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test_images.npy", header.getvalue() + content)
        archive.writestr("test_labels.npy", labels.getvalue())


@pytest.mark.parametrize(
    ("shape", "held"),
    [
        ((10, 50_000, 50_000), 3),
        ((1, 15_000, 15_000), 225_000_000),  # as large as it says, and no image
        ((10, 8, 8), 639),
        ((1 << 40, 1 << 40), 0),
    ],
)
def test_an_array_takes_no_memory_for_what_its_header_claims(tmp_path: Path, shape: tuple[int, ...], held: int) -> None:
    write_npy_claim(tmp_path / "x.npz", shape, bytes(held))
    tracemalloc.start()
    try:
        with pytest.raises(StudyError, match=r"x\.npz: array 'test_images' cannot be read as plain numbers"):
            open_study(tmp_path / "x.npz")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_an_array_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    write_npy_claim(tmp_path / "x.npz", (10, 8, 8), bytes(640))
    monkeypatch.setattr(np.lib.format, "read_array", lack)
    with pytest.raises(StudyError, match="takes more memory than there is; give the images as files"):
        load_array(tmp_path / "x.npz", "test_images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["x.npz", "cases.csv"])
def test_a_pipe_is_no_study(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(StudyError, match=r"not an \.npz archive|a device, pipe or socket|cannot"):
        open_study(tmp_path / name)
