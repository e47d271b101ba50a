"""Segmentation: mean Dice of every structure, and which structure each pixel is called, on the network's own grid.

    D_k = mean over labelled cases of 2 |P_k ∩ T_k| / (|P_k| + |T_k|) ,   1 where both are empty

P_k the pixels of which structure k is the most probable, T_k those that the mask draws it on. The background's logit is
0, so that it is called where every logit is at most 0; of one structure at most below 0.

changed decisions = share of pixels that are called otherwise

A case's inputs and logits take memory by the pixel, so there are as many cases as fill it and no more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.overlap import dice
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_MOST_VALUES = 2**25  # of the inputs, or of one candidate's logits: 128 MiB; 170 cases of 256 px in colour
_FEWEST_CASES = 4


class SegmentationJudge:
    """See `Judge`."""

    metric = "mean Dice"
    chooses_thresholds = False  # a pixel is what is most probable there

    def wanted_cases(self, options: QuantizeOptions) -> int:
        """``validation_samples``."""
        return options.validation_samples

    def error_limit(self, options: QuantizeOptions) -> float:
        """``pixel_error_limit``."""
        return options.pixel_error_limit

    def limit(self, options: QuantizeOptions) -> float:
        """``dice_limit``."""
        return options.dice_limit

    def most_cases(self, task: Task, spec: ImageSpec) -> int:
        """As many as `_MOST_VALUES` hold."""
        values = max(spec.channels, len(task.labels)) * spec.height_px * spec.width_px
        return max(_FEWEST_CASES, _MOST_VALUES // values)

    def truth(self, study: Study, cases: tuple[Case, ...], spec: ImageSpec) -> object:
        """Label maps ``[cases, height, width]``, uint8, of the labelled cases on the network's grid."""
        from medfm_compress.data.prepared_masks import prepared_masks

        drawn = tuple(case for case in cases if case.target)
        return prepared_masks(study, drawn, spec, None) if drawn else None

    def scores(self, logits: Logits, validation: ValidationSet) -> list[float]:
        """Mean Dice of each structure (see above), of logits ``[n, structures, height, width]``."""
        truth = validation.truth
        if not isinstance(truth, np.ndarray):
            return []
        called = label_maps(logits[validation.are_labelled])
        numbers = range(1, logits.shape[1] + 1)
        return [float(dice(called == number, truth == number).mean()) for number in numbers]

    def least_change(self, cases: int) -> float:
        """Nothing: there are pixels enough."""
        return 0.0

    def decision_limit(self, options: QuantizeOptions, validation: ValidationSet) -> float:
        """Any where accuracy can be told; else ``decision_limit``."""
        return 1.0 if validation.labelled else max(options.decision_limit, self.least_change(len(validation.cases)))

    def changed(self, logits: Logits, fp32_logits: Logits, task: Task) -> float:
        """Share of pixels that are called otherwise."""
        return float((label_maps(logits) != label_maps(fp32_logits)).mean())

    def changed_of(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> float:
        """`changed`."""
        return self.changed(logits, fp32_logits, validation.task)

    def remarks(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> str:
        """Nothing: shares say enough."""
        return ""


def label_maps(logits: Logits) -> NDArray[np.uint8]:
    """``[n, height, width]`` of logits ``[n, structures, height, width]``: 0 background, k the k-th structure."""
    highest = logits.max(axis=1)
    drawn = highest >= 0 if logits.shape[1] == 1 else highest > 0
    called = logits.argmax(axis=1) + 1
    return np.where(drawn, called, 0).astype(np.uint8)
