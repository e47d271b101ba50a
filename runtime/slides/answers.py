"""What a bundle answers of one tile, by its kind of task; `answers_of` chooses. A new kind is one more entry."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.segmentation.label_map import lay_on_image
from medfm_compress.runtime.slides.journal import NOT_RELIABLE, PREDICTED, TileAnswer
from medfm_compress.runtime.slides.slide import Picture
from medfm_compress.runtime.task import Task, TaskKind
from medfm_compress.runtime.tasks.table import rules_of

CELLS = 8
"""Of a classified tile, each way: its one probability covers them all, and overlaps are whole numbers of them."""
_NO_MAP = np.empty(0, np.uint8)


class TileAnswers(Protocol):
    """How tiles of one kind of task are answered and laid on the slide."""

    def cells(self, spec: ImageSpec) -> tuple[int, int]:
        """Cells of a tile's map, (down, across)."""
        ...

    def map_shape(self, spec: ImageSpec) -> tuple[int, int] | None:
        """Of the map that is kept of every tile; None where its probabilities say it all."""
        ...

    def answer(self, engine: Engine, region: Picture) -> TileAnswer:
        """The network's answer of one tile, as it was read."""
        ...

    def tile_map(self, answer: TileAnswer, cells: tuple[int, int]) -> NDArray[np.float32]:
        """Probabilities ``[findings, down, across]`` of a tile's cells."""
        ...

    def weights(self, cells: tuple[int, int]) -> NDArray[np.float32]:
        """How much each cell of a tile counts where tiles overlap, ``[down, across]``, all above 0."""
        ...


class ClassifiedTiles:
    """See `TileAnswers`: one row of probabilities a tile."""

    def cells(self, spec: ImageSpec) -> tuple[int, int]:
        """As many as `CELLS` each way."""
        return CELLS, CELLS

    def map_shape(self, spec: ImageSpec) -> tuple[int, int] | None:
        """None."""
        return None

    def answer(self, engine: Engine, region: Picture) -> TileAnswer:
        """As `Engine.predict` answers of an image; what is unlike the training images is not reliable."""
        prediction, given = engine.predict_with_input(region, atypical="flag")
        scores = np.array([given.scores[finding] for finding in engine.task.findings], np.float32)
        return TileAnswer(NOT_RELIABLE if prediction.not_reliable else PREDICTED, scores, _NO_MAP)

    def tile_map(self, answer: TileAnswer, cells: tuple[int, int]) -> NDArray[np.float32]:
        """The same in every cell."""
        return np.broadcast_to(answer.scores[:, None, None], (len(answer.scores), *cells))

    def weights(self, cells: tuple[int, int]) -> NDArray[np.float32]:
        """All the same."""
        return np.ones(cells, np.float32)


class SegmentedTiles:
    """See `TileAnswers`: a map of probabilities a tile, on the network's grid.

    Where tiles overlap, a Gaussian of an eighth of the side weighs the middle of a tile more than its border.
    """

    def cells(self, spec: ImageSpec) -> tuple[int, int]:
        """The network's pixels."""
        return spec.height_px, spec.width_px

    def map_shape(self, spec: ImageSpec) -> tuple[int, int] | None:
        """The network's pixels."""
        return spec.height_px, spec.width_px

    def answer(self, engine: Engine, region: Picture) -> TileAnswer:
        """Probabilities × 255 of every pixel that shows the tile; the scores are the highest of the network's."""
        task, spec = engine.task, tile_spec(engine.manifest.image_spec)
        logits = engine.logits(preprocess(Pixels.from_integers(region), spec))
        scores = probabilities(rules_of(task).case_logits(logits, task), task)[0].astype(np.float32)
        laid = lay_on_image(logits, task, spec, spec.height_px, spec.width_px, keep_probabilities=True)
        return TileAnswer(PREDICTED, scores, np.rint(255 * np.asarray(laid.probabilities)).astype(np.uint8))

    def tile_map(self, answer: TileAnswer, cells: tuple[int, int]) -> NDArray[np.float32]:
        """As it was stored."""
        return np.divide(answer.map, 255, dtype=np.float32)

    def weights(self, cells: tuple[int, int]) -> NDArray[np.float32]:
        """A Gaussian about the middle; at least a thousandth at the corners."""
        bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in cells]
        weights: NDArray[np.float32] = np.maximum(np.outer(*bells), 1e-3).astype(np.float32)
        return weights


def tile_spec(spec: ImageSpec) -> ImageSpec:
    """What reduces a tile of a slide, which shows just what the network's input shows, to that input.

    A spec of a sliding window does not resize; on a slide the windows are the tiles that were read.
    """
    return msgspec.structs.replace(spec, tiles=msgspec.UNSET, resize="stretch") if spec.tiles else spec


_CLASSIFIED = ClassifiedTiles()
_ANSWERS: Mapping[TaskKind, TileAnswers] = MappingProxyType(
    {
        "binary": _CLASSIFIED,
        "multiclass": _CLASSIFIED,
        "multilabel": _CLASSIFIED,
        "segmentation": SegmentedTiles(),
    }
)


def answers_of(task: Task) -> TileAnswers:
    """How tiles of this task are answered.

    Raises:
        InputError: its answers cannot be put together on a slide.
    """
    if task.kind not in _ANSWERS:
        raise InputError(
            f"the bundle is of kind {task.kind!r}, whose answers of tiles make no map of a slide; allowed are those of "
            f"{', '.join(_ANSWERS)}"
        )
    return _ANSWERS[task.kind]
