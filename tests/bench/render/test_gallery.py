"""The local gallery shows what the network saw, of DICOM too, and nothing that a string could smuggle in."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
from PIL import Image

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.render.html.gallery import as_picture, overlay, write_gallery
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import prepare

SPEC = ImageSpec(height_px=96, width_px=96, colour="grey", mean=(0.5,), std=(0.25,))
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return draw_study(tmp_path_factory.mktemp("study") / "study", patients=24, seed=3)


def evaluations(study: Study, cases: int = 4, finding: str = "spot") -> tuple[Evaluation, Evaluation]:
    chosen = study.cases[:cases]
    scores = np.full((cases, 1), 0.9)
    teacher = Evaluation(
        name="teacher",
        images=tuple(case.image for case in chosen),
        logits=scores,
        scores=scores,
        truth=np.ones((cases, 1), dtype=np.int64),
        decisions=np.ones((cases, 1), dtype=np.int64),
        clusters=tuple(case.cluster for case in chosen),
        findings=(finding,),
    )
    variant = msgspec.structs.replace(teacher, name="v", scores=1 - scores, decisions=0 * teacher.decisions)
    return teacher, variant


def pictures(page: str) -> list[np.ndarray]:
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in encoded]


def write_maps(folder: Path, teacher: Evaluation, maps: int = 2) -> None:
    (folder / "explanations").mkdir(parents=True)
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (maps, 16, 1))
    np.savez(
        folder / "explanations" / "maps.npz",
        images=np.full((maps, 16, 16, 3), 128, np.uint8),
        teacher=ramp,
        variant=ramp[:, :, ::-1],
        cases=np.array([0, 2]),
    )
    row = {
        "variant": "v",
        "finding": "spot",
        "method": HOSTILE,
        "rank_correlation": [-1.0, -1.0],
        "overlap": [0.0, 0.0],
        "cases": [0, 2],
    }
    origin = {
        "model_digest": "d",
        "cases_sha256": EvaluationTable.from_evaluation(teacher).cases_sha256,
        "split": "test",
        "teacher": "t",
    }
    (folder / "explanations" / "agreement.json").write_text(json.dumps([row]))
    (folder / "explanations" / "origin.json").write_text(json.dumps(origin))


def test_pictures_are_the_networks_input_of_dicom_files(tmp_path: Path, study: Study) -> None:
    teacher, variant = evaluations(study, cases=len(study.cases))
    page = write_gallery(tmp_path, study, SPEC, teacher, [variant]).read_text(encoding="utf-8")
    shown = pictures(page)
    polarities = set()
    for image, picture in zip(teacher.images, shown, strict=False):
        assert np.array_equal(picture, as_picture(prepare(study.source.read(image), SPEC)))
        file = pydicom.dcmread(study.root.parent / image)
        polarities.add(file.PhotometricInterpretation)
        stored = file.pixel_array.astype(float)
        upright = -stored if file.PhotometricInterpretation == "MONOCHROME1" else stored
        small = np.asarray(Image.fromarray(upright.astype(np.float32)).resize((96, 96), Image.Resampling.BICUBIC))
        assert np.corrcoef(small.ravel(), picture.ravel())[0, 1] > 0.98
    assert polarities == {"MONOCHROME1", "MONOCHROME2"}


def test_page_warns_names_the_cases_and_fetches_nothing(tmp_path: Path, study: Study) -> None:
    teacher, variant = evaluations(study)
    page = write_gallery(tmp_path, study, SPEC, teacher, [variant]).read_text(encoding="utf-8")
    assert page.index("keep it in the hospital") < page.index("<img")
    assert teacher.images[0] in page
    assert "newly missed" in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"https?:", page)


def test_hostile_strings_stay_text(tmp_path: Path, study: Study) -> None:
    teacher, variant = evaluations(study, finding=HOSTILE)
    write_maps(tmp_path, teacher)
    groups = {HOSTILE: (HOSTILE,) * 4}
    teacher, variant = (msgspec.structs.replace(evaluation, subgroups=groups) for evaluation in (teacher, variant))
    variant = msgspec.structs.replace(variant, name=HOSTILE)
    page = write_gallery(tmp_path, study, SPEC, teacher, [variant]).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"<[^>]*\sonerror", page)
    assert "&lt;script&gt;" in page


def test_unreadable_image_is_told_in_its_place(tmp_path: Path, study: Study) -> None:
    teacher, variant = evaluations(study)
    tiny = msgspec.structs.replace(SPEC, min_side_px=4000)
    page = write_gallery(tmp_path, study, tiny, teacher, [variant]).read_text(encoding="utf-8")
    assert page.count("No picture:") == 4


def test_many_cases_are_cut_off_and_said(tmp_path: Path, study: Study) -> None:
    teacher, variant = evaluations(study, cases=2)
    many = {"images": teacher.images * 40, "clusters": tuple(str(n) for n in range(80))}
    teacher, variant = (
        msgspec.structs.replace(
            evaluation,
            **many,
            **{
                name: np.repeat(getattr(evaluation, name), 40, axis=0)
                for name in ("logits", "scores", "truth", "decisions")
            },
        )
        for evaluation in (teacher, variant)
    )
    page = write_gallery(tmp_path, study, SPEC, teacher, [variant]).read_text(encoding="utf-8")
    assert len(pictures(page)) == 60
    assert "80 cases are decided differently" in page
    assert "first 60" in page


def test_maps_are_shown_beside_the_input_with_their_numbers(tmp_path: Path, study: Study) -> None:
    teacher, _ = evaluations(study)
    write_maps(tmp_path, teacher)
    page = write_gallery(tmp_path, study, SPEC, teacher, []).read_text(encoding="utf-8")
    assert "Case 3: spot, teacher and v" in page
    assert "rank correlation −1.00" in page
    plain, first, second = pictures(page)[:3]
    assert (plain == 128).all()
    assert first[0, -1].mean() > first[0, 0].mean()
    assert np.array_equal(first, second[:, ::-1])


@pytest.mark.parametrize("harm", ["other cases", "fewer maps", "pickle"])
def test_damaged_maps_are_told_and_do_not_end_the_run(tmp_path: Path, study: Study, harm: str) -> None:
    teacher, variant = evaluations(study)
    write_maps(tmp_path, teacher, maps=1 if harm == "fewer maps" else 2)
    if harm == "other cases":
        teacher, variant = evaluations(study, cases=3)
    if harm == "pickle":
        path = tmp_path / "explanations" / "maps.npz"
        np.savez(path, images=np.array([{}], dtype=object), teacher=np.zeros(1), variant=np.zeros(1), cases=np.zeros(1))
    page = write_gallery(tmp_path, study, SPEC, teacher, [variant]).read_text(encoding="utf-8")
    assert "Not shown:" in page
    assert "explain" in page[page.index("Not shown:") :]


def test_nothing_to_show_leaves_no_older_gallery(tmp_path: Path, study: Study) -> None:
    (tmp_path / "gallery.html").write_text("old")
    teacher, _ = evaluations(study)
    assert write_gallery(tmp_path, study, SPEC, teacher, [msgspec.structs.replace(teacher, name="v")]) is None
    assert not (tmp_path / "gallery.html").exists()


def test_heat_grows_lighter_in_grey_as_well() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None]
    drawn = overlay(np.full((1, 64, 3), 60, np.uint8), ramp)
    grey = drawn.astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(grey[0]) > -0.6).all()
    assert grey[0, -1] - grey[0, 0] > 80
