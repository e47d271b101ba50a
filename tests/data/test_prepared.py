"""The cache gives exactly what `prepare` gives, and never something stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.npy_rows import NpyRows
from medfm_compress.data.open import open_study
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import DicomRules, ImageSpec
from medfm_compress.runtime.preprocess import prepare
from medfm_compress.runtime.read_image import read_image

SPEC = ImageSpec(height_px=24, width_px=32, colour="rgb", mean=(0.5,) * 3, std=(0.2,) * 3)


def test_cached_and_uncached_are_bit_equal_to_prepare(drawn: Study, tmp_path: Path) -> None:
    cases = drawn.split("val")
    direct = np.stack([prepare(drawn.source.read(case.image), SPEC) for case in cases])
    for _ in range(2):
        cached = prepared_images(drawn, cases, SPEC, tmp_path)
        assert isinstance(cached, NpyRows)
        assert cached.dtype == np.float32 and cached.shape == direct.shape
        assert cached[:].tobytes() == direct.tobytes()
    assert prepared_images(drawn, cases, SPEC, None).tobytes() == direct.tobytes()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_many_images_come_in_order(in_memory: Callable[..., Study], tmp_path: Path) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(300)])
    images = prepared_images(study, study.cases, SPEC, tmp_path)
    for number in (0, 127, 128, 299):
        assert np.array_equal(images[number], prepare(study.source.read(f"{number}"), SPEC))


def test_the_cache_is_used_and_shared_between_normalisations(in_memory: Callable[..., Study], tmp_path: Path) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(4)])
    first = prepared_images(study, study.cases, SPEC, tmp_path)
    assert study.source.reads == 4  # type: ignore[attr-defined]
    second = prepared_images(study, study.cases, replace(SPEC, mean=(0.1,) * 3), tmp_path)
    assert study.source.reads == 4  # type: ignore[attr-defined]
    assert np.array_equal(first, second)


def test_a_changed_image_order_or_spec_is_never_served_from_the_cache(
    in_memory: Callable[..., Study], tmp_path: Path
) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(4)])
    before = np.array(prepared_images(study, study.cases, SPEC, tmp_path))
    backwards = prepared_images(study, study.cases[::-1], SPEC, tmp_path)
    assert np.array_equal(backwards, before[::-1])
    assert not np.array_equal(prepared_images(study, study.cases, replace(SPEC, filter="bilinear"), tmp_path), before)
    study.source.arrays["2"] = study.source.arrays["2"] // 2  # type: ignore[attr-defined]
    after = prepared_images(study, study.cases, SPEC, tmp_path)
    assert [np.array_equal(a, b) for a, b in zip(after, before, strict=True)] == [True, True, False, True]


def test_a_truncated_cache_file_is_replaced(in_memory: Callable[..., Study], tmp_path: Path) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(4)])
    before = np.array(prepared_images(study, study.cases, SPEC, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert np.array_equal(prepared_images(study, study.cases, SPEC, tmp_path), before)


def test_grey_is_stored_once_and_comes_back_as_often_as_the_network_has_channels(
    in_memory: Callable[..., Study], tmp_path: Path
) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(300)])
    arrays = study.source.arrays  # type: ignore[attr-defined]
    grey = {
        name: np.ascontiguousarray(values if values.ndim == 2 else values[..., 0]) for name, values in arrays.items()
    }
    for number, coloured in enumerate(((), ("0",), ("299",), ("5", "130"))):
        for name, values in grey.items():
            arrays[name] = np.stack([values, values // 2, values], axis=-1) if name in coloured else values
        folder = tmp_path / f"{number}"
        for _ in range(2):
            images = prepared_images(study, study.cases, SPEC, folder)
            direct = np.stack([prepare(study.source.read(case.image), SPEC) for case in study.cases])
            assert images.shape == direct.shape and images[:].tobytes() == direct.tobytes()
            assert np.array_equal(images[np.array([299, 0, 5])], direct[[299, 0, 5]])
            assert np.array_equal(images[7], direct[7])
        (path,) = folder.iterdir()
        stored = np.load(path, allow_pickle=False)
        assert stored.shape == (300, 3 if coloured else 1, 24, 32)


def test_dicom_is_windowed_by_the_spec_and_not_by_the_study(drawn: Study) -> None:
    rules = DicomRules(window="full_range")
    case = drawn.cases[0]
    spec = replace(SPEC, dicom=rules)
    expected = prepare(read_image(drawn.root.parent / case.image, rules), spec)
    assert np.array_equal(prepared_images(drawn, [case], spec, None)[0], expected)
    assert not np.array_equal(prepared_images(drawn, [case], SPEC, None)[0], expected)


def test_an_unreadable_image_is_named_and_leaves_nothing_behind(
    in_memory: Callable[..., Study], tmp_path: Path
) -> None:
    study = in_memory([Case(image=f"{n}", split="train", target=(n % 2,)) for n in range(4)])
    small = replace(SPEC, min_side_px=64)
    with pytest.raises(StudyError, match="image '0': "):
        prepared_images(study, study.cases, small, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        prepared_images(study, study.cases, SPEC, tmp_path / "file" / "cache")


def test_no_cases_give_an_empty_array(drawn: Study, tmp_path: Path) -> None:
    assert prepared_images(drawn, (), SPEC, tmp_path).shape == (0, 3, 24, 32)


def test_the_fingerprint_follows_contents_and_not_places(drawn: Study, tmp_path: Path) -> None:
    from medfm_compress.data.table import write_table

    write_table(drawn, tmp_path / "moved.csv")
    assert study_fingerprint(open_study(tmp_path / "moved.csv")) == study_fingerprint(drawn)
    for change in ({"split": "other"}, {"target": (1 - drawn.cases[0].target[0],)}, {"patient": "x"}):
        changed = replace(drawn, cases=(replace(drawn.cases[0], **change), *drawn.cases[1:]))
        assert study_fingerprint(changed) != study_fingerprint(drawn)
    fewer = replace(drawn, cases=drawn.cases[1:])
    assert study_fingerprint(fewer) != study_fingerprint(drawn)


@pytest.mark.shared
def test_real_radiographs_are_bit_equal_too(shared_data: Path, tmp_path: Path) -> None:
    study = open_study(shared_data / "chest-xray-pneumonia")
    spec = ImageSpec(height_px=128, width_px=128, colour="rgb", mean=(0.5,) * 3, std=(0.2,) * 3)
    cases = study.split("val")
    images = prepared_images(study, cases, spec, tmp_path)
    for number in (0, 7, 15):
        assert np.array_equal(images[number], prepare(study.source.read(cases[number].image), spec))


def test_a_model_that_turns_images_is_not_held_against_masks_as_they_are_stored(
    in_memory: Callable[..., Study], tmp_path: Path
) -> None:
    cases = [Case(image="0", split="train", target=(0,), masks=("0.png",)), Case(image="1", split="train", target=(0,))]
    study = in_memory(cases)
    for rules in (DicomRules(orientation="LF"), DicomRules(mirrored_to="R")):
        spec = replace(SPEC, dicom=rules)
        for cache in (None, tmp_path):
            with pytest.raises(StudyError, match="the study's masks lie on them as they are stored"):
                prepared_images(study, study.cases, spec, cache)
        assert len(prepared_images(study, study.cases[1:], spec, None)) == 1
    assert len(prepared_images(study, study.cases, SPEC, None)) == 2
