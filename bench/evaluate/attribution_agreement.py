"""How far teacher and student look at the same places: agreement of their attribution maps on a sample of cases.

    rank correlation    ρ = Pearson's r of the midranks of the two maps' pixels (Spearman 1904)
    overlap             o = Σ_p min(a_p, b_p) / k,  k = n / 10

n pixels; a_p and b_p are 1 where pixel p is among the hottest tenth of its map and 0 elsewhere. Pixels that tie at the
border of the tenth share what room is left in equal parts, so that neither figure depends on the order of the pixels.
Both are 1 for identical maps; independent ones give 0 and 0.1 on average. A constant map ranks nothing: it agrees by
chance with any map, even with another constant one, so ρ = 0 and o = 0.1 by definition and no figure is ever NaN.

Agreement says that two networks look at the same places, not that these are the right ones. What it is worth is told by
its floor: the teacher against a copy of itself with random weights (Adebayo et al., Sanity Checks for Saliency Maps,
2018). Maps that agree no better than that tell nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import midranks
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode

FOLDER = "explanations"
AGREEMENT = "agreement.json"
ORIGIN = "origin.json"
MAPS = "maps.npz"
RANDOMISED = "randomised"
HOTTEST = 0.1

_MAX_BYTES = 4 << 20
_ROUNDING = 1e-9


class ExplanationAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agreement of two models' attribution maps, one value a case; 1 is identical.

    Attributes:
        variant: who is held against the teacher; ``randomised`` is the teacher's own copy with random weights.
        finding: whose score was explained.
        method: of the maps, of teacher and variant, e.g. ``grad-cam / occlusion``.
        rank_correlation: Spearman's ρ over the pixels, in [-1, 1].
        overlap: share of the hottest tenth of the pixels that both have, in [0, 1].
        cases: position of each case in the report's tables.
        pointing: of the variant's map, 1 where its highest value lies in the mask of the finding, else 0 (a share where
            it is reached twice); null for a case without the finding or without a mask; empty where none has one.
        teacher_pointing: likewise of the teacher's map.
    """

    variant: str
    finding: str
    method: str
    rank_correlation: tuple[float, ...]
    overlap: tuple[float, ...]
    cases: tuple[int, ...]
    pointing: tuple[float | None, ...] = ()
    teacher_pointing: tuple[float | None, ...] = ()


class ExplanationOrigin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the maps were made of, so that they are never shown beside another model or other cases.

    Attributes:
        model_digest: of the bundle.
        cases_sha256: over the image keys of all labelled cases of the split in order, as in `EvaluationTable`.
        split: of the study.
        teacher: ``name@sha256`` of its weights.
    """

    model_digest: str
    cases_sha256: str
    split: str
    teacher: str


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Spearman's ρ in [-1, 1] over all pixels of two maps of one shape; 0 where either is constant.

    Raises:
        InputError: the maps differ in shape, are empty, or hold values that are not finite.
    """
    pairs = _checked(first, second)
    if any(values.min() == values.max() for values in pairs):
        return 0.0
    teacher, variant = (ranks - ranks.mean() for ranks in map(midranks, pairs))
    return float(np.clip(teacher @ variant / np.sqrt((teacher @ teacher) * (variant @ variant)), -1.0, 1.0))


def overlap(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Share in [0, 1] of the hottest tenth that both maps have; 0.1 where either is constant.

    Raises:
        InputError: as :func:`rank_correlation`.
    """
    pairs = _checked(first, second)
    if any(values.min() == values.max() for values in pairs):
        return HOTTEST
    teacher, variant = map(_hottest, pairs)
    return float(min(1.0, np.minimum(teacher, variant).sum() / (HOTTEST * len(teacher))))


def load_explanations(
    report_folder: str | Path, *, model_digest: str = "", cases_sha256: str = "", teacher: str = ""
) -> tuple[ExplanationAgreement, ...]:
    """What ``explain`` wrote below ``report_folder``; nothing where it was never run there.

    Args:
        report_folder: of the bench; the files are in its ``explanations``.
        model_digest: of the bundle that is reported; empty does not ask.
        cases_sha256: of the cases that are reported; empty does not ask.
        teacher: ``name@sha256`` of the teacher that is reported; empty does not ask.

    Raises:
        InputError: a file is missing, too large, damaged or altered, or the maps are of another bundle, another teacher
            or other cases.
    """
    folder = Path(report_folder) / FOLDER
    if not (folder / AGREEMENT).is_file():
        return ()
    origin = decode(_read(folder / ORIGIN), ExplanationOrigin, source=str(folder / ORIGIN))
    required = {
        "another bundle": (model_digest, origin.model_digest),
        "another teacher": (teacher, origin.teacher),
        "other cases": (cases_sha256, origin.cases_sha256),
    }
    for noun, (expected, recorded) in required.items():
        if expected and expected != recorded:
            raise InputError(f"the maps in {folder} are of {noun}; run 'medfm-compress explain' again")
    rows = decode(_read(folder / AGREEMENT), tuple[ExplanationAgreement, ...], source=str(folder / AGREEMENT))
    for row in rows:
        _check_row(row, str(folder / AGREEMENT))
    return rows


def _checked(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if first.shape != second.shape or not first.size:
        raise InputError(f"maps have shapes {first.shape} and {second.shape}; lay them on one grid first")
    pairs = (np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel())
    if not all(np.isfinite(values).all() for values in pairs):
        raise InputError("a map holds values that are not finite; the network overflows on a covered image")
    return pairs


def _hottest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Membership in [0, 1] of each of n pixels in the hottest tenth; sums to n / 10."""
    room = HOTTEST * len(values)
    border = np.sort(values)[::-1][max(0, int(np.ceil(room - _ROUNDING)) - 1)]
    above, tied = values > border, values == border
    membership: NDArray[np.float64] = above + tied * ((room - above.sum()) / tied.sum())
    return membership


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}; run 'medfm-compress explain' again") from None
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES} bytes; run 'medfm-compress explain' again")
    return data


def _check_row(row: ExplanationAgreement, source: str) -> None:
    lengths = {len(row.rank_correlation), len(row.overlap), len(row.cases)}
    if lengths != {len(row.cases)} or not row.cases:
        raise InputError(
            f"{source}: {row.variant!r} has columns of lengths {sorted(lengths)}; one value a case is needed"
        )
    if len(set(row.cases)) != len(row.cases) or min(row.cases) < 0:
        raise InputError(
            f"{source}: {row.variant!r} names cases {row.cases}; positions must differ and not be negative"
        )
    points = (row.pointing, row.teacher_pointing)
    if any(points) and {len(row.pointing), len(row.teacher_pointing)} != {len(row.cases)}:
        raise InputError(
            f"{source}: pointing of {row.variant!r} has {list(map(len, points))} values; one a case is needed"
        )
    if any((own is None) != (other is None) for own, other in zip(*points, strict=True)):
        raise InputError(f"{source}: {row.variant!r} and the teacher point at masks of different cases")
    ranges: tuple[tuple[str, tuple[float | None, ...], float], ...] = (
        ("rank_correlation", row.rank_correlation, -1.0),
        ("overlap", row.overlap, 0.0),
        ("pointing", row.pointing, 0.0),
        ("teacher_pointing", row.teacher_pointing, 0.0),
    )
    for name, values, low in ranges:
        odd = [value for value in values if value is not None and not low <= value <= 1.0]
        if odd:
            raise InputError(f"{source}: {name} of {row.variant!r} holds {odd[0]}; it must be in [{low:g}, 1]")
