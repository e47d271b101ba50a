"""Cut the images and masks of a segmentation study into tiles of one size, to train a network of a sliding window.

Tiles stand where the sliding window of the device stands: every ⌊size (1 − overlap)⌋ px, the last of a row and column
shifted inwards to end with the image. An image that is smaller than a tile lies in the middle of one, on black and
background. With ``mm_per_px`` images are brought to that distance of pixels first, as the device does; masks follow by
the nearest pixel. Split, patient and subgroups stay; tiles of an image without patient share a name as theirs.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.fingerprint import file_sha256
from medfm_compress.data.mask_files import png_bytes
from medfm_compress.data.masks import LabelMap, label_map, mask_folder, presence
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import write_table
from medfm_compress.data.table_study import check_shown
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ImageRefused, InputError, StudyError
from medfm_compress.runtime.image_spec import MAX_SIDE_PX, DicomRules, ImageSpec, Tiles
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import at_resolution
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.segmentation.windows import tile_starts
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 2
_VERSION = 1
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LABELS = ("label", "label:")


class Cut(NamedTuple):
    """The study of tiles; how many images were cut, and how many of them were smaller than a tile."""

    study: Study
    images: int
    smaller: int


class _TilesOf(NamedTuple):
    cases: list[Case]
    smaller: bool


def cut_tiles(study: Study, size: int, tiles: Tiles, out: Path, progress: Progress | None = None) -> Cut:
    """Write ``out/images/*.png``, ``out/masks/*.png`` and ``out/cases.csv``.

    Args:
        study: a segmentation study.
        size: side of a tile, px, 8 to 4096.
        tiles: overlap and resolution; the blending does not matter here.
        out: folder; tiles of an interrupted call with the same arguments are kept.
        progress: receives a line now and then.

    Raises:
        StudyError: no segmentation study, or an image or mask that cannot be used; names it.
        InputError: an argument out of its range, or ``out`` cannot be written.
    """
    if study.kind != "segmentation":
        raise StudyError(
            f"{study.root.name} is no study of masks, and a label is of an image as a whole and not of its tiles: give "
            "one with mask:NAME columns, or --structure NAME"
        )
    if not 8 <= size <= MAX_SIDE_PX:
        raise InputError(f"--size is {size}; it must be 8 to {MAX_SIDE_PX}")
    spec = ImageSpec(height_px=size, width_px=size, colour="rgb", mean=(0.0,) * 3, std=(1.0,) * 3, tiles=tiles)

    def cut(case: Case) -> _TilesOf:
        try:
            return _cut(study, case, spec, tiles.overlap, out)
        except ImageRefused as exc:
            raise StudyError(f"image {case.image!r}: {exc}") from None

    each = list(counted(map_in_threads(cut, study.cases, _WORKERS), "cut tiles", len(study.cases), progress))
    cases = tuple(case for found in each for case in found.cases)
    check_shown(cases, study.labels, study.root.name)
    place = out / "cases.csv"
    done = msgspec.structs.replace(study, root=place, source=Files(out, DicomRules()), cases=cases, remarks=())
    write_table(done, place)
    return Cut(done, len(each), sum(found.smaller for found in each))


def _cut(study: Study, case: Case, spec: ImageSpec, overlap: float, out: Path) -> _TilesOf:
    pixels = study.source.read(case.image)
    if spec.tiles and spec.tiles.mm_per_px is not msgspec.UNSET and not pixels.spacing_mm:
        raise ImageRefused(
            "it does not say the distance of its pixels; leave --mm-per-px out, or give DICOM files with Pixel Spacing"
        )
    pixels = at_resolution(pixels, spec)
    height, width = pixels.shape[:2]
    mask = _resized(label_map(study, case), height, width) if case.masks else None
    values = _stored(pixels)
    name = f"{_NAME.sub('_', Path(case.image).stem)[:60]}-{_key(study, case, spec)[:12]}"
    cases = []
    tops, lefts = (tile_starts(side, spec.height_px, overlap) for side in (height, width))
    for top in tops:
        for left in lefts:
            file = f"{name}-y{top:05d}-x{left:05d}.png"
            _write_once(out / "images" / file, _tile(values, top, left, spec))
            masks: tuple[str, ...] = ()
            target: tuple[int, ...] = ()
            if mask is not None:
                drawn = _tile(mask, top, left, spec)
                _write_once(out / "masks" / file, drawn)
                masks, target = (f"masks/{file}",), presence(drawn, len(study.labels))
            cases.append(_tile_case(case, name, f"images/{file}", masks, target))
    return _TilesOf(cases, height < spec.height_px or width < spec.width_px)


def _tile_case(case: Case, name: str, image: str, masks: tuple[str, ...], target: tuple[int, ...]) -> Case:
    groups = {f"image_{name}" if name.startswith(_LABELS) else name: value for name, value in case.subgroups.items()}
    return msgspec.structs.replace(
        case, image=image, masks=masks, target=target, subgroups=groups, patient=case.patient or name
    )


def _key(study: Study, case: Case, spec: ImageSpec) -> str:
    """Of all that a tile's pixels depend on."""
    folder = mask_folder(study)
    masks = [file_sha256(folder / name) if name else "" for name in case.masks]
    content = study.source.content_sha256(case.image)
    return digest([_VERSION, spec, study.labels, hashlib.sha256(case.image.encode()).hexdigest(), content, masks])


def _resized(mask: LabelMap, height: int, width: int) -> LabelMap:
    if mask.shape == (height, width):
        return mask
    from PIL import Image

    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _stored(pixels: Pixels) -> NDArray[Any]:
    """Values that a PNG file holds, 0 black and the type's greatest white; colour as bytes."""
    values, limit = pixels.values, 255 if pixels.is_colour else 65535
    if values.dtype.kind == "u" and pixels.low == 0 and pixels.high == np.iinfo(values.dtype).max:
        return values
    scaled = (values.astype(np.float64) - pixels.low) / (pixels.high - pixels.low)
    return np.rint(np.clip(scaled, 0, 1) * limit).astype(np.uint8 if limit == 255 else np.uint16)


def _tile(values: NDArray[Any], top: int, left: int, spec: ImageSpec) -> NDArray[Any]:
    part = values[top : top + spec.height_px, left : left + spec.width_px]
    rows, columns = part.shape[:2]
    if (rows, columns) == (spec.height_px, spec.width_px):
        return np.ascontiguousarray(part)
    tile = np.zeros((spec.height_px, spec.width_px, *part.shape[2:]), part.dtype)
    above, before = (spec.height_px - rows) // 2, (spec.width_px - columns) // 2
    tile[above : above + rows, before : before + columns] = part
    return tile


def _write_once(path: Path, values: NDArray[Any]) -> None:
    if not path.is_file():
        write_atomically(path, png_bytes(values))
