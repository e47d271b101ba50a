"""Attention rollout: which patches the output token of a ViT has mixed in, over all blocks.

    Â_l = normalise(½ mean_h A_lh + ½ I),    R = Â_L · … · Â_1,    h = mean over the pooled tokens of their rows of R

A_lh ``[tokens, tokens]`` the attention of head h in block l, rows normalised to sum 1; ½ I stands for the residual
branch. Abnar & Zuidema, Quantifying Attention Flow in Transformers (ACL 2020). Rows are those of the class token, or of
all patches where the network averages them; columns those of the patches. It tells where the network looks whatever
the finding: it is not specific to a class.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from medfm_compress.compress.networks.token_merging import merged_tokens
from medfm_compress.runtime.errors import InputError


def has_rollout(module: nn.Module) -> bool:
    """Whether ``module`` is a plain timm ViT: a grid of patches, and blocks that each attend over all tokens."""
    blocks = getattr(module, "blocks", None)
    embedded = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or embedded is None or not len(blocks):
        return False
    if merged_tokens(module):  # what a later block attends to is no patch any more
        return False
    attentions = [getattr(block, "attn", None) for block in blocks]
    return hasattr(module, "num_prefix_tokens") and all(hasattr(layer, "attn_drop") for layer in attentions)


def attention_rollout(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Attention rollout of a timm ViT; fused attention is taken apart only while this runs.

    Args:
        module: for which :func:`has_rollout` holds, in eval mode, on the device of ``images``.
        images: normalised ``[n, C, H, W]``, float32.

    Returns:
        float32 ``[n, h, w]`` over the grid of patches, >= 0; a map sums to 1 but for what prefix tokens keep.

    Raises:
        InputError: the blocks do not all attend over the same tokens.
    """
    vit = cast(Any, module)
    rows, columns = vit.patch_embed.grid_size
    prefix, rollout = int(vit.num_prefix_tokens), None
    for attention in _attentions(vit, images):
        mixed = attention.mean(dim=1) + torch.eye(attention.shape[-1], device=attention.device)
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
    if rollout is None or rollout.shape[-1] != prefix + rows * columns:
        raise InputError("the network does not attend over its patches in every block; use --method occlusion")
    pooled = rollout[:, _pooled_tokens(vit)].mean(dim=1)
    return pooled[:, prefix:].reshape(-1, rows, columns)


def _pooled_tokens(vit: Any) -> slice:
    """Tokens that the classifier sees: the class token (two of them in a distilled DeiT), or all patches."""
    if getattr(vit, "global_pool", "token") == "token" and vit.num_prefix_tokens:
        return slice(0, 2 if hasattr(vit, "head_dist") else 1)
    return slice(vit.num_prefix_tokens, None)


def _attentions(vit: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Attention ``[n, heads, tokens, tokens]`` of each block, in order."""
    weights: list[torch.Tensor] = []
    layers = [block.attn for block in vit.blocks]

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        weights.append(inputs[0].detach())

    with _taken_apart(layers), torch.no_grad():
        handles = [layer.attn_drop.register_forward_pre_hook(note) for layer in layers]
        try:
            vit(images)
        finally:
            for handle in handles:
                handle.remove()
    shapes = {attention.shape for attention in weights}
    if len(weights) != len(layers) or len({(shape[-2], shape[-1]) for shape in shapes}) != 1:
        raise InputError("the network's blocks attend over different tokens; use --method occlusion")
    return weights


@contextlib.contextmanager
def _taken_apart(layers: list[Any]) -> Iterator[None]:
    """Let attention be computed step by step inside the block: fused kernels never hold it in memory."""
    before = [getattr(layer, "fused_attn", False) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused
