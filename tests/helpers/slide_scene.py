"""Slides, and bundles that read them, for the tests of every room that needs one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_bundle
from msgspec.structs import replace
from PIL import Image

from jpeg_slide import write_jpeg_slide
from medfm_compress.runtime.bundle.bundle import write_bundle
from medfm_compress.runtime.golden_cases import golden_files, make_goldens, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.slides.settings import SlideSettings
from medfm_compress.runtime.task import Task

SETTINGS = SlideSettings(tile_um_per_px=1.0)
SPEC = ImageSpec(height_px=32, width_px=32, colour="rgb", mean=(0.0,) * 3, std=(1.0,) * 3, min_side_px=8)
STRUCTURES = Task(kind="segmentation", labels=("red", "green"))


def picture(height: int = 700, width: int = 900, seed: int = 0) -> np.ndarray:
    """Glass with a patch of stained tissue from (100, 200) to (500, 700), uint8."""
    rng = np.random.default_rng(seed)
    values = np.full((height, width, 3), 243, np.uint8)
    cells = rng.integers(0, 60, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    stained = np.array([150, 60, 140]) + cells
    values[100:500, 200:700] = stained[100:500, 200:700]
    return values


def write_deflate(path: Path, values: np.ndarray, *, levels: int = 2, um_per_px: float | None = 0.5, **options) -> Path:
    """A pyramidal tiled TIFF written by tifffile."""
    import tifffile

    resolution = {"resolution": (1e4 / um_per_px,) * 2, "resolutionunit": "CENTIMETER"} if um_per_px else {}
    settings = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number in range(levels):
            file.write(values[:: 2**number, :: 2**number], subfiletype=int(number > 0), **resolution, **settings)
    return path


def write_jpeg(path: Path, values: np.ndarray, um_per_px: float = 0.5) -> Path:
    """A pyramid of JPEG tiles, as scanners write them."""
    padded = np.pad(values, ((0, 256), (0, 256), (0, 0)), mode="edge")
    write_jpeg_slide(
        path, values.shape[:2], lambda r, c: padded[r * 256 : r * 256 + 256, c * 256 : c * 256 + 256], um_per_px
    )
    return path


def damage_tile(path: Path, number: int, level: int = 0) -> None:
    """Cut the data of one tile to a third; what is left is followed by zeros."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    with path.open("r+b") as stream:
        stream.seek(offset + count // 3)
        stream.write(b"\0" * (count - count // 3))


def lose_tile(path: Path, number: int) -> None:
    """Say that a tile of level 0 lies beyond the end of the file."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["TileOffsets"]
        size = 8 if int(tag.dtype) == 16 else 4
    with path.open("r+b") as stream:
        stream.seek(tag.valueoffset + size * number)
        stream.write((1 << 31).to_bytes(size, "little"))


def classifier(path: Path, seed: int = 0) -> Path:
    """A bundle of the tiny classifier (grey, 32 px)."""
    spec = replace(tiny_bundle.SPEC, min_side_px=8)
    return tiny_bundle.bundle(path, spec=spec, model=tiny_bundle.network(seed=seed))


def segmenter(path: Path, **changes) -> Path:
    """A bundle whose structures are where red, or green, is above half: logit 20 (x − 0.5) a pixel."""
    return _bundle(path, [("Conv", "image W b", "logits")], STRUCTURES, (1, 2, 32, 32), changes)


def colour_classifier(path: Path, **changes) -> Path:
    """A bundle of a classifier in colour, by the means of red and green."""
    nodes = [("Conv", "image W b", "c"), ("GlobalAveragePool", "c", "p"), ("Flatten", "p", "logits")]
    return _bundle(path, nodes, Task(kind="multilabel", labels=("red", "green")), (1, 2), changes)


def _bundle(path: Path, nodes: list, task: Task, shape: tuple[int, ...], changes: dict) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    spec = replace(SPEC, **changes)
    weights = np.array([[20, 0, 0], [0, 20, 0]], np.float32)[..., None, None]
    constants = {"W": weights, "b": np.full(2, -10, np.float32)}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs.split(), [output]) for kind, inputs, output in nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = made.SerializeToString()
    manifest = tiny_bundle.draft((tiny_bundle.ORT,), task, spec)
    inputs = make_goldens(spec, count=2)
    session = open_session_from_bytes("onnxruntime", [model], 1, "fp32")
    logits = {tiny_bundle.ORT.name: run_goldens(session, inputs)}
    output = replace(manifest.outputs[0], shape=shape)
    write_bundle(path, replace(manifest, outputs=(output,)), {"model.onnx": model} | golden_files(inputs, logits, spec))
    return path


def save(path: Path, values: np.ndarray, **options) -> Path:
    """Through Pillow."""
    Image.fromarray(values).save(path, **options)
    return path
