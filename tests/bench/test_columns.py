"""Models that take columns beside the image: evaluated, timed, and held against ONNX files with several inputs."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny_bundle

from medfm_compress.bench.evaluate.perturb import perturbed_study, unperturbed
from medfm_compress.bench.evaluate.subprocess_inference import Scratch, evaluate_model, image_files
from medfm_compress.bench.evidence.model_card import model_card
from medfm_compress.bench.external_models import external_model
from medfm_compress.bench.gate.decision import Decision
from medfm_compress.bench.gate.gate import judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.models import TeacherRef, variant_models
from medfm_compress.bench.monitor_reference import add_reference
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.run import bench_bundle
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy, SubgroupRule
from medfm_compress.data.case_columns import case_columns
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.monitor.reference import read_reference
from medfm_compress.runtime.network_inputs import feed, with_columns
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.sessions.protocol import SessionRef
from tests.helpers import tiny_columns
from tests.helpers.tiny_columns import AGE, COLUMNS, SEX, VIEW

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
ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"


def write_study(folder: Path, ages: list[str]) -> Study:
    image = pytest.importorskip("PIL.Image")
    random, rows = np.random.default_rng(0), []
    folder.mkdir()
    for number, age in enumerate(ages):
        pixels = random.integers(0, 200, (40, 40)).astype(np.uint8)
        image.fromarray(pixels).save(folder / f"{number:02}.png")
        sex, view = ("female", "male", "")[number % 3], ("AP", "PA", "")[number % 3]
        rows.append([f"{number:02}.png", "test" if number < 24 else "val", ("normal", "opacity")[number % 2]])
        rows[-1] += [f"p{number}", age, sex, view]
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "label", "patient", "age", "sex", "view"], *rows])
    return open_study(folder)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path / "study", [str(20 + number) for number in range(40)])


@pytest.fixture
def model(tmp_path: Path, study: Study) -> ModelUnderTest:
    bundle = Bundle.open(tiny_columns.bundle(tmp_path / "columns.medfm"))
    (model,) = variant_models(bundle, 1, files=image_files(study, study.split("test"), 2))
    return model


def test_every_case_is_answered_with_its_own_columns(tmp_path: Path, study: Study, model: ModelUnderTest) -> None:
    cases = study.split("test")
    folder = Scratch(tmp_path, tmp_path)
    evaluation = evaluate_model(model, study, cases, QUICK, folder, no_progress)

    session, columns = model.session.open(), case_columns(study, cases, COLUMNS)
    for row, case in enumerate(cases):
        image = preprocess(study.source.read(case.image), model.spec)
        inputs = with_columns(image, {name: rows[row : row + 1] for name, rows in columns.items()})
        logits = session.run(feed(session.input_names, inputs))["logits"]
        np.testing.assert_allclose(evaluation.logits[row], logits[0], atol=1e-5)
    assert set(evaluation.subgroups) == {"age", "sex", "view"}


def test_perturbed_images_keep_their_columns(study: Study) -> None:
    altered = perturbed_study(perturbed_study(study, "noise", 1), "blur", 2)
    assert unperturbed(altered) == study and unperturbed(study) == study


def test_a_case_without_a_value_that_must_be_known(tmp_path: Path, model: ModelUnderTest) -> None:
    gaps = write_study(tmp_path / "gaps", ["", *(str(20 + number) for number in range(39))])
    with pytest.raises(StudyError, match=r"1 of 24 cases .* age is missing"):
        evaluate_model(model, gaps, gaps.split("test"), QUICK, Scratch(tmp_path, tmp_path), no_progress)


def test_it_is_timed_with_columns_and_from_file_to_finding(model: ModelUnderTest) -> None:
    (measurement,) = measure([model], QUICK)
    assert min(measurement.session_ms) > 0 and measurement.stages_ms


def test_a_reference_for_monitoring_is_of_cases_with_their_columns(tmp_path: Path) -> None:
    study = write_study(tmp_path / "many", [str(20 + number % 60) for number in range(80)])
    bundle = Bundle.open(tiny_columns.bundle(tmp_path / "columns.medfm"))
    add_reference(bundle, study, tmp_path / "with.medfm")
    with Engine(tmp_path / "with.medfm", threads=1) as engine:
        known = read_reference(engine.bundle, engine.variant).features(engine.variant.name)["score of opacity"]
        counts = [0] * len(known.counts)
        for case in study.split("val"):
            values = {name: case.value(name) or None for name in ("age", "sex", "view")}
            image = np.asarray(study.source.read(case.image).values)
            counts[known.bin_of(engine.predict(image, columns=values).probabilities["opacity"])] += 1
    assert sum(abs(a - b) for a, b in zip(counts, known.counts, strict=True)) <= 2


def external(tmp_path: Path, content: bytes, columns=COLUMNS) -> ModelUnderTest:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(content)
    return external_model(path, tiny_bundle.SPEC, tiny_bundle.TASK, 1, columns)


def test_an_onnx_file_with_several_inputs(tmp_path: Path, study: Study) -> None:
    theirs = external(tmp_path, tiny_columns.network((SEX, AGE)))
    assert [column.name for column in theirs.columns] == ["age", "sex"]
    evaluation = evaluate_model(theirs, study, study.split("test"), QUICK, Scratch(tmp_path, tmp_path), no_progress)
    assert np.isfinite(evaluation.logits).all() and len(evaluation.images) == 24
    assert external(tmp_path, tiny_bundle.network()).columns == ()


@pytest.mark.parametrize(
    ("content", "columns", "reason"),
    [
        (tiny_columns.network, (), "has 4 inputs, one is allowed"),
        (tiny_columns.network, (AGE, SEX), "its inputs are .*'view'.*columns of the bundle.*age, sex"),
        (
            lambda: tiny_columns.network((msgspec.structs.replace(SEX, missing="refuse"),)),
            (SEX,),
            r"its input 'sex' is float32 \[1, 2\]; the bundle's column is float32 \[1, 3\]",
        ),
        (lambda: tiny_columns.network((AGE, AGE)), (AGE,), "cannot load|Duplicate|duplicate"),
    ],
    ids=["no columns", "unknown", "another width", "two of one name"],
)
def test_an_onnx_file_whose_inputs_are_not_the_columns(tmp_path: Path, content, columns, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        external(tmp_path, content(), columns)


def test_a_whole_bench(tmp_path: Path, study: Study) -> None:
    teacher = tmp_path / "teacher.onnx"
    teacher.write_bytes(tiny_columns.network(seed=1))
    ref = TeacherRef(
        name="teacher",
        session=SessionRef(opener=ORT, arguments={"model": str(teacher), "threads": 1}),
        spec=tiny_bundle.SPEC,
        task=tiny_bundle.TASK,
        size_bytes=1,
        columns=COLUMNS,
    )
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(tiny_columns.network((VIEW,)))
    bundle = tiny_columns.bundle(tmp_path / "columns.medfm")
    options = BenchOptions(plan=QUICK, external_models=(plain,), files=2)
    report = bench_bundle(bundle, ref, study, POLICY, tmp_path / "out", options)
    assert {comparison.variant for comparison in report.comparisons} >= {tiny_bundle.ORT.name, "plain"}
    assert any(comparison.subgroup.startswith("sex") for comparison in report.comparisons)
    assert all("age" not in table.subgroups for table in report.evaluations)
    evidence = recompute(report, POLICY.policy)
    verdict = judge_evidence(evidence, POLICY.policy, policy_sha256=POLICY.sha256)
    decision = Decision(verdict, evidence, POLICY.policy, report)
    card = model_card(decision, Bundle.open(bundle).manifest, "")
    assert "Beside the image it is given:\n- age: 0 to 110 years, from PatientAge; no answer without it" in card
