"""Both pipelines on networks as they are exported: the same numbers, under the same names, and nothing left to do."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.pipeline import for_onnxruntime, simplify
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("no", "yes"))
CLOSE = 1e-5


class PreActivation(nn.Module):
    """What DenseNet is made of, with a gate of SiLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(16)
        self.grow, self.head = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(16, 2)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, nn.functional.silu(self.grow(x))], 1)
        x = nn.functional.avg_pool2d(torch.relu(self.norm(x)), 2)
        return self.head(x.mean((2, 3)))


def networks(name):
    import timm

    torch.manual_seed(0)
    if name == "pre-activation":
        return PreActivation()
    sized = {"img_size": 64, "depth": 2, "init_values": 0.5} if name.startswith("vit") else {}
    return timm.create_model(name, num_classes=2, **sized)


@pytest.fixture(scope="module", params=["vit_tiny_patch16_224", "pre-activation"])
def exported(request):
    module = networks(request.param)
    for parameter in module.parameters():  # no zeros and ones that would hide a mistake
        parameter.data += 0.05 * torch.randn_like(parameter)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    spec = ImageSpec(height_px=64, width_px=64, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    return export_onnx(module, spec, TASK).content


def values_of(graphs, content, image):
    """Every value of a graph by name, as ONNX Runtime computes it."""
    model = onnx.load_model_from_string(content)
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name != model.graph.output[0].name
    )
    outputs = graphs.run(model.SerializeToString(), {"image": image})
    return dict(zip([value.name for value in model.graph.output], outputs, strict=True))


def test_an_exported_graph_is_simple_already(graphs, exported):
    model = graphs.read(exported)
    assert simplify(model) == ()
    assert not {"Identity", "Slice"} & set(graphs.ops(model))


@pytest.mark.parametrize("quantized", [False, True])
def test_names_that_survive_hold_the_same_numbers(graphs, exported, quantized):
    model = graphs.read(exported)
    count = len(model.graph)
    changed, applied = for_onnxruntime(model, quantized=quantized)
    assert len(model.graph) == count and graphs.difference(exported, model) == 0  # the given graph is left as it was
    image = graphs.normal(1, 3, 64, 64)
    before, after = values_of(graphs, exported, image), values_of(graphs, graphs.bytes(changed), image)
    links = {o.name: o.metadata_props["same_as"] for n in changed.graph for o in n.outputs if o.metadata_props}
    compared = {name: links.get(name, name) for name in after} if applied else {}
    for name, known in compared.items():
        if known in before:
            expected = before[known].reshape(-1)
            assert np.abs(after[name].reshape(-1) - expected).max() <= CLOSE * np.abs(expected).max(), name
    assert not applied or len(set(compared.values()) & set(before)) > len(before) / 3


def test_each_network_gets_the_passes_that_it_needs(graphs, exported):
    model = graphs.read(exported)
    ops = set(graphs.ops(for_onnxruntime(model, quantized=True)[0]))
    if "Softmax" in graphs.ops(model):
        assert {"MultiHeadAttention", "Gemm"} <= ops and not {"Softmax", "MatMul"} & ops
    else:
        assert {"QuickGelu", "GlobalAveragePool"} <= ops and not {"BatchNormalization", "AveragePool"} & ops


def test_weighted_layers_keep_their_names(graphs, exported):
    model = graphs.read(exported)
    layers = {n.name for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul") and n.inputs[1].const_value}
    changed = for_onnxruntime(model, quantized=True)[0]
    assert layers <= {node.name for node in changed.graph}


SMALL = {
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 4,
        "embed_dim": 24,
        "depths": (2, 2, 1, 1),
        "num_heads": (3, 3, 3, 3),
    },
    "convnext_tiny": {"depths": (1, 2, 1, 1), "dims": (16, 32, 32, 48)},
}


@pytest.mark.parametrize("name", SMALL)
def test_windows_and_channels_last_blocks_take_the_forms_that_engines_fuse(graphs, name):
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=2, **SMALL[name]).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    spec = ImageSpec(height_px=64, width_px=64, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    content = export_onnx(module, spec, TASK).content
    image = graphs.normal(1, 3, 64, 64)
    expected = module(torch.from_numpy(image)).detach().numpy()
    model = graphs.read(content)
    assert simplify(model) == ()
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    assert norms and all(len(node.inputs[0].shape) <= 3 for node in norms)
    assert not {"Pad", "Squeeze"} & set(graphs.ops(model))
    for_ort = for_onnxruntime(model, quantized=True)[0]
    ops = graphs.ops(for_ort)
    swin = name.startswith("swin")
    assert ops.count("MultiHeadAttention") == (6 if swin else 0)
    assert ops.count("MatMul") == (3 if swin else 0)  # of merged patches, which have no bias that a Gemm could add
    if name.startswith("convnext"):  # the layer scale is folded, each Transpose stands beside a convolution
        assert "Mul" not in graphs.ops(model) and graphs.ops(model).count("Transpose") < 2 * 5 + 2 * 4
    for result in (content, graphs.bytes(for_ort)):
        assert np.abs(graphs.run(result, {"image": image})[0] - expected).max() <= CLOSE * np.abs(expected).max()
