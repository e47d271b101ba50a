"""`SlideResult`: what is said of a slide, as it stands in ``result.json``."""

from __future__ import annotations

import msgspec

from medfm_compress.runtime.slides.settings import SlideSettings


class TileRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tile: where it is, in pixels of level 0, and its probabilities; none where it was not answered."""

    x: int
    y: int
    width: int
    height: int
    probabilities: dict[str, float] = {}


class TileCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many tiles there are: in all, with tissue, answered, unread, and unlike the training images."""

    all: int
    tissue: int
    answered: int
    unread: int
    not_reliable: int


class SlideResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle says of one slide. Nothing of when or how fast: going on after an end gives the same bytes.

    Attributes:
        slide: name of its file.
        slide_sha256: of the file.
        size_px: width and height of level 0.
        um_per_px: of level 0, across and down.
        reader: that read it.
        settings: that it was read with.
        tiles: how many.
        probabilities: of the slide, by finding; empty where it is withheld.
        findings: called at the settings' thresholds or not; None without one.
        withheld: why no label is given; empty where one is.
        flags: remarks, e.g. ``unread-regions``, ``unverified-model``.
        unread: regions that could not be decoded; at most `MAX_LISTED`, all of them stand in ``tiles.csv``.
        top: the most probable tiles of each finding, the first first.
        area_mm2: of each structure of a segmentation; empty for other kinds.
        variant: of the bundle, that answered.
        model_digest: of the bundle.
        intended_use: as the bundle's maker declared it.
    """

    slide: str
    slide_sha256: str
    size_px: tuple[int, int]
    um_per_px: tuple[float, float]
    reader: str
    settings: SlideSettings
    tiles: TileCounts
    probabilities: dict[str, float]
    findings: dict[str, bool | None]
    withheld: str
    flags: tuple[str, ...]
    unread: tuple[TileRow, ...]
    top: dict[str, tuple[TileRow, ...]]
    area_mm2: dict[str, float]
    variant: str
    model_digest: str
    intended_use: str


MAX_LISTED = 1000
UNREAD_FLAG = "unread-regions"
