"""From decoded pixels to the network's input: the one implementation that training, calibration, bench and device use.

    x = (v - low) / (high - low)                  presentation values v at their own bit depth, to [0, 1]
    y = 0.299 R + 0.587 G + 0.114 B               colour to grey (ITU-R BT.601); grey to colour: repeated
    y = crop(resize(x))                           antialiased; cubic coefficient a = -0.5; geometry as timm's evaluation
    z = (clip(y, 0, 1) - mean) / std              per channel

Where the spec names a stain, it is normalised between resize and crop (`medfm_compress.runtime.stain`).

All of it is float32. The resize is Pillow's on 32-bit float planes (mode ``F``), so 16-bit images keep their depth:
rows first, then columns, since Pillow alone begins with what it takes to be quicker, and the order changes the last
bit. Rows of a large image are shortened by `reduction`, to the same bits. No float copy of a large image is made; of
one that is looked up in a table, the table is scaled and not the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.colour_kind import check_colour
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import Filter, ImageSpec
from medfm_compress.runtime.images.tabled import Tabled, look_up
from medfm_compress.runtime.reduction import is_worth_while, shortened

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels

FloatArray = NDArray[np.float32]

MAX_RESIZED_PIXELS = 64_000_000
LUMA = (np.float32(0.299), np.float32(0.587), np.float32(0.114))


def prepare(pixels: Pixels, spec: ImageSpec) -> FloatArray:
    """Everything but the normalisation: intensity, colour, resize, stain, crop.

    Args:
        pixels: ``[H, W]`` or ``[H, W, 3]`` at their own bit depth.
        spec: what the network expects.

    Returns:
        float32 ``[channels, height_px, width_px]`` in [0, 1], contiguous.

    Raises:
        ImageRefused: the image is smaller than ``spec.min_side_px``, so elongated that its resized form is absurd, or
            of a kind of colour that ``spec.colour_rule`` refuses, or without the stains that ``spec.stain`` asks for.
    """
    if spec.tiles:
        return _centre_tile(pixels, spec)
    height, width = pixels.shape[:2]
    _check_size(height, width, spec)
    check_colour(pixels, spec)
    planes = _planes(pixels, spec)
    result = np.empty(spec.shape[1:], np.float32)
    if spec.stain:
        for target, stained in zip(result, _stained([_resized(plane, spec) for plane in planes], spec), strict=True):
            np.clip(_centre(stained, *target.shape), 0.0, 1.0, out=target)
        return result
    for target, plane in zip(result, planes, strict=False):
        _fill(target, plane, spec)
    result[len(planes) :] = result[0]  # a grey image
    return result


def normalise(prepared: NDArray[Any], spec: ImageSpec) -> FloatArray:
    """``(x - mean) / std`` per channel.

    Args:
        prepared: ``[..., channels, H, W]`` in [0, 1]; any leading axes.
        spec: gives ``mean`` and ``std``.

    Returns:
        float32 of the same shape; a new array.

    Raises:
        InputError: the channel axis does not match ``spec``.
    """
    if prepared.ndim < 3 or prepared.shape[-3] != spec.channels:
        raise InputError(
            f"the array has shape {prepared.shape}; a {spec.colour} spec needs [..., {spec.channels}, height, width]"
        )
    return _normalised(prepared, spec, None)


def _normalised(prepared: NDArray[Any], spec: ImageSpec, out: FloatArray | None) -> FloatArray:
    mean = np.asarray(spec.mean, np.float32)[:, None, None]
    std = np.asarray(spec.std, np.float32)[:, None, None]
    result: FloatArray = np.subtract(prepared, mean, out=out, dtype=np.float32)
    result /= std
    return result


def preprocess(pixels: Pixels, spec: ImageSpec) -> FloatArray:
    """:func:`prepare` and :func:`normalise`: one contiguous float32 batch ``[1, channels, height_px, width_px]``.

    Raises:
        ImageRefused: see :func:`prepare`.
    """
    prepared = prepare(pixels, spec)[None]
    return _normalised(prepared, spec, prepared)


def _check_size(height: int, width: int, spec: ImageSpec) -> None:
    if min(height, width) < spec.min_side_px:
        raise ImageRefused(
            f"the image is {width}×{height} px; its shorter side must be at least {spec.min_side_px} px: "
            "give the image at its original size"
        )
    rows, columns = resized_size(height, width, spec)
    if rows * columns > MAX_RESIZED_PIXELS:
        raise ImageRefused(
            f"the image is {width}×{height} px, too elongated for this network: give the region of interest"
        )


class _Plane(NamedTuple):
    """One channel of an image, of which float values in [0, 1] are made where they are needed.

    Attributes:
        values: ``[H, W]``, or ``[H, W, 3]`` of which the brightness is meant.
        low: value that stands for 0.
        high: value that stands for 1.
        table: the float value of each of ``values``, which are codes then.
    """

    values: NDArray[Any]
    low: float
    high: float
    table: NDArray[np.floating] | None = None

    @property
    def is_full_range(self) -> bool:
        """Whether no value of it is outside [0, 1]; of a brightness it may be, by a rounding."""
        values = self.values
        whole = values.dtype.kind == "u" and values.ndim == 2
        return whole and self.low == 0 and (self.table is not None or self.high == np.iinfo(values.dtype).max)

    def rows(self, start: int, stop: int) -> FloatArray:
        """``[stop - start, W]``."""
        rows = np.empty((stop - start, self.values.shape[1]), np.float32)
        self.write(rows, start)
        return rows

    def write(self, target: NDArray[np.floating], start: int = 0) -> None:
        """The rows from ``start`` on to ``[rows, W]``, contiguous: float32, or the same values in float64."""
        part = self.values[start : start + len(target)]
        if self.table is not None:
            look_up(self.table.astype(target.dtype, copy=False), part, target)
        elif target.dtype != np.float32:
            np.copyto(target, self.rows(start, start + len(target)))
        elif part.ndim == 2:
            self._scale(part, target)
        else:
            red, green, blue = (self._scale(part[..., at], np.empty(target.shape, np.float32)) for at in range(3))
            np.copyto(target, LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)

    def _scale(self, part: NDArray[Any], target: NDArray[np.floating]) -> NDArray[np.floating]:
        # Divided, not multiplied by a reciprocal: x / 255 and (257 x) / 65535 are the same float32, so an 8-bit image
        # and its 16-bit copy give the same tensor.
        np.copyto(target, part)
        if self.low != 0:
            target -= np.float32(self.low)
        target /= np.float32(self.high - self.low)
        return target


def _planes(pixels: Pixels, spec: ImageSpec) -> list[_Plane]:
    """One or three planes; a grey image for a colour network stays one plane until it is resized."""
    if isinstance(pixels.held, Tabled):
        table = _Plane(pixels.held.table[None], pixels.low, pixels.high).rows(0, 1)[0]
        return [_Plane(pixels.held.codes, pixels.low, pixels.high, table)]
    values = pixels.values
    channels = [values[..., index] for index in range(3)] if pixels.is_colour and spec.colour == "rgb" else [values]
    return [_Plane(channel, pixels.low, pixels.high) for channel in channels]


def _stained(planes: list[FloatArray], spec: ImageSpec) -> list[FloatArray]:
    """The planes with their stain normalised, where the spec names one; a grey image becomes three planes then."""
    if not spec.stain:
        return planes
    from medfm_compress.runtime.stain.table import normalise_stain

    return list(normalise_stain(np.stack(planes * (3 // len(planes))), spec.stain))


def _fill(target: FloatArray, plane: _Plane, spec: ImageSpec) -> None:
    """One channel of the network's input; of an image that has its size nothing is made but that."""
    height, width = target.shape
    if plane.values.shape[:2] != (height, width) or resized_size(height, width, spec) != (height, width):
        np.clip(_centre(_resized(plane, spec), height, width), 0.0, 1.0, out=target)
        return
    plane.write(target)
    if not plane.is_full_range:
        np.clip(target, 0.0, 1.0, out=target)


