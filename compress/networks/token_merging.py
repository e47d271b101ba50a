r"""Token merging: in every block of a ViT the r most similar pairs of patch tokens become one token each.

    x  →  x + attention(x)  →  merge  →  x + MLP(x)

    c_ij = ⟨a_i, b_j⟩ / (‖a_i‖ ‖b_j‖),    d(i) = argmax_j c_ij,    S = the r values of i with the largest c_i,d(i)
    b_j ← (b_j + Σ a_i over i in S with d(i) = j) / (1 + how many),    a_i with i in S leave

a the patch tokens at even positions, b those at odd ones: every token is in one pair at most as the one that leaves, so
that one matrix product finds all pairs. Source: Bolya et al. 2023, "Token Merging: Your ViT But Faster". Prefix tokens
(class, distillation, registers) are never merged. As r is fixed, every shape is static and the network exports like any
other.

Two things are simpler here than in the paper. Similarity is that of the tokens after attention, not of attention's
keys, which would need its inside. And a token that has been merged counts once in later averages and in attention,
however many patches it stands for: sizes would have to travel from block to block beside the tokens. Recovery by
distillation teaches the network both.

Tokens that stay keep their order, and a preference for early positions far below any real difference (`_PREFERENCE`)
settles ties, so that two engines choose alike where patches are equal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medfm_compress.runtime.errors import InputError, ModelError

# Cosine that the last position stands behind the first: well above float32 rounding between neighbours.
_PREFERENCE = 1e-3


@dataclass(frozen=True)
class Merging:
    """What a block merges: ``pairs`` of the tokens behind the first ``prefix``."""

    pairs: int
    prefix: int


class MergingBlock(nn.Module):
    """A timm ViT block that merges tokens between attention and MLP; its layers are those of the block it was.

    Attributes:
        merging: how many. No number, so that a plan's values cannot reach it.
    """

    merging: Merging
    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Tokens ``[n, tokens, width]`` to ``[n, tokens - pairs, width]``; the arguments are those of timm's block."""
        mixed = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(mixed))
        prefix = self.merging.prefix
        x = torch.cat([x[:, :prefix], merge(x[:, prefix:], self.merging.pairs)], dim=1)
        changed: torch.Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x + changed


