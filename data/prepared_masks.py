"""STUB until seg-data is merged."""
from __future__ import annotations
from collections.abc import Sequence
from pathlib import Path
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from medfm_compress.data.masks import label_map
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress


def prepared_masks(study: Study, cases: Sequence[Case], spec: ImageSpec, cache: Path | None, progress: Progress | None = None) -> NDArray[np.uint8]:
    size = (spec.width_px, spec.height_px)
    return np.stack([np.asarray(Image.fromarray(label_map(study, c)).resize(size, Image.Resampling.NEAREST)) for c in cases])
