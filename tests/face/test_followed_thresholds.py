"""What ``quantize`` says of its variants' decisions beside FP32."""

from __future__ import annotations

import pytest

from medfm_compress.cli.followed_thresholds import print_followed_thresholds
from medfm_compress.cli.quantize import _known
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
