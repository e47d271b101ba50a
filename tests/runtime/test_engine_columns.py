"""A bundle whose network takes columns: golden cases, predictions from arguments and DICOM, and what is refused."""

from __future__ import annotations

import logging
import struct

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime import Engine
from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.bundle.bundle import Bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Tensor
from medfm_compress.runtime.columns import encode_columns
from medfm_compress.runtime.device.self_test import self_test
from medfm_compress.runtime.errors import BundleRefused, ImageRefused, InputError
from medfm_compress.runtime.heat_map import heat_map
from medfm_compress.runtime.network_inputs import images_of, with_columns
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import read_image
from medfm_compress.runtime.sessions.table import is_available, open_session_from_bytes
from tests.helpers import tiny_bundle, tiny_columns
from tests.helpers.tiny_columns import AGE, COLUMNS, SEX

GIVEN = {"age": 63, "sex": "male", "view": "AP"}
STORED = np.random.default_rng(3).integers(0, 4096, (40, 48)).astype(np.uint16)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_columns.bundle(tmp_path_factory.mktemp("columns") / "columns.medfm")


@pytest.fixture(scope="module")
def engine(path):
    with Engine(path) as engine:
        yield engine


def expected(image: np.ndarray, values: dict[str, float | str | None]) -> float:
    tensor = preprocess(read_image(image), tiny_bundle.SPEC)
    session = open_session_from_bytes("onnxruntime", [tiny_columns.network()], 1, "fp32")
    logits = session.run({"image": tensor, **encode_columns(COLUMNS, values)})["logits"]
    return float(probabilities(logits, tiny_bundle.TASK)[0, 0])


def test_it_predicts_from_arguments(engine) -> None:
    image = tiny_bundle.image()
    prediction = engine.predict(image, columns=GIVEN)
    assert prediction.probabilities["opacity"] == pytest.approx(expected(image, GIVEN), abs=1e-6)
    assert prediction.row()["columns"] == {"age": "argument", "sex": "argument", "view": "argument"}
    other = engine.predict(image, columns=GIVEN | {"age": 20})
    assert other.probabilities != prediction.probabilities


def test_it_predicts_from_a_dicom_that_carries_the_attributes(engine, make_dicom, dicom_bytes) -> None:
    ds = make_dicom(STORED, PatientAge="063Y", PatientSex="M", ViewPosition="AP")
    told = engine.predict(dicom_bytes(ds))
    bare = engine.predict(make_dicom(STORED), columns=GIVEN)
    assert told.probabilities == bare.probabilities
    assert told.columns == {"age": "PatientAge", "sex": "PatientSex", "view": "ViewPosition"}


def test_a_dicom_without_them_is_refused_or_filled_as_declared(engine, make_dicom) -> None:
    with pytest.raises(ImageRefused, match="age is missing, and the file has no PatientAge"):
        engine.predict(make_dicom(STORED))
    prediction = engine.predict(make_dicom(STORED), columns={"age": 63})
    assert prediction.columns == {"age": "argument", "sex": "missing", "view": "imputed"}
    assert "column-missing" in prediction.flags
    assert "column-missing" not in engine.predict(make_dicom(STORED), columns=GIVEN).flags


@pytest.mark.parametrize("age", ["000Y", "200Y", "063"])
def test_an_age_that_is_none(engine, make_dicom, age: str) -> None:
    with pytest.warns(UserWarning) if age == "063" else _nothing():
        ds = make_dicom(STORED, PatientAge=age)
    with pytest.raises(ImageRefused, match="PatientAge of the file"):
        engine.predict(ds)


def test_an_age_that_stands_twice_is_not_believed(engine, make_dicom, dicom_bytes) -> None:
    once = struct.pack("<HH", 0x0010, 0x1010) + b"AS" + struct.pack("<H", 4) + b"063Y"
    data = dicom_bytes(make_dicom(STORED, PatientAge="063Y"))
    twice = data.replace(once, once + once.replace(b"063Y", b"005Y"))
    assert len(twice) == len(data) + len(once) and engine.predict(data).columns["age"] == "PatientAge"
    with pytest.raises(ImageRefused, match="attribute 0010,1010 stands twice"):
        engine.predict(twice)


