"""`gallery.html`: what the network saw where decisions changed, and where the models look. Never leaves the site.

The pictures come from the study's own decoder and from `prepare`, so they are the network's input, not the original.
They are embedded: the page fetches nothing and runs nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.prediction_flips import Flip, find_flips
from medfm_compress.bench.render.attribution_maps import ExplanationPair, read_pairs
from medfm_compress.bench.render.format import esc, number
from medfm_compress.bench.render.html.style import STYLE
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
    prediction_flips = _by_case([flip for other in others for flip in find_flips(teacher, other)])
    maps = _pair_section(folder, teacher)
    if not prediction_flips and not maps:
        path.unlink(missing_ok=True)
        return None
    cards = [_card(study, spec, teacher, case, text) for case, text in list(prediction_flips.items())[:MOST_CASES]]
    write_atomically(path, _page(_flip_section(cards, len(prediction_flips)) + maps).encode())
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


def _by_case(prediction_flips: Sequence[Flip]) -> dict[int, list[Flip]]:
    """Case → its flips; cases with a harmful one first, then as :func:`find_flips` orders them."""
    cases: dict[int, list[Flip]] = {}
    for flip in sorted(prediction_flips, key=lambda flip: flip.direction != "harmful"):
        cases.setdefault(flip.case, []).append(flip)
    return cases


def _card(study: Study, spec: ImageSpec, teacher: Evaluation, case: int, prediction_flips: Sequence[Flip]) -> str:
    image = teacher.images[case]
    try:
        pixels = with_rules(study.source, spec.dicom).read(image)
        uri = data_uri(as_picture(prepare(pixels, spec)))
        picture = f'<img alt="case {case + 1}" src="{uri}">'
    except ImageRefused as exc:
        picture = f'<p class="caution">No picture: {esc(exc)}</p>'
    groups = " · ".join(
        f"{column}: {value or 'not recorded'}" for column, value in prediction_flips[0].subgroups.items()
    )
    text = "".join(
        f'<li class="{flip.direction}"><b>{esc(flip.kind)}</b> by {esc(flip.variant)}'
        f'<span class="sub">truth {esc(flip.truth)}; teacher {esc(flip.teacher)} ({number(flip.teacher_score)}), '
        f"variant {esc(flip.bundle)} ({number(flip.bundle_score)})</span></li>"
        for flip in prediction_flips
    )
    return (
        f'<article>{picture}<h3>Case {case + 1}</h3><p class="sub">{esc(image)}</p><p class="sub">{esc(groups)}</p>'
        f"<ul>{text}</ul></article>"
    )


def _flip_section(cards: Sequence[str], cases: int) -> str:
    if not cases:
        return ""
    more = f" Shown are the first {len(cards)}; flips.csv lists all." if cases > len(cards) else ""
    plural = "case is" if cases == 1 else "cases are"
    return (
        f'<section><h2>Decisions that changed</h2><p class="lead">{cases:,} {plural} decided differently by '
        "teacher and "
        f"at least one other model.{more} The pictures are the network's input, after preprocessing.</p>"
        f'<div class="gallery">{"".join(cards)}</div></section>'
    )


def _pair_section(folder: Path, teacher: Evaluation) -> str:
    """Maps that cannot be shown are told and not raised: a long bench must not end in nothing because of them."""
    try:
        pairs = read_pairs(folder, EvaluationTable.from_evaluation(teacher).cases_sha256)
    except InputError as exc:
        return f'<section><h2>Where the models look</h2><p class="caution">Not shown: {esc(exc)}</p></section>'
    if not pairs:
        return ""
    rows = "".join(_pair(pair) for pair in pairs[:MOST_PAIRS])
    more = f" Shown are {MOST_PAIRS} of {len(pairs)}." if len(pairs) > MOST_PAIRS else ""
    return (
        '<section><h2>Where the models look</h2><p class="lead">Attribution maps: lighter speaks for the finding, the '
        "middle of the scale means nothing either way, darker speaks against it; attention rollout has no sign and "
        "begins at the least attended place. They suggest what drives a score and prove nothing about it, and two "
        "good models may look at different "
        f'places.{more}</p><div class="pairs">{rows}</div></section>'
    )


def _pair(pair: ExplanationPair) -> str:
    pictures = (
        ("input", pair.image),
        ("teacher", overlay(pair.image, pair.teacher)),
        ("variant", overlay(pair.image, pair.variant)),
    )
    figures = "".join(
        f'<figure><img alt="{name}" src="{data_uri(picture)}"><figcaption>{name}</figcaption></figure>'
        for name, picture in pictures
    )
    return f'<article class="triple"><h3>{esc(pair.title)}</h3><p class="sub">{esc(pair.detail)}</p>{figures}</article>'


def _page(body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:"><meta name="robots" content="noindex"><title>Cases: patient images</title>'
        f"<style>{STYLE}{_STYLE}</style></head><body><main>"
        '<p class="warning"><b>This file contains patient images and image names: keep it in the hospital.</b> '
        "It is no part of the report and must not be sent with it.</p><h1>Cases behind the report</h1>"
        f"{body}</main></body></html>\n"
    )


_STYLE = """
.warning { border: 3px solid var(--fail); border-left-width: 12px; padding: 12px 18px; max-width: none; margin: 0 0
  28px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 30px 26px; }
article { break-inside: avoid; } article h3 { margin: 8px 0 2px; } article .sub { display: block; font-size: 12.5px;
  color: var(--muted); margin: 0; overflow-wrap: anywhere; }
article img { width: 100%; max-width: 250px; background: #000; display: block; } article ul { list-style: none;
  padding: 0;
  margin: 6px 0 0; font-size: 13px; } article li { border-left: 4px solid var(--faint); padding-left: 9px; margin: 5px
  0; }
article li.harmful { border-left-color: var(--fail); border-left-style: double; }
.triple { display: grid; grid-template-columns: repeat(3, minmax(0, 250px)); gap: 0 14px; margin: 0 0 26px; }
.triple h3, .triple > .sub { grid-column: 1 / -1; } .triple figure { margin: 8px 0 0; }
.triple figcaption { margin: 4px 0 0; }
"""
