"""Attribution maps of a network in PyTorch: attention rollout for a plain ViT, Grad-CAM for everything else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.compress.explain.attention_rollout import attention_rollout, has_rollout
from medfm_compress.compress.explain.gradcam import grad_cam
from medfm_compress.compress.networks.model import Model, create_module
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

# Training starts from small seeds: the copy must not be the very weights that the teacher was trained from. PyTorch
# looks at the lower 32 bits of a seed alone.
_FAR = 0x5EED_0000


def method_of(model: Model) -> str:
    """Which method :func:`attribute` uses for ``model``."""
    return "attention rollout" if has_rollout(model.module) else "grad-cam"


def attribute(model: Model, images: NDArray[np.float32], finding: str) -> NDArray[np.float32]:
    """Attribution maps of ``finding``, one image at a time.

    Args:
        model: on the CPU, in eval mode.
        images: normalised ``[n, C, H, W]``, float32.
        finding: one of the task's; attention rollout is the same for all of them.

    Returns:
        float32 ``[n, h, w]`` at the resolution of the method.

    Raises:
        InputError: no such finding, or a network that neither method can read.
    """
    if finding not in model.task.findings:
        raise InputError(f"there is no finding {finding!r}; choose of {', '.join(model.task.findings)}")
    maps = []
    for row in range(len(images)):
        image = torch.from_numpy(np.ascontiguousarray(images[row : row + 1]))
        if has_rollout(model.module):
            maps.append(attention_rollout(model.module, image))
        else:
            maps.append(grad_cam(model.module, image, lambda z: log_odds(z, model.task, finding)))
    attribution: NDArray[np.float32] = torch.cat(maps).numpy()
    return attribution


def log_odds(logits: torch.Tensor, task: Task, finding: str) -> torch.Tensor:
    """`runtime.occlusion.log_odds` with gradients: ``[n]`` of logits ``[n, labels]``."""
    index = task.labels.index(finding)
    if task.independent:
        return logits[:, index]
    others = [number for number in range(len(task.labels)) if number != index]
    return logits[:, index] - torch.logsumexp(logits[:, others], dim=1)


def randomised(model: Model, seed: int) -> Model:
    """The same architecture with fresh random weights; the caller's random numbers are not disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_FAR + seed)
        module = create_module(model.architecture)
    return Model("randomised", module, model.spec, model.task, model.architecture)
