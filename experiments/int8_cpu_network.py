"""`Network`: what the comparison knows of a network, wherever it came from; ``network.json`` in its work folder.

A network is a model folder that `int8_cpu_models.sh` trained, or one of `real_weights`. Both give plain graphs and
inputs to calibrate and judge on; from there on everybody reads the work folder alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from int8_cpu_agreement import Agreement

if TYPE_CHECKING:
    from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.task import Task

FILE = "network.json"
REAL = "about.json"  # of a folder of `real_weights`
TRAINED = "model.json"  # of a model folder
TRAINED_BRIEFLY = "trained briefly on chest X-rays"
MOST_MEASURED = 16_000_000  # logits of all cases that errors are measured on
_MOST_JUDGED = 8_000_000  # of all that one candidate of the search is judged on: 64 MB in float64
_MOST_CASES = 64


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network of the comparison.

    Attributes:
        name: of its folder.
        kind: of task, which says what its logits mean.
        shape: of one input, ``(C, H, W)``.
        outputs: logits of one case.
        module: what `network_worker` opens: a model folder or an ``eager.pt2``; empty where there is no module.
        weights: where they are from.
        agreement: in which its answers are compared.
    """

    name: str
    kind: Literal["binary", "multiclass", "multilabel", "segmentation", "anomaly"]
    shape: tuple[int, int, int]
    outputs: int
    module: str
    weights: str
    agreement: Agreement = "top1"

    @property
    def task(self) -> Task:
        """Of as few labels as its kind allows: errors need the kind, and clocks need nothing."""
        from medfm_compress.runtime.task import Task

        return Task(kind=self.kind, labels=("no", "yes"))

    @property
    def spec(self) -> ImageSpec:
        """An image of its input's shape; what is done to pixels before them is not timed."""
        from medfm_compress.runtime.image_spec import ImageSpec

        channels, height, width = self.shape
        middle = (0.5,) * channels
        return ImageSpec(
            height_px=height, width_px=width, colour="grey" if channels == 1 else "rgb", mean=middle, std=middle
        )


def load_network(work: Path) -> Network:
    """Of a work folder that `int8_cpu_prepare` filled."""
    return msgspec.json.decode((work / FILE).read_bytes(), type=Network)


def is_network(folder: Path) -> bool:
    """Whether a folder holds a network that can be compared."""
    return (folder / TRAINED).is_file() or (folder / REAL).is_file()


def judges_of(work: Path) -> ValidationSet:
    """Validation cases without labels: candidates are judged by their logits alone."""
    import numpy as np

    from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
    from medfm_compress.data.study import Study

    network = load_network(work)
    inputs = np.load(work / "validation.npy")[: min(_MOST_CASES, _MOST_JUDGED // network.outputs)]
    no_labels = Study(root=work, kind=network.kind, labels=network.task.labels, cases=(), source=None)  # type: ignore[arg-type]
    return ValidationSet(study=no_labels, cases=(), inputs=inputs, task=network.task)
