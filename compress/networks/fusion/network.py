"""`FusionNetwork`: any encoder of timm, and a head that joins its pooled embedding with columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.architecture import HIDDEN, Fusion, FusionMethod
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

    @property
    def embedding(self) -> int:
        """Numbers of the pooled embedding now, pruned or not."""
        width: int = self.fusion.embedding  # type: ignore[assignment]
        return width

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


def column_branch_of(module: nn.Module) -> nn.Module | None:
    """The layers that read the columns alone; None of a network without columns."""
    branch: nn.Module | None = module.fusion.branch if isinstance(module, FusionNetwork) else None  # type: ignore[assignment]
    return branch


def fused(module: nn.Module, fusion: Fusion) -> FusionNetwork:
    """A network whose classifier is replaced by a head that reads columns too; ``module`` is changed.

    Raises:
        ModelError: its classifier cannot be taken off.
    """
    reset = getattr(module, "reset_classifier", None)
    if reset is None:
        raise ModelError(f"{type(module).__name__} has no classifier that can be replaced; give a network of timm")
    reset(0)
    widths = dict(fusion.widths)
    head = fusion_head(fusion.method, fusion.embedding, sum(widths.values()), fusion.labels, fusion.hidden)
    return FusionNetwork(module, head, widths)


def with_fusion(
    model: Model, columns: Sequence[Column], method: FusionMethod = "concatenation", hidden: int = HIDDEN
) -> Model:
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
    fusion = Fusion(
        method=method,
        hidden=hidden,
        widths=tuple((column.name, column.width) for column in columns),
        embedding=_embedding(model.module, model.spec.shape),
        labels=len(model.task.labels),
    )
    return dataclasses.replace(
        model,
        module=nn.Module.eval(fused(model.module, fusion)),
        columns=tuple(columns),
        architecture=msgspec.structs.replace(model.architecture, fusion=fusion),
    )


def _embedding(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers of the pooled embedding of a network of timm.

    Raises:
        ModelError: it gives none.
    """
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            inner = module.forward_features(torch.zeros(shape))  # type: ignore[operator]
            pooled = module.forward_head(inner, pre_logits=True)  # type: ignore[operator]
    except (AttributeError, TypeError, RuntimeError) as exc:
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise ModelError(
            f"{type(module).__name__} gives no pooled embedding ({first}); give a network of timm"
        ) from None
    finally:
        module.train(training)
    if not isinstance(pooled, Tensor) or pooled.ndim != 2:
        raise ModelError(f"{type(module).__name__} gives no pooled embedding [n, d] without its classifier")
    return int(pooled.shape[1])
