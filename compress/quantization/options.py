"""`QuantizeOptions`: how to quantize a bundle, as a recipe or the command line says it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.bench.types.target import TARGETS
from medfm_compress.runtime.constraints import check

MIN_CALIBRATION_CASES = 8


class QuantizeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to quantize.

    Attributes:
        samples: calibration cases, drawn from the training split.
        validation_samples: cases that candidates are judged on, drawn from the validation split.
        seed: of both draws.
        targets: where it will run, e.g. ``openvino:cpu`` or ``tensorrt:cuda:int8``; without any, every CPU engine that
            the bundle has an FP32 variant for.
        error_limit: largest relative logit error on validation cases that is kept.
        pixel_error_limit: likewise, of a segmentation: logits of most pixels may move and call none of them otherwise.
        score_error_limit: likewise, of an anomaly score, whose spread over normal cases is small; each of them has to
            agree besides.
        auroc_limit: largest fall of AUROC on validation cases that is kept.
        dice_limit: largest fall of a structure's mean Dice on them that is kept, of a segmentation.
        decision_limit: largest share of decisions (of a segmentation, of pixels) that may change, on cases without
            labels, where no accuracy can be told; one of the cases may at least.
        time_budget_s: of each target, after which no further candidate is begun, in seconds of processor time; 0 tries
            one INT8 candidate.
        weights_only: compress weights only, in 8 or 4 bits, where size is what hurts; time then decides nothing.
        keep_fp32: keep the FP32 variants of backends that got an INT8 one, as a fall-back for other CPUs.
        reduced_range: ship a variant with 7-bit weights beside an INT8 one, for CPUs without VNNI.
        optimised: ship the ONNX Runtime variant also as that engine optimised it for this class of CPU.
        nncf: ask NNCF for candidates too, where it is installed.
        rounds: interleaved latency rounds.
        threads: of the sessions that are timed.
        rechoose: give each variant that is kept its own temperature and thresholds, where validation cases can tell.
    """

    samples: Annotated[int, Meta(ge=MIN_CALIBRATION_CASES)] = 300
    validation_samples: Annotated[int, Meta(ge=1)] = 128
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    targets: Annotated[tuple[str, ...], TARGETS] = ()
    error_limit: Annotated[float, Meta(gt=0)] = 0.03
    pixel_error_limit: Annotated[float, Meta(gt=0)] = 0.1
    score_error_limit: Annotated[float, Meta(gt=0)] = 0.1
    auroc_limit: Annotated[float, Meta(ge=0)] = 0.02
    dice_limit: Annotated[float, Meta(ge=0)] = 0.01
    decision_limit: Annotated[float, Meta(ge=0, le=1)] = 0.02
    time_budget_s: Annotated[float, Meta(ge=0, extra={"unit": "s"})] = 300.0
    weights_only: Literal["", "int8", "int4"] = ""
    keep_fp32: bool = False
    reduced_range: bool = True
    optimised: bool = True
    nncf: bool = True
    rounds: Annotated[int, Meta(ge=5)] = 40
    threads: Annotated[int, Meta(ge=1)] = 1
    rechoose: bool = True

    def __post_init__(self) -> None:
        check(self)
