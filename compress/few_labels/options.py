"""`FewLabelsOptions`: how many labelled cases, how often drawn, and on what the classifiers are judged."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError

ClassifierName = Literal["linear-probe", "prototypes"]


class FewLabelsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is drawn, and what it is judged on.

    Attributes:
        cases: labelled cases of every class in a draw; each number is a point of the curve.
        draws: of training cases a point, the same for every encoder and classifier.
        split: whose cases the classifiers are judged on; a look at the test split is logged, see ``--log``.
        seed: of the draws and of the resamples.
        resamples: of the patients of the split.
    """

    cases: Annotated[tuple[int, ...], Meta(extra={"option": ""})] = (5, 20, 100)
    draws: Annotated[int, Meta(ge=2, le=1000)] = 20
    split: str = "val"
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    resamples: Annotated[int, Meta(ge=100, le=100_000)] = 1000

    def __post_init__(self) -> None:
        check(self)
        if not self.cases or min(self.cases) < 2 or len(set(self.cases)) < len(self.cases):
            raise InputError(f"cases is {','.join(map(str, self.cases))}; give different numbers, each 2 or more")
        if self.split in {"train", "unlabelled", ""}:
            raise InputError(f"split is {self.split!r}; the classifiers learn from train: give val, or test")
