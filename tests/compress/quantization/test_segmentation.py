"""A segmentation is judged by its pixels: mean Dice, pixels called otherwise, as many cases as memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import tiny_segmentation
from msgspec.structs import replace

from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization import candidate_search
from medfm_compress.compress.quantization import quantize_bundle as module_under_test
from medfm_compress.compress.quantization.fidelity import fidelity
from medfm_compress.compress.quantization.kinds.segmentation import label_maps
from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.data.study import Study
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.golden_cases import replay_goldens
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.task import Task

TWO = Task(kind="segmentation", labels=("lesion", "vessel"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return tiny_segmentation.make_study(tmp_path_factory.mktemp("study"))


def logits_of(study: Study) -> Any:
    """Logits that draw every mask exactly, far from 0."""
    _, masks = tiny_segmentation.inputs_of(study, "val")
    return np.where(masks.numpy()[:, None] > 0, 2.0, -2.0).astype(np.float32)


def validation_of(study: Study) -> ValidationSet:
    cases = study.split("val")
    judge = judge_of(tiny_segmentation.TASK)
    truth = judge.truth(study, cases, tiny_segmentation.SPEC)
    inputs, _ = tiny_segmentation.inputs_of(study, "val")
    return ValidationSet(study, cases, inputs.numpy(), tiny_segmentation.TASK, truth)


def test_a_pixel_is_called_what_is_most_probable_of_background_and_structures() -> None:
    logits = np.array([[-1.0, 0.5, 2.0, -0.5], [-2.0, 0.7, 1.0, 0.1]], np.float32).reshape(1, 2, 1, 4)
    assert label_maps(logits).tolist() == [[[0, 2, 1, 2]]]
    assert label_maps(logits[:, :1]).tolist() == [[[0, 1, 1, 0]]]
    assert label_maps(np.zeros((1, 1, 1, 1), np.float32)).item() == 1, "p = 0.5 of one structure is drawn"


def test_dice_is_a_mean_over_cases_and_an_absent_lesion_that_is_not_drawn_counts_as_one(study: Study) -> None:
    validation, exact = validation_of(study), logits_of(study)
    judge = judge_of(validation.task)
    assert judge.scores(exact, validation) == [1.0]
    without = np.full_like(exact, -2.0)
    empty = float(np.mean([not any(case.target) for case in validation.cases]))
    assert 0 < empty < 1
    assert judge.scores(without, validation) == [pytest.approx(empty)]


def test_lost_lesions_are_a_fall_of_dice_and_a_share_of_the_pixels(study: Study) -> None:
    validation, exact = validation_of(study), logits_of(study)
    damaged = exact.copy()
    first = next(number for number, case in enumerate(validation.cases) if any(case.target))
    damaged[first] = -2.0
    judged = fidelity(damaged, exact, validation)
    assert judged.accuracy_drop == pytest.approx(1 / len(exact))
    assert judged.changed_decisions == pytest.approx((exact[first] > 0).sum() / exact[:, 0].size)
    assert judged.relative_logit_error > 0
    assert fidelity(np.full_like(exact, np.nan), exact, validation).accuracy_drop == 1.0


def test_a_study_without_masks_is_judged_by_logits_and_pixels_alone(study: Study) -> None:
    labelled, exact = validation_of(study), logits_of(study)
    cases = tuple(replace(case, target=(), masks=()) for case in labelled.cases)
    bare = labelled._replace(cases=cases, truth=judge_of(labelled.task).truth(study, cases, tiny_segmentation.SPEC))
    judged = fidelity(-exact, exact, bare)
    assert judge_of(TWO).least_change(8) == 0, "pixels are enough, a case is no unit"
    assert not bare.labelled and judged.accuracy_drop == 0 and judged.changed_decisions == 1


def test_as_many_cases_judge_as_memory_holds() -> None:
    judge, spec = judge_of(TWO), tiny_segmentation.SPEC
    colour = replace(spec, height_px=256, width_px=256, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert judge.most_cases(TWO, colour) >= 128
    large = replace(colour, height_px=1024, width_px=1024)
    assert 4 <= judge.most_cases(TWO, large) <= 16
    many = Task(kind="segmentation", labels=tuple(f"s{number}" for number in range(20)))
    assert judge.most_cases(many, large) < judge.most_cases(TWO, large)


@pytest.fixture(scope="module")
def source(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "fp32.medfm"
    draft = BundleDraft(
        name="tiny",
        spec=tiny_segmentation.SPEC,
        task=tiny_segmentation.TASK,
        provenance=Provenance(steps=("finetune",)),
        intended_use="testing",
    )
    build_bundle(tiny_segmentation.trained(study), draft, path, study=study)
    return path


def test_quantize_ships_int8_on_both_engines_that_answers_as_its_goldens_say(
    study: Study, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks are played: INT8 is twice as fast."""

    def in_process(sessions: Any, image: Any, rounds: int) -> list[list[float]]:
        return [[1.0 if session.info.precision == "int8" else 2.0] * 5 for session in sessions]

    def fresh(trials: Any, *_: Any) -> list[Measurement]:
        times = [1.0 if trial.variant.precision == "int8" else 2.0 for trial in trials]
        return [
            Measurement(name=str(number), target="played", session_ms=(ms,) * 20, calls_per_round=2)
            for number, ms in enumerate(times)
        ]

    monkeypatch.setattr(candidate_search, "session_ms", in_process)
    monkeypatch.setattr(module_under_test, "time_in_fresh_processes", fresh)
    options = QuantizeOptions(
        samples=16,
        rounds=5,
        time_budget_s=0.0,
        pixel_error_limit=0.2,
        dice_limit=0.05,
        reduced_range=False,
    )
    out = tmp_path / "int8.medfm"
    quantized = quantize_bundle(source, study, out, options)
    assert quantized.judged_by == "relative logit error and mean Dice" and quantized.applied
    kept = {candidate.variant: candidate for candidate in quantized.candidates if candidate.kept}
    assert {"onnxruntime-cpu-int8", "openvino-cpu-int8"} < set(kept), "and ONNX Runtime's own form of its variant"
    assert all(abs(candidate.accuracy_drop) <= 0.05 for candidate in kept.values())
    bundle = Bundle.open(out)
    for variant in bundle.manifest.variants:
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) <= variant.golden_tolerance
    refused = quantize_bundle(source, study, out, replace(options, pixel_error_limit=1e-6))
    assert not refused.applied


def test_a_fall_of_dice_refuses_and_is_named() -> None:
    from medfm_compress.compress.quantization.budget import Budget
    from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits, infidelity
    from medfm_compress.export.build import make_variant

    limits = Limits(error=1.0, accuracy_drop=0.01, rounds=5, threads=1, budget=Budget(0.0), metric=judge_of(TWO).metric)
    trial = CandidateTrial(name="int8", variant=make_variant("openvino", "int8"), error=0.0, accuracy_drop=0.05)
    assert infidelity(trial, limits) == "mean Dice falls by 0.05 on validation cases, the limit is 0.01"
