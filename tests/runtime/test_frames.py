"""All frames of an image: one answer by the declared rule, or one for each, and one frame in memory at a time."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_bundle as tiny
from msgspec.structs import replace

from medfm_compress.runtime.answers.frames import FRAMES_LEFT_OUT, joined
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.prediction import NetworkInput, Prediction
from medfm_compress.runtime.read_image import read_frames, read_image
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of
from tests.helpers import tiny_columns

FRAMES = np.random.default_rng(1).integers(0, 256, (4, 48, 40), dtype=np.uint8)
FRAMES //= np.array([1, 2, 4, 8], np.uint8).reshape(4, 1, 1)


@pytest.fixture
def cine(make_dicom):
    ds = make_dicom(FRAMES[0], NumberOfFrames=len(FRAMES))
    ds.PixelData = FRAMES.tobytes()
    return ds


def engine_of(tmp_path, how, **more):
    rules = DicomRules(modalities=("DX",), frame="all", frame_aggregation=how)
    return Engine(tiny.bundle(tmp_path / f"{how}.medfm", spec=replace(tiny.SPEC, dicom=rules), **more), threads=1)


def alone(engine, make_dicom):
    return [engine.predict(make_dicom(frame)) for frame in FRAMES]


@pytest.mark.parametrize(("how", "join"), [("max", np.max), ("mean", np.mean)])
def test_the_answers_of_frames_are_joined_and_decided_as_one(tmp_path, make_dicom, dicom_bytes, cine, how, join):
    path = tmp_path / "cine.dcm"
    path.write_bytes(dicom_bytes(cine))
    with engine_of(tmp_path, how) as engine:
        singles = alone(engine, make_dicom)
        scores = [single.probabilities["opacity"] for single in singles]
        assert len(set(scores)) == len(scores) and all(single.frames is None for single in singles)
        for source in (cine, path, path.read_bytes()):
            prediction, seen = engine.predict_with_input(source)
            assert prediction.probabilities["opacity"] == pytest.approx(float(join(scores)), abs=1e-12)
            assert prediction.findings == {"opacity": prediction.probabilities["opacity"] >= tiny.POINT.threshold}
            assert (prediction.frames, prediction.frame) == (4, None) and prediction.row()["frames"] == 4
            assert seen.scores == prediction.probabilities
        with pytest.raises(InputError, match="does not answer for each"):
            next(engine.predict_frames(cine))
        plain = engine.predict(FRAMES[0]).row()
        assert ("frames" not in plain and "frame" in plain) or "frame" not in plain


@pytest.mark.parametrize("how", ["max", "each"])
def test_every_frame_stands_beside_the_same_columns(tmp_path, make_dicom, how):
    ds = make_dicom(FRAMES[0], NumberOfFrames=len(FRAMES), PatientAge="063Y", PatientSex="M")
    ds.PixelData = FRAMES.tobytes()
    spec = replace(tiny.SPEC, dicom=DicomRules(modalities=("DX",), frame="all", frame_aggregation=how))
    with Engine(tiny_columns.bundle(tmp_path / "columns.medfm", spec=spec), threads=1) as engine:
        given = {"age": 63, "sex": "male", "view": "AP"}
        singles = [engine.predict(make_dicom(frame), columns=given).probabilities["opacity"] for frame in FRAMES]
        if how == "each":
            answers = list(engine.predict_frames(ds, columns={"view": "AP"}))
            assert [answer.probabilities["opacity"] for answer in answers] == pytest.approx(singles)
        else:
            prediction, seen = engine.predict_with_input(ds, columns={"view": "AP"})
            assert prediction.probabilities["opacity"] == pytest.approx(max(singles))
            np.testing.assert_array_equal(engine.inputs_of(ds, {"view": "AP"}).images, seen.tensor)
            answers = [prediction]
        assert {answer.columns["age"] for answer in answers} == {"PatientAge"}
        with pytest.raises(ImageRefused, match="something else"):
            engine.predict(ds, columns={"age": 3})


def test_each_frame_has_its_answer(tmp_path, make_dicom, cine):
    with engine_of(tmp_path, "each") as engine:
        answers = list(engine.predict_frames(cine))
        assert [answer.frame for answer in answers] == [1, 2, 3, 4]
        assert [a.probabilities for a in answers] == [single.probabilities for single in alone(engine, make_dicom)]
        with pytest.raises(ImageRefused, match="answers for each of them"):
            engine.predict(cine)
        assert [answer.probabilities for answer in engine.predict_frames(FRAMES[1])] == [
            engine.predict(FRAMES[1]).probabilities
        ]


def test_one_frame_is_decoded_at_a_time_and_where_one_image_is_needed_several_are_refused(cine):
    rules = DicomRules(frame="all", frame_aggregation="mean")
    frames = read_frames(cine, rules)
    for place in range(4):
        np.testing.assert_array_equal(next(frames).values, FRAMES[place] * np.uint16(257))
    assert next(frames, None) is None
    with pytest.raises(ImageRefused, match="4 frames, and one image is needed here"):
        read_image(cine, rules)


def test_a_damaged_frame_refuses_the_whole(tmp_path, cine):
    cine.PixelData = FRAMES.tobytes()[:-100]
    with engine_of(tmp_path, "max") as engine, pytest.raises(ImageRefused, match="truncated"):
        engine.predict(cine)
    cine.NumberOfFrames = 0
    with engine_of(tmp_path, "mean") as engine, pytest.raises(ImageRefused, match="Number of Frames is 0"):
        engine.predict(cine)


def answer(score, *, kept=True, flags=(), typicality=0.5):
    scores = {"opacity": score}
    prediction = Prediction(
        probabilities=scores if kept else {},
        findings={"opacity": score >= 0.5} if kept else {},
        label=None,
        flags=flags,
        variant="v",
        model_digest="d",
        intended_use="tests only",
        elapsed_ms=1.0,
        typicality=typicality,
        not_reliable="" if kept else "unlike",
    )
    return prediction, NetworkInput(np.full((1, 1), score, np.float32), None, scores=scores)


def test_frames_that_are_unlike_the_others_are_left_out_and_said():
    answers = [answer(0.2), answer(0.9, kept=False, flags=("not-reliable",), typicality=0.01), answer(0.6)]
    for how, expected in (("max", 0.6), ("mean", 0.4)):
        prediction, seen = joined(iter(answers), how, tiny.TASK)
        assert prediction.probabilities["opacity"] == pytest.approx(expected)
        assert prediction.findings == {"opacity": expected >= 0.5}
        assert prediction.flags == ("not-reliable", FRAMES_LEFT_OUT) and prediction.typicality == 0.01
        assert seen.tensor[0, 0] == np.float32(0.6) and prediction.not_reliable == ""
    withheld, _ = joined(iter([answer(0.2, kept=False), answer(0.9, kept=False)]), "max", tiny.TASK)
    assert withheld.probabilities == {} == withheld.findings and withheld.not_reliable and withheld.frames == 2


def test_classes_that_exclude_each_other_have_no_greatest():
    task = Task(kind="multiclass", labels=("a", "b", "c"))
    for how in ("mean", "each"):
        rules = DicomRules(frame="all", frame_aggregation=how)
        rules_of(task).check_spec(task, replace(tiny.SPEC, dicom=rules))
    with pytest.raises(InputError, match="add up to more than 1"):
        spec = replace(tiny.SPEC, dicom=DicomRules(frame="all", frame_aggregation="max"))
        rules_of(task).check_spec(task, spec)


def test_a_rule_says_what_becomes_of_all_frames():
    for wrong in ({"frame": "all"}, {"frame_aggregation": "max"}, {"frame": "first", "frame_aggregation": "max"}):
        with pytest.raises(InputError, match="frame_aggregation goes with frame 'all'"):
            DicomRules(**wrong)
