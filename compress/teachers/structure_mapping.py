"""What a teacher's maps mean in the structures of a study.

    z'_k = log Σ_{i ∈ G_k} exp(z_i)  −  log ( [no map is the background] + Σ_{i ∈ B} exp(z_i) )

z the teacher's maps of logits, G_k those that mean the study's structure k, B the map of the background, if it has one,
and those that mean none of the study's structures: what is left out belongs to the background. So the background's
logit becomes 0, as the rest of the house has it; a network with a map of the background first, softmax over all, gives
z_k − z_0. Maps of sigmoids that were trained each by itself stay as they are: at each pixel the structure of the
highest one above 0.5 is drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

BACKGROUND = "background"


class StructureMap(NamedTuple):
    """From logits ``[n, outputs, h, w]`` to logits ``[n, structures of the study, h, w]``.

    Attributes:
        groups: the teacher's outputs that mean each of the study's structures.
        theirs: what the teacher calls its outputs.
        background: outputs that the background is made of.
        implied: whether the background has a logit of 0 besides.
    """

    groups: tuple[tuple[int, ...], ...]
    theirs: tuple[str, ...]
    background: tuple[int, ...] = ()
    implied: bool = True

    @property
    def single(self) -> bool:
        """Whether one output stands for two labels; never, of maps."""
        return False

    def __call__(self, logits: Tensor) -> Tensor:
        """See the module's formula."""
        maps = torch.cat([_joined(logits, group) for group in self.groups], 1)
        if not self.background:
            return maps
        rest = _joined(logits, self.background)
        if self.implied:
            rest = torch.logaddexp(rest, torch.zeros_like(rest))
        return maps - rest

    def changes(self, outputs: int) -> bool:
        """Whether it is more than the identity on this many outputs."""
        return bool(self.background) or self.groups != tuple((index,) for index in range(outputs))


def structure_map(groups: tuple[tuple[int, ...], ...], theirs: tuple[str, ...]) -> StructureMap:
    """The map that puts outputs called ``theirs`` together as ``groups`` say; the rest is background."""
    used = {index for group in groups for index in group}
    rest = tuple(index for index in range(len(theirs)) if index not in used)
    return StructureMap(groups, theirs, rest, implied=not any(is_background(name) for name in theirs))


def is_background(name: str) -> bool:
    """Whether a label is that of the background."""
    return name.strip().lower() == BACKGROUND


def refuse_other_kind(name: str, outputs: tuple[int, ...], task: Task, sides: tuple[int, int]) -> None:
    """Whether the logits of one image have the shape that a study of ``task`` asks for.

    Args:
        name: of the teacher.
        outputs: shape of the logits, without the batch axis.
        task: of the study.
        sides: height and width of the image.

    Raises:
        ModelError: one answer an image where one a pixel is wanted, the other way round, or maps of another size.
    """
    if outputs[1:] == (1, 1):
        raise ModelError(
            f"{name} gives {(1, *outputs)} for one image; a classifier's logits must be (1, labels), and a "
            "segmentation's maps as large as the image: end it in torch.flatten(logits, 1)"
        )
    if task.is_dense and len(outputs) != 3:
        raise ModelError(
            f"{name} gives {outputs} for one image, which is no mask; a teacher of a segmentation gives a map of the "
            "image's size for each structure"
        )
    if not task.is_dense and len(outputs) == 3:
        raise ModelError(
            f"{name} answers for every pixel and the study is {task.kind}; give a study with masks and its --structure"
        )
    if task.is_dense and outputs[1:] != sides:
        raise ModelError(
            f"{name} gives maps of {outputs[1]}×{outputs[2]} for images of {sides[0]}×{sides[1]} px, which is no mask "
            "of the image; give a network that answers at its input's size"
        )


def _joined(logits: Tensor, group: tuple[int, ...]) -> Tensor:
    chosen = logits[:, list(group)]
    return chosen if len(group) == 1 else torch.logsumexp(chosen, 1, keepdim=True)
