"""Who is asked for the validation cases that did not judge, and what becomes of a variant that has no answer."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
import tiny_study

from medfm_compress.compress.quantization import quantize_bundle
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.recalibrate_variants import recalibrate_variants
from medfm_compress.export.build import Export, make_variant
from medfm_compress.export.cases import case_inputs
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.protocol import SessionInfo
from medfm_compress.runtime.task import OperatingPoint

POINT = OperatingPoint(
    label="spot", rule="youden", threshold=0.4, sensitivity=1.0, specificity=1.0, positives=20, negatives=20
)
THRESHOLD = msgspec.structs.replace(tiny_study.TASK, operating_points=(POINT,))
JUDGED = 24


class PlayedSession:
    """Answers with the mean of the image, or with what ``answer`` makes of it; counts the cases."""

    input_names, output_names = ("image",), ("logits",)
    info = SessionInfo(backend="openvino", version="1", provider="CPU", precision="int8", threads=1)

    def __init__(self, answer=lambda mean: mean):
        self.answer, self.cases = answer, 0

    def run(self, inputs):
        self.cases += 1
        return {"logits": np.array([[0.0, self.answer(float(inputs["image"].mean()))]], dtype=np.float32)}


@pytest.fixture
def study():
    return tiny_study.make_study(val=40)


def trial(name, study, session):
    judging = case_inputs(study, study.split("val")[:JUDGED], tiny_study.SPEC)
    logits = np.concatenate(
        [session.run({"image": judging[number : number + 1]})["logits"] for number in range(JUDGED)]
    )
    session.cases = 0
    variant = make_variant("openvino", "fp32" if name == "fp32" else "int8")
    export = Export(variant=variant, contents=(), session=session)
    return CandidateTrial(name=name, variant=variant, export=export, logits=logits, error=0.0)


def recalibrated(study, task, shipping, references):
    cases = study.split("val")[:JUDGED]
    inputs = case_inputs(study, cases, tiny_study.SPEC)
    validation = ValidationSet(study=study, cases=cases, inputs=inputs, task=task)

    def no_source():
        raise AssertionError("the network itself was opened")

    return recalibrate_variants(shipping, references, validation, tiny_study.SPEC, no_source, lambda _: None)


def test_all_labelled_validation_cases_are_asked_and_none_twice(study):
    fp32, int8 = (trial(name, study, PlayedSession()) for name in ("fp32", "int8-minmax"))
    decided = recalibrated(study, THRESHOLD, [int8], [fp32])
    assert [found.cases for found in decided.thresholds] == [40]
    assert fp32.export.session.cases == int8.export.session.cases == 40 - JUDGED
    assert [found.changed for found in decided.thresholds] == [0]


def test_without_a_threshold_full_precision_is_not_asked(study):
    fp32, int8 = (trial(name, study, PlayedSession()) for name in ("fp32", "int8-minmax"))
    decided = recalibrated(study, tiny_study.TASK, [int8], [fp32])
    assert decided.thresholds == () and fp32.export.session.cases == 0
    assert int8.export.session.cases == 40 - JUDGED
    assert [line for line in decided.lines if "temperature" in line] == decided.lines != []


def test_where_full_precision_ships_alone_nobody_is_asked(study):
    fp32 = trial("fp32", study, PlayedSession())
    decided = recalibrated(study, THRESHOLD, [fp32], [fp32])
    assert decided.trials == [fp32] and decided.lines == [] and fp32.export.session.cases == 0


def test_a_variant_that_overflows_on_a_case_that_did_not_judge_is_named_with_it(study):
    worst = max(float(case_inputs(study, (case,), tiny_study.SPEC).mean()) for case in study.split("val")[JUDGED:])
    fp32, overflowing = trial("fp32", study, PlayedSession()), PlayedSession()
    int8 = trial("int8-minmax", study, overflowing)
    overflowing.answer = lambda mean: np.inf if mean >= worst - 1e-6 else mean
    decided = recalibrated(study, THRESHOLD, [int8], [fp32])
    (reason,) = decided.overflowed.values()
    assert list(decided.overflowed) == ["openvino-cpu-int8"] and decided.thresholds == ()
    assert re.fullmatch(r"it gives no finite logits for validation case val-10\d\d \(1 of 40\)", reason)


def test_where_full_precision_overflows_the_case_is_named(study):
    fp32, int8 = (trial(name, study, PlayedSession()) for name in ("fp32", "int8-minmax"))
    fp32.export.session.answer = lambda mean: np.nan
    with pytest.raises(InputError, match=r"no finite logits at full precision for val-1024 \(16 of 40 validation"):
        recalibrated(study, THRESHOLD, [int8], [fp32])


def test_what_overflows_goes_with_its_companions_and_full_precision_comes_back(study):
    fp32, int8 = (trial(name, study, PlayedSession()) for name in ("fp32", "int8-minmax"))
    fp32 = msgspec.structs.replace(fp32, reason="replaced by int8")
    int8 = msgspec.structs.replace(int8, kept=True)
    companion = msgspec.structs.replace(int8, name="reduced", companion_of="int8-minmax", is_fallback=True)
    companion = msgspec.structs.replace(
        companion, variant=msgspec.structs.replace(companion.variant, name="openvino-cpu-int8-reduced")
    )
    left = quantize_bundle._without((fp32, int8, companion), {"openvino-cpu-int8": "it overflows"})
    assert [entry.kept for entry in left] == [True, False, False]
    reasons = ["no candidate may replace it", "it overflows", "what it would stand beside does not ship"]
    assert [entry.reason for entry in left] == reasons
    assert quantize_bundle._without((fp32, int8, companion), {})[1:] == (int8, companion)
