"""What ``quantize`` says of its variants' decisions beside FP32."""

from __future__ import annotations

import pytest

from medfm_compress.bench.types.interval import Interval
from medfm_compress.cli.followed_thresholds import _moved_in_words, print_followed_thresholds
from medfm_compress.cli.quantize import _known, _row
from medfm_compress.compress.quantization.candidate import Candidate
from medfm_compress.compress.quantization.thresholds import FollowedThreshold


def followed(variant: str, finding: str, threshold: float, changed: int) -> FollowedThreshold:
    return FollowedThreshold(
        variant=variant,
        finding=finding,
        threshold=threshold,
        fp32_threshold=0.25,
        changed=changed,
        cases=100,
        reason="",
    )


def test_a_line_a_variant_says_what_moved_and_what_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    many = [followed("openvino-cpu-int8", f"f{number}", 0.3, number) for number in range(5)]
    still = [followed("onnxruntime-cpu-int8", "f0", 0.25, 2)]
    print_followed_thresholds([*many, *still])
    header, moved, stays = capsys.readouterr().out.splitlines()
    assert header == "decisions on all labelled validation cases that differ from FP32's:"
    assert moved == (
        "  openvino-cpu-int8: 10 of 500; threshold of f4 0.25 -> 0.3, f3 0.25 -> 0.3, f2 0.25 -> 0.3 and 2 more"
    )
    assert stays == "  onnxruntime-cpu-int8: 2 of 100; thresholds are FP32's"


def test_nothing_is_said_without_a_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    print_followed_thresholds([])
    assert capsys.readouterr().out == ""


def test_what_was_not_measured_is_null_and_no_zero() -> None:
    unopened = Candidate(target="openvino:cpu:bf16", variant="v", method="bf16", reason="cannot be run")
    judged = Candidate(target="tensorrt:cuda:fp16", variant="v", method="fp16", relative_logit_error=0.01, reason="r")
    fields = ("p50_ms", "speedup", "relative_logit_error", "accuracy_drop", "changed_decisions")
    assert [_known(unopened)[name] for name in fields] == [None] * 5
    assert [_known(judged)[name] for name in fields] == [None, None, 0.01, 0.0, 0.0]


def test_the_table_says_as_which_variant_a_candidate_is_kept_and_where_it_was_timed() -> None:
    interval = Interval(estimate=2.0, low=1.9, high=2.1)
    common = {"target": "openvino:cpu:int8", "variant": "openvino-cpu-int8", "relative_logit_error": 0.01}
    kept = Candidate(
        **common, method="int8-minmax", p50_ms=5, speedup=2, speedup_interval=interval, kept=True, reason="r"
    )
    other = Candidate(**common, method="int8-mse", p50_ms=6, speedup=1.6, reason="s")
    slow = Candidate(target="openvino:cpu:fp16", variant="v", method="fp16", p50_ms=9, speedup=1.1, reason="slower")
    gpu = Candidate(target="tensorrt:cuda:fp32", variant="g", method="fp32", p50_ms=1, relative_logit_error=0.0)
    rows = [_row(candidate, finally_timed=True) for candidate in (kept, other, slow, gpu)]
    assert [row[2] for row in rows] == ["2.00×", "~1.60×", "~1.10×", "–"]
    assert [row[3] for row in rows] == ["0.0100", "0.0100", "–", "0.0000"]
    outcomes = ["kept as openvino-cpu-int8: r", "not kept: s", "not kept: slower", "not kept: "]
    assert [row[-1] for row in rows] == outcomes
    assert [row[2] for row in (_row(other, finally_timed=False),)] == ["1.60×"]
    assert _known(gpu)["speedup"] is None and _known(gpu)["p50_ms"] == 1


def test_a_threshold_that_moved_by_less_than_is_shown_is_full_precisions() -> None:
    barely = followed("openvino-cpu-int8", "f0", 0.250001, 1)
    assert barely.has_moved and _moved_in_words([barely]) == "thresholds are FP32's"
