"""A whole bench of an anomaly score: images and places are compared, and nothing is called a probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_anomaly
from msgspec.structs import replace
from sklearn.metrics import roc_auc_score

from medfm_compress.bench.evaluate.anomaly_evaluation import abnormal_pixels, place_metrics
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.kinds import SCORE_METRICS, check_policy, kind_of_evaluation
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.gate.gate import judge, judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.models import CHOSEN, TeacherRef
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.report import load_report
from medfm_compress.bench.run import bench_bundle
from medfm_compress.bench.types.metric import PLACE_METRICS
from medfm_compress.bench.types.policy import NonInferiority, Policy, Robustness
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.class_activation import score_on_image
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = Plan(rounds=3, turn_ms=2, min_calls=2, max_calls=5, warm_up_s=0.3)
FEW = {"min_positives": 5, "min_negatives": 5, "min_clusters": 5, "resamples": 1000}
RULE = "false-alarm-rate<=0.10"
POLICY = LoadedPolicy(
    Policy(non_inferiority=tuple(NonInferiority(metric=m, margin=0.2) for m in ("auroc", "specificity", "pro")), **FEW),
    "a" * 64,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("anomaly")


@pytest.fixture(scope="module")
def study(folder):
    return tiny_anomaly.make_study(folder)


@pytest.fixture(scope="module")
def bundle(folder, study) -> Path:
    draft = BundleDraft(
        name="tiny",
        spec=tiny_anomaly.SPEC,
        task=tiny_anomaly.TASK,
        provenance=Provenance(),
        intended_use="testing",
        nearest=tiny_anomaly.HASHES,
    )
    build_bundle(tiny_anomaly.Patches(), draft, folder / "a.medfm", study=study, rule=RULE)
    return folder / "a.medfm"


def teacher_of(path: Path, module=None) -> TeacherRef:
    module = module or tiny_anomaly.Patches()
    path.write_bytes(export_onnx(module, tiny_anomaly.SPEC, tiny_anomaly.TASK).content)
    return TeacherRef(
        name="patches",
        session=SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1}),
        spec=tiny_anomaly.SPEC,
        task=tiny_anomaly.TASK,
        size_bytes=path.stat().st_size,
    )


def test_images_and_places_are_compared_and_nothing_is_a_probability(study, bundle, tmp_path):
    out = tmp_path / "out"
    report = bench_bundle(
        bundle, teacher_of(tmp_path / "t.onnx"), study, POLICY, out, BenchOptions(plan=QUICK, files=1)
    )

    assert load_report(out / "report.json") == report
    assert report.teacher_decides == CHOSEN
    (own,), (theirs,) = report.teacher_operating_points, report.task.operating_points
    assert own.threshold == pytest.approx(theirs.threshold, abs=1e-6)  # the same network, by the same normal cases
    assert judge(report).outcome == "pass"
    assert judge_evidence(recompute(report, POLICY.policy), POLICY.policy, policy_sha256="0" * 64).outcome == "pass"
    compared = {entry.metric: entry for entry in report.comparisons if entry.variant == report.variants[0]}
    assert {"pixel_auroc", "pro", "auroc"} <= set(compared) <= {*SCORE_METRICS, *PLACE_METRICS}
    assert compared["pro"].cases == sum(case.target == (1,) for case in study.split("test"))
    assert compared["pixel_auroc"].bundle.estimate > 0.9
    page = (out / "report.html").read_text()
    assert "Where images are abnormal" in page and "Pixel AUROC" in page
    assert "Can the probabilities be believed?" not in page
    assert "Overlap with the truth" not in page and "Teacher’s and bundle’s scores" in page
    for table in report.evaluations:
        evaluation = table.to_evaluation()
        assert EvaluationTable.from_evaluation(evaluation).case_metrics == table.case_metrics
        assert kind_of_evaluation(evaluation).headline == "auroc" and "dice" not in evaluation.case_metrics


def test_a_bundle_whose_maps_are_worse_does_not_pass_though_its_images_are_ranked_alike(study, bundle, tmp_path):
    class Blind(tiny_anomaly.Patches):
        """The same image scores, and maps that say nothing of places."""

        def forward(self, x):
            scores, places, nearest = super().forward(x)
            return scores, places * 0, nearest

    draft = BundleDraft(
        name="blind",
        spec=tiny_anomaly.SPEC,
        task=tiny_anomaly.TASK,
        provenance=Provenance(),
        intended_use="testing",
        nearest=tiny_anomaly.HASHES,
    )
    build_bundle(Blind(), draft, tmp_path / "b.medfm", study=study, rule=RULE)
    options = BenchOptions(plan=QUICK, files=1, targets=("onnxruntime",))
    report = bench_bundle(
        tmp_path / "b.medfm", teacher_of(tmp_path / "t.onnx"), study, POLICY, tmp_path / "out", options
    )

    outcomes = {check.name.split(" of ")[0]: check.outcome for check in judge(report).variants[0].checks}
    assert outcomes["auroc"] == "pass" and outcomes["pro"] != "pass"
    (pro,) = [entry for entry in report.comparisons if entry.metric == "pro"]
    assert pro.difference.estimate < -0.5 and pro.bundle.estimate == pytest.approx(0.15, abs=0.01)  # a straight line


def test_a_teacher_without_maps_leaves_places_undecided(study, bundle, tmp_path):
    options = BenchOptions(plan=QUICK, files=1, targets=("onnxruntime",))
    teacher = teacher_of(tmp_path / "t.onnx", tiny_anomaly.Nearest())
    report = bench_bundle(bundle, teacher, study, POLICY, tmp_path / "out", options)

    (pro,) = [check for check in judge(report).variants[0].checks if check.name.startswith("pro of")]
    assert pro.outcome == "inconclusive" and not any(entry.metric == "pro" for entry in report.comparisons)


def test_a_study_with_other_normal_labels_is_refused(study, bundle, tmp_path):
    other = replace(study, normal=("benign",))
    with pytest.raises(StudyError, match="normal"):
        bench_bundle(bundle, teacher_of(tmp_path / "t.onnx"), other, POLICY, tmp_path / "out", BenchOptions(plan=QUICK))
    assert not (tmp_path / "out" / "report.json").exists()
    assert study_fingerprint(other) != study_fingerprint(study)


@pytest.mark.parametrize("metric", ["brier", "log_loss", "dice"])
def test_a_policy_may_not_ask_for_what_a_score_does_not_have(metric):
    policy = Policy(non_inferiority=(NonInferiority(metric=metric, margin=0.1),), **FEW)
    with pytest.raises(InputError, match="task of kind anomaly does not have"):
        check_policy(policy, tiny_anomaly.TASK)


def test_what_moves_images_moves_them_away_from_their_masks():
    required = (NonInferiority(metric="auroc", margin=0.1),)
    places = Policy(non_inferiority=required, robustness=(Robustness(metric="pro", margin=0.1),), **FEW)
    with pytest.raises(InputError, match="away from their masks"):
        check_policy(places, tiny_anomaly.TASK)
    images = Policy(non_inferiority=required, robustness=(Robustness(metric="auroc", margin=0.1),), **FEW)
    check_policy(images, tiny_anomaly.TASK)


def test_places_are_those_of_the_map_as_the_device_lays_it(study):
    cases = study.split("test")
    random = np.random.default_rng(0)
    maps = random.normal(size=(len(cases), 8, 8)).astype(np.float32)
    values = place_metrics(maps, study, cases, tiny_anomaly.SPEC)["pixel_auroc"]
    laid = [score_on_image(part, tiny_anomaly.SPEC, 32, 32) for part in maps]
    masks = [tiny_anomaly.spot_of(case.image) if case.target == (1,) else np.zeros((32, 32), bool) for case in cases]
    whole = roc_auc_score(np.concatenate([mask.ravel() for mask in masks]), np.concatenate([x.ravel() for x in laid]))

    assert np.nanmean(values) == pytest.approx(whole, abs=2e-3)  # every spot has 25 pixels


def test_masks_that_do_not_fit_are_refused(study, tmp_path):
    (case, *_) = [case for case in study.split("test") if case.target == (1,)]
    with pytest.raises(StudyError, match="32×32"):
        abnormal_pixels(study, case, (64, 64))
    (tmp_path / case.masks[0]).write_bytes(b"no image")
    with pytest.raises(StudyError, match=case.image):
        abnormal_pixels(replace(study, root=tmp_path), case, (32, 32))


def test_what_is_drawn_on_a_normal_image_is_not_abnormal(study):
    (case, *_) = [case for case in study.split("test") if case.target == (1,)]
    shown = abnormal_pixels(study, case, (32, 32))
    assert shown is not None and shown.sum() == 25
    assert abnormal_pixels(study, replace(case, masks=()), (32, 32)) is None
    normal = abnormal_pixels(study, replace(case, target=(0,)), (32, 32))
    assert normal is not None and not normal.any()


def test_comparisons_of_places_leave_out_what_one_model_does_not_say(study, bundle, tmp_path):
    options = BenchOptions(plan=QUICK, files=1, targets=("onnxruntime",))
    report = bench_bundle(bundle, teacher_of(tmp_path / "t.onnx"), study, POLICY, tmp_path / "out", options)
    first, second = (table.to_evaluation() for table in report.evaluations)
    unknown = {metric: np.full_like(values, np.nan) for metric, values in second.case_metrics.items()}

    found = compare(first, replace(second, case_metrics=unknown), POLICY.policy)
    assert found and not any(entry.metric in PLACE_METRICS for entry in found)
