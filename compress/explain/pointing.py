"""The pointing game on cases with the finding and a mask of it: does the map's highest value lie where it was drawn?

A map is laid on the image at its own size, where the mask is drawn; see `bench.evaluate.map_accuracy`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.map_accuracy import points_at
from medfm_compress.data.masks import check_size, mask_folder
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import MASK_PREFIX
from medfm_compress.runtime.class_activation import on_image
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.read_mask import read_mask


def mask_of(study: Study, case: Case, finding: str) -> NDArray[np.bool_] | None:
    """What is drawn of ``finding`` in ``case``, ``[height, width]``; None where nothing is.

    A table with one column of masks draws whatever is to be found; of several, the one that is called ``mask:FINDING``.
    Every value but 0 is drawn.

    Raises:
        StudyError: a mask that cannot be read, or of another size than its image.
    """
    columns = [column.removeprefix(MASK_PREFIX).strip() for column in study.mask_columns]
    number = 0 if len(columns) == 1 else columns.index(finding) if finding in columns else -1
    if number < 0 or len(case.masks) <= number or not case.masks[number]:
        return None
    try:
        drawn = np.asarray(read_mask(mask_folder(study) / case.masks[number]) != 0)
        check_size(drawn.astype(np.uint8), case, study.source.read(case.image).shape[:2])
    except ImageRefused as exc:
        raise StudyError(f"mask of {case.image!r}: {exc}") from None
    return drawn if drawn.any() else None


def pointing(evidence: NDArray[np.float32], spec: ImageSpec, mask: NDArray[np.bool_] | None) -> float | None:
    """1 where the highest value of a map ``[h, w]`` lies in ``mask``, else 0; a share where it is reached twice.

    None without a mask.
    """
    return None if mask is None else points_at(on_image(evidence, spec, *mask.shape), mask)
