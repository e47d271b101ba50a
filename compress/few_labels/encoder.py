"""`Encoder`: a network whose embeddings are classified, from a model folder or a backbone folder.

The embedding is what enters the network's own classifier, pooled; of a network with an encoder and a decoder, the mean
of the encoder's deepest map over its places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from medfm_compress.compress.few_labels.linear_classifier import Floats
from medfm_compress.compress.networks.backbone import CARD as BACKBONE_CARD
from medfm_compress.compress.networks.backbone import find_start
from medfm_compress.compress.networks.features import offered, tapped
from medfm_compress.compress.networks.model import CARD as MODEL_CARD
from medfm_compress.compress.networks.model import Model, create_module, load_model, load_weights
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.task import Task

_BATCH = 32
_UNUSED = Task(kind="binary", labels=("absent", "present"))


def open_encoders(folders: Sequence[Path]) -> dict[str, Model]:
    """Encoders by the name that tells them apart: the network's, or the folder where two have one name.

    Raises:
        ModelError: as `open_encoder`.
        InputError: a folder twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"of {', '.join(map(str, folders))} one is given twice; give each encoder once")
    opened = {str(folder): open_encoder(folder) for folder in folders}
    if len({model.name for model in opened.values()}) < len(opened):
        return opened
    return {model.name: model for model in opened.values()}


def open_encoder(folder: Path) -> Model:
    """The network of a model folder, or of a backbone folder of ``pretrain``; its own classifier is not looked at.

    Raises:
        ModelError: a folder of neither kind, a damaged one, or a network that gives no embedding.
    """
    model = load_model(folder) if (folder / MODEL_CARD).is_file() else _open_backbone(folder)
    if not {"embedding", "map"} & set(offered(model.module, model.spec.shape)):
        raise ModelError(
            f"{folder}: {model.name} gives neither an embedding nor a feature map; take a network of timm, or one with "
            "an encoder and a decoder of segmentation-models-pytorch"
        )
    return model


def _open_backbone(folder: Path) -> Model:
    if not (folder / BACKBONE_CARD).is_file():
        raise ModelError(
            f"{folder} is no encoder: it has neither a {MODEL_CARD} nor a {BACKBONE_CARD}; give the folder that "
            "'finetune', 'distill' or 'pretrain' wrote. Weights in a file become one by 'finetune NAME --weights FILE "
            "--epochs 0'"
        )
    start = find_start(folder)
    card = start.card
    assert card is not None  # noqa: S101 - a folder with a card has one
    module = create_module(card.architecture)
    load_weights(module, start.weights, replace_head=True)
    return Model(
        card.name, module, card.spec, _UNUSED, card.architecture, card.licence, card.provenance, card.intended_use
    )


def embed(encoder: Model, study: Study, cases: Sequence[Case], progress: Progress | None = None) -> Floats:
    """Embeddings ``[n, d]`` of the images of ``cases``, prepared as the encoder's spec says.

    Raises:
        StudyError: an image cannot be used; it is named.
        ModelError: an embedding is not finite.
    """
    name = "embedding" if "embedding" in offered(encoder.module, encoder.spec.shape) else "map"
    network = tapped(encoder.module, (name,))
    nn.Module.eval(network)
    starts = range(0, len(cases), _BATCH)
    rows = []
    for start in counted(starts, f"embed with {encoder.name}", len(starts), progress):
        images = torch.from_numpy(network_inputs(study, cases[start : start + _BATCH], encoder.spec))
        with torch.inference_mode():
            features = network(images).features[name].float()
        rows.append((features if name == "embedding" else features.mean((2, 3))).numpy())
    embeddings = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(embeddings).all():
        raise ModelError(f"the encoder {encoder.name} gives embeddings that are not finite; check its weights")
    return embeddings


def with_classes(encoder: Model, labels: tuple[str, ...]) -> nn.Module:
    """The encoder's network anew, in eval mode, with an untrained classifier of so many labels.

    Raises:
        ModelError: no network of timm.
    """
    architecture = encoder.architecture
    if architecture.library != "timm":
        raise ModelError(
            f"{encoder.name} is a network of {architecture.library}, whose classifier is no layer of its own; the "
            "curves need none, a model folder does: take an encoder of timm, or leave --out away"
        )
    arguments = {**architecture.arguments, "num_classes": len(labels)}
    return create_module(msgspec.structs.replace(architecture, arguments=arguments))
