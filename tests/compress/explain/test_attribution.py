"""Attribution maps in PyTorch: hot where a planted signal is, equal to a reference, and nothing left behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from torch import nn

pytest.importorskip("captum", reason="Grad-CAM is Captum's")

from medfm_compress.compress.explain.attention_rollout import attention_rollout, has_rollout
from medfm_compress.compress.explain.attribution import attribute, log_odds, method_of, randomised
from medfm_compress.compress.explain.gradcam import grad_cam, last_feature_map
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, create_module
from medfm_compress.runtime import occlusion
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("normal", "opacity"))
SMALL = {
    "mixer_s32_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
}


class OneQuadrant(nn.Module):
    """Sees the upper right quadrant alone."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 2)
        for weights in (self.convolution.weight, self.head.weight):
            nn.init.uniform_(weights, 0.1, 1.0)
        with torch.no_grad():
            self.head.weight[0] *= -1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(images)
        mask[..., : images.shape[2] // 2, images.shape[3] // 2 :] = 1
        return self.head(torch.relu(self.convolution(images * mask)).mean(dim=(2, 3)))


def vit(name: str = "test_vit", **arguments: object) -> Model:
    torch.manual_seed(0)
    supplied = {"in_chans": 1, "num_classes": 2, "img_size": 64, **arguments}
    built = build_model("test_vit", TASK, size_px=64, colour="grey")
    architecture = Architecture(name=name, arguments=supplied)
    return dataclasses.replace(built, module=create_module(architecture), architecture=architecture)


def look_at_a_quadrant(module: nn.Module) -> None:
    """Make every token of every block attend to the patches of the upper right quadrant."""
    rows, columns = module.patch_embed.grid_size
    mark = torch.zeros(rows, columns)
    mark[: rows // 2, columns // 2 :] = 100
    prefix = module.pos_embed.shape[1] - rows * columns
    with torch.no_grad():
        module.pos_embed[:, :, 0] = 0
        module.pos_embed[0, prefix:, 0] = mark.flatten()
        for block in module.blocks:
            width = block.attn.qkv.in_features
            block.attn.qkv.weight[: 2 * width] = 0
            block.attn.qkv.bias[:width] = 5.0
            block.attn.qkv.weight[width : 2 * width, 0] = 1.0
            block.attn.proj.weight.zero_()


def images(count: int = 2, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, side, side)).astype(np.float32)


def share_in_quadrant(maps: np.ndarray) -> float:
    return float(maps[:, : maps.shape[1] // 2, maps.shape[2] // 2 :].sum() / maps.sum())


def test_grad_cam_is_hot_in_the_quadrant_that_the_network_sees() -> None:
    maps = grad_cam(OneQuadrant(), torch.from_numpy(images(2, 16)), lambda z: log_odds(z, TASK, "opacity"))
    assert maps.shape == (2, 16, 16)
    assert share_in_quadrant(maps.numpy()) > 0.8


@pytest.mark.parametrize("name", ["resnet10t", "coatnet_pico_rw_224", "densenet121", "mobilenetv3_small_050"])
def test_grad_cam_is_the_formula(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, TASK, size_px=64, colour="grey")
    values = torch.from_numpy(images(1))
    layer, kept = last_feature_map(model.module, values), []
    handle = layer.register_forward_hook(lambda _, inputs, output: kept.append(output))
    score = log_odds(model.module(values), TASK, "opacity").sum()
    handle.remove()
    gradient = torch.autograd.grad(score, kept[0])[0]
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1)
    actual = attribute(model, values.numpy(), "opacity")
    assert method_of(model) == "grad-cam"
    assert actual.shape[1] > 1
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.parametrize(
    "arguments",
    [{}, {"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"}, {"reg_tokens": 2}],
    ids=["class token", "no class token", "class token, averaged", "registers"],
)
def test_rollout_is_hot_in_the_quadrant_that_is_attended_to(arguments: dict[str, object]) -> None:
    model = vit("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3, **arguments)
    look_at_a_quadrant(model.module)
    maps = attribute(model, images(), "opacity")
    assert method_of(model) == "attention rollout"
    assert maps.shape == (2, 4, 4)
    # Averaged rows also hold each patch's own residual, evenly spread.
    assert share_in_quadrant(maps) > (0.7 if arguments.get("global_pool") == "avg" else 0.99)


def test_rollout_is_the_formula_and_leaves_the_network_as_it_was() -> None:
    module = vit(depth=2, embed_dim=48, num_heads=3, global_pool="token", name="vit_tiny_patch16_224").module
    values = torch.from_numpy(images(1))
    flags = [block.attn.fused_attn for block in module.blocks]
    actual, before = attention_rollout(module, values), module(values)
    product = torch.eye(17)
    tokens: list[torch.Tensor] = []
    handles = [block.norm1.register_forward_hook(lambda _, i, output: tokens.append(output)) for block in module.blocks]
    module(values)
    for block, normed in zip(module.blocks, tokens, strict=True):
        query, key, _ = block.attn.qkv(normed).reshape(17, 3, 3, 16).permute(1, 2, 0, 3)
        attention = (query @ key.transpose(1, 2) / 4).softmax(dim=-1).mean(dim=0)
        product = (attention + torch.eye(17)) / 2 @ product
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(actual[0].flatten(), product[0, 1:])
    assert actual.sum() <= 1
    assert [block.attn.fused_attn for block in module.blocks] == flags
    assert torch.equal(module(values), before)
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("name", ["resnet10t", "coatnet_pico_rw_224"])
def test_rollout_does_not_apply_to_networks_without_patches(name: str) -> None:
    assert not has_rollout(build_model(name, TASK, size_px=64, colour="grey").module)
    assert has_rollout(vit().module)


def test_what_neither_method_can_read_is_refused() -> None:
    with pytest.raises(InputError, match="--method occlusion"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 1, 8, 8), lambda z: z[:, 0])
    for name in ("mixer_s32_224", "swin_tiny_patch4_window7_224"):
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=2, in_chans=1, **SMALL[name]).eval()
        with pytest.raises(InputError, match="--method occlusion"):
            grad_cam(module, torch.zeros(1, 1, 64, 64), lambda z: z[:, 0])
    with pytest.raises(InputError, match="no finding 'cyst'; choose of opacity"):
        attribute(vit(), images(1), "cyst")


def test_scores_are_those_of_the_bench() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for task in (Task(kind="multiclass", labels=("a", "b", "c")), Task(kind="multilabel", labels=("a", "b", "c"))):
        for finding in task.findings:
            expected = occlusion.log_odds(logits.numpy(), task, finding)
            np.testing.assert_allclose(log_odds(logits, task, finding).numpy(), expected, rtol=1e-5)


def test_a_randomised_copy_has_other_weights_and_disturbs_nobody() -> None:
    torch.manual_seed(0)
    model = build_model("resnet10t", TASK, size_px=64, colour="grey")
    state = torch.random.get_rng_state()
    copy = randomised(model, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert copy.weights_sha256() != model.weights_sha256()
    assert copy.weights_sha256() == randomised(model, seed=0).weights_sha256()
