"""`gallery.html` of a segmentation: the outlines of truth, teacher and bundle over the image, the worst case first.

The worst is the one in which the bundle's Dice fell the most below the teacher's. Never leaves the site: the pictures
are of the study's own images. They are embedded: the page fetches nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.mask_evaluation import read_kept_map
from medfm_compress.bench.evaluate.prediction_flips import Flip, find_flips
from medfm_compress.bench.render.html.gallery import GALLERY_HTML, Picture, data_uri
from medfm_compress.bench.render.html.rendering import render
from medfm_compress.bench.stats.surface_distance import boundary
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.masks import label_map
from medfm_compress.data.study import Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.images.pixels import Pixels

MOST_CASES = 40
SIDE_PX = 480
_DASH_PX, _LINE_PX = 10, 3
# Okabe and Ito's colours, which colour-blind readers tell apart: truth, teacher, bundle.
COLOURS = {"truth": (240, 228, 66), "teacher": (86, 180, 233), "bundle": (213, 94, 0)}
_HEX = {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in COLOURS.items()}


class MaskCard(NamedTuple):
    """A case, counted from 1; ``picture`` is empty where the image was refused, then with a reason."""

    case: int
    image: str
    variant: str
    picture: str
    refusal: str
    groups: str
    figures: Sequence[str]
    flips: Sequence[Flip]


def write_mask_gallery(folder: str | Path, study: Study, models: Sequence[Evaluation], maps: Path) -> Path | None:
    """Write ``gallery.html`` beside the report.

    Args:
        folder: of the report.
        study: decodes the images and masks.
        models: the teacher's evaluation, with the real image keys, then the others'.
        maps: where label maps were kept.

    Returns:
        Its path; None where no label map was kept.
    """
    path = Path(folder) / GALLERY_HTML
    teacher, *others = models
    cards = [card for row, other in _worst(teacher, others) if (card := _card(study, teacher, other, row, maps))]
    if not cards:
        path.unlink(missing_ok=True)
        return None
    values = {"cards": cards, "cases": len(teacher.images), "colours": _HEX}
    write_atomically(path, render("mask_gallery.html.j2", values).encode())
    return path


def _worst(teacher: Evaluation, others: Sequence[Evaluation]) -> list[tuple[int, Evaluation]]:
    """The worst cases, each once, with the variant that lost the most there."""
    changes = np.stack([_change(teacher, other) for other in others])
    rows = np.argsort(changes.min(axis=0), kind="stable")[:MOST_CASES]
    return [(int(row), others[int(changes[:, row].argmin())]) for row in rows]


def worst_first(teacher: Evaluation, other: Evaluation) -> list[int]:
    """Cases by how far Dice fell, the farthest first; of those that do not show it, by false positives gained."""
    return [int(row) for row in np.argsort(_change(teacher, other), kind="stable")]


def _change(teacher: Evaluation, other: Evaluation) -> NDArray[np.float64]:
    """Lowest change of Dice over the structures ``[n]``; of an image without one, −1 where false regions were added."""
    before, after = teacher.case_metrics, other.case_metrics
    change = np.nan_to_num(after["dice"] - before["dice"])
    added = after["false_positives_per_image"] - before["false_positives_per_image"]
    change = np.where(np.isnan(before["dice"]) & (added > 0), -1.0, change)
    lowest: NDArray[np.float64] = change.min(axis=1)
    return lowest


def _card(study: Study, teacher: Evaluation, other: Evaluation, row: int, maps: Path) -> MaskCard | None:
    drawn = [read_kept_map(maps, model.name, row) for model in (teacher, other)]
    if drawn[0] is None or drawn[1] is None:
        return None
    image, picture, refusal = teacher.images[row], "", ""
    try:
        case = next(case for case in study.cases if case.image == image)
        outlined = outlines(study.source.read(image), (label_map(study, case), drawn[0], drawn[1]))
        picture = data_uri(outlined, SIDE_PX)
    except (ImageRefused, StudyError) as exc:
        refusal = str(exc)
    groups = " · ".join(f"{name}: {values[row] or 'not recorded'}" for name, values in teacher.subgroups.items())
    figures = [_figures(teacher, other, row, column) for column in range(len(teacher.findings))]
    flips = [flip for flip in find_flips(teacher, other) if flip.case == row]
    return MaskCard(row + 1, image, other.name, picture, refusal, groups, figures, flips)


def _figures(teacher: Evaluation, other: Evaluation, row: int, column: int) -> str:
    finding = teacher.findings[column]
    first, second = (model.case_metrics["dice"][row, column] for model in (teacher, other))
    if np.isnan(first):
        counts = [int(m.case_metrics["false_positives_per_image"][row, column]) for m in (teacher, other)]
        return f"{finding} is not there; regions drawn: teacher {counts[0]}, bundle {counts[1]}"
    far = [model.case_metrics["hd95"][row, column] for model in (teacher, other)]
    unit = teacher.distance_unit
    return f"{finding}: Dice {first:.3f} → {second:.3f}, HD95 {far[0]:.1f} → {far[1]:.1f} {unit}"


def outlines(pixels: Pixels, label_maps: Sequence[NDArray[np.uint8]]) -> Picture:
    """The image ``[H, W, 3]``, uint8, with three outlines over it, so enlarged or thinned that they can be told apart.

    The truth's runs around its pixels, the teacher's within and the bundle's within and dashed: where they coincide all
    three are seen.

    Args:
        pixels: the image.
        label_maps: truth, teacher and bundle, ``[H, W]`` each.
    """
    longest = max(label_maps[0].shape)
    step, times = max(1, -(-longest // SIDE_PX)), max(1, SIDE_PX // longest)
    values = _enlarged(pixels.values[::step, ::step], times).astype(np.float64)
    grey = np.clip((values - pixels.low) / max(pixels.high - pixels.low, 1e-9), 0, 1)
    picture = np.rint(255 * (grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=-1))).astype(np.uint8)
    dashes = np.add.outer(*map(np.arange, picture.shape[:2])) // _DASH_PX % 2 == 0
    for name, shown in zip(COLOURS, label_maps, strict=True):
        large = _enlarged(shown[::step, ::step], times)
        for number in range(1, int(large.max(initial=0)) + 1):
            mask = large == number
            line = _ring(mask, outside=name == "truth")
            picture[line & dashes if name == "bundle" else line] = COLOURS[name]
    return picture


def _enlarged(values: NDArray[Any], times: int) -> NDArray[Any]:
    """Every pixel ``times`` × ``times`` as large."""
    return values.repeat(times, axis=0).repeat(times, axis=1)


def _ring(mask: NDArray[np.bool_], *, outside: bool) -> NDArray[np.bool_]:
    """An outline of ``mask`` of `_LINE_PX`, within its pixels or around them."""
    ring = np.zeros_like(mask)
    for _ in range(_LINE_PX):
        edge = _beside(mask) if outside else boundary(mask)
        ring |= edge
        mask = mask | edge if outside else mask & ~edge
    return ring


def _beside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels with a neighbour in ``mask``: the outer boundary, without the picture's own border."""
    padded = np.pad(mask, 1)
    beside: NDArray[np.bool_] = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return beside & ~mask
