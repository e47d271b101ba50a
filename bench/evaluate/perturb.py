"""A study whose images come perturbed, at their own size and before any preprocessing; see `types.perturbation`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.perturbation import SEVERITIES, STRENGTHS, PerturbationName
from medfm_compress.data.sources import with_rules
from medfm_compress.data.study import ImageSource, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.pixels import Pixels

Plane = NDArray[np.float32]
_REACH = 3  # of a blur's kernel, in σ
_JPEG_LEVELS = 255


class Chance(NamedTuple):
    """What an image's key decides: two signs, and a generator for its noise."""

    signs: tuple[int, int]
    generator: np.random.Generator


@dataclass(frozen=True)
class PerturbedImages:
    """An `ImageSource` that perturbs what another one reads; safe in several threads.

    Attributes:
        source: the other one.
        perturbation: what is done.
        severity: 1 to 3.
    """

    source: ImageSource
    perturbation: PerturbationName
    severity: int

    def read(self, image: str) -> Pixels:
        """The perturbed image, float32 in [0, 1]; raises ``ImageRefused`` where the other source does."""
        return perturb(self.source.read(image), self.perturbation, self.severity, image)

    def content_sha256(self, image: str) -> str:
        """Of the stored image and of what is done to it."""
        told = f"{self.source.content_sha256(image)} {self.perturbation} {self.severity}"
        return hashlib.sha256(told.encode()).hexdigest()

    def with_rules(self, rules: DicomRules) -> PerturbedImages:
        """The same, reading DICOM files by other rules."""
        return PerturbedImages(with_rules(self.source, rules), self.perturbation, self.severity)


def perturbed_study(study: Study, perturbation: PerturbationName, severity: int) -> Study:
    """``study`` with every image perturbed.

    Raises:
        InputError: an unknown perturbation or severity.
    """
    if perturbation not in _APPLY or severity not in SEVERITIES:
        raise InputError(
            f"there is no perturbation {perturbation!r} of severity {severity}; choose one of {', '.join(_APPLY)} and "
            f"a severity of {SEVERITIES}"
        )
    return msgspec.structs.replace(study, source=PerturbedImages(study.source, perturbation, severity))


def unperturbed(study: Study) -> Study:
    """The study whose images a perturbed one shows; any other as it is."""
    source = study.source
    while isinstance(source, PerturbedImages):
        source = source.source
    return msgspec.structs.replace(study, source=source)


def perturb(pixels: Pixels, perturbation: PerturbationName, severity: int, key: str) -> Pixels:
    """``pixels`` perturbed as ``key`` decides, float32 with black at 0 and white at 1."""
    values = (pixels.values.astype(np.float32) - np.float32(pixels.low)) / np.float32(pixels.high - pixels.low)
    seed = hashlib.sha256(key.encode()).digest()
    signs = (1 if seed[0] & 1 else -1, 1 if seed[0] & 2 else -1)
    chance = Chance(signs, np.random.Generator(np.random.PCG64(int.from_bytes(seed[1:9], "big"))))
    strength = STRENGTHS[perturbation][severity - 1]
    changed = _APPLY[perturbation](np.clip(values, 0, 1), strength, chance)
    return Pixels(np.clip(changed, 0, 1).astype(np.float32), 0.0, 1.0, pixels.flags)


def _noise(x: Plane, sigma: float, chance: Chance) -> Plane:
    return x + np.float32(sigma) * chance.generator.standard_normal(x.shape, dtype=np.float32)


def _exposure(x: Plane, stops: float, chance: Chance) -> Plane:
    return x * np.float32(2.0 ** (chance.signs[0] * stops))


def _gamma(x: Plane, gamma: float, chance: Chance) -> Plane:
    return x ** np.float32(gamma ** chance.signs[0])


def _contrast(x: Plane, factor: float, _: Chance) -> Plane:
    mean = x.mean(dtype=np.float64)
    return np.asarray(mean + (x - mean) * factor, dtype=np.float32)


def _jpeg(x: Plane, quality: float, _: Chance) -> Plane:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.rint(x * _JPEG_LEVELS).astype(np.uint8)).save(buffer, "JPEG", quality=int(quality))
    with Image.open(buffer) as image:
        return np.asarray(image, dtype=np.float32) / np.float32(_JPEG_LEVELS)


def _blur(x: Plane, share: float, _: Chance) -> Plane:
    """Separable, with the border repeated."""
    sigma = share * max(x.shape[:2])
    reach = max(1, round(_REACH * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        widths = [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)]
        padded, size = np.pad(x, widths, mode="edge"), x.shape[axis]
        x = sum(
            (w * np.take(padded, np.arange(k, k + size), axis=axis) for k, w in enumerate(kernel)), np.zeros_like(x)
        )
    return x


def _rotation(x: Plane, degrees: float, chance: Chance) -> Plane:
    """Bilinear; corners that come into view have the median of the border."""
    from PIL import Image

    planes = x[..., None] if x.ndim == 2 else x
    turned = []
    for channel in np.moveaxis(planes, -1, 0):
        border = np.concatenate([channel[0], channel[-1], channel[:, 0], channel[:, -1]])
        image = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
        fill = float(np.median(border))
        angle = chance.signs[0] * degrees
        turned.append(np.asarray(image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill), dtype=np.float32))
    return turned[0] if x.ndim == 2 else np.stack(turned, axis=-1)


def _shift(x: Plane, share: float, chance: Chance) -> Plane:
    """By whole pixels, at least one; the border is repeated."""
    for axis, sign in enumerate(chance.signs):
        size = x.shape[axis]
        moved = np.clip(np.arange(size) - sign * max(1, round(share * size)), 0, size - 1)
        x = np.take(x, moved, axis=axis)
    return x


_APPLY: MappingProxyType[PerturbationName, Callable[[Plane, float, Chance], Plane]] = MappingProxyType(
    {
        "noise": _noise,
        "exposure": _exposure,
        "gamma": _gamma,
        "contrast": _contrast,
        "jpeg": _jpeg,
        "blur": _blur,
        "rotation": _rotation,
        "shift": _shift,
    }
)
