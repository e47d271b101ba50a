"""What a host gives of an image, and how it becomes planes in [0, 1]: the inputs of `preprocess.onnx`.

Three kinds, since an ONNX input has one type:

    uint8    pixels [height, width, channels], black 0, white 255
    uint16   pixels likewise; white float32 [1]: the value of white, 1 to 65535, e.g. 4095 of a 12-bit camera
    dicom    stored values of a grey DICOM image, and the attributes that say how they are shown: `dicom_values`

with one channel (grey) or three (RGB); decoding files stays with the host.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder, Value
from medfm_compress.export.self_contained.dicom_values import presentation_values
from medfm_compress.export.self_contained.options import PixelKind
from medfm_compress.runtime.image_spec import ImageSpec

PIXELS = "pixels"
WHITE = "white"
_SHAPE = ("height", "width", "channels")


class Intensities(NamedTuple):
    """Planes ``[height, width, channels]`` float32 in [0, 1], and refusals: int64 zeros ``[1]``, see `GraphBuilder`."""

    planes: Value
    refusals: tuple[Value, ...]


def intensities(graph: GraphBuilder, kind: PixelKind, spec: ImageSpec) -> Intensities:
    """Add the inputs of ``kind`` to ``graph`` and scale them as ``runtime.preprocess`` does."""
    if kind == "dicom":
        stored = graph.input(PIXELS, np.int32, (*_SHAPE[:2], 1))
        return Intensities(*presentation_values(graph, stored, spec.dicom))
    if kind == "uint8":
        pixels = graph.input(PIXELS, np.uint8, _SHAPE)
        white = graph.constant([255], np.float32)
        return Intensities(graph.apply("Div", graph.cast(pixels, np.float32), white), ())
    pixels = graph.cast(graph.input(PIXELS, np.uint16, _SHAPE), np.float32)
    white = graph.input(WHITE, np.float32, (1,))
    least = graph.constant([1], np.float32)
    too_low = graph.refuse(graph.apply("Not", graph.apply("GreaterOrEqual", white, least)), "white is below 1")
    most = graph.constant([np.iinfo(np.uint16).max], np.float32)  # beyond it, as at infinity, every image is black
    too_high = graph.refuse(graph.apply("Greater", white, most), f"white is above {np.iinfo(np.uint16).max}")
    brightest = graph.apply("ReduceMax", pixels, keepdims=0)
    beyond = graph.refuse(graph.apply("Greater", brightest, white), "a pixel is above white")
    return Intensities(graph.apply("Div", pixels, white), (too_low, too_high, beyond))
