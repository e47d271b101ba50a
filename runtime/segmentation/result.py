"""`Segmentation`: what a network that answers for every pixel says of one image."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.segmentation.regions import Region, regions_of

if TYPE_CHECKING:
    from medfm_compress.runtime.segmentation.label_map import LabelMap, Planes


class Segmentation:
    """A label map at the image's own size, and what follows from it; never changed.

    Attributes:
        label_map: uint8 ``[H, W]``; 0 background, k the k-th structure; read-only.
        structures: their names, in order.
        spacing_mm: between pixels, where the image says it; the geometric mean of rows and columns.
        probabilities: float32 ``[structures, H, W]``; None unless they were asked for.
    """

    def __init__(
        self,
        label_map: LabelMap,
        structures: tuple[str, ...],
        spacing_mm: float | None = None,
        probabilities: Planes | None = None,
    ) -> None:
        label_map.setflags(write=False)
        self.label_map, self.structures, self.spacing_mm = label_map, structures, spacing_mm
        self.probabilities = probabilities

    def mask(self, structure: str) -> NDArray[np.bool_]:
        """Which pixels ``[H, W]`` show a structure; raises ValueError where there is none of that name."""
        return np.asarray(self.label_map == self.structures.index(structure) + 1)

    @cached_property
    def area_px(self) -> dict[str, int]:
        """Structure → pixels that show it."""
        parts = np.array_split(self.label_map, max(1, self.label_map.size >> 20))  # bincount widens to 8 bytes a pixel
        counts = np.sum([np.bincount(rows.reshape(-1), minlength=len(self.structures) + 1) for rows in parts], axis=0)
        return {name: int(counts[number]) for number, name in enumerate(self.structures, start=1)}

    @property
    def area_mm2(self) -> dict[str, float] | None:
        """Structure → its area; None where the distance of pixels is not known."""
        if self.spacing_mm is None:
            return None
        return {name: count * self.spacing_mm**2 for name, count in self.area_px.items()}

    @cached_property
    def regions(self) -> dict[str, tuple[Region, ...]]:
        """Structure → its connected regions (8 neighbours), the largest first."""
        of_px = None if self.spacing_mm is None else self.spacing_mm**2
        return {name: regions_of(self.mask(name), of_px) if self.area_px[name] else () for name in self.structures}

    def summary(self) -> dict[str, Any]:
        """Size, areas and regions as JSON has them: numbers and no arrays."""
        import msgspec

        return {
            "height_px": int(self.label_map.shape[0]),
            "width_px": int(self.label_map.shape[1]),
            "spacing_mm": self.spacing_mm,
            "area_px": self.area_px,
            "area_mm2": self.area_mm2,
            "regions": msgspec.to_builtins(self.regions),
        }
