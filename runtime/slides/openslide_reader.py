"""OpenSlide reads what scanners write: SVS, NDPI, MRXS, SCN, BIF, VSI, DICOM WSI and others.

A slide in which OpenSlide meets an error stays in that error; it is opened again, so that only the region is lost. What
a scanner left out has no opacity, and is white.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medfm_compress.runtime.errors import ImageRefused, in_one_line, refusing
from medfm_compress.runtime.slides.slide import (
    WHITE,
    Picture,
    RegionUnreadable,
    Slide,
    check_region,
    levels_of,
    plausible_resolution,
)
from medfm_compress.runtime.written_numbers import number_of


def openslide_format(path: Path) -> str:
    """OpenSlide's name of the format; empty where it knows none, or is not there."""
    import openslide

    try:
        return str(openslide.OpenSlide.detect_format(str(path)) or "")
    except Exception:  # noqa: BLE001 -- whatever it is, OpenSlide does not open it
        return ""


def open_with_openslide(path: Path) -> Slide:
    """The slide at ``path``; raises ImageRefused where OpenSlide cannot read it."""
    return OpenSlideSlide(path)


class OpenSlideSlide:
    """See `Slide`."""

    backend = "openslide"

    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path
        self._lock = threading.Lock()
        self._slide = self._open()
        self.levels = levels_of(
            [(int(width), int(height)) for width, height in self._slide.level_dimensions], self.name
        )
        self.um_per_px = self._resolution()

    def _open(self) -> Any:
        import openslide

        with refusing(ImageRefused, f"{self.name} cannot be read by OpenSlide"):
            return openslide.OpenSlide(str(self._path))

    def _resolution(self) -> tuple[float, float] | None:
        properties = self._slide.properties
        try:
            return plausible_resolution(*(number_of(properties[f"openslide.mpp-{axis}"]) for axis in "xy"))
        except (KeyError, ValueError):
            return None

    def read_region(self, x: int, y: int, level: int, width: int, height: int) -> Picture:
        """See `Slide`."""
        check_region(width, height, self.name)
        across, down = self.levels[level].downsample
        region = (round(x * across), round(y * down)), level, (width, height)
        slide = self._slide
        try:
            image = slide.read_region(*region)
        except Exception:  # noqa: BLE001 -- OpenSlide's own errors, and those of what it calls
            image = self._read_alone(slide, region)
        rgba = np.asarray(image, np.uint16)
        alpha = rgba[..., 3:]
        picture: Picture = ((rgba[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
        return picture

    def _read_alone(self, failed: Any, region: tuple[Any, ...]) -> Any:
        """Read a region that ``failed`` did not give once more: the error may be of what another thread read."""
        fresh = self._open()
        try:
            return fresh.read_region(*region)
        except Exception as exc:  # noqa: BLE001 -- likewise
            raise RegionUnreadable(f"{self.name}, level {region[1]}: {in_one_line(exc)}") from None
        finally:
            fresh.close()
            with self._lock:
                if self._slide is failed:
                    self._slide = self._open()

    def close(self) -> None:
        """See `Slide`."""
        self._slide.close()

    def __enter__(self) -> OpenSlideSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
