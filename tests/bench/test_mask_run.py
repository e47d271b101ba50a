"""A whole bench of a segmentation: what a device draws is held against the masks, reported and shown."""

from __future__ import annotations

from pathlib import Path

import drawn_masks
import msgspec
import numpy as np
import pytest

from medfm_compress.bench.gate.gate import judge, judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.models import OWN, TeacherRef
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.report import load_report
from medfm_compress.bench.run import bench_bundle
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec, Tiles
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = Plan(rounds=3, turn_ms=2, min_calls=2, max_calls=5, warm_up_s=0.3)
POLICY = LoadedPolicy(
    Policy(
        non_inferiority=(NonInferiority(metric="dice", margin=0.2),),
        min_positives=5,
        min_negatives=5,
        min_clusters=5,
        resamples=1000,
    ),
    "a" * 64,
)


def teacher_of(path: Path, spec: ImageSpec = drawn_masks.SPEC) -> TeacherRef:
    path.write_bytes(drawn_masks.network())
    return TeacherRef(
        name="spots",
        session=SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1}),
        spec=spec,
        task=drawn_masks.TASK,
        size_bytes=path.stat().st_size,
    )


@pytest.fixture
def study(tmp_path: Path):
    return drawn_masks.draw(tmp_path, 40)


def test_a_bundle_that_draws_less_is_seen_in_every_file(study, tmp_path: Path) -> None:
    bundle = drawn_masks.bundle(tmp_path / "spots.medfm", drawn_masks.network(eroded_px=3))
    out, teacher = tmp_path / "out", teacher_of(tmp_path / "teacher.onnx")
    report = bench_bundle(bundle, teacher, study, POLICY, out, BenchOptions(plan=QUICK, files=2))
    assert load_report(out / "report.json") == report
    first, second = (np.array(table.case_metrics["dice"], float) for table in report.evaluations)
    assert np.nanmean(first) > 0.9
    assert np.nanmean(second) < 0.7
    assert report.teacher_decides == OWN
    assert judge(report).outcome == "fail"
    assert judge_evidence(recompute(report, POLICY.policy), POLICY.policy, policy_sha256="0" * 64).outcome == "fail"
    page, gallery = ((out / name).read_text() for name in ("report.html", "gallery.html"))
    assert "Overlap with the truth, case by case" in page
    assert "Can the probabilities be believed?" not in page
    assert ".png" not in page.replace("image/png", "")
    for sentence in ("Structures lost or invented", "Two models with the same mean Dice", "of its most probable pixel",
                     "noise, another exposure or blur", "<dt>Surface Dice</dt>",
                     "outlines of truth, teacher and bundle"):  # fmt: skip
        assert sentence in page
    for of_images in ("Decisions that changed", "the same AUROC", "rotation", "thresholds: upper left", "<dt>ECE</dt>"):
        assert of_images not in page
    assert ".outline-bundle { border-top-style: dashed; }" in gallery
    assert gallery.count("<article>") == 40
    assert "data:image/png" in gallery


def test_other_rules_for_masks_need_another_bench(study, tmp_path: Path) -> None:
    bundle = drawn_masks.bundle(tmp_path / "spots.medfm", drawn_masks.network())
    report = bench_bundle(
        bundle,
        teacher_of(tmp_path / "teacher.onnx"),
        study,
        POLICY,
        tmp_path / "out",
        BenchOptions(plan=QUICK, files=1),
    )
    assert judge(report).outcome == "pass"
    changed = msgspec.structs.replace(POLICY.policy, masks=MaskRules(lesion_overlap=0.5))
    with pytest.raises(InputError, match="judged by other rules than the policy's \\(lesion_overlap differ\\)"):
        recompute(report, changed)


@pytest.mark.parametrize("tiles", [False, True])
def test_the_bench_judges_what_the_device_gives(study, tmp_path: Path, tiles: bool) -> None:
    from medfm_compress.bench.evaluate.mask_evaluation import MaskOptions, read_kept_map
    from medfm_compress.bench.evaluate.subprocess_inference import Scratch, evaluate_model
    from medfm_compress.bench.measure.latency import ModelUnderTest
    from medfm_compress.runtime.progress import no_progress

    spec = msgspec.structs.replace(drawn_masks.SPEC, tiles=Tiles()) if tiles else drawn_masks.SPEC
    bundle = drawn_masks.bundle(tmp_path / "spots.medfm", drawn_masks.network(), spec)
    teacher, cases = teacher_of(tmp_path / "teacher.onnx", spec), study.cases[:4]
    model = ModelUnderTest(name="teacher", session=teacher.session, spec=spec, task=teacher.task)
    folder, kept = Scratch(tmp_path / "a", tmp_path / "b"), tmp_path / "kept"
    for path in (folder.temporary, folder.prepared):
        path.mkdir()
    table = evaluate_model(model, study, cases, QUICK, folder, no_progress, MaskOptions(keep=kept))
    engine = Engine(bundle, unverified=True, threads=1)
    for row, case in enumerate(cases):
        prediction = engine.predict(study.root.parent / case.image)
        drawn = read_kept_map(kept, "teacher", row)
        assert prediction.segmentation is not None
        np.testing.assert_array_equal(drawn, prediction.segmentation.label_map)
        assert table.decisions[row, 0] == drawn.any()
