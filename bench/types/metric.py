"""Which figures of merit there are, and which way each of them points."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal[
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
METRICS: tuple[Metric, ...] = get_args(Metric)
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"brier", "log_loss", "ece"})
"""Errors: for them a rise is the loss, so a margin bounds the upper end of bundle − teacher."""
REPORTED_ONLY: frozenset[Metric] = frozenset({"ece"})
"""Binned calibration error is biased upwards, more so on few cases (Kumar et al. 2019): shown, never gated."""
