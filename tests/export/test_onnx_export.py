import re

import onnx
import pytest
import torch
from torch import nn

from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.export.parity import TOLERANCES, check_parity, module_logits
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("no", "yes"))


def spec_of(side, colour="grey"):
    channels = 1 if colour == "grey" else 3
    return ImageSpec(height_px=side, width_px=side, colour=colour, mean=(0.5,) * channels, std=(0.25,) * channels)


def timm_module(name, side, sized, channels=1):
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": side} if sized else {}
    if name == "vit_tiny_patch16_224":
        sizes["depth"] = 2  # as good a transformer as twelve, and soon exported
    return timm.create_model(name, in_chans=channels, num_classes=2, **sizes)


def check_family(name, side, sized, colour="grey"):
    spec = spec_of(side, colour)
    module = timm_module(name, side, sized, spec.channels)
    exported = export_onnx(module, spec, TASK)
    again = export_onnx(module, spec, TASK)
    assert exported.content == again.content
    # ".py" alone stands by chance in megabytes of weights
    assert not re.search(rb"site-packages|/[\w.-]{2,}\.py", exported.content)
    ir = to_openvino_ir(exported.content)
    assert ir == to_openvino_ir(exported.content)
    reference = module_logits(module)
    for backend, files in (("onnxruntime", [exported.content]), ("openvino", list(ir))):
        session = open_session_from_bytes(backend, files, 1, "fp32")
        assert check_parity(reference, session, spec, TASK).relative_logit_error < 1e-4


@pytest.mark.parametrize(
    ("name", "side", "sized", "colour"),
    [("resnet10t", 64, False, "grey"), ("vit_tiny_patch16_224", 64, True, "rgb")],
)
def test_small_families_export_exactly_and_to_equal_bytes(name, side, sized, colour):
    check_family(name, side, sized, colour)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "sized"),
    [
        ("densenet121", 64, False),
        ("deit_tiny_patch16_224", 96, True),
        ("coatnet_pico_rw_224", 96, True),
        ("coatnet_nano_rw_224", 128, True),
        ("mobilevitv2_050", 96, False),
        ("efficientformer_l1", 224, False),
        ("resnet18", 160, False),
    ],
)
def test_large_families_export_exactly(name, side, sized):
    check_family(name, side, sized)


def test_batch_norm_is_folded_and_input_static():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    module[1].running_mean.uniform_(-1, 1)
    graph = onnx.load_model_from_string(export_onnx(module, spec_of(16), TASK).content).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 1, 16, 16]
    assert (graph.input[0].name, graph.output[0].name) == ("image", "logits")


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 2)).double().train()
    export_onnx(module, spec_of(16), TASK)
    assert module.training and module[2].weight.dtype == torch.float64


class Branching(nn.Module):
    """A branch on data: torch.export refuses it, a trace takes the branch that was seen."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(256, 2)

    def forward(self, x):
        flat = x.flatten(1)
        if float(flat.sum()) > 1e9:
            flat = flat * 0
        return self.head(flat)


def test_channels_last_writes_the_same_file():
    module = timm_module("test_resnet", 32, sized=False)
    expected = export_onnx(module, spec_of(32), TASK).content
    assert export_onnx(module.to(memory_format=torch.channels_last), spec_of(32), TASK).content == expected
    assert next(module.parameters()).is_contiguous(memory_format=torch.channels_last)  # the module is left as it was


def test_torchscript_takes_over_and_the_reason_is_kept():
    exported = export_onnx(Branching(), spec_of(16), TASK)
    assert exported.exporter == "torchscript" and exported.reason
    assert export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), spec_of(16), TASK).reason == ""


def test_a_module_that_does_not_fit_is_refused_in_one_sentence():
    with pytest.raises(ModelError, match="one tensor"):
        export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), spec_of(16), TASK)
    with pytest.raises(ModelError, match="does not take an input of shape"):
        export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(99, 2)), spec_of(16), TASK)


def test_parity_refuses_another_network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    session = open_session_from_bytes("onnxruntime", [export_onnx(module, spec_of(16), TASK).content], 1, "fp32")
    good = check_parity(module_logits(module), session, spec_of(16), TASK)
    assert good.relative_logit_error < 1e-5 and good.tolerance == TOLERANCES["fp32"]
    with torch.no_grad():
        module[1].weight.mul_(1.05)
    with pytest.raises(InputError, match="does not compute what the module computes"):
        check_parity(module_logits(module), session, spec_of(16), TASK)
