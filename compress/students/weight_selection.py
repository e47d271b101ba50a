"""Weight selection: a small network starts from evenly spaced elements of a larger one of the same family.

For a dimension of T elements in the larger network and S <= T in the smaller one, element i of the smaller is element

    index(i) = floor(i T / S),    i = 0 .. S-1

of the larger, the same in every tensor and every dimension; layers are the first ones of each stage, so tensors meet by
their names. Xu, Chen, Vishniakov, Yin, Shen, Darrell, Liu, Liu 2024, "Initializing Models with Larger Ones", ICLR:
uniform element selection and first-N layer selection, which the paper finds best together.

Equal widths have equal indices, so the channels of a residual stream line up. Where k blocks of T lie in one dimension
(query, key and value; gate and value) index(j S + i) = j T + floor(i T / S): each block keeps to itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from medfm_compress.runtime.errors import ModelError

State = Mapping[str, Tensor]
_PROJECTION = ".downsample."


def evenly_spaced(larger: int, smaller: int) -> Tensor:
    """Indices ``[smaller]`` int64 into a dimension of ``larger`` elements; all of them where the sizes are equal."""
    return torch.arange(smaller) * larger // smaller


def select(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The evenly spaced elements of ``tensor`` that fill ``shape``, of as many dimensions and none of them larger."""
    for dimension, (larger, smaller) in enumerate(zip(tensor.shape, shape, strict=True)):
        if larger != smaller:
            tensor = tensor.index_select(dimension, evenly_spaced(larger, smaller))
    return tensor


def select_weights(larger: State, smaller: State, anew: Collection[str] = ()) -> dict[str, Tensor]:
    """A state for the smaller network out of the larger one's.

    Args:
        larger: state dict of the larger network, on the CPU.
        smaller: of the smaller one, as it was built; gives the shapes.
        anew: prefixes of names of tensors that stay as they were built.

    Raises:
        ModelError: a tensor that the larger network has no match for.
    """
    return {
        name: own if name.startswith(tuple(anew)) else _selected(name, larger, own) for name, own in smaller.items()
    }


def _selected(name: str, larger: State, own: Tensor) -> Tensor:
    shape = tuple(own.shape)
    source = larger.get(name)
    if source is None and _PROJECTION in name:
        return _passed_on(name, larger, own)
    if source is None or source.ndim != own.ndim or any(s > t for s, t in zip(shape, source.shape, strict=True)):
        raise ModelError(f"it has no layer that {name} {shape} could be cut from")
    if not own.is_floating_point() and source.shape != own.shape:
        return own  # a table of positions, which the smaller network has its own of
    return select(source, shape).clone()


def _passed_on(name: str, larger: State, own: Tensor) -> Tensor:
    """A projection where the larger network's shortcut is the identity: it passes on the channels that were selected.

    A ResNet's plain stem keeps its 64 channels, whatever comes after it. Its normalisation stays as it was built.
    """
    if own.ndim < 2:
        return own
    block = name.partition(_PROJECTION)[0]
    channels = larger[f"{block}.conv1.weight"].shape[1]
    return select(torch.eye(channels)[:, :, None, None], tuple(own.shape)).clone()
