"""The synthetic study is real DICOM, drawn the same from the same seed, without shortcuts in its table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medfm_compress.data.check import check_study
from medfm_compress.data.masks import label_map
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.errors import InputError


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    def contents(name: str, seed: int) -> list[tuple[str, bytes]]:
        draw_study(tmp_path / name, patients=20, seed=seed, size_px=64)
        files = sorted((tmp_path / name).rglob("*"))
        return [(path.name, path.read_bytes()) for path in files if path.is_file()]

    assert contents("a", 5) == contents("b", 5)
    assert contents("a", 5) != contents("c", 6)


def test_the_study_is_sound(drawn: Study) -> None:
    actual = check_study(drawn)
    assert actual.labels == ("normal", "opacity")
    assert actual.leakage == actual.errors == ()
    assert sum(actual.patients.values()) == 40
    assert actual.patients["train"] == pytest.approx(22, abs=1)
    assert actual.patients["val"] == pytest.approx(6, abs=1)
    assert set(actual.subgroups) == {"age_group", "sex", "site"}
    assert 40 < sum(actual.images.values()) < 80


def test_files_are_dicom_of_two_sites(drawn: Study) -> None:
    datasets = [dcmread(drawn.root.parent / case.image) for case in drawn.cases]
    kinds = Counter((ds.Modality, ds.PhotometricInterpretation, ds.BitsStored, ds.InstitutionName) for ds in datasets)
    assert set(kinds) == {("CR", "MONOCHROME1", 12, "north"), ("DX", "MONOCHROME2", 14, "south")}
    assert len({ds.SOPInstanceUID for ds in datasets}) == len(datasets)
    for case, ds in zip(drawn.cases, datasets, strict=True):
        assert ds.file_meta.TransferSyntaxUID.is_little_endian
        assert ds.file_meta.TransferSyntaxUID.is_implicit_VR == (case.subgroups["site"] == "south")
        assert (ds.PatientID, ds.PatientSex) == (case.patient, case.subgroups["sex"])
        low, high = (int(part) for part in case.subgroups["age_group"].split("-"))
        assert low <= int(ds.PatientAge[:3]) <= high
        assert (ds.ViewPosition, ds.BodyPartExamined, ds.BitsAllocated) == ("PA", "CHEST", 16)
        assert int(ds.pixel_array.max()) < 2**ds.BitsStored


def test_lungs_are_dark_and_the_heart_is_bright_at_both_sites(drawn: Study) -> None:
    for case in drawn.cases:
        values = drawn.source.read(case.image).values / 65535
        lungs = np.median(np.concatenate([values[20:36, 14:24], values[20:36, 40:50]], axis=1))
        assert values[36:52, 30:36].mean() > lungs + 0.15
        assert values[:6, :6].mean() < 0.2  # air


def test_neither_site_nor_mean_brightness_gives_the_label_away(tmp_path: Path) -> None:
    study = draw_study(tmp_path, patients=200, seed=2, size_px=64)
    truth = study.targets(study.cases)[:, 0]
    site = np.array([case.subgroups["site"] == "north" for case in study.cases])
    assert abs(truth[site].mean() - truth[~site].mean()) < 0.15
    images = np.stack([study.source.read(case.image).values / 65535 for case in study.cases])
    assert abs(roc_auc_score(truth, images.mean((1, 2))) - 0.5) < 0.15
    # A linear model on smoothed pixels is nowhere near enough.
    small = np.stack([ndimage.zoom(image, 0.25, order=1).ravel() for image in images])
    in_train = np.array([case.split == "train" for case in study.cases])
    model = LogisticRegression(C=0.05, max_iter=200).fit(small[in_train], truth[in_train])
    assert roc_auc_score(truth[~in_train], model.decision_function(small[~in_train])) < 0.85


@pytest.mark.parametrize("wrong", [{"patients": 3}, {"size_px": 32}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 20 patients"):
        draw_study(tmp_path, **({"patients": 20, "seed": 0} | wrong))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        draw_study(tmp_path / "file", patients=20, seed=0)


def test_masks_show_the_opacities_and_leave_the_images_as_they_are(drawn: Study, tmp_path: Path) -> None:
    masked = draw_study(tmp_path, patients=40, seed=1, size_px=64, masks=True)
    assert (masked.kind, masked.labels) == ("segmentation", ("opacity",))
    names = [case.image for case in drawn.cases]
    assert [case.image for case in masked.cases] == names
    assert all((tmp_path / name).read_bytes() == (drawn.root.parent / name).read_bytes() for name in names)
    called = np.array([case.target[0] for case in drawn.cases])
    shown = np.array([case.target[0] for case in masked.cases])
    assert 0 < np.mean(called != shown) < 0.1  # a report may be wrong, a mask is not
    shares = [float(label_map(masked, case).mean()) for case in masked.cases if case.target[0]]
    assert 0.01 < np.mean(shares) < 0.1


def test_within_its_mask_an_opacity_makes_the_image_brighter(drawn: Study, tmp_path: Path) -> None:
    masked = draw_study(tmp_path, patients=40, seed=1, size_px=64, masks=True)
    differences = []
    for case in masked.cases:
        if case.target[0]:
            mask = label_map(masked, case) > 0
            ring = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=1)
            values = masked.source.read(case.image).values / 65535
            differences.append(values[mask].mean() - values[ring].mean())
    assert np.mean(differences) > 0.02
