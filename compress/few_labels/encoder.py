"""`FrozenEncoder`: a network whose embeddings are classified, from a model, a backbone or an encoder folder.

The embedding is what enters the network's own classifier, pooled; of a network with an encoder and a decoder, the mean
of the encoder's deepest map over its places; of an encoder of ``embed``, what it was distilled to give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.compress.few_labels.linear_classifier import Floats
from medfm_compress.compress.networks.backbone import CARD as BACKBONE_CARD
from medfm_compress.compress.networks.backbone import find_start
from medfm_compress.compress.networks.encoder_folder import CARD as ENCODER_CARD
from medfm_compress.compress.networks.encoder_folder import load_encoder
from medfm_compress.compress.networks.features import offered, tapped
from medfm_compress.compress.networks.model import CARD as MODEL_CARD
from medfm_compress.compress.networks.model import Model, create_module, load_model, load_weights
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.task import Task

_BATCH = 32
_UNUSED = Task(kind="binary", labels=("absent", "present"))


@dataclass(frozen=True)
class FrozenEncoder:
    """A network that is not trained any more.

    Attributes:
        name: what tables call it.
        spec: its preprocessing.
        embedding: normalised images ``[n, C, H, W]`` → ``[n, d]``.
        digest: of its weights.
        model: with a classifier that another may take the place of; None where its folder holds none.
    """

    name: str
    spec: ImageSpec
    embedding: Callable[[Tensor], Tensor]
    digest: str
    model: Model | None


def open_encoders(folders: Sequence[Path]) -> dict[str, FrozenEncoder]:
    """Encoders by the name that tells them apart: the network's, or the folder where two have one name.

    Raises:
        ModelError: as `open_encoder`.
        InputError: a folder twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"of {', '.join(map(str, folders))} one is given twice; give each encoder once")
    opened = {str(folder): open_encoder(folder) for folder in folders}
    if len({encoder.name for encoder in opened.values()}) < len(opened):
        return opened
    return {encoder.name: encoder for encoder in opened.values()}


def open_encoder(folder: Path) -> FrozenEncoder:
    """The network of a model folder, a backbone folder of ``pretrain`` or an encoder folder of ``embed``.

    A model's own classifier is not looked at.

    Raises:
        ModelError: a folder of no such kind, a damaged one, or a network that gives no embedding of an image alone.
    """
    if (folder / ENCODER_CARD).is_file():
        encoder, card = (stored := load_encoder(folder)).encoder, stored.card
        return FrozenEncoder(card.name, card.spec, nn.Module.eval(encoder), card.weights_sha256, None)
    if (folder / MODEL_CARD).is_file():
        model = load_model(folder)
    elif (folder / BACKBONE_CARD).is_file():
        model = _open_backbone(folder)
    else:
        raise ModelError(
            f"{folder} is no encoder: it has no {MODEL_CARD}, {BACKBONE_CARD} or {ENCODER_CARD}; give the folder that "
            "'finetune', 'distill', 'pretrain' or 'embed' wrote. Weights in a file become one by 'finetune NAME "
            "--weights FILE --epochs 0'"
        )
    if model.columns:
        names = ", ".join(column.name for column in model.columns)
        raise ModelError(
            f"{folder}: {model.name} takes columns beside the image ({names}), and few labels are drawn for images "
            "alone; give an encoder without columns"
        )
    return FrozenEncoder(model.name, model.spec, _embedding_of(model, folder), model.weights_sha256(), model)


def _open_backbone(folder: Path) -> Model:
    start = find_start(folder)
    card = start.card
    assert card is not None  # noqa: S101 - a folder with a card has one
    module = create_module(card.architecture)
    load_weights(module, start.weights, replace_head=True)
    return Model(
        name=card.name,
        module=module,
        spec=card.spec,
        task=_UNUSED,
        architecture=card.architecture,
        licence=card.licence,
        provenance=card.provenance,
        intended_use=card.intended_use,
    )


def _embedding_of(model: Model, folder: Path) -> Callable[[Tensor], Tensor]:
    shapes = offered(model.module, model.spec.shape)
    name = next((name for name in ("embedding", "map") if name in shapes), "")
    if not name:
        raise ModelError(
            f"{folder}: {model.name} gives neither an embedding nor a feature map; take a network of timm, or one with "
            "an encoder and a decoder of segmentation-models-pytorch"
        )
    network = tapped(model.module, (name,))
    nn.Module.eval(network)

    def embedding(images: Tensor) -> Tensor:
        features: Tensor = network(images).features[name].float()
        return features if name == "embedding" else features.mean((2, 3))

    return embedding


def embed(encoder: FrozenEncoder, study: Study, cases: Sequence[Case], progress: Progress | None = None) -> Floats:
    """Embeddings ``[n, d]`` of the images of ``cases``, prepared as the encoder's spec says.

    Raises:
        StudyError: an image cannot be used; it is named.
        ModelError: an embedding is not finite.
    """
    starts = range(0, len(cases), _BATCH)
    rows = []
    for start in counted(starts, f"embed with {encoder.name}", len(starts), progress):
        images = torch.from_numpy(network_inputs(study, cases[start : start + _BATCH], encoder.spec))
        with torch.inference_mode():
            rows.append(encoder.embedding(images).numpy())
    embeddings = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(embeddings).all():
        raise ModelError(f"the encoder {encoder.name} gives embeddings that are not finite; check its weights")
    return embeddings
