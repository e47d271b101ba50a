"""`SlideSettings`: how a slide is cut, read and summed up; a small file that validation slides chose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import decode

Aggregation = Literal["max", "mean-top", "noisy-or"]
TissueRule = Literal["saturation", "everything"]
_MAX_BYTES = 1 << 20


class SlideSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a slide is cut into tiles, read, and summed up to a label.

    Attributes:
        tile_um_per_px: micrometres a pixel of the network's input; a slide is read at its next finer level and reduced
            by the bundle's own filter.
        overlap: of neighbouring tiles, as a part of their side.
        tissue: which tiles are read: those that show tissue by its saturation, or everything.
        min_tissue: share of a tile that must be tissue.
        aggregation: of the probabilities of a slide's tiles to that of the slide.
        top: tiles that 'mean-top' takes the mean of.
        thresholds: finding to the probability of the slide from which it is called; without one nothing is called.
        unread: of a slide in which a region cannot be read, flag the label, or refuse to give one.
        max_missing: share of tissue tiles without an answer (unread, or not reliable) above which no label is given.
    """

    tile_um_per_px: Annotated[float, Meta(gt=0, le=100)]
    overlap: Annotated[float, Meta(ge=0, le=0.75)] = 0.0
    tissue: TissueRule = "saturation"
    min_tissue: Annotated[float, Meta(ge=0, le=1)] = 0.1
    aggregation: Aggregation = "mean-top"
    top: Annotated[int, Meta(ge=1, le=10_000)] = 10
    thresholds: dict[str, Annotated[float, Meta(ge=0, le=1)]] = {}
    unread: Literal["flag", "refuse"] = "flag"
    max_missing: Annotated[float, Meta(ge=0, le=1)] = 0.1

    def __post_init__(self) -> None:
        check(self)


def read_settings(path: Path) -> SlideSettings:
    """The settings in a JSON file; raises InputError where it cannot be read or says something else."""
    return decode(read_regular(path, _MAX_BYTES, "the slide settings"), SlideSettings, source=str(path))


def check_findings(settings: SlideSettings, findings: tuple[str, ...]) -> None:
    """Raises InputError where a threshold is of a finding that the bundle does not have."""
    unknown = sorted(set(settings.thresholds) - set(findings))
    if unknown:
        raise InputError(f"thresholds for {', '.join(unknown)}; the bundle's findings are {', '.join(findings)}")
