"""An ONNX file as ONNX Runtime runs it: one image input, columns beside it or none, one output, any number of images.

The output is ``[n, outputs]``, or a map an output, ``[n, outputs, h, w]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfm_compress.compress.networks.inputs import (
    Inputs,
    chosen,
    columns_in,
    images_in,
    in_parts,
    joined,
    with_columns,
)
from medfm_compress.compress.teachers.teacher import BATCH, DENSE_BATCH
from medfm_compress.export.adopt_onnx import Layout
from medfm_compress.export.onnx_file import read_onnx_file
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import BundleRefused, InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions import onnxruntime
from medfm_compress.runtime.sessions.operators import read_operators

_FLOAT = "tensor(float)"
_DYNAMIC = "DynamicQuantize"  # begins the names of operators that take their scale from the whole batch
_CHANNELS = (1, 3)
_Port = tuple[str, str, Sequence[Any]]
"""Name, type and sides of an input or output."""


class OnnxGraph:
    """An ONNX file with one image input, columns beside it or none, and one output.

    Attributes:
        widths: input ``[n, width]`` beside the image → its width, in the file's order.
        is_dense: whether it answers for every pixel.
    """

    def __init__(self, path: str, content: bytes | None = None) -> None:
        """Open it; ``content`` stands for the file's own.

        Raises:
            InputError: it cannot be read.
            ModelError: it is damaged, keeps weights where they are not read, or has other inputs or outputs.
        """
        self.name = Path(path).stem
        self.content = read_onnx_file(path) if content is None else content
        self.precision = "int8" if onnxruntime.holds_integers(self.content) else "fp32"
        threads = max(1, min(torch.get_num_threads(), usable_cores()))
        try:
            self._session = onnxruntime.from_bytes([self.content], threads, self.precision)
        except BundleRefused as exc:
            raise ModelError(f"{path} cannot be run: {exc}") from None
        inputs, outputs = self._session.ports()
        image, self.widths = _inputs(path, inputs)
        self.input, self.output, sides, self.is_dense = _ports(path, image, outputs)
        self.layout: Layout = "nhwc" if sides[3] in _CHANNELS and sides[1] not in _CHANNELS else "nchw"
        self.shape = sides if self.layout == "nchw" else (sides[0], sides[3], sides[1], sides[2])
        self._most = 1 if _scales_by_batch(self.content) else DENSE_BATCH if self.is_dense else BATCH

    def run(self, inputs: Inputs) -> Tensor:
        """Outputs ``[n, outputs]`` or ``[n, outputs, h, w]`` float32 on normalised images ``[n, c, h, w]``.

        A short batch is filled up.

        A graph that takes ``[n, h, w, c]`` gets them so, and gives its maps so.

        Columns of other names than the graph's are not read. Images go one at a time where the graph scales them by
        the largest of their batch, as dynamic quantization does.
        """
        fixed = self.shape[0]
        outputs = []
        for part in in_parts(chosen(inputs, tuple(self.widths)).to(torch.float32), fixed or self._most):
            filled = joined([part, *[part[-1:]] * (fixed - len(part))]) if fixed else part
            images = images_in(filled)
            oriented = images if self.layout == "nchw" else images.permute(0, 2, 3, 1)
            columns = {name: rows.contiguous().numpy() for name, rows in columns_in(filled).items()}
            values = self._session.run({self.input: oriented.contiguous().numpy(), **columns})[self.output]
            outputs.append(torch.from_numpy(np.array(values, np.float32))[: len(part)])
        every = torch.cat(outputs)
        return every.permute(0, 3, 1, 2) if self.is_dense and self.layout == "nhwc" else every


def _scales_by_batch(content: bytes) -> bool:
    try:
        return any(kind.startswith(_DYNAMIC) for kind in read_operators(content).kinds)
    except ValueError:
        return False


def _inputs(path: str, inputs: Sequence[_Port]) -> tuple[_Port, dict[str, int]]:
    """The image, and the widths of the columns beside it.

    Raises:
        ModelError: two inputs of one name, no image or several, or an input that is neither image nor column.
    """
    names = [name for name, _, _ in inputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"{path} has two inputs called {twice[0]!r}; give each a name of its own and export it again")
    if len(inputs) == 1:
        return inputs[0], {}
    images = [port for port in inputs if len(port[2]) == 4]
    columns = [port for port in inputs if len(port[2]) == 2]
    odd = [port for port in columns if port[1] != _FLOAT or not isinstance(port[2][1], int) or port[2][1] < 1]
    if len(images) != 1 or len(images) + len(columns) < len(inputs) or odd:
        described = ", ".join(f"{name} {kind} {list(sides)}" for name, kind, sides in inputs)
        raise ModelError(
            f"{path} has the inputs {described}; it must have one image [n, channels, height, width], and beside it "
            "columns of floats [n, width], or none: export it again without the others"
        )
    return images[0], {name: int(sides[1]) for name, _, sides in columns}


def _ports(path: str, image_port: _Port, outputs: Sequence[_Port]) -> tuple[str, str, tuple[int, ...], bool]:
    """Name of the input and of the output, the input's sides, a free one 0, and whether the output has maps."""
    if len(outputs) != 1:
        names = ", ".join(port[0] for port in outputs)
        raise ModelError(
            f"{path} has {len(outputs)} outputs ({names}); it must have one output of logits: export it again without "
            "the others"
        )
    (image, image_type, sides), (logits, logits_type, out) = image_port, outputs[0]
    if image_type == _FLOAT and logits_type != _FLOAT and len(out) in (3, 4):
        raise ModelError(
            f"{path} gives {logits_type} {list(out)}, a map of what is most probable; a teacher of a segmentation "
            "gives probabilities or logits of every structure: export it again without the ArgMax"
        )
    if image_type != _FLOAT or logits_type != _FLOAT or len(sides) != 4 or len(out) not in (2, 4):
        raise ModelError(
            f"{path} maps {image_type} {list(sides)} to {logits_type} {list(out)}; it must map float images "
            "[n, channels, height, width] to float logits [n, labels], or of a segmentation [n, maps, height, width]"
        )
    if len(out) == 4 and (1, 1) in (tuple(out[2:]), tuple(out[1:3])):
        raise ModelError(_flat(path, [side or "n" for side in out]))
    return image, logits, tuple(side if isinstance(side, int) else 0 for side in sides), len(out) == 4


