"""What `check_study` says of a segmentation study's masks."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from medfm_compress.data.labels import LEARNED
from medfm_compress.data.masks import check_size, drawn_map, drawn_values
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import MedfmError

_QUANTILES = (0.05, 0.5, 0.95)
_MOST = 0.5
_MOST_VALUES = 4


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One structure in one split.

    Attributes:
        cases: whose masks show it.
        area_p5: 5% quantile, over those cases, of its share of the image, in [0, 1]; 0 without any.
        area_median: the median.
        area_p95: the 95% quantile.
    """

    cases: int
    area_p5: float
    area_median: float
    area_p95: float


class MasksOfSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Masks of one split; counts are of images.

    Attributes:
        drawn: with a usable mask.
        empty: of those, that show nothing.
        undrawn: without a mask.
        structures: by name.
    """

    drawn: int
    empty: int
    undrawn: int
    structures: dict[str, Shown]


class UnusableMask(msgspec.Struct, frozen=True):
    """An image whose mask cannot be used, and why."""

    image: str
    reason: str


class MaskCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of the masks.

    Attributes:
        splits: see the type.
        unusable: masks that cannot be read, have values that stand for nothing, or are of another size than the image.
        shared: groups of images whose masks are one file, or equal ones, that show something.
        values: structure → value that its own files draw it with → in how many.
    """

    splits: dict[str, MasksOfSplit]
    unusable: tuple[UnusableMask, ...]
    shared: tuple[tuple[str, ...], ...]
    values: dict[str, dict[int, int]]


class InspectedMask(NamedTuple):
    """A mask: each structure's share of the image, and a digest of the drawing; or why it cannot be used.

    ``values`` are those that the structures are drawn with, as `masks.drawn_values` has them.
    """

    areas: tuple[float, ...] = ()
    content: str = ""
    reason: str = ""
    values: tuple[int, ...] = ()


def inspect_mask(study: Study, case: Case, size: tuple[int, int]) -> InspectedMask | None:
    """Read the mask of an image of (height, width) px; None of an undrawn case."""
    if not case.masks:
        return None
    try:
        drawn = drawn_map(study, case)
        check_size(drawn, case, size)
        values = drawn_values(study, case)
    except MedfmError as exc:
        return InspectedMask(reason=str(exc))
    counts = np.bincount(drawn.reshape(-1), minlength=len(study.labels) + 1)[1 : len(study.labels) + 1]
    content = hashlib.sha256(b"%d %d " % drawn.shape + drawn.tobytes()).hexdigest() if counts.any() else ""
    return InspectedMask(tuple(float(count) / drawn.size for count in counts), content, values=values)


def with_targets(study: Study, masks: Sequence[InspectedMask | None]) -> Study:
    """The study whose cases have the targets that their masks show; () where there is no usable one."""
    targets = [tuple(int(area > 0) for area in mask.areas) if mask else () for mask in masks]
    cases = tuple(
        msgspec.structs.replace(case, target=target) for case, target in zip(study.cases, targets, strict=True)
    )
    return msgspec.structs.replace(study, cases=cases)


def check_masks(study: Study, masks: Sequence[InspectedMask | None], splits: Sequence[str]) -> MaskCheck:
    """Count what `inspect_mask` found of each case, in the study's order."""
    rows = list(zip(study.cases, masks, strict=True))
    by_content: dict[str, list[str]] = defaultdict(list)
    for case, mask in rows:
        if mask and mask.content:
            by_content[mask.content].append(case.image)
    return MaskCheck(
        splits={
            split: _of_split(study.labels, [mask for case, mask in rows if case.split == split]) for split in splits
        },
        unusable=tuple(UnusableMask(case.image, mask.reason) for case, mask in rows if mask and mask.reason),
        shared=tuple(tuple(images) for images in by_content.values() if len(images) > 1),
        values={label: _values([mask for mask in masks if mask], k) for k, label in enumerate(study.labels)},
    )


def _values(masks: Sequence[InspectedMask], structure: int) -> dict[int, int]:
    found = Counter(mask.values[structure] for mask in masks if mask.values and mask.values[structure])
    return dict(found.most_common())


def _of_split(labels: Sequence[str], masks: Sequence[InspectedMask | None]) -> MasksOfSplit:
    drawn = [mask for mask in masks if mask and not mask.reason]
    return MasksOfSplit(
        drawn=len(drawn),
        empty=sum(not any(mask.areas) for mask in drawn),
        undrawn=sum(mask is None for mask in masks),
        structures={label: _shown([mask.areas[k] for mask in drawn]) for k, label in enumerate(labels)},
    )


def _shown(areas: Sequence[float]) -> Shown:
    present = [area for area in areas if area > 0]
    low, middle, high = (float(value) for value in np.quantile(present, _QUANTILES)) if present else (0.0, 0.0, 0.0)
    return Shown(cases=len(present), area_p5=low, area_median=middle, area_p95=high)


def mask_errors(study: Study, masks: MaskCheck) -> Iterator[str]:
    """One sentence for each thing that must be mended before training."""
    if masks.unusable:
        yield f"{len(masks.unusable)} mask(s) cannot be used, first {masks.unusable[0].reason}"
    copied = [group for group in masks.shared if len(_files(study, group)) < len(group)]
    if copied:
        first = " and ".join(copied[0][:2])
        yield (
            f"{sum(map(len, copied))} images share a mask file that shows something, first {first}; a drawing belongs "
            "to one image"
        )
    for split in LEARNED:
        of_split = masks.splits.get(split)
        if of_split and not of_split.drawn:
            yield f"no image of {split} has a usable mask; draw some, or set its split to 'unlabelled'"


def _files(study: Study, images: Sequence[str]) -> Counter[tuple[str, ...]]:
    wanted = set(images)
    return Counter(case.masks for case in study.cases if case.image in wanted)


def mask_remarks(study: Study, masks: MaskCheck) -> Iterator[str]:
    """One sentence for each thing worth knowing."""
    copied = [group for group in masks.shared if len(_files(study, group)) == len(group)]
    if copied:
        yield f"{len(copied)} group(s) of images have equal drawings, first {' and '.join(copied[0][:2])}; look at them"
    empty = {split: found.empty for split, found in masks.splits.items() if found.empty}
    if empty:
        yield f"empty masks, of images that show no structure: {_listed(empty)}"
    for label, values in masks.values.items():
        if len(values) > 1:
            shown = ", ".join(f"{value} in {count}" for value, count in list(values.items())[:_MOST_VALUES])
            yield (
                f"{label!r} is drawn with {len(values)} values, {shown} mask(s); see that all of them mean it, and "
                "convert them with 'medfm-compress study masks' where they do not"
            )
    for label in study.labels:
        large = {split: found.structures[label] for split, found in masks.splits.items()}
        if any(shown.cases and shown.area_median > _MOST for shown in large.values()):
            yield (
                f"{label!r} covers more than half of the image in most masks; see that background (0) and structure "
                "are not swapped"
            )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {split}" for split, count in counts.items())
