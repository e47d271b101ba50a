"""`MaskRules`: how masks are held against each other; part of a policy, since it decides what counts as found."""

from __future__ import annotations

import msgspec

from medfm_compress.runtime.errors import InputError


class MaskRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the masks of a segmentation are held against the truth, declared before the test split is touched.

    Attributes:
        surface_tolerance_px: outlines that lie no farther apart count as the same in surface Dice, in pixels of the
            image's own size; used where the distance of pixels is not known for every case.
        surface_tolerance_mm: likewise in mm, where it is known.
        lesion_overlap: a drawn region finds a true one from this intersection over union on, above 0 and at most 1.
        small_lesion_percent: a true region of less than this share of the image, in %, is a small one.
        lost_below_dice: a structure that both models draw, but one of them with a Dice below this, counts as lost by
            that one, in [0, 1].
    """

    surface_tolerance_px: float = 2.0
    surface_tolerance_mm: float = 1.0
    lesion_overlap: float = 0.1
    small_lesion_percent: float = 1.0
    lost_below_dice: float = 0.1

    def __post_init__(self) -> None:
        for name, low, high, allowed in (
            ("surface_tolerance_px", 0.0, 1e4, "0 to 10,000"),
            ("surface_tolerance_mm", 0.0, 1e4, "0 to 10,000"),
            ("lesion_overlap", 1e-6, 1.0, "above 0 and at most 1"),
            ("small_lesion_percent", 1e-6, 100.0, "above 0 and at most 100"),
            ("lost_below_dice", 0.0, 1.0, "0 to 1"),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be {allowed}")
