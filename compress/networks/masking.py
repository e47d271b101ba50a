"""`Masking`: what masked pre-training hides from a network."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from medfm_compress.runtime.errors import InputError

Method = Literal["auto", "mae", "simmim"]
METHODS: tuple[Method, ...] = get_args(Method)


class Masking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is hidden from the network, and how it answers.

    Attributes:
        method: of masked pre-training: ``mae`` for plain ViTs, ``simmim`` for any network; ``auto`` takes mae for a
            plain ViT, else simmim.
        ratio: fraction of an image that is hidden; without it 0.75 for mae and 0.6 for simmim.
        patch_px: side of the squares that are hidden; 0 takes the network's patches for mae, and for simmim the largest
            that leave six along a side.
    """

    method: Annotated[Method, Meta(extra={"option": "method"})] = "auto"
    ratio: Annotated[float, Meta(gt=0, lt=1, examples=[0.6], extra={"option": "mask-ratio"})] | None = None
    patch_px: Annotated[int, Meta(ge=0, extra={"option": "mask-patch"})] = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.patch_px < 0:
            raise InputError(f"mask patch is {self.patch_px} px; it must be 0 (left to the method) or more")


def check_ratio(ratio: float) -> float:
    """The fraction of an image that is hidden; raises InputError unless it lies above 0 and below 1."""
    if not 0 < ratio < 1:
        raise InputError(f"mask ratio is {ratio}; it must be above 0 and below 1, e.g. 0.6")
    return ratio
