"""A whole bench run on a tiny study: evaluated, measured, compared, logged, written."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.build_report import noise_reasons
from medfm_compress.bench.evaluate.operating_points import held
from medfm_compress.bench.evaluate.subprocess_inference import image_files
from medfm_compress.bench.evaluate.test_set_log import LOG
from medfm_compress.bench.gate.gate import judge, judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.measure.load_scenario import LoadPlan
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.models import BUNDLES, CHOSEN, OWN, TeacherRef
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.report import load_report
from medfm_compress.bench.run import bench_bundle
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy, Robustness, SubgroupRule
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.open import open_study
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.task import Task

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = Plan(rounds=3, turn_ms=2, min_calls=2, max_calls=5, warm_up_s=0.3)
POLICY = LoadedPolicy(
    Policy(
        non_inferiority=(NonInferiority(metric="auroc", margin=0.05),),
        budget=Budget(p50_ms=10_000),
        subgroups=(SubgroupRule(column="sex", when_too_few="named"),),
        min_positives=5,
        min_negatives=5,
        min_clusters=5,
        resamples=1000,
    ),
    "a" * 64,
)


@pytest.fixture
def study(tmp_path: Path):
    """40 test and 24 validation cases; the positive ones are brighter at the top."""
    image = pytest.importorskip("PIL.Image")
    random, rows = np.random.default_rng(0), []
    (tmp_path / "study").mkdir()
    for number in range(64):
        pixels = random.integers(0, 120, (48, 40))
        pixels[:20] += 60 * (number % 2)
        image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "study" / f"{number:02}.png")
        label = ("normal", "opacity")[number % 2]
        rows.append([f"{number:02}.png", "test" if number < 40 else "val", label, f"p{number}", "FM"[number % 3 == 0]])
    with (tmp_path / "study" / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "label", "patient", "sex"], *rows])
    return open_study(tmp_path / "study")


@pytest.fixture
def teacher(tiny: ModuleType, tmp_path: Path) -> TeacherRef:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(tiny.network())
    return TeacherRef(
        name="tiny_net",
        session=SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1}),
        spec=tiny.SPEC,
        task=Task(kind="binary", labels=("normal", "opacity")),
        size_bytes=path.stat().st_size,
    )


def test_run_of_a_bundle_with_its_teacher(tiny, teacher, study, tmp_path: Path) -> None:
    bundle, out, progress = tiny.bundle(tmp_path / "tiny.medfm"), tmp_path / "out", []
    other = ModelUnderTest(name="teacher elsewhere", session=teacher.session, spec=teacher.spec, task=teacher.task)
    report = bench_bundle(
        bundle, teacher, study, POLICY, out, BenchOptions(plan=QUICK, others=(other,), files=2), progress.append
    )
    assert load_report(out / "report.json") == report
    assert [table.name for table in report.evaluations] == ["teacher", "onnxruntime-cpu-fp32"]
    assert [measurement.name for measurement in report.measurements] == [
        "teacher",
        "onnxruntime-cpu-fp32",
        "teacher elsewhere",
    ]
    # The same network twice: the same scores, so no difference at all.
    assert report.evaluations[0].scores == report.evaluations[1].scores
    assert {comparison.difference.estimate for comparison in report.comparisons if comparison.metric == "auroc"} == {
        0.0
    }
    assert len(report.evaluations[0].scores) == 40
    assert report.evaluations[0].subgroups["sex"].count("M") == 14
    # Every round goes over both files, as often as it takes to have as many samples as of the session alone.
    assert all(len(measurement.end_to_end_ms) in (6, 12, 18) for measurement in report.measurements)
    assert report.shipped == report.variants
    page = (out / "report.html").read_text()
    assert "tiny_net" in page
    assert "00.png" not in page + (out / "report.json").read_text()


def test_a_teacher_without_thresholds_gets_them_as_the_bundle_did(tiny, teacher, study, tmp_path: Path) -> None:
    progress: list[str] = []
    home = tiny.bundle(tmp_path / "home.medfm", calibration_fingerprint=study_fingerprint(study))
    report = bench_bundle(home, teacher, study, POLICY, tmp_path / "out", BenchOptions(plan=QUICK), progress.append)
    # On the study of the bundle's own thresholds: by its rule, on the same validation cases, before any test case.
    order = [
        progress.index(line)
        for line in ("evaluate teacher on 24 cases", "evaluate teacher on 40 cases", "open teacher")
    ]
    assert order == sorted(order)
    (point,) = report.teacher_operating_points
    assert (point.rule, point.positives, point.negatives) == ("youden", 12, 12)
    assert (report.teacher_decides, report.notes) == (CHOSEN, ())
    assert f"Decides {CHOSEN}" in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.parametrize("splits", [("test", "val"), ("test",)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_bundle_that_is_its_teacher_differs_by_nothing_on_another_study(
    tiny, teacher, study, tmp_path: Path, splits: tuple[str, ...], temperature: float
) -> None:
    point = msgspec.structs.replace(tiny.POINT, threshold=0.4)
    task = msgspec.structs.replace(tiny.TASK, temperature=temperature, operating_points=(point,))
    bundle = tiny.bundle(tmp_path / "tiny.medfm", task=task)
    elsewhere = msgspec.structs.replace(study, cases=tuple(case for case in study.cases if case.split in splits))
    report = bench_bundle(bundle, teacher, elsewhere, POLICY, tmp_path / "out", BenchOptions(plan=QUICK, files=0))
    assert {c.difference.estimate for c in report.comparisons} == {0.0}
    assert {c.difference.method for c in report.comparisons if c.metric != "ece" and not c.too_few} == {
        "identical outputs"
    }
    assert report.task_of("teacher") == task
    # Said where the verdict is read, too.
    assert report.notes == (f"the teacher decides {BUNDLES}",)
    assert report.notes[0] in judge(report).notes
    # A teacher that has its own keeps both, whatever the study.
    own = msgspec.structs.replace(
        teacher, task=msgspec.structs.replace(task, temperature=3.0, operating_points=(tiny.POINT,))
    )
    again = bench_bundle(bundle, own, elsewhere, POLICY, tmp_path / "own", BenchOptions(plan=QUICK, files=0))
    assert (again.task_of("teacher"), again.teacher_decides) == (own.task, OWN)


def test_a_variant_is_decided_by_its_own_temperature_and_threshold(tiny, teacher, study, tmp_path: Path) -> None:
    point = msgspec.structs.replace(tiny.POINT, threshold=0.01)
    own = msgspec.structs.replace(tiny.ORT, temperature=2.0, operating_points=(point,))
    bundle = tiny.bundle(tmp_path / "tiny.medfm", (own,))
    report = bench_bundle(bundle, teacher, study, POLICY, tmp_path / "out", BenchOptions(plan=QUICK, files=0))
    theirs, its = (table.to_evaluation() for table in report.evaluations)
    np.testing.assert_allclose(its.logits, theirs.logits)
    np.testing.assert_allclose(its.scores, probabilities(its.logits, report.task_of(own.name)))
    assert (report.task.temperature, report.task_of(own.name).temperature) == (1.0, 2.0)
    assert report.task_of("teacher").operating_points == report.teacher_operating_points
    assert report.task_of("unheard of") == report.task
    assert held(point, its).promised.threshold == 0.01


def test_external_models_baselines_and_loads_stand_beside_the_bundle(tiny, teacher, study, tmp_path: Path) -> None:
    home = study_fingerprint(study)
    bundle, external = tiny.bundle(tmp_path / "tiny.medfm", calibration_fingerprint=home), tmp_path / "external.onnx"
    external.write_bytes(tiny.network())
    options = BenchOptions(
        plan=QUICK,
        files=2,
        external_models=(external,),
        baseline=bundle,
        scenarios=("single-stream", "offline"),
        harness="plain",
        load=LoadPlan(duration_s=0.05, min_queries=5, warm_up_s=0.2),
    )
    report = bench_bundle(bundle, teacher, study, POLICY, tmp_path / "out", options)
    assert [table.name for table in report.evaluations] == ["teacher", "onnxruntime-cpu-fp32", "external"]
    assert (report.external_models, report.variants) == (("external",), ("onnxruntime-cpu-fp32",))
    # The external model decides at a threshold of its own, chosen on validation cases; it is compared and never judged.
    assert report.task_of("external").operating_points[0].positives == 12
    assert {comparison.variant for comparison in report.comparisons} == {"onnxruntime-cpu-fp32", "external"}
    assert [judged.variant for judged in judge(report).variants] == ["onnxruntime-cpu-fp32"]
    assert [(load.scenario, load.name) for load in report.scenarios] == [
        (scenario, name) for scenario in options.scenarios for name in ("teacher", "onnxruntime-cpu-fp32")
    ]
    assert not any(load.official for load in report.scenarios)
    (slower,) = report.slowdowns
    assert (slower.variant, len(slower.p50_ms)) == ("onnxruntime-cpu-fp32", 10)
    assert slower.baseline_digest == report.model_digest
    assert [entry.cases for entry in report.test_set_evaluations] == [40]
    assert (tmp_path / "out" / "flips.csv").is_file()
    again = recompute(load_report(tmp_path / "out" / "report.json"), POLICY.policy)
    assert {comparison.variant for comparison in again.comparisons} == {"onnxruntime-cpu-fp32"}


def test_an_external_model_of_another_shape_is_refused_before_any_case_is_seen(
    tiny, teacher, study, tmp_path: Path
) -> None:
    bundle, external = tiny.bundle(tmp_path / "tiny.medfm"), tmp_path / "external.onnx"
    external.write_bytes(b"not an ONNX file")
    with pytest.raises(InputError, match=r"external\.onnx"):
        bench_bundle(
            bundle, teacher, study, POLICY, tmp_path / "out", BenchOptions(plan=QUICK, external_models=(external,))
        )
    assert not (tmp_path / "out" / LOG).exists()


def test_every_look_at_the_test_cases_is_logged_before_it(tiny, teacher, study, tmp_path: Path) -> None:
    """A teacher that breaks leaves no report, and leaves the line."""
    broken = msgspec.structs.replace(teacher, session=SessionRef(opener=ORT, arguments={"model": "/no", "threads": 1}))
    task = msgspec.structs.replace(teacher.task, operating_points=tiny.TASK.operating_points)
    bundle, out = tiny.bundle(tmp_path / "tiny.medfm"), tmp_path / "out"
    for _ in range(2):
        with pytest.raises(InputError, match="teacher cannot run"):
            bench_bundle(
                bundle, msgspec.structs.replace(broken, task=task), study, POLICY, out, BenchOptions(plan=QUICK)
            )
    lines = [msgspec.json.decode(line) for line in (out / LOG).read_bytes().splitlines()]
    assert len(lines) == 2
    assert (lines[0]["policy_sha256"], lines[0]["split"], lines[0]["cases"]) == ("a" * 64, "test", 40)
    assert not (out / "report.json").exists()


def test_targets_that_no_variant_fits_are_refused(tiny, teacher, study, tmp_path: Path) -> None:
    options = BenchOptions(plan=QUICK, targets=("openvino:cpu",))
    with pytest.raises(InputError, match=r"no variant fits .* the bundle has onnxruntime:cpu:fp32"):
        bench_bundle(tiny.bundle(tmp_path / "t.medfm"), teacher, study, POLICY, tmp_path / "out", options)


def test_split_without_cases_is_refused(tiny, teacher, study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no labelled case in split 'holdout'"):
        bench_bundle(
            tiny.bundle(tmp_path / "t.medfm"), teacher, study, POLICY, tmp_path / "out", BenchOptions(split="holdout")
        )
    assert not (tmp_path / "out").exists()


def test_teacher_of_other_labels_is_refused(tiny, teacher, study, tmp_path: Path) -> None:
    other = msgspec.structs.replace(
        teacher, task=Task(kind="binary", labels=("cat", "opacity"), operating_points=tiny.TASK.operating_points)
    )
    with pytest.raises(InputError, match="labels"):
        bench_bundle(
            tiny.bundle(tmp_path / "t.medfm"), other, study, POLICY, tmp_path / "out", BenchOptions(plan=QUICK)
        )


def test_end_to_end_images_are_spread_over_the_split(study) -> None:
    cases = study.split("test")
    assert [Path(path).name for path in image_files(study, cases, 3)] == ["00.png", "19.png", "39.png"]
    gone = (msgspec.structs.replace(cases[0], image="not there.png"),)
    assert image_files(study, gone, 3) == ()


def test_noise_is_named() -> None:
    steady = Measurement(name="steady", target="", session_ms=(1.0,) * 20, calls_per_round=2)
    jumpy = Measurement(name="jumpy", target="", session_ms=(1.0,) * 10 + (2.0,) * 10, calls_per_round=2)
    quiet = msgspec.structs.replace(describe_machine(), load_average=0.0)
    assert noise_reasons(quiet, [steady]) == ()
    assert "jumpy" in " ".join(noise_reasons(quiet, [steady, jumpy]))
    assert "load" in " ".join(noise_reasons(msgspec.structs.replace(quiet, load_average=99.0), [steady]))


def test_no_identifier_of_the_study_enters_anything_that_is_written(tiny, teacher, study, tmp_path: Path) -> None:
    table = tmp_path / "study" / "cases.csv"
    rows = [row.split(",") for row in table.read_text().split()]
    planted = ("Zzyzx^Quentin", "19231107", "ACC-998877")
    extended = [[*rows[0], "patient_name", "birth_date", "accession", "note"]]
    extended += [
        [*row[:3], f"MRN{n}-4242", row[4], *(f"{value}{n}" for value in planted), f"seen by Dr Zzyzx {n}"]
        for n, row in enumerate(rows[1:])
    ]
    table.write_text("\n".join(",".join(row) for row in extended))
    out, bundle = tmp_path / "out", tiny.bundle(tmp_path / "tiny.medfm")
    report = bench_bundle(
        bundle, teacher, open_study(tmp_path / "study"), POLICY, out, BenchOptions(plan=QUICK, files=2)
    )
    assert report.teacher.subgroups.keys() == {"sex"}
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {"report.json", "report.html"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes().decode(errors="replace")
        # The two files that stay at home name patients, to find them by; nothing else does.
        keys = () if path.name in ("flips.csv", "gallery.html") else ("-4242",)
        assert not [word for word in (*planted, "Zzyzx", *keys) if word in content], path.name


def test_perturbed_images_are_evaluated_judged_and_drawn(tiny, teacher, study, tmp_path: Path) -> None:
    asked = Robustness(margin=0.3, perturbations=("exposure", "blur"), severities=(1,))
    rules = LoadedPolicy(msgspec.structs.replace(POLICY.policy, robustness=(asked,)), "b" * 64)
    report = bench_bundle(
        tiny.bundle(tmp_path / "t.medfm"), teacher, study, rules, tmp_path / "out", BenchOptions(plan=QUICK, files=0)
    )
    assert load_report(tmp_path / "out" / "report.json") == report
    assert [(entry.perturbation, entry.severity) for entry in report.perturbed] == [("exposure", 1), ("blur", 1)]
    assert all(len(entry.evaluations) == 2 for entry in report.perturbed)
    assert report.perturbed[0].evaluations[0].logits != report.evaluations[0].logits
    assert {(drop.perturbation, drop.difference.estimate) for drop in report.drops} == {("exposure", 0), ("blur", 0)}
    for verdict in (
        judge(report),
        judge_evidence(recompute(report, rules.policy), rules.policy, policy_sha256=rules.sha256),
    ):
        (variant,) = verdict.variants
        assert [c.outcome for c in variant.checks if "under" in c.name] == ["pass", "pass"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Perturbed images" in page and "exposure" in page
    stricter = msgspec.structs.replace(rules.policy, robustness=(*rules.policy.robustness, Robustness(margin=0.3)))
    checks = judge_evidence(recompute(report, stricter), stricter, policy_sha256="c" * 64).variants[0].checks
    assert sum(c.outcome == "inconclusive" for c in checks if "under" in c.name) == 22
