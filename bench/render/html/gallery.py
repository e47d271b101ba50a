"""`gallery.html`: what the network saw where decisions changed, and where the models look. Never leaves the site.

The pictures come from the study's own decoder and from `prepare`, so they are the network's input, not the original.
They are embedded: the page fetches nothing and runs nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.prediction_flips import Flip, find_flips
from medfm_compress.bench.render.attribution_maps import ExplanationPair, read_pairs
from medfm_compress.bench.render.html.rendering import render
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.sources import with_rules
from medfm_compress.data.study import Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import prepare

GALLERY_HTML = "gallery.html"
MOST_CASES = 60
MOST_PAIRS = 40
SIDE_PX = 224
Picture = NDArray[np.uint8]
_HEAT = np.array([[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]], dtype=np.float64)


class Card(NamedTuple):
    """A case, counted from 1, with its flips; ``picture`` is empty where the image was refused, then with a reason."""

    case: int
    image: str
    picture: str
    refusal: str
    groups: str
    flips: Sequence[Flip]


class Maps(NamedTuple):
    """Input and attribution maps of one case: caption → picture."""

    title: str
    detail: str
    pictures: dict[str, str]


def write_gallery(
    folder: str | Path, study: Study, spec: ImageSpec, teacher: Evaluation, others: Sequence[Evaluation]
) -> Path | None:
    """Write ``gallery.html`` beside the report: flipped cases, and the maps of ``explanations/`` where that is there.

    Args:
        folder: of the report; explanation maps are looked for in its ``explanations``.
        study: decodes the images, by the DICOM rules of ``spec``.
        spec: preprocessing of the bundle, so that the pictures are what its network saw.
        teacher: its evaluation, with the real image keys.
        others: variants and external models, on the same cases.

    Returns:
        Its path; None where there is nothing to show, and then no older gallery stays behind either.

    Raises:
        InputError: the folder cannot be written, or evaluations of different cases.
    """
    folder = Path(folder)
    path = folder / GALLERY_HTML
    flips = _by_case([flip for other in others for flip in find_flips(teacher, other)])
    pairs, refusal = _pairs(folder, teacher)
    if not flips and not pairs and not refusal:
        path.unlink(missing_ok=True)
        return None
    values = {
        "cards": [_card(study, spec, teacher, case, flips[case]) for case in list(flips)[:MOST_CASES]],
        "cases": len(flips),
        "maps": [_maps(pair) for pair in pairs[:MOST_PAIRS]],
        "all_maps": len(pairs),
        "refusal": refusal,
    }
    write_atomically(path, render("gallery.html.j2", values).encode())
    return path


def data_uri(picture: Picture, side_px: int = SIDE_PX) -> str:
    """``[H, W]`` or ``[H, W, 3]`` uint8 as a PNG data URI whose longer side is at most ``side_px``."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def as_picture(prepared: NDArray[np.float32]) -> Picture:
    """Network input ``[channels, H, W]`` in [0, 1], before normalisation, as ``[H, W]`` or ``[H, W, 3]`` uint8."""
    shown = np.rint(255 * prepared).astype(np.uint8)
    picture: Picture = shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1)
    return picture


def overlay(image: Picture, heat: NDArray[np.float32]) -> Picture:
    """``heat`` ``[H, W]`` in [0, 1] over a grey copy of ``image`` ``[H, W, 3]``; hotter is lighter and yellower."""
    # Plasma (van der Walt and Smith, 2015) grows lighter throughout, so grey prints and colour-blind readers keep
    # the order.
    stops = np.linspace(0, 1, len(_HEAT))
    value = np.clip(np.nan_to_num(heat.astype(np.float64)), 0, 1)
    colour = np.stack([np.interp(value, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    grey = image.astype(np.float64).mean(axis=-1, keepdims=True)
    share = 0.25 + 0.45 * value[..., None]
    blended: Picture = np.rint((1 - share) * grey + share * colour).astype(np.uint8)
    return blended


def _by_case(flips: Sequence[Flip]) -> dict[int, list[Flip]]:
    """Case → its flips; cases with a harmful one first, then as :func:`find_flips` orders them."""
    cases: dict[int, list[Flip]] = {}
    for flip in sorted(flips, key=lambda flip: flip.direction != "harmful"):
        cases.setdefault(flip.case, []).append(flip)
    return cases


def _card(study: Study, spec: ImageSpec, teacher: Evaluation, case: int, flips: Sequence[Flip]) -> Card:
    image, picture, refusal = teacher.images[case], "", ""
    try:
        pixels = with_rules(study.source, spec.dicom).read(image)
        picture = data_uri(as_picture(prepare(pixels, spec)))
    except ImageRefused as exc:
        refusal = str(exc)
    groups = " · ".join(f"{column}: {value or 'not recorded'}" for column, value in flips[0].subgroups.items())
    return Card(case + 1, image, picture, refusal, groups, flips)


def _pairs(folder: Path, teacher: Evaluation) -> tuple[Sequence[ExplanationPair], str]:
    """The maps, or why they cannot be shown: a long bench must not end in nothing because of them."""
    try:
        return read_pairs(folder, EvaluationTable.from_evaluation(teacher).cases_sha256), ""
    except InputError as exc:
        return (), str(exc)


def _maps(pair: ExplanationPair) -> Maps:
    pictures = {
        "input": pair.image,
        "teacher": overlay(pair.image, pair.teacher),
        "variant": overlay(pair.image, pair.variant),
    }
    return Maps(pair.title, pair.detail, {name: data_uri(picture) for name, picture in pictures.items()})
