"""A candidate beside the active bundle: counted, and never heard."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from released_bundle import as_release

from medfm_compress.runtime import ActiveEngine, DeviceFolder, Engine
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.monitor.report import make_report
from medfm_compress.runtime.monitor.shadow import SHIFT_EDGES, Shadow, ShadowRecord, compare, read_shadow
from medfm_compress.runtime.prediction import Prediction
from tests.helpers import tiny_columns
from tests.helpers.tiny_columns import AGE, COLUMNS


@pytest.fixture
def candidate(device, tiny, tmp_path):
    """A candidate that computes something else waits in the device; its path."""
    path = as_release(tiny.bundle(tmp_path / "c.medfm", model=tiny.network(seed=3)), tmp_path / "candidate.medfm", 2)
    device.install(path)
    return path


def predict(device, images):
    with ActiveEngine(device, observers=[Shadow(device)]) as engine:
        return [engine.predict(image) for image in images]


def test_it_counts_how_the_candidate_would_have_decided(device, candidate, watched, make_images):
    images = list(make_images(30, seed=6))
    answers = predict(device, images)
    with Engine(watched, threads=1) as ours, Engine(candidate, threads=1) as theirs:
        a, b = ([engine.predict(image) for image in images] for engine in (ours, theirs))
    assert [answer.probabilities for answer in answers] == [answer.probabilities for answer in a]
    record = read_shadow(device, device.state)
    counted = record.findings["opacity"]
    pairs = [(x.findings["opacity"], y.findings["opacity"]) for x, y in zip(a, b, strict=True)]
    assert record.predicted == 30 and counted.disagreements == sum(x != y for x, y in pairs)
    assert (counted.both, counted.neither) == (pairs.count((True, True)), pairs.count((False, False)))
    shifts = [y.probabilities["opacity"] - x.probabilities["opacity"] for x, y in zip(a, b, strict=True)]
    assert counted.sum_of_shifts == pytest.approx(sum(shifts))
    edges = (-np.inf, *SHIFT_EDGES, np.inf)
    assert list(counted.shifts) == np.histogram(shifts, edges)[0].tolist()
    predict(device, images[:5])
    assert read_shadow(device, device.state).predicted == 35
    assert make_report(device).shadow.predicted == 35


def test_refusals_are_told_apart(device, candidate, make_images, monkeypatch):
    shadow = Shadow(device)
    real = Engine.predict

    def refuse(engine, source, **options):
        if np.asarray(source).shape == (44, 44):
            raise RuntimeError("a candidate may do anything")
        return real(engine, source, **options)

    monkeypatch.setattr(Engine, "predict", refuse)  # of the candidate; the active bundle's is another method
    with ActiveEngine(device, observers=[shadow]) as engine:
        for side in (40, 44, 4):
            image = np.full((side, side), 90, np.uint8)
            if side == 4:
                with pytest.raises(ImageRefused):
                    engine.predict(image)
            else:
                assert engine.predict(image).probabilities
    record = read_shadow(device, device.state)
    assert (record.predicted, record.refused_by_candidate, record.refused_by_both, record.refused_by_active) == (
        1,
        1,
        1,
        0,
    )


@pytest.mark.parametrize("columns", [COLUMNS, (AGE,), ()], ids=["the same", "fewer", "none"])
def test_a_candidate_is_told_what_the_active_bundle_is(tiny, tmp_path, columns):
    device = DeviceFolder(tmp_path / "device", options=DeviceOptions(backend="onnxruntime", threads=1, trial=0))
    device.install(as_release(tiny_columns.bundle(tmp_path / "a.medfm"), tmp_path / "active.medfm", 1))
    device.activate()
    plain = tiny_columns.bundle(tmp_path / "b.medfm", columns=columns) if columns else tiny.bundle(tmp_path / "b.medfm")
    device.install(as_release(plain, tmp_path / "candidate.medfm", 2))
    with ActiveEngine(device, observers=[Shadow(device)]) as engine:
        assert engine.columns == COLUMNS
        prediction = engine.predict(tiny.image(), columns={"age": 63, "sex": "male"})
    assert prediction.columns["age"] == "argument"
    record = read_shadow(device, device.state)
    assert (record.predicted, record.refused_by_candidate) == (1, 0)


def test_without_a_candidate_nothing_runs_beside(device, make_images, caplog):
    predict(device, make_images(2, seed=1))
    assert read_shadow(device, device.state) is None and "no candidate waits" in caplog.text


def test_another_pair_begins_anew(device, candidate, tiny, tmp_path, make_images):
    predict(device, make_images(3, seed=1))
    other = as_release(tiny.bundle(tmp_path / "o.medfm", model=tiny.network(seed=4)), tmp_path / "other.medfm", 3)
    device.install(other)
    assert read_shadow(device, device.state) is None
    predict(device, make_images(2, seed=1))
    assert read_shadow(device, device.state).predicted == 2
    (device.folder / "monitor" / "shadow.json").write_bytes(b"damaged")
    assert read_shadow(device, device.state) is None
    predict(device, make_images(4, seed=1))
    assert read_shadow(device, device.state).predicted == 4


def test_a_candidate_that_does_not_open_keeps_nothing_back(device, candidate, make_images, caplog):
    path = device.path_of(device.state.candidate)
    path.write_bytes(path.read_bytes()[:200])
    assert len(predict(device, make_images(2, seed=1))) == 2
    assert "does not run beside" in caplog.text


def test_the_label_of_many_classes_and_findings_of_one_bundle_alone():
    def prediction(label, **probabilities):
        return Prediction(
            probabilities=probabilities,
            findings={name: name == label for name in probabilities},
            label=label,
            flags=(),
            variant="v",
            model_digest="d",
            intended_use="tests",
            elapsed_ms=1.0,
        )

    record = ShadowRecord(active="a", candidate="b")
    record = compare(record, prediction("x", x=0.7, y=0.3), prediction("y", y=0.8, z=0.2))
    assert record.other_label == 1 and set(record.findings) == {"y"}
    assert record.findings["y"].only_candidate == 1 and record.findings["y"].sum_of_shifts == pytest.approx(0.5)
    assert compare(record, None, prediction("y", y=1.0)).refused_by_active == 1


@pytest.mark.parametrize(
    "counts",
    [
        {"predicted": -1},
        {"predicted": 10**13},
        {"predicted": 0, "findings": {"opacity": {}}},
        {"predicted": 1, "findings": {"opacity": {"both": 2}}},
        {"predicted": 2, "findings": {"opacity": {"both": 3, "neither": -1}}},
        {"predicted": 2, "findings": {"opacity": {"both": 2, "shifts": [2]}}},
    ],
)
def test_counts_that_no_device_could_have_made_are_refused(counts):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"active": "a", "candidate": "b"} | counts, ShadowRecord)
    sound = {"active": "a", "candidate": "b", "predicted": 2, "findings": {"opacity": {"both": 1, "neither": 1}}}
    assert msgspec.convert(sound, ShadowRecord).findings["opacity"].images == 2