def _flat(name: str, sides: Sequence[Any]) -> str:
    """What is said of an answer for the image as a whole that has sides of one pixel."""
    return (
        f"{name} gives [{', '.join(map(str, sides))}]; a classifier's output must be [n, labels], and a segmentation's "
        "maps as large as the image: export it again with torch.flatten(outputs, 1) as its last step"
    )


def check_fits(graph: OnnxGraph, spec: ImageSpec) -> None:
    """Raise ModelError where the graph takes other images than the spec describes."""
    sizes = graph.shape[1:]
    if any(side not in (0, size) for side, size in zip(sizes, spec.shape[1:], strict=True)):
        sides = "×".join(str(side or "any") for side in sizes)
        raise ModelError(
            f"{graph.name} takes images of {sides} (channels, height, width), and --teacher-spec describes "
            f"{'×'.join(map(str, spec.shape[1:]))}; correct the spec"
        )


def probe(graph: OnnxGraph, spec: ImageSpec) -> Tensor:
    """Outputs on noise of several strengths."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *spec.shape[1:], generator=generator) * torch.linspace(0.1, 3, 8).reshape(-1, 1, 1, 1)
    columns = {name: torch.randn(8, width, generator=generator) for name, width in graph.widths.items()}
    try:
        outputs = graph.run(with_columns(noise, columns))
    except InputError as exc:
        raise ModelError(f"{graph.name} cannot run on images of its spec: {exc}") from None
    if not torch.isfinite(outputs).all():
        raise ModelError(f"{graph.name} gives values that are not finite on noise; check its weights")
    if graph.is_dense and outputs.shape[2:] == (1, 1):
        raise ModelError(_flat(graph.name, ["n", *outputs.shape[1:]]))
    if graph.is_dense and outputs.shape[2:] != torch.Size((spec.height_px, spec.width_px)):
        height, width = outputs.shape[2:]
        raise ModelError(
            f"{graph.name} gives maps of {height}×{width} for images of {spec.height_px}×{spec.width_px} px, which is "
            "no mask of the image; export it with the resizing to the input's size in it"
        )
    return outputs


def rows_of(outputs: Tensor) -> Tensor:
    """``[rows, outputs]`` of what a graph gives: an answer an image, or a pixel."""
    return outputs if outputs.ndim == 2 else outputs.movedim(1, -1).reshape(-1, outputs.shape[1])
