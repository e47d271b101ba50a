"""`Answer`: what a network says of one image, of whatever kind its task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.images.pixels import Pixels
    from medfm_compress.runtime.segmentation.result import Segmentation
    from medfm_compress.runtime.task import Task

Outputs = Mapping[str, NDArray[Any]]
"""Of one call of the network, by name."""


class Network(NamedTuple):
    """How an answer is asked for.

    Attributes:
        run: network input ``[1, C, H, W]`` → its outputs.
        logits_of: outputs → logits, checked.
        task: of the network.
        spec: of its input.
        workers: calls that may run at a time.
        keep_probabilities: whether maps of probabilities are wanted, where there are any.
    """

    run: Callable[[NDArray[np.float32]], Outputs]
    logits_of: Callable[[Outputs], NDArray[np.float32]]
    task: Task
    spec: ImageSpec
    workers: int = 1
    keep_probabilities: bool = False


class Answer(NamedTuple):
    """What a network says of one image.

    Attributes:
        tensor: ``[1, C, H, W]``, what it was given; of tiles the middle one.
        outputs: of that call; none of tiles.
        probabilities: finding → calibrated probability.
        findings: finding → called or not; None where nothing decides it.
        label: the most probable class of a multiclass task, else None.
        segmentation: of a segmentation.
        flags: quality remarks.
        anomaly_map: of a network that gives one: float32 ``[H, W]`` at the image's own size, in the unit of the logit;
            NaN where the network did not see the image.
    """

    tensor: NDArray[np.float32]
    outputs: Outputs
    probabilities: dict[str, float]
    findings: dict[str, bool | None]
    label: str | None = None
    segmentation: Segmentation | None = None
    flags: tuple[str, ...] = ()
    anomaly_map: NDArray[np.float32] | None = None


class Ask(Protocol):
    """Asks a network for one image; raises ImageRefused, Refused."""

    def __call__(self, network: Network, pixels: Pixels) -> Answer:
        """The network's answer."""
        ...
