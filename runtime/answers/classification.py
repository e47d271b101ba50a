"""Classification: probabilities of an image, and findings at their operating points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.answers.answer import Answer, Network
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels


def classify(network: Network, pixels: Pixels) -> Answer:
    """See `Ask`."""
    task = network.task
    tensor = preprocess(pixels, network.spec)
    outputs = network.run(tensor)
    scores = probabilities(network.logits_of(outputs), task)
    return Answer(
        tensor=tensor,
        outputs=outputs,
        probabilities=dict(zip(task.findings, scores[0].tolist(), strict=True)),
        findings=called(scores, task),
        label=label_of(scores, task),
    )


def label_of(scores: NDArray[np.float64], task: Task) -> str | None:
    """The most probable class of a multiclass task by ``scores`` ``[1, findings]``, else None."""
    return task.labels[int(scores[0].argmax())] if task.kind == "multiclass" else None


def called(scores: NDArray[np.float64], task: Task) -> dict[str, bool | None]:
    """Decision for each finding by ``scores`` ``[1, findings]``.

    None for one without an operating point (a multiclass argmax needs none).
    """
    pointed = {point.label for point in task.operating_points}
    decided = decisions(scores, task)[0]
    return {
        finding: bool(value) if finding in pointed or task.kind == "multiclass" else None
        for finding, value in zip(task.findings, decided, strict=True)
    }
