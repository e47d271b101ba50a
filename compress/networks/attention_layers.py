"""Whole attention heads as things that can be removed, for the attention layers of timm whose layout is known.

A head is the safe thing to cut from attention: its width ``head_dim`` and with it ``scale = head_dim ** -0.5`` stay as
they are, so that fused attention (which derives the scale from the tensor) and unfused attention (which reads the
attribute) keep giving the same answer. What must follow is ``num_heads`` and ``attn_dim``, which the forward pass uses
to reshape, and one row of a relative position table a head.

Layout of the packed projection's outputs, with ``H`` heads whose query and key are ``d`` wide and whose value is ``v``:

- ``timm.layers.Attention``, ``AttentionRope`` (ViT, DeiT, EVA), ``timm.models.swin_transformer.WindowAttention``:
  ``[3, H, d]``
- ``timm.models.maxxvit.Attention2d`` and ``AttentionCl`` (CoAtNet, MaxViT): ``[H, 3, d]`` where ``head_first``, else
  ``[3, H, d]``
- ``timm.models.efficientformer.Attention`` and ``timm.models.tiny_vit.Attention``: ``[H, d + d + v]``

Other layers reshape to the width of their input, which is wrong as soon as a head is gone; `why_sealed` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

# The forward pass of each ends in reshape(..., C) with C the width of its input, in every release of timm so far.
RESHAPES_TO_INPUT_WIDTH = frozenset(
    {
        "beit.Attention",
        "cait.ClassAttn",
        "cait.TalkingHeadAttn",
        "crossvit.CrossAttention",
        "davit.WindowAttention",
        "edgenext.CrossCovarianceAttn",
        "eva.EvaAttention",
        "fastvit.Attention",
        "metaformer.Attention",
        "pvt_v2.Attention",
        "swin_transformer_v2.WindowAttention",
        "twins.GlobalSubSampleAttn",
        "twins.LocallyGroupedAttn",
        "xcit.XCA",
    }
)


@dataclass(frozen=True)
class Attention:
    """An attention layer whose heads can be removed.

    Attributes:
        name: of the module.
        heads: how many.
        head_dim: width of one head's value, which the output projection reads.
        head_first: layout of the packed projection, see above.
        table: name of the relative position table, or empty.
        table_dim: which of its dimensions counts heads.
        key_dim: width of one head's query and of its key; 0 where it is ``head_dim``.
    """

    name: str
    heads: int
    head_dim: int
    head_first: bool
    table: str = ""
    table_dim: int = 0
    key_dim: int = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        """Widths of one head's query, key and value."""
        key = self.key_dim or self.head_dim
        return key, key, self.head_dim

    def qkv_rows(self, head: int) -> list[int]:
        """Output rows of the packed projection that belong to ``head``."""
        if self.head_first:
            return list(range(head * sum(self.parts), (head + 1) * sum(self.parts)))
        rows: list[int] = []
        for number, width in enumerate(self.parts):
            start = sum(self.parts[:number]) * self.heads + head * width
            rows += range(start, start + width)
        return rows

    def proj_columns(self, head: int) -> list[int]:
        """Input columns of the output projection that belong to ``head``."""
        return list(range(head * self.head_dim, (head + 1) * self.head_dim))


def find_attentions(module: nn.Module) -> tuple[list[Attention], list[str]]:
    """Attention layers whose heads can be removed, and the names of those that must be left alone.

    Swin's patch merging is left alone too: it folds four neighbours into the channels of one token, which the tracing
    of channels does not follow.
    """
    from timm.models.swin_transformer import PatchMerging

    known: list[Attention] = []
    sealed: list[str] = []
    turned = _turns_heads_apart(module)
    for name, part in module.named_modules():
        if any(name.startswith(f"{outer}.") for outer in [*sealed, *(attention.name for attention in known)]):
            continue
        if not name or not (_is_attention(part) or type(part) is PatchMerging):
            continue
        attention = None if turned else _describe(name, part)
        if attention is None:
            sealed.append(name)
        else:
            known.append(attention)
    return known, sealed


