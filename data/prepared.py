"""Cases as one array of prepared images, decoded once and memory-mapped afterwards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.codec import digest
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.files import replacing
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import prepare

WORKERS = 2
Floats = NDArray[np.float32]


def prepared_images(
    study: Study,
    cases: tuple[Case, ...],
    spec: ImageSpec,
    cache: Path | None,
    progress: Callable[[str], None] | None = None,
) -> Floats:
    """Images ``[n, channels, height, width]`` float32 in [0, 1], before normalisation, bit-equal to `prepare`.

    Args:
        study: decodes them.
        cases: which, in this order.
        spec: how.
        cache: folder for memory-mapped arrays, keyed by spec and image contents; None keeps them in memory.
        progress: told now and then.

    Raises:
        StudyError: an image that cannot be read or does not fit the spec.
    """
    shape = (len(cases), *spec.shape[1:])
    if cache is None:
        images = np.empty(shape, np.float32)
        _fill(images, study, cases, spec, progress)
        return images
    hashes = content_hashes(study, cases)
    path = cache / f"{digest([spec, [hashes[case.image] for case in cases]])[:32]}.npy"
    if not path.is_file():
        with replacing(path) as temporary:
            stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            _fill(stored, study, cases, spec, progress)
            stored.flush()
    loaded: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def _fill(
    images: Floats,
    study: Study,
    cases: tuple[Case, ...],
    spec: ImageSpec,
    progress: Callable[[str], None] | None,
) -> None:
    def one(case: Case) -> Floats:
        try:
            return prepare(study.source.read(case.image), spec)
        except ImageRefused as exc:
            raise StudyError(f"{study.root}: {exc}; remove it from the table") from None

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        for number, image in enumerate(pool.map(one, cases)):
            images[number] = image
            if progress and (number + 1) % 1000 == 0:
                progress(f"decoded {number + 1} of {len(cases)} images")
