"""The second output is what the classifier reads, as one row; where there is none, nothing changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.features_output import FEATURES, features_output
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.onnxruntime import from_bytes
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=16, width_px=16, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="binary", labels=("no", "yes"))


class Body(nn.Module):
    def __init__(self, head: nn.Module, *, flat: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.flat, self.head = flat, head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return x.flatten(1) if self.flat else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x)).flatten(1)


@pytest.mark.parametrize(
    "module",
    [
        Body(nn.Linear(6, 2)),
        Body(nn.Linear(6, 2, bias=False)),
        Body(nn.Conv2d(6, 2, 1), flat=False),
        Body(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), flat=True),
    ],
    ids=["linear", "no-bias", "conv", "two-layers"],
)
def test_it_is_what_the_last_layer_reads(module):
    torch.manual_seed(0)
    module.eval()
    session = from_bytes([export_onnx(module, SPEC, TASK, features=True).content], 1)
    assert session.output_names == ("logits", FEATURES)
    x = torch.rand(SPEC.shape)
    with torch.no_grad():
        expected = module.features(x).flatten(1)
        if isinstance(module.head, nn.Sequential):
            expected = module.head[:2](expected)
        logits = module(x)
    outputs = session.run({"image": x.numpy()})
    assert outputs[FEATURES] == pytest.approx(expected.numpy(), abs=1e-5)
    assert outputs["logits"] == pytest.approx(logits.numpy(), abs=1e-5)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Body(nn.Linear(6, 2)), Body(nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.one(x) + self.other(x)) / 2


class PooledLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


@pytest.mark.parametrize("module", [TwoHeads(), PooledLast()], ids=["two-heads", "pooled-after-the-classifier"])
def test_it_does_not_apply_where_the_classifier_reads_no_row(module):
    plain = export_onnx(module, SPEC, TASK).content
    assert export_onnx(module, SPEC, TASK, features=True).content == plain
    graph = read_graph(plain)
    assert features_output(graph) == 0 and [value.name for value in graph.graph.outputs] == ["logits"]


def test_a_second_time_finds_nothing_to_do():
    graph = read_graph(export_onnx(Body(nn.Linear(6, 2)), SPEC, TASK, features=True).content)
    assert features_output(graph) == 0
    assert len(ir.to_proto(graph).graph.output) == 2


def test_logits_do_not_change():
    module = Body(nn.Linear(6, 2))
    image = np.random.default_rng(0).random(SPEC.shape, dtype=np.float32)
    one, other = (
        from_bytes([export_onnx(module, SPEC, TASK, features=features).content], 1).run({"image": image})["logits"]
        for features in (False, True)
    )
    assert np.array_equal(one, other)
