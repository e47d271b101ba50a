"""Fake quantization against the arithmetic of the graph, its gradients, and folding: to the bit where bits are due."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medfm_compress.compress.qat.batch_norm_folding import fold_batch_norms, is_identity
from medfm_compress.compress.qat.fake_quant import InputQuantizer, WeightQuantizer, integer_weight
from medfm_compress.compress.qat.prepare import fake_quantized, plain_state, trained_ranges
from medfm_compress.compress.quantization.weights import quantize_weight
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error


def network() -> nn.Module:
    """Conv + BN + pool + residual, statistics and weights off their starts, in eval mode."""
    torch.manual_seed(0)
    module = Residual()
    for norm in (module.norm1, module.norm2):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
    return module.eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm1(self.conv1(x)).relu())
        x = (x + self.norm2(self.conv2(x))).relu()
        logits: Tensor = self.fc(self.drop(x.mean((2, 3))))
        return logits


def images(count: int = 12) -> Tensor:
    """Of very different contrast, so that logits differ."""
    noise = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    return noise * torch.linspace(0.2, 3, count).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (8, 1, 7, 7), (5, 4, 1, 1), (9, 33), (4, 2, 5, 1)])
def test_weights_are_the_graphs_integers_and_scales(shape: tuple[int, ...], reduced: bool) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) ** 3
    weight[1] = 0  # a dead channel
    expected = quantize_weight(weight.numpy(), 0, reduced=reduced)
    integers, scales = integer_weight(weight, 63 if reduced else 127)
    np.testing.assert_array_equal(integers.numpy(), expected.values)
    np.testing.assert_array_equal(scales.numpy(), expected.scales)
    assert np.abs(integers.numpy()).max() == (63 if reduced else 127)
    rounded = WeightQuantizer(reduced=reduced)(weight)
    steps = expected.scales.reshape(-1, *(1,) * (len(shape) - 1))
    np.testing.assert_array_equal(rounded.numpy(), expected.values * steps)


@pytest.mark.parametrize(("low", "high"), [(-1.7, 3.1), (0.0, 6.0), (-2.0, 0.0), (-0.3, 1e-3), (0.0, 0.0)])
def test_inputs_are_what_quantize_and_dequantize_give(low: float, high: float) -> None:
    import onnx

    quantizer = InputQuantizer(low, high)
    x = torch.randn(4, 500, generator=torch.Generator().manual_seed(2)) * 3
    text = """<ir_version: 10, opset_import: ["" : 20]> net (float[4, 500] x, float s, uint8 z) => (float[4, 500] y)
    { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""
    session = ort.InferenceSession(
        onnx.parser.parse_model(text).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"x": x.numpy(), "s": quantizer.scale.numpy(), "z": quantizer.zero.numpy().astype(np.uint8)}
    np.testing.assert_array_equal(quantizer(x).numpy(), session.run(None, feeds)[0])


def test_the_gradient_goes_straight_through_and_stops_where_an_input_is_clipped() -> None:
    x = torch.tensor([-5.0, -0.9, 0.3, 1.9, 7.0], requires_grad=True)
    InputQuantizer(-1.0, 2.0)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    (WeightQuantizer()(weight) * 2).sum().backward()
    assert weight.grad is not None and (weight.grad == 2).all()


def test_a_range_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be quantized"):
        InputQuantizer(-1.0, float("inf"))


def test_folding_leaves_the_outputs_and_makes_norms_exact_identities() -> None:
    module, x = network(), images()
    folded = copy.deepcopy(module)
    assert fold_batch_norms(folded, x[:1]) == ("norm1", "norm2")
    assert is_identity(folded.norm1) and is_identity(folded.norm2) and not is_identity(module.norm1)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), module(x), rtol=1e-4, atol=1e-4)
        values = torch.randn(2, 8, 4, 4)
        assert torch.equal(folded.norm2(values), values + folded.norm2.bias.reshape(1, -1, 1, 1))
    scale = module.norm1.weight / torch.sqrt(module.norm1.running_var + module.norm1.eps)
    torch.testing.assert_close(folded.conv1.weight, module.conv1.weight * scale.reshape(-1, 1, 1, 1))


class Shared(nn.Module):
    """The layer's result is also read beside the norm, so nothing may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        logits: Tensor = self.fc((x * 2 + self.norm(x)).mean((2, 3)))
        return logits


def test_a_norm_whose_layer_is_read_elsewhere_stays() -> None:
    torch.manual_seed(0)
    module = Shared().eval()
    module.norm.running_var.fill_(4)
    before = copy.deepcopy(module.state_dict())
    assert fold_batch_norms(module, images(1)) == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_copies_average_and_train_like_the_original_and_norms_stay_frozen() -> None:
    module, x = network(), images()
    quantized = fake_quantized(module, x)
    assert set(trained_ranges(quantized)) == {"conv1", "conv2", "fc"}
    copied = copy.deepcopy(quantized)
    assert torch.equal(copied(x), quantized(x))
    assert not torch.equal(quantized(x), module(x))
    assert relative_logit_error(quantized(x).detach().numpy(), module(x).detach().numpy()) < 0.05
    copied.train()
    copied.drop.eval()
    assert torch.equal(copied(x), quantized(x)) and torch.equal(copied.norm2.running_var, quantized.norm2.running_var)
    copied(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in copied.parameters() if p.requires_grad)
    with torch.no_grad():
        copied.conv1.parametrizations.weight.original.mul_(1.5)  # of the copy alone
    assert not torch.equal(copied(x), quantized(x))
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), copy.deepcopy(quantized)(x))


def test_what_is_kept_is_a_plain_network_with_the_weights_that_were_trained() -> None:
    module, x = network(), images()
    quantized = fake_quantized(module, x)
    plain = Residual().eval()
    plain.load_state_dict(plain_state(quantized))
    with torch.no_grad():
        torch.testing.assert_close(plain(x), module(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(plain.conv2.weight, quantized.conv2.parametrizations.weight.original)
    assert not parametrize.is_parametrized(module)


def test_a_pool_before_a_layer_moves_rounded_numbers_for_the_shortcut_too() -> None:
    quantized = fake_quantized(network(), images())
    seen: list[Tensor] = []
    quantized.pool.register_forward_hook(lambda module, inputs, output: seen.append(output))
    quantized(images())
    scale = quantized.conv2.input_quantizer.scale
    levels = seen[0] / scale
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert len(levels.round().unique()) > 50


def test_a_student_without_such_layers_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.LayerNorm(256), nn.Softmax(1)).eval()
    with pytest.raises(InputError, match="LayerNorm, Softmax"):
        fake_quantized(module, images())


def test_activations_that_are_not_finite_are_refused() -> None:
    module = network()
    with torch.no_grad():
        module.conv1.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN or infinite"):
        fake_quantized(module, images())
