"""Segmentation: a label map at the image's own size; a structure is found where the map shows it anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.answers.answer import Answer, Network, Outputs
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.segmentation.result import Segmentation
from medfm_compress.runtime.segmentation.segment import of_logits, segment

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels


def segment_image(network: Network, pixels: Pixels) -> Answer:
    """See `Ask`."""
    task, spec, keeps = network.task, network.spec, network.keep_probabilities
    tensor = preprocess(pixels, spec)
    outputs: Outputs = {}
    if spec.tiles:

        def run(tile: NDArray[np.float32]) -> NDArray[np.float32]:
            return network.logits_of(network.run(tile))

        answer = segment(run, pixels, task, spec, workers=network.workers, keep_probabilities=keeps)
    else:
        height, width = pixels.shape[:2]
        outputs = network.run(tensor)
        answer = of_logits(network.logits_of(outputs), task, spec, height, width, keep_probabilities=keeps)
    segmentation = Segmentation(answer.label_map, task.labels, pixels.spacing_mm, answer.probabilities)
    return Answer(
        tensor=tensor,
        outputs=outputs,
        probabilities=dict(zip(task.findings, answer.peaks.tolist(), strict=True)),
        findings={name: count > 0 for name, count in segmentation.area_px.items()},
        segmentation=segmentation,
        flags=answer.flags,
    )