def merge(tokens: torch.Tensor, pairs: int) -> torch.Tensor:
    """Merge the most similar pairs.

    Args:
        tokens: floating point ``[n, tokens, width]``, without prefix tokens.
        pairs: how many; of fewer tokens than twice that (patch dropout in training), half of them.

    Returns:
        ``[n, tokens - pairs, width]``: what is left of the even positions in order, then the odd ones in order.
    """
    pairs = min(pairs, tokens.shape[1] // 2)
    if not pairs:
        return tokens
    leaving, staying = tokens[:, ::2], tokens[:, 1::2]
    best, into = _closest(leaving, staying)
    count = staying.shape[1]
    order = best.topk(leaving.shape[1], dim=1).indices
    gone, kept = order[:, :pairs], order[:, pairs:].sort(dim=1).values
    moves = functional.one_hot(into.gather(1, gone), count).to(tokens.dtype).transpose(1, 2)
    total = staying + moves @ _rows(leaving, gone)
    return torch.cat([_rows(leaving, kept), total / (1 + moves.sum(dim=2, keepdim=True))], dim=1)


def _closest(leaving: torch.Tensor, staying: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of ``leaving`` the largest cosine to any of ``staying``, less its preference, and whose it is."""
    a, b = functional.normalize(leaving, dim=2), functional.normalize(staying, dim=2)
    cosine = a @ b.transpose(1, 2)
    # The preference among partners stays out of the value: it would make new ties with that among those that leave.
    return cosine.amax(dim=2) - _preference(a), (cosine - _preference(b)).argmax(dim=2)


def _preference(tokens: torch.Tensor) -> torch.Tensor:
    count = tokens.shape[1]
    return torch.arange(count, device=tokens.device, dtype=tokens.dtype) * (_PREFERENCE / count)


def _rows(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, positions.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def merge_tokens(module: nn.Module, r: int) -> dict[str, int]:
    """Let every block of a timm ViT merge ``r`` pairs of patch tokens, or half of its tokens where that is fewer.

    Args:
        module: changed in place: no tensor of it, only the class of its blocks.
        r: pairs a block, at least 1.

    Returns:
        Block name → pairs; blocks that have no two patch tokens left are not in it.

    Raises:
        InputError: ``r`` below 1.
        ModelError: not a plain timm ViT, or its tokens are merged already.
    """
    if r < 1:
        raise InputError(f"r is {r}; a block merges at least 1 pair of tokens, usually 4 to 16")
    vit = _plain_vit(module)
    merging: dict[str, int] = {}
    left = vit.tokens
    for name in vit.blocks:
        pairs = min(r, left // 2)
        if pairs:
            merging[name] = pairs
        left -= pairs
    set_merging(module, merging)
    return merging


def set_merging(module: nn.Module, merging: Mapping[str, int]) -> None:
    """Let blocks of a timm ViT merge as many pairs as `merge_tokens` gave, in place.

    Raises:
        ModelError: not a plain timm ViT, its tokens are merged already, a block that it does not have, or a number of
            pairs that is not 1 to half of the block's patch tokens.
    """
    vit = _plain_vit(module)
    unknown = sorted(set(merging) - set(vit.blocks))
    if unknown:
        raise ModelError(f"{unknown[0]!r} cannot merge tokens; the blocks that can are {', '.join(vit.blocks)}")
    left = vit.tokens
    for name in vit.blocks:
        pairs = merging.get(name, 0)
        if name in merging and not 1 <= pairs <= left // 2:
            raise ModelError(f"{name} cannot merge {pairs} pairs; it has {left} patch tokens, so give 1 to {left // 2}")
        left -= pairs
    for name, pairs in merging.items():
        _let_merge(module.get_submodule(name), Merging(pairs, vit.prefix))


def _let_merge(block: Any, merging: Merging) -> None:
    block.__class__ = MergingBlock
    block.merging = merging


def merged_tokens(module: nn.Module) -> dict[str, int]:
    """Block name → pairs that it merges; empty where no tokens are merged."""
    return {name: part.merging.pairs for name, part in module.named_modules() if isinstance(part, MergingBlock)}


def unmerge_tokens(module: nn.Module) -> None:
    """Make every block keep all its tokens again, in place."""
    from timm.models.vision_transformer import Block

    for name in merged_tokens(module):
        block: Any = module.get_submodule(name)
        block.__class__ = Block
        del block.merging


@contextlib.contextmanager
def unmerged(module: nn.Module) -> Iterator[None]:
    """Lets blocks keep their tokens for a while: torch-pruning cannot trace the merging, which no width depends on."""
    before = [(part, part.merging) for part in module.modules() if isinstance(part, MergingBlock)]
    unmerge_tokens(module)
    try:
        yield
    finally:
        for block, merging in before:
            _let_merge(block, merging)


@dataclass(frozen=True)
class _Vit:
    """A network that can merge: its blocks in order, its patch tokens and its prefix tokens."""

    blocks: tuple[str, ...]
    tokens: int
    prefix: int


def _plain_vit(module: nn.Module) -> _Vit:
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    if merged_tokens(module):
        raise ModelError("this network merges tokens already; start from the network that it was made from")
    kinds = {VisionTransformer, VisionTransformerDistilled}
    mergeable = [(name, part) for name, part in module.named_modules() if type(part) in kinds]
    if len(mergeable) != 1:
        raise ModelError(
            f"tokens cannot be merged in a {type(module).__name__}, only in a plain ViT or DeiT of timm; prune its "
            "channels or drop blocks instead"
        )
    name, vit = mergeable[0]
    return _Vit(tuple(_blocks(name, vit)), _patches(vit), int(vit.num_prefix_tokens))


def _blocks(name: str, vit: Any) -> list[str]:
    """Names of the blocks that are still there."""
    left = [
        (entry, block) for entry, block in vit.blocks.named_children() if next(block.parameters(), None) is not None
    ]
    for entry, block in left:
        if not _is_plain(block):
            raise ModelError(
                f"tokens cannot be merged in blocks.{entry}, a {type(block).__name__} with "
                f"{type(getattr(block, 'attn', None)).__name__}: only timm's own Block with plain attention is "
                "understood; prune its channels or drop blocks instead"
            )
    return [f"{name}.blocks.{entry}" if name else f"blocks.{entry}" for entry, _ in left]


def _is_plain(block: Any) -> bool:
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    return type(block) is Block and type(block.attn) is Attention


def _patches(vit: Any) -> int:
    """Patch tokens of an image of the size that the network was built for."""
    patches = getattr(vit.patch_embed, "num_patches", None)
    if not patches:
        raise ModelError("tokens cannot be merged in a ViT without a fixed image size; build it with img_size")
    return int(patches)