def _resized(plane: _Plane, spec: ImageSpec) -> FloatArray:
    height, width = plane.values.shape[:2]
    return _resize(plane, resized_size(height, width, spec), spec.filter)


def resized_size(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """(height, width) after the resize and before the crop, with the rounding of timm and torchvision."""
    target_h = math.floor(spec.height_px / spec.crop_fraction)
    target_w = math.floor(spec.width_px / spec.crop_fraction)
    if spec.resize == "stretch":
        return target_h, target_w
    if spec.resize == "shortest" and target_h == target_w:  # torchvision.transforms.Resize(int)
        longer = int(target_h * max(height, width) / min(height, width))
        return (target_h, longer) if height <= width else (longer, target_h)
    choose = min if spec.resize == "shortest" else max  # timm's ResizeKeepRatio
    ratio = choose(height / target_h, width / target_w)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize(plane: _Plane, size: tuple[int, int], name: Filter) -> FloatArray:
    height, width = plane.values.shape[:2]
    if (height, width) == size:
        return plane.rows(0, height)
    from PIL import Image

    methods = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    method = methods.get(name, Image.Resampling.BICUBIC)
    is_unsigned = plane.low == 0 and plane.values.dtype.kind == "u"
    if name == "bicubic" and is_unsigned and is_worth_while(height, width, size[1]):
        if plane.table is not None:
            plane = plane._replace(table=plane.table.astype(np.float64))  # once, and not for every few rows
        columns = Image.fromarray(shortened(plane.write, height, width, size[1])).resize(size, method)
        return np.ascontiguousarray(np.asarray(columns, np.float32).T)
    rows = Image.fromarray(plane.rows(0, height)).resize((size[1], height), method)
    return np.asarray(rows.resize((size[1], size[0]), method), np.float32)


def _centre(plane: FloatArray, height: int, width: int) -> FloatArray:
    """Pad with 0 and crop about the centre; offsets as ``torchvision.transforms.functional.center_crop``."""
    short_h, short_w = max(0, height - plane.shape[0]), max(0, width - plane.shape[1])
    if short_h or short_w:
        before, after = (short_h // 2, short_w // 2), ((short_h + 1) // 2, (short_w + 1) // 2)
        plane = np.pad(plane, ((before[0], after[0]), (before[1], after[1])))
    top, left = round((plane.shape[0] - height) / 2), round((plane.shape[1] - width) / 2)
    return plane[top : top + height, left : left + width]


class Layout(NamedTuple):
    """The rectangle of the network's grid that shows the image; the rest is padding.

    Attributes:
        top: first row.
        left: first column.
        rows: height of the resized image.
        columns: width of the resized image.
    """

    top: int
    left: int
    rows: int
    columns: int


def layout(height: int, width: int, spec: ImageSpec) -> Layout:
    """Where :func:`prepare` puts an image of ``height`` × ``width`` px whose every pixel it keeps.

    Raises:
        InputError: ``spec`` crops or is of tiles, so that a part of the image lies outside the grid.
    """
    if spec.tiles or spec.resize == "shortest" or spec.crop_fraction != 1:
        raise InputError(
            f"the network does not see the whole image at once (resize {spec.resize!r}, crop_fraction "
            f"{spec.crop_fraction:g}{', tiles' if spec.tiles else ''}); its answer is laid on the image with resize "
            "'stretch' or 'longest', crop_fraction 1 and no tiles"
        )
    rows, columns = resized_size(height, width, spec)
    return Layout((spec.height_px - rows) // 2, (spec.width_px - columns) // 2, rows, columns)


def at_resolution(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """The image at the distance of pixels that the tiles of ``spec`` ask for; itself where they ask for none.

    Raises:
        ImageRefused: it does not say its own, or would be larger than any image that is read.
    """
    if not spec.tiles or spec.tiles.mm_per_px is msgspec.UNSET:
        return pixels
    if not pixels.spacing_mm:
        raise ImageRefused(
            f"the network was made for {spec.tiles.mm_per_px:g} mm a pixel, and the image does not say the distance of "
            "its pixels: give a DICOM file with Pixel Spacing"
        )
    own = pixels.spacing_mm * math.sqrt(pixels.aspect), pixels.spacing_mm / math.sqrt(pixels.aspect)  # rows, columns
    height, width = (
        max(1, round(side * mm / spec.tiles.mm_per_px)) for side, mm in zip(pixels.shape[:2], own, strict=True)
    )
    if (height, width) == pixels.shape[:2]:
        return pixels
    if height * width > MAX_RESIZED_PIXELS:
        raise ImageRefused(
            f"the image has pixels of {pixels.spacing_mm:g} mm and would be {width}×{height} px at the network's "
            f"{spec.tiles.mm_per_px:g} mm: give the region of interest"
        )
    channels = np.moveaxis(pixels.values, -1, 0) if pixels.is_colour else pixels.values[None]
    planes = [
        _resize(_Plane(channel.astype(np.float32), 0.0, 1.0), (height, width), spec.filter) for channel in channels
    ]
    values = np.clip(np.stack(planes, axis=-1) if pixels.is_colour else planes[0], pixels.low, pixels.high)
    return pixels._replace(held=values, spacing_mm=spec.tiles.mm_per_px, aspect=1.0)


def prepare_tile(pixels: Pixels, spec: ImageSpec, top: int, left: int) -> FloatArray:
    """One tile of an image that is at its resolution: as of :func:`prepare`, black where it lies outside the image.

    Args:
        pixels: of :func:`at_resolution`.
        spec: with tiles.
        top: row of the image where the tile begins; below 0 outside it.
        left: column likewise.
    """
    first, before = (max(top, 0), max(left, 0)), (max(-top, 0), max(-left, 0))
    part = pixels.values[first[0] : top + spec.height_px, first[1] : left + spec.width_px]
    scaled = [plane.rows(0, part.shape[0]) for plane in _planes(pixels._replace(held=part), spec)]
    planes = [np.clip(plane, 0.0, 1.0) for plane in _stained(scaled, spec)]
    tile = np.zeros((spec.channels, spec.height_px, spec.width_px), np.float32)
    rows, columns = part.shape[:2]
    tile[:, before[0] : before[0] + rows, before[1] : before[1] + columns] = np.stack(planes)
    return tile


def tile_grid(height: int, width: int, spec: ImageSpec) -> Layout:
    """Where an image lies on the grid that tiles move over: in its middle where a side is shorter than the tile's."""
    top, left = max(0, spec.height_px - height) // 2, max(0, spec.width_px - width) // 2
    return Layout(top, left, height, width)


def _centre_tile(pixels: Pixels, spec: ImageSpec) -> FloatArray:
    """The tile in the middle of the image: what stands for it where one input is looked at."""
    height, width = pixels.shape[:2]
    if min(height, width) < spec.min_side_px:
        _check_size(height, width, spec)
    check_colour(pixels, spec)
    pixels = at_resolution(pixels, spec)
    height, width = pixels.shape[:2]
    grid = tile_grid(height, width, spec)
    top = (height - spec.height_px) // 2 if height > spec.height_px else -grid.top
    left = (width - spec.width_px) // 2 if width > spec.width_px else -grid.left
    return prepare_tile(pixels, spec, top, left)
