"""How well a network does on validation cases: the mean AUROC over findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.compress.networks.inputs import with_columns
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import Dataset
from medfm_compress.compress.training.device import autocast, best_device, best_precision
from medfm_compress.compress.training.job import Columns, Images, gather
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_BATCH = 64


def logits_of(
    module: nn.Module,
    images: Images,
    spec: ImageSpec,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    columns: Columns = MappingProxyType({}),
) -> Tensor:
    """Logits ``[n, labels]`` float32 on the CPU of prepared images ``[n, c, h, w]`` in [0, 1] and their columns."""
    return torch.cat(list(logits_in_batches(module, images, spec, device=device, precision=precision, columns=columns)))


def logits_in_batches(
    module: nn.Module,
    images: Images,
    spec: ImageSpec,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    columns: Columns = MappingProxyType({}),
    size: int = _BATCH,
) -> Iterator[Tensor]:
    """Likewise, ``size`` images after the other."""
    mean = torch.tensor(spec.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(spec.std).reshape(1, -1, 1, 1)
    nn.Module.eval(module)
    for index in torch.split(torch.arange(len(images)), size):
        with torch.inference_mode(), autocast(device, precision):
            batch = torch.from_numpy(gather(images, index.numpy()))
            batch = ((batch - mean) / std).to(device).contiguous(memory_format=torch.channels_last)
            beside = {name: rows[index].to(device) for name, rows in columns.items()}
            yield module(with_columns(batch, beside)).float().cpu()


def auroc_scorer(val: Dataset, spec: ImageSpec, task: Task, config: TrainingConfig) -> Callable[[nn.Module], float]:
    """Scores a network by `mean_auroc` on ``val``, on the device and in the precision that it is trained in."""
    device = best_device(config.device)
    precision = best_precision(config.precision, device)

    def score(network: nn.Module) -> float:
        logits = logits_of(network, val.images, spec, device=device, precision=precision, columns=val.columns)
        return mean_auroc(logits, val.targets, task)

    return score


def mean_auroc(logits: Tensor, targets: NDArray[np.int64], task: Task) -> float:
    """Mean over findings of logits ``[n, labels]``; 0 where they are not finite."""
    wide = logits.double()
    scores = torch.sigmoid(wide) if task.independent else torch.softmax(wide, dim=1)
    if not torch.isfinite(scores).all():
        return 0.0
    truth = one_hot(targets, task)
    columns = range(len(task.labels) - len(task.findings), len(task.labels))
    return float(np.mean([auroc(scores[:, i].numpy(), truth[:, i]) for i in columns]))


def one_hot(targets: NDArray[Any], task: Task) -> NDArray[np.int64]:
    """0/1 ``[n, labels]`` of targets ``[n, 1]`` (index) or ``[n, labels]`` (already 0/1)."""
    if task.independent:
        return targets
    columns: NDArray[np.int64] = (targets == np.arange(len(task.labels))).astype(np.int64)
    return columns
