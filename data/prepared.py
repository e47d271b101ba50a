"""Decoded and prepared images, kept on disk so that an epoch is bound by arithmetic and not by decoding.

The cache is one ``.npy`` a set of cases, named by a digest of everything that its values depend on: the preprocessing,
the libraries that carry it out, and the content of every image in its order. Nothing stale can be read under that name.
Where all images are grey, a network of three channels finds one in the file, which is repeated when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress import __version__
from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.npy_rows import NpyRows
from medfm_compress.data.sources import with_rules
from medfm_compress.data.study import Case, ImageSource, Study
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.quiet_decoders import quiet
from medfm_compress.runtime.preprocess import prepare
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.threads import map_in_threads

Prepared = NDArray[np.float32]

_WORKERS = 2
_TOGETHER = 8
_BATCH = 128


@overload
def prepared_images(
    study: Study, cases: Sequence[Case], spec: ImageSpec, cache: None, progress: Progress | None = None
) -> Prepared: ...


@overload
def prepared_images(
    study: Study, cases: Sequence[Case], spec: ImageSpec, cache: Path | None, progress: Progress | None = None
) -> Prepared | NpyRows: ...


def prepared_images(
    study: Study,
    cases: Sequence[Case],
    spec: ImageSpec,
    cache: Path | None,
    progress: Progress | None = None,
) -> Prepared | NpyRows:
    """Decode and `prepare` the images of ``cases``; DICOM files are read by the rules of ``spec``, not of the study.

    Args:
        study: whose source decodes the images.
        cases: in the order wanted.
        spec: preprocessing; its mean and std are not applied yet, so one cache serves every normalisation.
        cache: folder of the cache; None keeps the images in memory.
        progress: receives a line now and then.

    Returns:
        float32 ``[n, channels, height_px, width_px]`` in [0, 1]; rows of the file where cached.

    Raises:
        StudyError: an image cannot be read or prepared; names it.
        InputError: the cache cannot be written.
    """
    _check_masks(cases, spec)
    source = with_rules(study.source, spec.dicom)
    names = [case.image for case in cases]
    shape = (len(names), *spec.shape[1:])
    if cache is None or not names:
        images = np.empty(shape, np.float32)
        for place, image in enumerate(_prepared(source, names, spec, progress)):
            images[place] = image
        return images
    path = cache / f"prepared-{_key(source, names, spec)[:32]}.npy"
    cached = _open_cache(path, shape)
    if cached is not None:
        return cached
    with replacing(path) as temporary, temporary.open("w+b") as file:
        _write(file, shape, _prepared(source, names, spec, progress))
    return NpyRows(path, shape[1])


def _check_masks(cases: Sequence[Case], spec: ImageSpec) -> None:
    """Masks lie on the pixels as they are stored, and a turned image would be held against the wrong ones."""
    if spec.dicom.turns and any(any(case.masks) for case in cases):
        raise StudyError(
            "the model turns DICOM images (orientation, mirrored_to), and the study's masks lie on them as they are "
            "stored; use a study without masks, or a model that turns nothing"
        )


def _write(file: BinaryIO, shape: tuple[int, ...], images: Iterator[Prepared]) -> None:
    """One channel of each image, until one comes whose channels are not equal: then all, of those before it too."""
    stored = 1
    _write_header(file, (shape[0], stored, *shape[2:]))
    for place, image in enumerate(images):
        if stored < len(image):
            stored = shape[1]
            _spread(file, shape, place)
        for _ in range(stored // len(image)):
            file.write(image.data)


def _spread(file: BinaryIO, shape: tuple[int, ...], count: int) -> None:
    """Give the ``count`` images that were written with one channel all of them; the last first: none is lost."""
    begin, plane = file.tell(), 4 * math.prod(shape[2:])
    begin -= count * plane
    for first in reversed(range(0, count, _BATCH)):
        images = min(_BATCH, count - first)
        file.seek(begin + first * plane)
        grey = np.frombuffer(file.read(images * plane), np.float32).reshape(images, 1, *shape[2:])
        file.seek(begin + first * plane * shape[1])
        file.write(np.repeat(grey, shape[1], axis=1).tobytes())
    file.seek(0)
    _write_header(file, shape)
    file.seek(begin + count * plane * shape[1])


def _prepared(
    source: ImageSource, names: Sequence[str], spec: ImageSpec, progress: Progress | None
) -> Iterator[Prepared]:
    """Each image ``[channels, height_px, width_px]``, or ``[1, …]`` where its channels are equal."""

    def prepare_image(name: str) -> Prepared:
        try:
            image = prepare(source.read(name), spec)
        except ImageRefused as exc:
            raise StudyError(f"image {name!r}: {exc}; 'medfm-compress study check' lists every such image") from None
        return image[:1] if all(np.array_equal(image[0], channel) for channel in image[1:]) else image

    prepared = map_in_threads(prepare_image, names, _WORKERS, _TOGETHER)  # Pillow and the DICOM codecs release the GIL
    with quiet():  # once, and not for each of thousands of small images
        yield from counted(prepared, "prepare images", len(names), progress)


def _key(source: ImageSource, names: Sequence[str], spec: ImageSpec) -> str:
    import PIL
    import pydicom

    refusing = spec.colour_rule and spec.colour_rule.others == "refuse"
    plain = msgspec.structs.replace(
        spec,
        mean=(0.0,) * spec.channels,
        std=(1.0,) * spec.channels,
        colour_rule=spec.colour_rule if refusing else msgspec.UNSET,
    )
    versions = {"medfm-compress": __version__, "numpy": np.__version__, "pillow": PIL.__version__}
    return digest([plain, versions | {"pydicom": pydicom.__version__}, content_hashes(source, names)])


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _open_cache(path: Path, shape: tuple[int, ...]) -> NpyRows | None:
    """The cached images, or None where there are none or the file is not whole."""
    if not path.is_file():
        return None
    try:
        cached = NpyRows(path, shape[1])
    except (OSError, ValueError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.float32 else None
