"""Bundles of anomaly scores: a threshold on normal cases alone, and engines that say what the network says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_anomaly
import torch
from msgspec.structs import replace
from torch import nn

from medfm_compress.export import build
from medfm_compress.export.agreement import differences, score_tolerance
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Provenance
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError, ModelError, StudyError

RULE = "false-alarm-rate<=0.10"


def draft(**changes: object) -> BundleDraft:
    values = {
        "name": "tiny",
        "spec": tiny_anomaly.SPEC,
        "task": tiny_anomaly.TASK,
        "provenance": Provenance(),
        "intended_use": "testing",
        "nearest": tiny_anomaly.HASHES,
    }
    return BundleDraft(**{**values, **changes})


def export(path: Path, rule: str = RULE, **changes: object) -> Manifest:
    study = tiny_anomaly.make_study()
    return build_bundle(tiny_anomaly.Patches(), draft(**changes), path / "a.medfm", study=study, rule=rule)


def test_a_bundle_holds_the_outputs_the_threshold_and_the_hashes(tmp_path):
    manifest = export(tmp_path)

    assert [(tensor.role, tensor.shape) for tensor in manifest.outputs] == [
        ("logits", (1, 1)),
        ("anomaly_map", (1, 1, 8, 8)),
        ("nearest", (1, 1)),
    ]
    assert manifest.schema_version == 8
    (point,) = manifest.task.operating_points
    assert (point.rule, point.positives, point.negatives, point.sensitivity) == (RULE, 0, 24, 0)
    assert manifest.task.temperature == 1 and manifest.task.normal_labels == ("normal",)
    agreed = [step for step in manifest.provenance.steps if "agree with the network on all 48" in step]
    assert len(agreed) == len(manifest.variants) == 2


def test_the_threshold_knows_no_abnormal_case(tmp_path):
    study = tiny_anomaly.make_study()
    normal = replace(study, cases=tuple(case for case in study.cases if case.target == (0,)))
    points = [
        build_bundle(tiny_anomaly.Patches(), draft(), tmp_path / f"{n}.medfm", study=cases, rule=RULE).task
        for n, cases in enumerate((study, normal))
    ]

    assert points[0].operating_points == points[1].operating_points


def test_the_threshold_is_the_conformal_quantile_of_the_network(tmp_path):
    study = tiny_anomaly.make_study()
    (point,) = export(tmp_path).task.operating_points
    normal = [case.image for case in study.split("val") if case.target == (0,)]
    module = tiny_anomaly.Patches()
    from medfm_compress.export.cases import network_inputs

    cases = tuple(case for case in study.split("val") if case.image in normal)
    z = module(torch.from_numpy(network_inputs(study, cases, tiny_anomaly.SPEC)))[0][:, 0].numpy()
    scores = np.sort(1 / (1 + np.exp(-z.astype(np.float64))))
    rank = int(np.ceil((len(scores) + 1) * 0.9))

    assert scores[rank - 1] < point.threshold < scores[rank]


@pytest.fixture
def no_work(monkeypatch):
    """Exporting the network is an error."""

    def begun(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr(build, "export_onnx", begun)
    monkeypatch.setattr(build, "_fp32_exports", begun)


def test_too_few_normal_cases_are_refused_with_how_many_are_needed(tmp_path, no_work):
    with pytest.raises(InputError, match=r"24 normal validation cases .* 0.01; 99 are needed"):
        export(tmp_path, rule="false-alarm-rate<=0.01")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", ["youden", "sensitivity>=0.95", "specificity>=0.90"])
def test_a_rule_that_looks_at_abnormal_cases_is_refused(tmp_path, rule, no_work):
    with pytest.raises(InputError, match="normal ones alone"):
        export(tmp_path, rule=rule)


def test_without_a_rule_the_false_alarm_rate_is_declared(tmp_path):
    assert export(tmp_path, rule="").task.operating_points[0].rule == "false-alarm-rate<=0.05"


def test_another_normal_label_is_refused(tmp_path):
    study = replace(tiny_anomaly.make_study(), normal=("benign",))
    with pytest.raises(StudyError, match="takes normal for normal"):
        build_bundle(tiny_anomaly.Patches(), draft(), tmp_path / "a.medfm", study=study, rule=RULE)


def test_no_normal_validation_case_is_refused(tmp_path):
    study = tiny_anomaly.make_study()
    cases = tuple(case for case in study.cases if case.split != "val" or case.target == (1,))
    with pytest.raises(StudyError, match="no normal case"):
        build_bundle(tiny_anomaly.Patches(), draft(), tmp_path / "a.medfm", study=replace(study, cases=cases))


def test_a_bundle_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="made with a study"):
        build_bundle(tiny_anomaly.Patches(), draft(), tmp_path / "a.medfm")


@pytest.mark.parametrize("hashes", [(), ("00",)])
def test_hashes_that_do_not_fit_are_refused(tmp_path, hashes):
    with pytest.raises(InputError, match=r"hash"):
        export(tmp_path, nearest=hashes)


def test_fewer_hashes_than_the_network_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match="none of the 1 of the model"):
        export(tmp_path, nearest=tiny_anomaly.HASHES[:1])


class Misnamed(tiny_anomaly.Patches):
    output_names = ("logits", "nearest", "anomaly_map")


class TooFew(tiny_anomaly.Patches):
    output_names = ("logits", "anomaly_map")


@pytest.mark.parametrize(("module", "said"), [(Misnamed(), "outputs are"), (TooFew(), "returns 3 outputs")])
def test_outputs_that_are_not_what_they_are_called(tmp_path, module: nn.Module, said):
    with pytest.raises(ModelError, match=said):
        build_bundle(module, draft(), tmp_path / "a.medfm", study=tiny_anomaly.make_study())


class Altered:
    """A session that moves the logits of some inputs."""

    def __init__(self, session, change, lookup):
        self._session, self._change, self._lookup = session, change, lookup
        self.input_names, self.output_names, self.info = session.input_names, session.output_names, session.info

    def run(self, inputs):
        outputs = dict(self._session.run(inputs))
        if inputs["image"].tobytes() in self._lookup:
            outputs["logits"] = outputs["logits"] + np.float32(self._change)
        return outputs


def test_an_engine_that_differs_on_one_validation_case_is_left_out_and_the_case_named(tmp_path, monkeypatch):
    from medfm_compress.export.cases import network_inputs

    study = tiny_anomaly.make_study()
    odd = study.split("val")[5]
    lookup = {network_inputs(study, (odd,), tiny_anomaly.SPEC).tobytes()}
    real = build._fp32_export

    def altered(backend, content):
        made = real(backend, content)
        return replace(made, session=Altered(made.session, 0.5, lookup)) if backend == "openvino" else made

    monkeypatch.setattr(build, "_fp32_export", altered)
    lines = []
    manifest = build_bundle(
        tiny_anomaly.Patches(), draft(), tmp_path / "a.medfm", study=study, rule=RULE, progress=lines.append
    )

    assert [variant.backend for variant in manifest.variants] == ["onnxruntime"]
    told = next(line for line in lines if line.startswith("left out"))
    assert f"case 6 ({odd.image})" in told
    stored = "\n".join(manifest.provenance.steps)
    assert "1 of 48 validation cases" in stored and odd.image not in stored


def test_nothing_is_written_where_every_engine_differs(tmp_path, monkeypatch):
    from medfm_compress.export.cases import network_inputs

    study = tiny_anomaly.make_study()
    lookup = {network_inputs(study, (case,), tiny_anomaly.SPEC).tobytes() for case in study.split("val")[:3]}
    real = build._fp32_export

    def altered(backend, content):
        made = real(backend, content)
        return replace(made, session=Altered(made.session, 0.5, lookup))

    monkeypatch.setattr(build, "_fp32_export", altered)
    with pytest.raises(InputError, match=r"val-1000.*nothing was written"):
        build_bundle(tiny_anomaly.Patches(), draft(), tmp_path / "a.medfm", study=study, rule=RULE)
    assert not list(tmp_path.iterdir())


def test_a_decision_that_turns_within_the_tolerance_is_a_difference(tmp_path):
    (point,) = export(tmp_path).task.operating_points
    task = replace(tiny_anomaly.TASK, operating_points=(point,))
    at = float(np.log(point.threshold) - np.log1p(-point.threshold))
    z = np.array([[at + 1e-5], [at - 3.0], [at + 3.0]])
    moved = z - [[2e-5], [0.0], [0.0]]

    assert score_tolerance(z, "fp32") > 2e-5
    (found,) = differences(z, moved, (task, task), "fp32")
    assert found.case == 0 and found.decides_otherwise
    assert not differences(z, z + 1e-6, (task, task), "fp32")
    assert [d.case for d in differences(z, z * [[1], [1.2], [1]], (task, task), "fp32")] == [1]
    assert [d.case for d in differences(z, z * [[1], [np.nan], [1]], (task, task), "fp32")] == [1]


def test_the_device_says_score_place_and_nearest_cases(tmp_path):
    manifest = export(tmp_path)
    study = tiny_anomaly.make_study()
    spotted = next(case for case in study.split("test") if case.target == (1,))
    pixels = np.asarray(study.source.read(spotted.image).values, np.uint8)
    module = tiny_anomaly.Patches()
    from medfm_compress.export.cases import network_inputs

    z, places, nearest = module(torch.from_numpy(network_inputs(study, (spotted,), tiny_anomaly.SPEC)))

    with Engine(tmp_path / "a.medfm", unverified=True, threads=1) as engine:
        prediction = engine.predict(pixels)
    assert prediction.is_score
    assert prediction.probabilities["abnormal"] == pytest.approx(torch.sigmoid(z)[0, 0].item(), abs=1e-5)
    assert prediction.findings == {
        "abnormal": bool(
            z >= np.log(manifest.task.operating_points[0].threshold / (1 - manifest.task.operating_points[0].threshold))
        )
    }
    assert prediction.anomaly_map is not None
    shown = prediction.anomaly_map.on_image()
    assert shown.shape == pixels.shape[:2]
    row, column = np.unravel_index(np.nanargmax(shown), pixels.shape[:2])
    assert tiny_anomaly.spot_of(spotted.image)[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4].any()
    assert shown.max() <= places.max().item() + 1e-4
    assert prediction.nearest == (tiny_anomaly.HASHES[int(nearest[0, 0])],)
    document = prediction.row()
    assert "probabilities" not in document and set(document["scores"]) == {"abnormal"}
    assert document["nearest"] == prediction.nearest


def test_a_network_that_only_scores_says_nothing_of_places(tmp_path):
    study = tiny_anomaly.make_study()
    build_bundle(tiny_anomaly.Nearest(), draft(nearest=()), tmp_path / "a.medfm", study=study, rule=RULE)
    with Engine(tmp_path / "a.medfm", unverified=True, threads=1) as engine:
        prediction = engine.predict(np.full((40, 40), 90, np.uint8))
    assert prediction.anomaly_map is None and prediction.nearest == () and "nearest" not in prediction.row()


def test_damaged_hashes_are_refused(tmp_path):
    export(tmp_path)
    from medfm_compress.runtime.bundle.arrays import to_npy
    from medfm_compress.runtime.bundle.bundle import NEAREST_CASES, rewrite_bundle
    from medfm_compress.runtime.errors import BundleRefused

    bundle = Bundle.open(tmp_path / "a.medfm")
    short = {NEAREST_CASES: to_npy(np.zeros((3, 31), np.uint8))}
    rewrite_bundle(bundle, tmp_path / "b.medfm", files=short)
    with pytest.raises(BundleRefused, match="holds no SHA-256"):
        Engine(tmp_path / "b.medfm", unverified=True)
    few = {NEAREST_CASES: to_npy(np.zeros((1, 32), np.uint8))}
    manifest = rewrite_bundle(bundle, tmp_path / "c.medfm", files=few)
    assert manifest.model_digest != bundle.manifest.model_digest
    with pytest.raises(BundleRefused, match="of a golden case the network numbers a training case beyond the 1 of"):
        Engine(tmp_path / "c.medfm", unverified=True)
