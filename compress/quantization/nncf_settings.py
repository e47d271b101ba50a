"""`NncfSettings`: how NNCF makes a candidate; with a `Method` of that field it stands among the others."""

from __future__ import annotations

from typing import Literal

import msgspec

Estimator = Literal["minmax", "mean-no-outliers", "histogram"]
"""Of activation ranges: extremes of all cases; mean of each case's extremes, less the outermost; of least error."""
BiasCorrection = Literal["", "fast", "accurate"]
"""None; from statistics of the float network; layer after layer, behind the layers that are quantized already."""
Preset = Literal["performance", "mixed"]
"""Activations with zero points of 0, or with any."""
Rounding = Literal["", "awq+scale-estimation", "gptq"]
"""Of weights alone: to nearest; after AWQ's scaling and with searched scales; column after column."""

MISSING = "NNCF is not installed: pip install 'medfm-compress[toolchain]'"


class NncfSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What NNCF is told.

    Attributes:
        estimator: of activation ranges.
        preset: of activations.
        transformer: the graph has attention, for which NNCF has rules of its own.
        smoothquant: SmoothQuant's alpha in (0, 1], for matrix products; 0 is off.
        bias_correction: which one.
        error_limit: layers return to float until the relative logit error on calibration cases is no larger; 0 is off.
        rounding: of weights alone, where the method compresses only these.
    """

    estimator: Estimator = "histogram"
    preset: Preset = "performance"
    transformer: bool = False
    smoothquant: float = 0.0
    bias_correction: BiasCorrection = ""
    error_limit: float = 0.0
    rounding: Rounding = ""

    @property
    def parts(self) -> list[str]:
        """Of the name of a method for activations and weights."""
        parts = ["nncf", self.estimator]
        parts += ["mixed"] if self.preset == "mixed" else []
        parts += ["transformer"] if self.transformer else []
        parts += [f"smoothquant-{self.smoothquant:g}"] if self.smoothquant else []
        parts += [f"{self.bias_correction}-bias-correction"] if self.bias_correction else []
        return parts + (["accuracy-control"] if self.error_limit else [])

    @property
    def weight_parts(self) -> list[str]:
        """Of the name of a method for weights alone."""
        return ["nncf", *([self.rounding] if self.rounding else [])]
