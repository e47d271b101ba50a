"""Which figures of merit there are, and which way each of them points."""

from __future__ import annotations

from typing import Literal, get_args

CaseMetric = Literal[
    "auroc",
    "auprc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "brier",
    "log_loss",
    "ece",
]
MaskMetric = Literal[
    "dice",
    "iou",
    "surface_dice",
    "hd95",
    "lesion_sensitivity",
    "small_lesion_sensitivity",
    "false_positives_per_image",
]
PlaceMetric = Literal["pixel_auroc", "pro"]
Metric = Literal[CaseMetric, MaskMetric, PlaceMetric]
METRICS: tuple[Metric, ...] = get_args(CaseMetric)
"""Of scores and decisions: one of each a case and finding."""
MASK_METRICS: tuple[MaskMetric, ...] = get_args(MaskMetric)
"""Of masks: every case has a value of its own, of which the mean is compared."""
PLACE_METRICS: tuple[PlaceMetric, ...] = get_args(PlaceMetric)
"""Of anomaly maps: likewise."""
PER_CASE_METRICS: tuple[Metric, ...] = (*MASK_METRICS, *PLACE_METRICS)
ALL_METRICS: tuple[Metric, ...] = (*METRICS, *PER_CASE_METRICS)
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"brier", "log_loss", "ece", "hd95", "false_positives_per_image"})
"""Errors: for them a rise is the loss, so a margin bounds the upper end of bundle − teacher."""
UNBOUNDED: frozenset[Metric] = frozenset({"hd95", "false_positives_per_image"})
"""Distances and counts, which are no shares: a margin or floor may be above 1."""
REPORTED_ONLY: frozenset[Metric] = frozenset({"ece"})
"""Binned calibration error is biased upwards, more so on few cases (Kumar et al. 2019): shown, never gated."""
