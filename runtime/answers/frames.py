"""One answer for all frames of an image: of each finding the greatest probability over them, or the mean.

    max    p = max_f p_f         a finding that shows in one frame shows; more frames find more, also by error
    mean   p = Σ_f p_f / n       as sure as the frames are on average

with p_f the calibrated probability of frame f. Operating points decide p as they decide that of a single image, on
which they were chosen. Frames that are unlike those that the network was made for are left out, with a flag, unless
their findings are asked for. One frame is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.answers.classification import called, label_of
from medfm_compress.runtime.errors import ImageRefused

if TYPE_CHECKING:
    from medfm_compress.runtime.image_spec import FrameAggregation
    from medfm_compress.runtime.prediction import NetworkInput, Prediction
    from medfm_compress.runtime.task import Task

FRAMES_LEFT_OUT = "frames-left-out"
"""Flag of an answer for several frames of which some are unlike those that the network was made for."""

Scores = NDArray[np.float64]
_JOIN: Mapping[str, Callable[[Scores, Scores], Scores]] = MappingProxyType({"max": np.maximum, "mean": np.add})


def joined(
    answers: Iterable[tuple[Prediction, NetworkInput]], how: FrameAggregation, task: Task
) -> tuple[Prediction, NetworkInput]:
    """One prediction of those of all frames, with the input of the frame in which most was found.

    Args:
        answers: of every frame in its order; each is asked for when the one before it is done with.
        how: ``max`` or ``mean``; ``each`` takes an image of one frame alone.
        task: whose operating points decide.

    Raises:
        ImageRefused: several frames, and an answer is declared for each; or none.
    """
    frames = _Frames(how)
    for prediction, seen in answers:
        frames.add(prediction, seen)
    return frames.joined(task)


class _Frames:
    """What is known of the frames so far."""

    def __init__(self, how: FrameAggregation) -> None:
        self._how = how
        self._count = self._kept = 0
        self._total: Scores | None = None
        self._flags: dict[str, None] = {}
        self._typicalities: list[float] = []
        self._highest = -np.inf
        self._shown: tuple[Prediction, NetworkInput] | None = None

    def add(self, prediction: Prediction, seen: NetworkInput) -> None:
        self._count += 1
        if self._count > 1 and self._how == "each":
            raise ImageRefused(
                "the image has several frames, and the bundle answers for each of them: use 'medfm-compress run' or "
                "Engine.predict_frames"
            )
        self._flags |= dict.fromkeys(prediction.flags)
        self._typicalities += [] if prediction.typicality is None else [prediction.typicality]
        scores = np.array(list(seen.scores.values()))
        counts = bool(prediction.probabilities)
        if counts:
            self._kept += 1
            self._total = scores if self._total is None else _JOIN[self._how](self._total, scores)
        highest = float(scores.max()) + counts  # a frame that counts comes before all that do not
        if highest > self._highest:
            self._shown, self._highest = (prediction, seen), highest

    def joined(self, task: Task) -> tuple[Prediction, NetworkInput]:
        if self._shown is None:
            raise ImageRefused("the image has no frame; export it again")
        prediction, seen = self._shown
        if self._count == 1:
            return prediction, seen
        flags = (*self._flags, *((FRAMES_LEFT_OUT,) if self._kept < self._count else ()))
        typicality = min(self._typicalities, default=None)
        prediction = msgspec.structs.replace(
            prediction, frame=None, frames=self._count, flags=flags, typicality=typicality
        )
        if self._total is None:
            return prediction, seen
        scores = (self._total / self._kept if self._how == "mean" else self._total)[None]
        probabilities = dict(zip(task.findings, scores[0].tolist(), strict=True))
        findings, label = called(scores, task), label_of(scores, task)
        prediction = msgspec.structs.replace(prediction, probabilities=probabilities, findings=findings, label=label)
        return prediction, seen._replace(scores=probabilities)