def test_nothing_of_a_patient_is_logged(engine, make_dicom, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    engine.predict(make_dicom(STORED, PatientAge="087Y"), columns={"sex": "female"})
    for columns in ({}, {"age": 12}):
        with pytest.raises(ImageRefused) as refusal:
            engine.predict(make_dicom(STORED, PatientAge="087Y", PatientSex="O"), columns=columns)
        assert "87" not in str(refusal.value)
    assert not any(word in record.getMessage() for record in caplog.records for word in ("087", "female"))


def test_a_model_without_columns_takes_none_and_says_nothing_of_them(tmp_path) -> None:
    with Engine(tiny_bundle.bundle(tmp_path / "plain.medfm")) as plain:
        assert "columns" not in plain.predict(tiny_bundle.image()).row()
        with pytest.raises(InputError, match="takes none"):
            plain.predict(tiny_bundle.image(), columns={"age": 3})


def test_golden_cases_are_replayed_with_their_columns(path, engine) -> None:
    assert engine.replay_goldens() < 1e-5
    inputs = goldens.read_golden_inputs(engine.bundle)
    assert len(inputs) == 3 and images_of(inputs).shape == (3, 1, 32, 32)
    assert self_test(engine, 1e6).golden_cases == 3
    other = replace(COLUMNS[0], mean=20.0)  # another standardisation gives the network other numbers
    changed = goldens.make_golden_inputs(tiny_bundle.SPEC, (other, *COLUMNS[1:]), 3)
    assert not np.allclose(changed.columns["age"], inputs.columns["age"])


def test_a_network_that_reads_its_columns_in_another_order_fails_its_golden_cases(path, tmp_path) -> None:
    swapped = tiny_columns.network((SEX, AGE, COLUMNS[2]))  # same inputs, fused in another order
    opened = Bundle.open(path)
    files = {name: opened.read(name) for name in (goldens.GOLDEN_INPUTS, goldens.golden_member(tiny_bundle.ORT.name))}
    write_bundle(tmp_path / "swapped.medfm", tiny_columns.draft((tiny_bundle.ORT,)), files | {"model.onnx": swapped})
    with pytest.raises(BundleRefused, match="computes something else"):
        Engine(tmp_path / "swapped.medfm", unverified=True)


def test_openvino_takes_them_by_name(tmp_path) -> None:
    if not is_available("openvino").ok:
        pytest.skip("OpenVINO is not installed")
    both = tiny_columns.bundle(tmp_path / "both.medfm", (tiny_bundle.OV, tiny_bundle.ORT))
    with Engine(both, backend="openvino", threads=1) as one, Engine(both, backend="onnxruntime", threads=1) as other:
        image = tiny_bundle.image()
        assert one.predict(image, columns=GIVEN).probabilities["opacity"] == pytest.approx(
            other.predict(image, columns=GIVEN).probabilities["opacity"], abs=2e-2
        )


def test_inputs_of_other_shapes(engine) -> None:
    image, columns = preprocess(read_image(tiny_bundle.image()), tiny_bundle.SPEC), encode_columns(COLUMNS, GIVEN)
    assert engine.logits(with_columns(image, columns)).shape == (1, 2)
    with pytest.raises(InputError, match=r"takes \(1, 1\) as age, got \(1, 2\)"):
        engine.logits(with_columns(image, columns | {"age": np.zeros((1, 2), np.float32)}))
    with pytest.raises(InputError, match="columns given: none"):
        engine.logits(image)


def test_a_heat_map_leaves_the_columns_as_they_are(engine) -> None:
    prediction, seen = engine.predict_with_input(tiny_bundle.image(), columns=GIVEN)
    assert seen.given == GIVEN
    heat = heat_map(engine, seen.inputs, prediction)
    assert heat is not None and heat.evidence.shape == (32, 32) and np.ptp(heat.evidence) > 0
    inputs = engine.inputs_of(tiny_bundle.image(), GIVEN)
    np.testing.assert_array_equal(inputs.columns["age"], seen.columns["age"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"columns": COLUMNS[:2]}, "inputs beside the image are age .* view"),
        ({"columns": msgspec.UNSET}, "its columns give none"),
        ({"columns": (COLUMNS[1], COLUMNS[0], COLUMNS[2])}, "its columns give sex"),
    ],
)
def test_a_manifest_whose_columns_are_not_its_inputs(path, tmp_path, change: dict[str, object], reason: str) -> None:
    opened = Bundle.open(path)
    names = (goldens.GOLDEN_INPUTS, goldens.golden_member(tiny_bundle.ORT.name), "model.onnx")
    manifest = replace(tiny_columns.draft((tiny_bundle.ORT,)), **change)
    with pytest.raises((BundleRefused, InputError), match=reason):
        write_bundle(tmp_path / "bad.medfm", manifest, {name: opened.read(name) for name in names})


def test_two_inputs_of_one_name(path, tmp_path) -> None:
    twice = replace(
        tiny_columns.draft((tiny_bundle.ORT,)),
        outputs=(Tensor(name="age", role="logits", shape=(1, 2)),),
    )
    opened = Bundle.open(path)
    names = (goldens.GOLDEN_INPUTS, goldens.golden_member(tiny_bundle.ORT.name), "model.onnx")
    with pytest.raises((BundleRefused, InputError), match="one name"):
        write_bundle(tmp_path / "bad.medfm", twice, {name: opened.read(name) for name in names})
    with pytest.raises(InputError, match="two columns are called 'age'"):
        tiny_columns.draft((tiny_bundle.ORT,), (AGE, AGE))


def test_a_bundle_that_reads_a_name_is_refused(tmp_path) -> None:
    column = replace(COLUMNS[2], dicom="PatientID")
    bad = tiny_columns.bundle(tmp_path / "name.medfm", columns=(*COLUMNS[:2], column))
    with pytest.raises(BundleRefused, match="may identify a patient"):
        Engine(bad)


def _nothing():
    import contextlib

    return contextlib.nullcontext()
