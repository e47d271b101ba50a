"""What a device says of an anomaly: a score, where, and which training cases are most alike."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
import scored_bundle as scored
import tiny_bundle as tiny
from msgspec.structs import replace

from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime.bundle.bundle import NEAREST_CASES, write_bundle
from medfm_compress.runtime.bundle.manifest import Tensor
from medfm_compress.runtime.class_activation import on_image, score_on_image
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused
from medfm_compress.runtime.heat_map import ANOMALY, heat_map, heat_map_of_image, overlay
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.nearest_cases import nearest_file
from medfm_compress.runtime.task import Task


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return scored.bundle(tmp_path_factory.mktemp("scored") / "a.medfm")


@pytest.fixture
def engine(path):
    with Engine(path, unverified=True, threads=1) as opened:
        yield opened


def test_a_score_a_map_at_the_images_own_size_and_hashes(engine):
    prediction = engine.predict(scored.image())

    assert prediction.is_score and prediction.findings == {"abnormal": True}
    assert prediction.probabilities["abnormal"] == pytest.approx(1 / (1 + math.exp(-1.92)), abs=0.02)
    assert prediction.anomaly_map is not None
    shown = prediction.anomaly_map.on_image()
    assert (shown.shape, shown.dtype) == ((64, 96), np.float32)
    row, column = np.unravel_index(shown.argmax(), (64, 96))
    assert 40 <= row < 56 and 6 <= column < 24
    assert prediction.nearest[0] in scored.HASHES and len(set(prediction.nearest)) == 2
    assert int(prediction.nearest[0], 16) - 1 in (40, 48, 41, 49)  # rows 5 and 6, columns 0 and 1 of 8 × 8


def test_json_calls_it_a_score_and_holds_no_map(engine):
    document = json.loads(msgspec.json.encode(engine.predict(scored.image()).row()))

    assert set(document["scores"]) == {"abnormal"} and "probabilities" not in document
    assert len(document["nearest"]) == 2
    assert not {"anomaly_map", "is_score", "segmentation"} & set(document)


def test_of_other_kinds_json_is_as_it_was(tmp_path):
    path = tiny.bundle(tmp_path / "b.medfm")
    with Engine(path, threads=1) as engine:
        document = engine.predict(tiny.image()).row()
    assert "probabilities" in document and not {"scores", "nearest", "anomaly_map", "is_score"} & set(document)


def test_what_was_cropped_away_is_not_seen(tmp_path):
    spec = replace(tiny.SPEC, resize="shortest")
    path = scored.bundle(tmp_path / "c.medfm", spec=spec)
    with Engine(path, unverified=True, threads=1) as engine:
        found = engine.predict(scored.image(64, 128)).anomaly_map

    assert found is not None
    places = found.on_image()
    assert places.shape == (64, 128)
    assert np.isnan(places[:, :32]).all() and np.isnan(places[:, 96:]).all()
    assert np.isfinite(places[:, 33:95]).all()


def test_the_geometry_is_that_of_class_activation_maps():
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 7)).astype(np.float32)
    for spec in (tiny.SPEC, replace(tiny.SPEC, resize="longest")):
        np.testing.assert_array_equal(score_on_image(values, spec, 50, 70), on_image(values, spec, 50, 70))


def test_the_heat_map_is_the_map_and_a_normal_image_stays_grey(engine):
    prediction, seen = engine.predict_with_input(scored.image())
    pixels = Pixels.from_integers(scored.image())
    heat = heat_map_of_image(seen.activation, pixels, tiny.SPEC, engine.task, "abnormal")
    assert prediction.anomaly_map is not None
    np.testing.assert_allclose(heat.evidence, prediction.anomaly_map.on_image(), atol=1e-5)
    assert heat.method == ANOMALY and heat.full == pytest.approx(math.log(3))
    picture = overlay(heat).astype(int)
    assert (picture[48, 12] != heat.picture[48, 12]).any()

    calm = np.full((64, 96), 60, np.uint8)
    prediction, seen = engine.predict_with_input(calm)
    heat = heat_map_of_image(seen.activation, Pixels.from_integers(calm), tiny.SPEC, engine.task, "abnormal")
    assert (overlay(heat) == heat.picture).all()
    shown = heat_map(engine, seen.tensor, prediction)
    assert shown is not None and shown.method == ANOMALY


def test_a_number_of_no_case_on_a_golden_case_is_refused_at_the_opening(tmp_path):
    for beyond, said in ((60.0, "beyond the 64"), (0.5, "no whole number"), (-70.0, "beyond")):
        path = scored.bundle(tmp_path / "d.medfm", scored.network(beyond))
        with pytest.raises(BundleRefused, match=f"of a golden case the network numbers .*{said}"):
            Engine(path, unverified=True, threads=1)


def test_a_number_of_no_case_gives_no_result(engine, monkeypatch):
    run = engine._session.run
    for beyond, said in ((64.0, "beyond the 64"), (0.5, "no whole number"), (-70.0, "beyond")):
        wrong = np.full(scored.NEAREST.shape, beyond, np.float32)
        monkeypatch.setattr(engine._session, "run", lambda inputs, wrong=wrong: {**run(inputs), "nearest": wrong})
        with pytest.raises(Refused, match=f"{said}.*no result is given"):
            engine.predict(scored.image())


def test_a_map_that_is_not_finite_gives_no_result(engine, monkeypatch):
    run = engine._session.run

    def broken(inputs):
        outputs = dict(run(inputs))
        outputs["anomaly_map"] = np.full_like(outputs["anomaly_map"], np.nan)
        return outputs

    monkeypatch.setattr(engine._session, "run", broken)
    with pytest.raises(Refused, match="anomaly map"):
        engine.predict(scored.image())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outputs": (scored.LOGITS, scored.NEAREST, scored.MAP)}, "each output once"),
        ({"outputs": (scored.MAP, scored.LOGITS, scored.NEAREST)}, "each output once"),
        ({"outputs": (scored.LOGITS, scored.MAP, scored.MAP)}, "each output once"),
        ({"outputs": (scored.LOGITS, replace(scored.MAP, shape=(1, 2, 8, 8)))}, "anomaly map has shape"),
        ({"outputs": (scored.LOGITS, replace(scored.MAP, shape=(1, 1, 1, 1)))}, "two places"),
        ({"outputs": (scored.LOGITS, replace(scored.NEAREST, shape=(1, 0)))}, "nearest cases have shape"),
        ({"task": tiny.TASK, "outputs": (replace(scored.LOGITS, shape=(1, 2)), scored.MAP)}, "binary task does not"),
        ({"outputs": (replace(scored.LOGITS, shape=(1, 2)),)}, "is what its task needs"),
    ],
)
def test_outputs_that_contradict_the_task(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        write_bundle(tmp_path / "e.medfm", scored.draft(**changes), scored.contents(scored.network()))


@pytest.mark.parametrize(
    ("changed", "name", "declared"),
    [
        (replace(scored.MAP, shape=(1, 1, 4, 4)), "anomaly_map", r"\[1, 1, 4, 4\]"),
        (replace(scored.MAP, shape=(1, 1, 1, 64)), "anomaly_map", r"\[1, 1, 1, 64\]"),
        (replace(scored.NEAREST, shape=(1, 1)), "nearest", r"\[1, 1\]"),
        (replace(scored.NEAREST, shape=(1, 3)), "nearest", r"\[1, 3\]"),
    ],
)
def test_outputs_of_other_shapes_than_declared_are_the_bundles_fault(tmp_path, changed, name, declared):
    outputs = tuple(
        changed if tensor.name == name else tensor for tensor in (scored.LOGITS, scored.MAP, scored.NEAREST)
    )
    write_bundle(tmp_path / "s.medfm", scored.draft(outputs=outputs), scored.contents(scored.network()))
    with pytest.raises(BundleRefused, match=f"'{name}' has shape .* its manifest says {declared}"):
        Engine(tmp_path / "s.medfm", unverified=True, threads=1)


def test_an_output_whose_shape_changes_later_gives_no_result(engine, monkeypatch):
    run = engine._session.run
    monkeypatch.setattr(engine._session, "run", lambda inputs: {**run(inputs), "nearest": np.zeros((1, 3), np.float32)})
    with pytest.raises(BundleRefused, match=r"'nearest' has shape \[1, 3\]"):
        engine.predict(scored.image())


def test_nearest_cases_need_their_hashes(tmp_path):
    members = scored.contents(scored.network())
    del members[NEAREST_CASES]
    with pytest.raises(InputError, match=NEAREST_CASES):
        write_bundle(tmp_path / "f.medfm", scored.draft(), members)


@pytest.mark.parametrize("hashes", [(), ("12",), ("G" * 64,), ("A" * 64,)])
def test_what_is_no_hash_is_refused(hashes):
    with pytest.raises(InputError):
        nearest_file(hashes)


def test_the_hashes_are_of_the_model(path, tmp_path):
    members = scored.contents(scored.network()) | nearest_file(tuple(reversed(scored.HASHES)))
    other = write_bundle(tmp_path / "g.medfm", scored.draft(), members)
    opened = Bundle.open(path)
    assert opened.manifest.schema_version == 8
    assert other.model_digest != opened.model_digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normal": msgspec.UNSET}, "names the labels that are normal"),
        ({"normal": ("a", "a")}, "each once"),
        ({"normal": ("",)}, "each once"),
        ({"labels": ("a", "b")}, "one label"),
        ({"kind": "multilabel", "labels": ("a",)}, "names normal labels"),
        ({"normal": ("normal", "abnormal")}, "'abnormal' is what is not normal"),
        ({"temperature": 2.0}, "it must be 1"),
        *(
            ({"operating_points": (replace(scored.POINT, rule=rule),)}, "it must be false-alarm-rate<=R")
            for rule in ("youden", "sensitivity>=0.9", "false-alarm-rate<=7", "false-alarm-rate<=0.0", "")
        ),
    ],
)
def test_tasks_that_are_none(changes, said):
    values = {"kind": "anomaly", "labels": ("abnormal",), "normal": ("normal",)} | changes
    with pytest.raises(InputError, match=said):
        Task(**values)


def test_a_rule_with_spaces_is_the_rule():
    replace(scored.TASK, operating_points=(replace(scored.POINT, rule="false-alarm-rate <= 0.10"),))


@pytest.mark.parametrize(
    ("own", "said"), [({"temperature": 2.0}, "must be 1"), ({"rule": "youden"}, "false-alarm-rate<=R")]
)
def test_a_variant_keeps_to_the_rules_of_anomalies(tmp_path, own, said):
    point = replace(scored.POINT, rule=own.get("rule", scored.POINT.rule))
    variant = replace(tiny.ORT, temperature=own.get("temperature", 1.0), operating_points=(point,))
    with pytest.raises(InputError, match=f"does not fit its task.*{said}"):
        write_bundle(tmp_path / "v.medfm", scored.draft(variants=(variant,)), scored.contents(scored.network()))


def test_a_bundle_without_map_and_cases_says_neither(tmp_path):
    members = scored.contents(scored.network())
    del members[NEAREST_CASES]
    import onnx

    model = onnx.load_model_from_string(members["model.onnx"])
    kept = [value for value in model.graph.output if value.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    members["model.onnx"] = model.SerializeToString()
    write_bundle(tmp_path / "h.medfm", scored.draft(outputs=(scored.LOGITS,)), members)
    with Engine(tmp_path / "h.medfm", unverified=True, threads=1) as engine:
        prediction, seen = engine.predict_with_input(scored.image())
    assert prediction.anomaly_map is None and prediction.nearest == () and seen.activation is None
    assert "nearest" not in prediction.row()


def test_the_role_of_an_output_is_a_known_one():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "role": "anomaly", "shape": [1]}, Tensor)
