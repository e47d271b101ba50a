"""`Prediction`: what is said of one image; `NetworkInput`: what the network was given for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.anomaly_map import AnomalyMap
from medfm_compress.runtime.columns import Values
from medfm_compress.runtime.network_inputs import NetworkInputs, with_columns
from medfm_compress.runtime.segmentation.result import Segmentation

if TYPE_CHECKING:
    from medfm_compress.runtime.class_activation import ClassActivation


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network says of one image.

    Attributes:
        probabilities: finding → calibrated probability in [0, 1].
        findings: finding → called at its operating point or not; None where it has none.
        label: the most probable class of a multiclass task, else None.
        typicality: how usual the image is among those that the network was made for, in (0, 1], see `typicality`; None
            where the bundle does not tell.
        not_reliable: why no finding is given; then probabilities and findings are empty. Empty where one is.
        flags: quality remarks on the image, e.g. ``colour-image-for-grey-model``; ``not-reliable``;
            ``unverified-model`` where no passing verdict stands behind it, ``unsigned-bundle`` where a trust store was
            asked and no trusted builder stands behind the bundle, or no trusted approver behind its verdict,
            ``clock-is-wrong`` where the clock shows an earlier time than was certainly reached.
        variant: which variant of the bundle answered.
        model_digest: of the bundle.
        intended_use: as the bundle's maker declared it.
        elapsed_ms: from the source to this answer.
        frame: which frame of several it is of, counted from 1; None where it is of the image.
        frames: of how many frames it is, where it joins the answers for several.
        segmentation: of a segmentation, its label map and what follows from it; None where none is given. Then a
            finding is called where the map shows it anywhere, and its probability is the highest of a pixel's.
        columns: of a model that takes columns, where each came from: ``argument``, the keyword of a DICOM attribute,
            ``imputed`` or ``missing`` (then there is the flag ``column-missing``). Their values are not kept.
        is_score: of an anomaly: ``probabilities`` hold a score in [0, 1] that orders images, no probability of disease.
        anomaly_map: of an anomaly, where the bundle gives one: the logit of the score at each place; its ``on_image()``
            has the image's own size.
        nearest: of an anomaly, where the bundle gives them: SHA-256 of the files of the training cases that the image
            is most like, the most similar first.
    """

    probabilities: dict[str, float]
    findings: dict[str, bool | None]
    label: str | None
    flags: tuple[str, ...]
    variant: str
    model_digest: str
    intended_use: str
    elapsed_ms: float
    typicality: float | None = None
    not_reliable: str = ""
    segmentation: Segmentation | None = None
    frame: int | None = None
    frames: int | None = None
    columns: dict[str, str] = {}
    is_score: bool = False
    anomaly_map: AnomalyMap | None = None
    nearest: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The prediction as JSON has it: no maps, and of what is of one kind of task alone nothing for the others."""
        row = {name: getattr(self, name) for name in self.__struct_fields__ if name not in _OF_ONE_KIND}
        row |= {name: value for name in ("columns", "frame", "frames") if (value := getattr(self, name))}
        if self.is_score:
            row = {"scores" if name == "probabilities" else name: value for name, value in row.items()}
            row |= {"nearest": self.nearest} if self.nearest else {}
        return row if self.segmentation is None else row | {"segmentation": self.segmentation.summary()}


_OF_ONE_KIND = frozenset({"segmentation", "columns", "is_score", "anomaly_map", "nearest", "frame", "frames"})


class NetworkInput(NamedTuple):
    """What the network was given for one image, and what it answered whatever was made of it.

    Attributes:
        tensor: ``[1, C, H, W]``, float32, normalised.
        spacing_mm: of the pixels before any resizing, where a DICOM file says it.
        examination: a mark that images of one DICOM study share, of no meaning outside this process.
        scores: finding → its probability, of an image that is not reliable as well.
        activation: class activation maps of the same run, or the anomaly map, where the bundle gives them.
        columns: column → float32 ``[1, width]``, what the network was given beside the tensor.
        given: columns as the caller gave them.
    """

    tensor: NDArray[np.float32]
    spacing_mm: float | None
    examination: bytes | None = None
    scores: Mapping[str, float] = MappingProxyType({})
    activation: ClassActivation | None = None
    columns: Mapping[str, NDArray[np.float32]] = MappingProxyType({})
    given: Values = MappingProxyType({})

    @property
    def inputs(self) -> NetworkInputs:
        """Image and columns together, as `Engine.logits` takes them."""
        return with_columns(self.tensor, self.columns)
