"""Pruning of a segmentation: label maps on the network's grid, cross-entropy and soft Dice of the pixels, mean Dice.

Every pixel is an answer, so that a few cases say as much as many labels do, and each costs a map of logits: fewer are
read. The layers at full resolution are the narrowest ones of a decoder and often most of its work; steps of 16 would
leave them as they are, so narrow groups shrink by 8, which is a register of AVX2 in FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medfm_compress.compress.losses.dice_ce import DiceCrossEntropy
from medfm_compress.compress.pruning.importance import Loss
from medfm_compress.compress.training.segmentation import dice_of
from medfm_compress.data.prepared_masks import prepared_masks
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task


class SegmentationPruning:
    """See `PruningRules`."""

    score_name = "mean Dice"
    training_cases = 64
    validation_cases = 16
    batch = 4
    narrow_step = 8

    def targets(self, study: Study, cases: Sequence[Case], spec: ImageSpec, progress: Progress) -> Tensor:
        """Label maps uint8 ``[n, height, width]``."""
        return torch.from_numpy(prepared_masks(study, cases, spec, None, progress))

    def loss(self, task: Task) -> Loss:
        """Mean over the cases of cross-entropy plus soft Dice loss."""
        each = DiceCrossEntropy()
        return lambda logits, targets: each(logits, targets).mean()

    def score(self, task: Task) -> Callable[[Tensor, Tensor], float | None]:
        """Mean Dice over cases and structures; None where a logit is not finite."""

        def score(logits: Tensor, targets: Tensor) -> float | None:
            finite = bool(torch.isfinite(logits).all())
            return float(dice_of(logits, targets.numpy()).mean()) if finite else None

        return score
