"""Whole attention heads as things that can be removed, for the attention layers of timm whose layout is known.

A head is the safe thing to cut from attention: its width ``head_dim`` and with it ``scale = head_dim ** -0.5`` stay as
they are, so that fused attention (which derives the scale from the tensor) and unfused attention (which reads the
attribute) keep giving the same answer. What must follow is ``num_heads`` and ``attn_dim``, which the forward pass uses
to reshape, and one row of a relative position table a head.

Layout of the packed projection's outputs, with ``H`` heads of width ``d``:

- ``timm.layers.Attention``: ``[3, H, d]``
- ``timm.models.maxxvit.Attention2d`` and ``AttentionCl`` (CoAtNet, MaxViT): ``[H, 3, d]`` where ``head_first``, else
  ``[3, H, d]``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Attention:
    """An attention layer whose heads can be removed.

    Attributes:
        name: of the module.
        heads: how many.
        head_dim: width of one.
        head_first: layout of the packed projection, see above.
        table: name of the relative position table, or empty.
        table_dim: which of its dimensions counts heads.
    """

    name: str
    heads: int
    head_dim: int
    head_first: bool
    table: str = ""
    table_dim: int = 0

    def qkv_rows(self, head: int) -> list[int]:
        """Output rows of the packed projection that belong to ``head``."""
        width = self.head_dim
        if self.head_first:
            return list(range(head * 3 * width, (head + 1) * 3 * width))
        starts = [(part * self.heads + head) * width for part in range(3)]
        return [start + i for start in starts for i in range(width)]

    def proj_columns(self, head: int) -> list[int]:
        """Input columns of the output projection that belong to ``head``."""
        return list(range(head * self.head_dim, (head + 1) * self.head_dim))


def find_attentions(module: nn.Module) -> tuple[list[Attention], list[str]]:
    """Attention layers whose heads can be removed, and the names of those that must be left alone."""
    known: list[Attention] = []
    sealed: list[str] = []
    for name, part in module.named_modules():
        if any(name.startswith(f"{outer}.") for outer in [*sealed, *(attention.name for attention in known)]):
            continue
        if not name or not _is_attention(part):
            continue
        attention = _describe(name, part)
        if attention is None:
            sealed.append(name)
        else:
            known.append(attention)
    return known, sealed


def _is_attention(part: nn.Module) -> bool:
    """Whether a module mixes positions by attention: it has heads, or both its name and a packed projection say so."""
    packed = any(hasattr(part, name) for name in ("qkv", "qkv_proj", "in_proj_weight", "q", "query"))
    return packed and (hasattr(part, "num_heads") or "Att" in type(part).__name__)


def _describe(name: str, part: Any) -> Attention | None:
    from timm.layers.attention import Attention as Packed
    from timm.models.maxxvit import Attention2d, AttentionCl

    if type(part) is Packed:
        # Older releases reshape to the embedding width, which is wrong as soon as a head is gone.
        plain = hasattr(part, "attn_dim") and isinstance(part.norm, nn.Identity) and getattr(part, "gate", None) is None
        return Attention(name, part.num_heads, part.head_dim, head_first=False) if plain else None
    if type(part) in {Attention2d, AttentionCl}:
        table = _position_table(part.rel_pos)
        if table is None:
            return None
        path, dim = table
        return Attention(name, part.num_heads, part.dim_head, part.head_first, path and f"{name}.rel_pos.{path}", dim)
    return None


def _position_table(bias: Any) -> tuple[str, int] | None:
    """Name of the table in a relative position bias and its head dimension; ``("", 0)`` where there is no bias."""
    from timm.layers import RelPosBias, RelPosBiasTf

    if bias is None:
        return "", 0
    if type(bias) is RelPosBias:
        return "relative_position_bias_table", 1
    if type(bias) is RelPosBiasTf:
        return "relative_position_bias_table", 0
    return None


def set_heads(module: nn.Module, attention: Attention, heads: int) -> None:
    """Tell an attention layer that ``heads`` are left: every attribute that its forward pass reads, in place."""
    part: Any = module.get_submodule(attention.name)
    part.num_heads = heads
    part.scale = attention.head_dim**-0.5
    if hasattr(part, "attn_dim"):
        part.head_dim, part.attn_dim = attention.head_dim, heads * attention.head_dim
    if attention.table:
        part.rel_pos.bias_shape = tuple(
            heads if dim == _bias_dim(part.rel_pos) else size for dim, size in enumerate(part.rel_pos.bias_shape)
        )
        if hasattr(part.rel_pos, "num_heads"):
            part.rel_pos.num_heads = heads


def _bias_dim(bias: Any) -> int:
    """Which dimension of ``bias_shape`` counts heads: the first in TensorFlow's layout, else the last."""
    from timm.layers import RelPosBiasTf

    return 0 if isinstance(bias, RelPosBiasTf) else len(bias.bias_shape) - 1
