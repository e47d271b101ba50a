"""How an image, a network's last feature map and the cells of a mask lie on each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.features import as_map
from medfm_compress.compress.pretrain.masking import Masks
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec

_CELLS = 6  # along the shorter side, at least, where the mask's cells are left to us
_FEWEST = 4


class Geometry(NamedTuple):
    """Sizes in pixels unless said otherwise.

    Attributes:
        channels: of an image.
        features: channels of the map.
        map_size: cells (down, across) of the map.
        stride: side of an image's square that a cell of the map stands for.
        visible: cells of the map that a mask leaves, where its own cells are at least as large.
    """

    channels: int
    features: int
    map_size: tuple[int, int]
    stride: int
    visible: int = 0

    def under(self, masks: Masks) -> Geometry:
        """The same, with ``visible`` of these masks."""
        cells, of_mask = self.map_size[0] * self.map_size[1], masks.grid[0] * masks.grid[1]
        return self._replace(visible=(of_mask - masks.hidden) * cells // of_mask)


def geometry_of(network: nn.Module, spec: ImageSpec, name: str) -> Geometry:
    """The geometry of a network on images of ``spec``.

    Raises:
        ModelError: a network without a feature map, or an image that is no multiple of its stride.
    """
    shape, reduction = _map_of(network, spec), _reduction(network)
    height, width = spec.height_px, spec.width_px
    stride = reduction or (height // shape[1] if shape else 0)
    if shape and reduction and (height % reduction or width % reduction):
        raise ModelError(
            f"images of {height}×{width} px are no multiple of {reduction} px, the stride of {name}; give such a size, "
            f"e.g. {max(round(height / reduction), 2) * reduction}"
        )
    if shape is None or (shape[1] * stride, shape[2] * stride) != (height, width):
        raise ModelError(f"{name} gives no feature map that covers the image, and cannot be pre-trained by masking")
    return Geometry(spec.channels, shape[0], (shape[1], shape[2]), stride)


def _map_of(network: nn.Module, spec: ImageSpec) -> tuple[int, int, int] | None:
    """Channels, height and width of the last feature map; None where there is none."""
    if not hasattr(network, "forward_features"):
        return None
    with torch.inference_mode():
        inner = nn.Module.eval(network).forward_features(torch.zeros(1, *spec.shape[1:]))  # type: ignore[operator]
    grid = as_map(inner, network) if isinstance(inner, Tensor) else None
    return None if grid is None else (grid.shape[1], grid.shape[2], grid.shape[3])


def _reduction(network: nn.Module) -> int:
    """Stride that timm states of a network's last stage; 0 where it states none."""
    stages = getattr(network, "feature_info", None)
    try:
        return int(stages[-1]["reduction"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError):
        return 0


def mask_grid(geometry: Geometry, spec: ImageSpec, cell_px: int, *, whole: bool) -> tuple[int, int]:
    """Cells (down, across) of the masks.

    Args:
        geometry: of the network.
        spec: of its images.
        cell_px: side of a cell; 0 takes the largest that leaves six a side, or else the stride.
        whole: a cell covers whole cells of the map; otherwise it may also be a fraction of one.

    Raises:
        InputError: a cell that does not fit the image and the map, or so few that nothing would be left to learn from.
    """
    height, width, stride = spec.height_px, spec.width_px, geometry.stride
    fitting = [
        side
        for side in range(1, min(height, width) + 1)
        if not (height % side or width % side) and (not side % stride or (not whole and not stride % side))
    ]
    fine = [side for side in fitting if min(height, width) // side >= _CELLS]
    side = cell_px or (stride if whole else max(fine, default=stride))
    if side not in fitting:
        allowed = ", ".join(str(size) for size in fitting if (height // size) * (width // size) >= _FEWEST)
        raise InputError(f"mask patch is {side} px; images of {height}×{width} px take one of {allowed or 'none'}")
    if (height // side) * (width // side) < _FEWEST:
        raise InputError(
            f"a mask patch of {side} px leaves too few in an image of {height}×{width} px; give a larger --image-size"
        )
    return height // side, width // side