def _turns_heads_apart(module: nn.Module) -> bool:
    """Whether a learnt rotary embedding gives every head a table of its own."""
    from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed

    return any(isinstance(part, RotaryEmbeddingMixed) for part in module.modules())


def _is_attention(part: nn.Module) -> bool:
    """Whether a module mixes positions by attention: it has heads, or its name or a packed projection say so."""
    if any(hasattr(part, name) for name in ("qkv", "qkv_proj", "in_proj_weight")):
        return True
    named = "Att" in type(part).__name__
    return (named or hasattr(part, "num_heads")) and (
        (named and hasattr(part, "num_heads")) or any(hasattr(part, name) for name in ("q", "query", "to_query"))
    )


def why_sealed(part: nn.Module) -> str:
    """Why the heads of an attention layer that `find_attentions` leaves alone cannot go."""
    kind = type(part)
    if f"{kind.__module__.rpartition('.')[2]}.{kind.__qualname__}" in RESHAPES_TO_INPUT_WIDTH:
        return f"{kind.__name__} reshapes to the width of its input, so that no head can go"
    return f"{kind.__name__} is not understood"


def _describe(name: str, part: Any) -> Attention | None:
    from timm.layers.attention import Attention as Packed
    from timm.layers.attention import AttentionRope
    from timm.models import efficientformer, tiny_vit
    from timm.models.maxxvit import Attention2d, AttentionCl
    from timm.models.swin_transformer import WindowAttention

    kind = type(part)
    if kind in {Packed, AttentionRope}:
        return Attention(name, part.num_heads, part.head_dim, head_first=False) if _is_plain(part) else None
    if kind in {Attention2d, AttentionCl}:
        table = _position_table(part.rel_pos)
        if table is None:
            return None
        path, dim = table
        return Attention(name, part.num_heads, part.dim_head, part.head_first, path and f"{name}.rel_pos.{path}", dim)
    if kind is WindowAttention:
        width = part.qkv.out_features // 3 // part.num_heads
        return Attention(name, part.num_heads, width, False, f"{name}.relative_position_bias_table", 1)
    if kind in {efficientformer.Attention, tiny_vit.Attention}:
        table_name = f"{name}.attention_biases"
        return Attention(name, part.num_heads, part.val_dim, True, table_name, 0, key_dim=part.key_dim)
    return None


def _is_plain(part: Any) -> bool:
    """One packed projection, as many keys as queries, and nothing that runs over all heads at once."""
    # Older releases reshape to the embedding width, which is wrong as soon as a head is gone.
    derived = hasattr(part, "attn_dim") and getattr(part, "num_kv_groups", 1) == 1
    mixing = isinstance(part.norm, nn.Identity) and getattr(part, "gate", None) is None
    return derived and mixing and part.qkv is not None


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
    key, _, value = attention.parts
    part.scale = key**-0.5
    widths = {"attn_dim": value, "val_attn_dim": value, "out_dim": value, "key_attn_dim": key, "kv_dim": key}
    for attribute, width in {"num_heads": 1, "num_kv_heads": 1, **widths}.items():
        if hasattr(part, attribute):
            setattr(part, attribute, heads * width)
    if hasattr(part, "attention_bias_cache"):  # gathered from the table before it was cut
        part.attention_bias_cache = {}
    if getattr(part, "rel_pos", None) is not None and attention.table:
        part.rel_pos.bias_shape = tuple(
            heads if dim == _bias_dim(part.rel_pos) else size for dim, size in enumerate(part.rel_pos.bias_shape)
        )
        if hasattr(part.rel_pos, "num_heads"):
            part.rel_pos.num_heads = heads


def _bias_dim(bias: Any) -> int:
    """Which dimension of ``bias_shape`` counts heads: the first in TensorFlow's layout, else the last."""
    from timm.layers import RelPosBiasTf

    return 0 if isinstance(bias, RelPosBiasTf) else len(bias.bias_shape) - 1
