"""The reference of a stain normalisation, measured on training images.

Tissue pixels of up to 200 images, evenly chosen and 4,000 of each, are taken together; what `runtime.stain` measures of
one image is measured of all of them. So the reference is the colours that the network was trained on, and
an image of the training set changes little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.image_spec import ImageSpec, MacenkoStain, ReinhardStain, StainRule
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.stain import macenko, reinhard
from medfm_compress.runtime.stain.optical_density import optical_density, tissue
from medfm_compress.runtime.strict_json import decode

MOST_IMAGES, PIXELS_EACH = 200, 4_000
_MAX_BYTES = 1 << 16
StainMethod = Literal["macenko", "reinhard"]


def with_stain(spec: ImageSpec, file: str) -> ImageSpec:
    """``spec`` with the stain rule that ``file`` holds; as it is where there is no file.

    Raises:
        InputError: the file cannot be read or holds something else, or the network takes grey images.
    """
    if not file:
        return spec
    kinds: Any = StainRule  # a union, which `decode` takes as well as a struct
    rule: StainRule = decode(read_regular(file, _MAX_BYTES, "the stain"), kinds, source=file)
    return msgspec.structs.replace(spec, stain=rule)


def fit_stain(
    study: Study, cases: Sequence[Case], method: StainMethod, *, refuse: bool = False, progress: Progress | None = None
) -> StainRule:
    """The rule whose reference is the tissue of ``cases``.

    Args:
        study: decodes the images.
        cases: training cases, never those that are judged.
        method: of the normalisation.
        refuse: whether an image whose stains cannot be told is refused, not kept as it is.
        progress: told of every image.

    Raises:
        StudyError: no images, one that cannot be read, or too little tissue in two stains among them.
    """
    if not cases:
        raise StudyError("there are no images to measure stains on; choose a split that has some")
    chosen = [cases[number] for number in np.linspace(0, len(cases) - 1, min(len(cases), MOST_IMAGES)).astype(int)]
    parts = [_tissue(study, case) for case in counted(chosen, "measure stains", len(chosen), progress)]
    pixels = np.concatenate(parts)
    others: Literal["keep", "refuse"] = "refuse" if refuse else "keep"
    if method == "macenko":
        stains = macenko.measure(optical_density(pixels))
        if stains is not None:
            return MacenkoStain(
                hematoxylin=_three(stains.matrix[:, 0]),
                eosin=_three(stains.matrix[:, 1]),
                concentrations=(float(stains.concentrations[0]), float(stains.concentrations[1])),
                others=others,
            )
    else:
        colours = reinhard.measure(pixels)
        if colours is not None:
            return ReinhardStain(mean=_three(colours.mean), std=_three(colours.std), others=others)
    raise StudyError(
        f"{len(pixels)} tissue pixels in {len(chosen)} images, and no stains that can be told: these are no images of "
        "stained tissue in colour"
    )


def _tissue(study: Study, case: Case) -> NDArray[np.float64]:
    """Tissue pixels of one image, float64 ``[n, 3]`` in [0, 1], evenly chosen."""
    try:
        pixels = study.source.read(case.image)
    except ImageRefused as exc:
        raise StudyError(f"image {case.image!r}: {exc}; 'medfm-compress study check' lists every such image") from None
    if not pixels.is_colour:
        return np.empty((0, 3))
    rows = (pixels.values.reshape(-1, 3).astype(np.float64) - pixels.low) / (pixels.high - pixels.low)
    seen = rows[tissue(optical_density(rows))]
    return seen[:: max(1, len(seen) // PIXELS_EACH)][:PIXELS_EACH]


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 6) for value in values)
    return first, second, third
