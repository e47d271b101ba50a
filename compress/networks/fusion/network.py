"""`FusionNetwork`: any encoder of timm, and a head that joins its pooled embedding with columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.architecture import Architecture, Fusion, FusionMethod
from medfm_compress.compress.networks.fusion.table import fusion_head
from medfm_compress.compress.networks.inputs import Columned, columns_in
from medfm_compress.compress.networks.model import Model
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import InputError, ModelError


class FusionNetwork(nn.Module):
    """A network of images and columns; called with the image and every column in their order, or with `Columned`.

    Attributes:
        encoder: images ``[n, channels, height, width]`` → pooled embedding ``[n, embedding]``.
        fusion: embedding and columns → logits.
        column_widths: column → numbers that it is, in the order of the network's inputs.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, widths: dict[str, int]) -> None:
        super().__init__()
        self.encoder, self.fusion, self.column_widths = encoder, head, dict(widths)

    def forward(self, inputs: Tensor | Columned, *columns: Tensor) -> Tensor:
        """Logits ``[n, labels]``.

        Raises:
            InputError: columns that are lacking.
        """
        if isinstance(inputs, Columned):
            return self.fuse(self.encoder(inputs.images), self.in_order(inputs))
        return self.fuse(self.encoder(inputs), columns)

    def fuse(self, embedding: Tensor, columns: Sequence[Tensor]) -> Tensor:
        """Logits of a pooled embedding ``[n, embedding]`` and each column ``[n, width]``."""
        if len(columns) != len(self.column_widths):
            raise InputError(f"the network takes the columns {', '.join(self.column_widths)}; got {len(columns)}")
        logits: Tensor = self.fusion(embedding, torch.cat(list(columns), dim=1))
        return logits

    def in_order(self, inputs: Tensor | Columned) -> tuple[Tensor, ...]:
        """The columns of ``inputs`` in the order of the network's; raises InputError where one is lacking."""
        given = columns_in(inputs)
        lacking = [name for name in self.column_widths if name not in given]
        if lacking:
            raise InputError(f"the network takes the column {lacking[0]!r}; got {', '.join(given) or 'none'}")
        return tuple(given[name] for name in self.column_widths)


def fused(module: nn.Module, fusion: Fusion, labels: int, shape: tuple[int, ...]) -> FusionNetwork:
    """A network whose classifier is replaced by a head that reads columns too; ``module`` is changed.

    Args:
        module: a network of timm.
        fusion: how, and of which columns.
        labels: logits.
        shape: ``[1, channels, height, width]`` of its images.

    Raises:
        ModelError: its classifier cannot be taken off, or it then gives no pooled embedding.
    """
    return FusionNetwork(_headless(module), _head(fusion, _embedding(module, shape), labels), fusion.widths)


def with_fusion(model: Model, columns: Sequence[Column], method: FusionMethod, hidden: int) -> Model:
    """A classifier of images as one of images and ``columns``, its encoder's weights kept; ``model`` is used up.

    Raises:
        ModelError: it answers for every pixel, is pruned or has columns already, or gives no pooled embedding.
    """
    if model.task.is_dense:
        raise ModelError("columns beside the image are for networks that give one answer an image; leave --columns out")
    if model.columns:
        raise ModelError(
            f"{model.name} takes the columns {', '.join(column.name for column in model.columns)} already; leave "
            "--columns out"
        )
    if model.architecture.pruning or model.architecture.library != "timm":
        raise ModelError(f"{model.name} cannot be given columns: give a network of timm that is not pruned")
    fusion = Fusion(method=method, hidden=hidden, widths={column.name: column.width for column in columns})
    module = fused(model.module, fusion, len(model.task.labels), model.spec.shape)
    return dataclasses.replace(
        model,
        module=nn.Module.eval(module),
        columns=tuple(columns),
        architecture=msgspec.structs.replace(model.architecture, fusion=fusion),
    )


def create_fused(module: nn.Module, architecture: Architecture, fusion: Fusion) -> FusionNetwork:
    """The untrained network of an architecture with columns, of its encoder as timm builds it.

    Raises:
        ModelError: as `fused`.
    """
    labels = int(architecture.arguments.get("num_classes", 0))
    channels, side = int(architecture.arguments.get("in_chans", 3)), architecture.arguments.get("img_size", fusion.size_px)
    return fused(module, fusion, labels, (1, channels, int(side), int(side)))


def _head(fusion: Fusion, embedding: int, labels: int) -> nn.Module:
    return fusion_head(fusion.method, embedding, sum(fusion.widths.values()), labels, fusion.hidden)


def _headless(module: nn.Module) -> nn.Module:
    reset = getattr(module, "reset_classifier", None)
    if reset is None:
        raise ModelError(f"{type(module).__name__} has no classifier that can be replaced; give a network of timm")
    reset(0)
    return module


def _embedding(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers of the pooled embedding."""
    training = module.training
    module.eval()
    with torch.inference_mode():
        pooled = module(torch.zeros(shape))
    module.train(training)
    if not isinstance(pooled, Tensor) or pooled.ndim != 2:
        raise ModelError(f"{type(module).__name__} gives no pooled embedding [n, d] without its classifier")
    return int(pooled.shape[1])
