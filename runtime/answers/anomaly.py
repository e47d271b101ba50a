"""Anomaly: how unlike the normal training images an image is, where, and which of them it is most like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.runtime.anomaly_map import AnomalyMap
from medfm_compress.runtime.answers.answer import Answer, Network
from medfm_compress.runtime.answers.classification import classify
from medfm_compress.runtime.bundle.manifest import ANOMALY_MAP
from medfm_compress.runtime.errors import Refused

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels


def score_image(network: Network, pixels: Pixels) -> Answer:
    """See `Ask`."""
    answer = classify(network, pixels)
    found = answer.outputs.get(ANOMALY_MAP)
    if found is None:
        return answer
    values = np.asarray(found, np.float32)
    if values.ndim != 4 or not np.isfinite(values).all():
        raise Refused("the network's anomaly map of this image is not finite or misshapen; no result is given")
    height, width = pixels.shape[:2]
    return answer._replace(anomaly_map=AnomalyMap(values[0, 0], network.spec, height, width))
