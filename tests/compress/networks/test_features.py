"""Features of real families: right shapes, and the logits are untouched."""

from __future__ import annotations

import pytest
import timm
import torch

from medfm_compress.compress.networks.features import FEATURES, Tapped, as_map, attention_of, family_of, offered, tapped

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FAMILIES = {
    "resnet10t": ("cnn", {}),
    "regnetx_002": ("cnn", {}),
    "densenet121": ("cnn", {}),
    "mobilenetv3_small_050": ("cnn", {}),
    "test_convnext": ("cnn", {}),
    "test_vit": ("vit", {"img_size": 64}),
    "vit_tiny_patch16_224": ("vit", {"img_size": 64}),
    "deit_tiny_distilled_patch16_224": ("vit", {"img_size": 64}),
    "swin_tiny_patch4_window7_224": ("vit", {"img_size": 64, "window_size": 2}),
    "mobilevitv2_050": ("hybrid", {}),
    "efficientformer_l1": ("hybrid", {}),
    "coatnet_nano_rw_224": ("hybrid", {"img_size": 64}),
    "fastvit_sa12": ("hybrid", {}),
    "levit_128s": ("hybrid", {}),
}


def build(name, **more):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **FAMILIES[name][1], **more).eval()


def images_for(name):
    return torch.randn(2, 3, 224, 224) if name in ("levit_128s", "efficientformer_l1") else IMAGES


@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_a_family(name):
    network, images = build(name), images_for(name)
    shapes = offered(network, tuple(images.shape))
    expected = tuple(feature for feature in FEATURES if feature in shapes and feature != "token")
    assert set(expected) == {"embedding", "map", "attention"}
    with torch.inference_mode():
        plain = network(images)
        outputs = Tapped(network, expected)(images)
    assert torch.equal(outputs.logits, plain)
    assert {key: tuple(value.shape[1:]) for key, value in outputs.features.items()} == {w: shapes[w] for w in expected}
    _, height, width = shapes["map"]
    assert shapes["attention"] == (height, width)
    torch.testing.assert_close(outputs.features["attention"].flatten(1).norm(dim=1), torch.ones(2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    assert family_of(build(name)) == FAMILIES[name][0]


def test_the_map_keeps_the_grid_of_the_patches():
    network = build("test_vit")
    marked = IMAGES.clone()
    marked[:, :, :16, 48:] += 5  # the patch at the upper right
    expected = ("map",)
    with torch.inference_mode():
        change = Tapped(network, expected)(marked).features["map"] - Tapped(network, expected)(IMAGES).features["map"]
    energy = change.square().sum((0, 1))
    assert energy.argmax() == energy.shape[1] - 1  # first row, last column


def test_channels_last_features_are_turned():
    class Swin(torch.nn.Module):
        num_features = 5

    assert as_map(torch.zeros(1, 2, 3, 5), Swin()).shape == (1, 5, 2, 3)


def test_tokens_on_no_grid_have_no_map():
    assert as_map(torch.zeros(1, 7, 4), torch.nn.Module()) is None


def test_several_scales_have_no_map():
    assert as_map([torch.zeros(1, 4, 8)], torch.nn.Module()) is None


def test_attention_by_hand():
    grid = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]])  # mean squares 1 and 2
    torch.testing.assert_close(attention_of(grid), torch.tensor([[[1.0, 2.0]]]) / 5**0.5)


def test_a_distillation_token_answers_in_training_and_is_averaged_afterwards():
    network = tapped(build("deit_tiny_distilled_patch16_224", drop_rate=0.0), ("token",))
    with torch.inference_mode():
        trained = network.train()(IMAGES)
        served = network.eval()(IMAGES)
    torch.testing.assert_close(served.logits, (trained.logits + trained.features["token"]) / 2)
    assert served.features == {}
    assert "token" in offered(network.network, tuple(IMAGES.shape))


def test_without_wishes_nothing_is_read():
    class Plain(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3)).unsqueeze(1)

    outputs = tapped(Plain(), ())(IMAGES)
    assert outputs.features == {}
    assert offered(Plain(), tuple(IMAGES.shape)) == {}
