"""Training of a segmentation: label maps on the network's grid, moved with their images, scored by Dice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.bench.stats.overlap import dice
from medfm_compress.compress.losses.pixels import UNJUDGED
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import Dataset, LabelMaps
from medfm_compress.compress.training.device import best_device, best_precision
from medfm_compress.compress.training.distributed import first_goes_first
from medfm_compress.compress.training.validation_score import logits_in_batches
from medfm_compress.data.prepared_masks import prepared_masks
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task

_BATCH = 8


class SegmentationTraining:
    """See `TrainingRules`."""

    score = "Dice"
    moving: tuple[str, ...] = ("targets",)

    def distillation_losses(self, task: Task) -> dict[str, float]:
        """Every pixel's probabilities, and where in the image each structure is."""
        return {"pixel-kl": 1.0, "channel-wise": 1.0}

    def scorer(self, val: Dataset, spec: ImageSpec, task: Task, config: TrainingConfig) -> Callable[[nn.Module], float]:
        """The mean Dice over cases and structures, on the network's grid."""
        device = best_device(config.device)
        precision = best_precision(config.precision, device)

        def score(network: nn.Module) -> float:
            batches = logits_in_batches(network, val.images, spec, device=device, precision=precision, size=_BATCH)
            return mean_dice(batches, val.label_maps)

        return score

    def targets(
        self,
        groups: Sequence[tuple[Study, tuple[Case, ...]]],
        labelled: Tensor,
        task: Task,
        spec: ImageSpec,
        cache: Path | None,
        progress: Progress,
    ) -> Callable[[Tensor], Tensor]:
        """Label maps uint8 ``[b, height, width]``; 255 throughout those of cases without one."""
        known = iter(labelled.tolist())
        parts: list[LabelMaps] = []
        with first_goes_first():
            for study, cases in groups:
                judged = tuple(case for case in cases if next(known))
                if judged:
                    parts.append(prepared_masks(study, judged, spec, cache, progress))
        maps = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty((0, 1, 1), np.uint8)
        rows = torch.where(labelled, labelled.cumsum(0) - 1, -1).numpy()
        shape = (spec.height_px, spec.width_px)

        def look_up(index: Tensor) -> Tensor:
            wanted = rows[index.numpy()]
            out = np.full((len(wanted), *shape), UNJUDGED, np.uint8)
            out[wanted >= 0] = maps[wanted[wanted >= 0]]
            return torch.from_numpy(out)

        return look_up


def mean_dice(batches: Iterable[Tensor], label_maps: LabelMaps) -> float:
    """Mean over cases and structures of logits ``[b, structures, h, w]``, batch after batch; 0 where not finite.

    A structure that is neither there nor drawn counts as 1, see `dice`.
    """
    values: list[NDArray[np.float64]] = []
    start = 0
    for logits in batches:
        if not torch.isfinite(logits).all():
            return 0.0
        truth = label_maps[np.arange(start, start + len(logits))]
        values.append(dice_of(logits, truth))
        start += len(logits)
    return float(np.concatenate(values).mean())


def dice_of(logits: Tensor, truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Dice ``[b, structures]`` of logits ``[b, structures, h, w]`` against label maps ``[b, h, w]``."""
    drawn = label_map_of(logits)
    return np.stack([dice(drawn == k, truth == k) for k in range(1, logits.shape[1] + 1)], axis=1)


def label_map_of(logits: Tensor) -> NDArray[np.uint8]:
    """Label maps ``[b, h, w]`` of logits ``[b, structures, h, w]``: what is most probable at each pixel."""
    best, structure = logits.max(1)
    label_maps: NDArray[np.uint8] = torch.where(best >= 0, structure + 1, 0).to(torch.uint8).numpy()
    return label_maps
