"""What a network asks of each of its layers at one image."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from torch import nn  # noqa: E402

from medfm_compress.compress.latency.layer_shapes import LayerCall, layer_calls  # noqa: E402
from medfm_compress.compress.networks.attention_layers import find_attentions  # noqa: E402


class Mixed(nn.Module):
    """A convolution that pads by itself, a depthwise one, a normalisation, and a linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 16, 3, stride=2, padding="valid")
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.linear = nn.Linear(16, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (0, 1, 0, 1))
        maps = self.depthwise(self.norm(self.same(padded)))
        return self.head(self.linear(self.linear(maps.mean((2, 3)))))


class Turned(nn.Module):
    """Channels behind positions."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.transpose(1, 2)


def calls_of(module: nn.Module, px: int) -> dict[str, LayerCall]:
    return layer_calls(module, torch.zeros(1, 3, px, px), find_attentions(module)[0])


def test_a_network_tells_what_it_asks_of_each_layer() -> None:
    module = Mixed().train()
    calls = calls_of(module, 8)
    assert list(calls) == ["same", "norm", "depthwise", "linear", "head"]
    assert (calls["same"].inputs, calls["same"].outputs, calls["same"].stride) == (3, 16, (2, 2))
    assert calls["same"].elements == 16 * 4 * 4
    assert (calls["norm"].kind, calls["norm"].inputs, calls["norm"].outputs) == ("norm", 1, 16)
    assert (calls["depthwise"].kind, calls["depthwise"].inputs, calls["depthwise"].size) == ("depthwise", 1, (4, 4))
    assert (calls["linear"].times, calls["head"].times) == (2, 1)
    # nothing stays behind: neither the mode nor a hook
    assert module.training
    assert not any(part._forward_hooks for part in module.modules())


def test_padding_inside_a_forward_pass_is_found_out() -> None:
    from timm.layers import Conv2dSame

    calls = calls_of(nn.Sequential(Conv2dSame(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=1, stride=2)), 8)
    assert calls["0"].padding == (0, 0, 1, 1)
    assert calls["1"].padding == (1, 1, 1, 1)  # its own, though less would give the same size


def test_an_attention_is_its_heads_and_three_layers() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=2).eval()
    calls = calls_of(module, 32)
    core = calls["blocks.0.attn"]
    assert (core.kind, core.outputs, core.rows, core.head_dim) == ("attention", 3, 5, 64)
    assert not (core.image or core.biased)
    assert (calls["blocks.0.attn.qkv"].split, calls["blocks.0.attn.proj"].split) == (3, 1)
    assert calls["blocks.0.mlp.fc1"].rows == 5
    assert [name for name, call in calls.items() if call.activated] == ["blocks.0.mlp.fc1"]
    assert calls["blocks.0.norm1"].elements == 5 * 192


def test_an_attention_whose_keys_are_narrower_is_one_packed_layer() -> None:
    from timm.models.efficientformer import Attention

    module = nn.Sequential(
        nn.Flatten(2), Turned(), Attention(dim=32, key_dim=8, num_heads=2, attn_ratio=2, resolution=4)
    )
    calls = layer_calls(module, torch.zeros(1, 32, 4, 4), find_attentions(module)[0])
    assert (calls["2"].key_dim, calls["2"].head_dim, calls["2"].rows) == (8, 16, 16)
    assert (calls["2.qkv"].split, calls["2.qkv"].outputs) == (1, 2 * (8 + 8 + 16))


def test_an_attention_over_pixels_and_a_norm_with_its_activation() -> None:
    module = timm.create_model("coatnet_pico_rw_224", img_size=64, num_classes=2).eval()
    calls = calls_of(module, 64)
    core = next(call for call in calls.values() if call.kind == "attention")
    assert core.image
    assert core.biased
    assert core.rows == core.size[0] * core.size[1]
    kinds = {name: call.kind for name, call in calls.items()}
    assert kinds["stem.norm1"] == "norm"  # a normalisation with an activation inside
    assert "stages.0.blocks.0" not in kinds


def test_a_transposed_convolution_is_told_and_timed_as_what_it_is() -> None:
    """Its graph of copies gives the size that PyTorch gives."""
    import onnxruntime

    from medfm_compress.compress.latency.layer_graphs import input_shape, layer_graph

    module = nn.Sequential(nn.ConvTranspose2d(3, 8, 3, stride=2, padding=1, output_padding=1), nn.ReLU())
    (call,) = calls_of(module, 8).values()
    assert (call.kind, call.inputs, call.outputs, call.elements, call.activated) == (
        "transposed",
        3,
        8,
        8 * 16 * 16,
        True,
    )
    graph = onnx.load_from_string(layer_graph(call.at(2, 4), 2))
    assert input_shape(call.at(2, 4)) == (1, 2, 8, 8)
    graph.graph.output.extend([onnx.helper.make_tensor_value_info("layer0", onnx.TensorProto.FLOAT, None)])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = session.run(["layer0"], {session.get_inputs()[0].name: np.zeros((1, 2, 8, 8), np.float32)})[0]
    assert maps.shape == (1, 4, 16, 16)
