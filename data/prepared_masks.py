"""Label maps on the network's grid, kept on disk beside the prepared images.

A pixel of the grid takes the structure at its own centre in the image (nearest, half-pixel centres), so that no
structure is made up between two; padding is background. The geometry is that of `preprocess.prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.fingerprint import file_sha256
from medfm_compress.data.masks import label_map, mask_folder
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import layout, tile_grid
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 2
_VERSION = 1  # of the arithmetic below; another one makes stored maps stale

LabelMaps = NDArray[np.uint8]


def prepared_masks(
    study: Study, cases: Sequence[Case], spec: ImageSpec, cache: Path | None, progress: Progress | None = None
) -> LabelMaps:
    """Label maps uint8 ``[n, height_px, width_px]`` of drawn cases, in their order; memory-mapped where cached.

    Args:
        study: a segmentation study.
        cases: each with a mask.
        spec: of the network's input; must keep the whole image.
        cache: folder of the cache; None keeps the maps in memory.
        progress: receives a line now and then.

    Raises:
        StudyError: a case without a mask, or a mask that cannot be used.
        InputError: ``spec`` crops, or the cache cannot be written.
    """
    undrawn = [case.image for case in cases if not case.masks]
    if undrawn:
        raise StudyError(f"{len(undrawn)} of {len(cases)} cases have no mask, first {undrawn[0]!r}; leave them out")
    shape = (len(cases), spec.height_px, spec.width_px)
    path = None if cache is None else cache / f"masks-{_key(study, cases, spec)[:32]}.npy"
    cached = None if path is None else _open_cache(path, shape)
    if cached is not None:
        return cached

    rows = _rows(study, cases, spec, progress)
    if path is None or not cases:
        maps = np.empty(shape, np.uint8)
        for number, row in enumerate(rows):
            maps[number] = row
        return maps
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.tobytes())
    stored: LabelMaps = np.load(path, mmap_mode="r", allow_pickle=False)
    return stored


def _rows(study: Study, cases: Sequence[Case], spec: ImageSpec, progress: Progress | None) -> Iterator[LabelMaps]:
    def prepare_mask(case: Case) -> LabelMaps:
        return fit_mask(label_map(study, case), spec)

    prepared = map_in_threads(prepare_mask, cases, _WORKERS)  # Pillow releases the GIL
    return counted(prepared, "prepare masks", len(cases), progress)


def fit_mask(mask: LabelMaps, spec: ImageSpec) -> LabelMaps:
    """A label map ``[H, W]`` on the network's grid ``[height_px, width_px]``; of tiles the one in the image's middle.

    Raises:
        InputError: ``spec`` crops, or brings images to a resolution that a mask does not say.
    """
    from PIL import Image

    height, width = mask.shape
    if spec.tiles:
        return _centre_tile(mask, spec)
    place = layout(height, width, spec)
    resized = Image.fromarray(mask).resize((place.columns, place.rows), Image.Resampling.NEAREST)
    fitted = np.zeros((spec.height_px, spec.width_px), np.uint8)
    fitted[place.top : place.top + place.rows, place.left : place.left + place.columns] = np.asarray(resized)
    return fitted


def _centre_tile(mask: LabelMaps, spec: ImageSpec) -> LabelMaps:
    """Of an image that is smaller than a tile, the image in the middle of one."""
    if spec.tiles and spec.tiles.mm_per_px is not msgspec.UNSET:
        raise InputError(
            f"the image spec brings images to {spec.tiles.mm_per_px:g} mm a pixel, which masks do not follow; cut "
            "images and masks with 'medfm-compress study tiles --mm-per-px' and use the tiles"
        )
    height, width = mask.shape
    grid = tile_grid(height, width, spec)
    top, left = max(0, height - spec.height_px) // 2, max(0, width - spec.width_px) // 2
    part = mask[top : top + spec.height_px, left : left + spec.width_px]
    fitted = np.zeros((spec.height_px, spec.width_px), np.uint8)
    fitted[grid.top : grid.top + part.shape[0], grid.left : grid.left + part.shape[1]] = part
    return fitted


def _key(study: Study, cases: Sequence[Case], spec: ImageSpec) -> str:
    folder = mask_folder(study)
    hashes = [[file_sha256(folder / name) if name else "" for name in case.masks] for case in cases]
    return digest([_VERSION, spec.height_px, spec.width_px, spec.resize, spec.tiles or "", study.labels, hashes])


def _open_cache(path: Path, shape: tuple[int, ...]) -> LabelMaps | None:
    """The cached maps, or None where there are none or the file is not whole."""
    if not path.is_file():
        return None
    try:
        cached = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.uint8 else None
