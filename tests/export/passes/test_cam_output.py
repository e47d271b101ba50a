"""Class activation maps: their mean is the logit without its bias, whatever stands around the pooling."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from medfm_compress.export.heat_map import check_maps, heat_map_output
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.cam_output import CAM, cam_output, remove_maps
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.onnxruntime import from_bytes
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=16, width_px=24, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="binary", labels=("no", "yes"))


class Net(nn.Module):
    """Body → [1, 6, 8, 12], then whatever ``head`` makes of it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU()), head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).flatten(1)


class Tokens(nn.Module):
    """Patches as tokens, pooled by their mean or as the first one, with a norm before or after."""

    def __init__(self, before: nn.Module, after: nn.Module, *, mean: bool = True) -> None:
        super().__init__()
        self.before, self.after, self.mean, self.linear = before, after, mean, nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.before(x.flatten(2).transpose(1, 2))
        return self.linear(self.after(tokens.mean(1) if self.mean else tokens[:, 0]))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.permute(0, 2, 3, 1).mean((1, 2)))


def moved(norm: nn.LayerNorm) -> nn.LayerNorm:
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    return norm


HEADS = {
    "pool-linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    "two-linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2)),
    "conv-classifier": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1)),
    "classified-then-pooled": lambda: nn.Sequential(nn.Conv2d(6, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    "channels-last": ChannelsLast,
    "norm-of-the-mean": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), moved(nn.LayerNorm(6)), nn.Linear(6, 2)
    ),
    "tokens": lambda: Tokens(moved(nn.LayerNorm(6)), nn.Identity()),
    "norm-of-mean-token": lambda: Tokens(nn.Identity(), moved(nn.LayerNorm(6))),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_maps_mean_is_its_logit_without_the_bias(head):
    torch.manual_seed(0)
    module = Net(HEADS[head]()).eval()
    mapped = heat_map_output(export_onnx(module, SPEC, TASK).content)
    assert mapped.output is not None and mapped.output.shape == (1, 2, 8, 12), mapped.line
    session = from_bytes([mapped.content], 1)
    check_maps(mapped, [session], SPEC)
    random = np.random.default_rng(0)
    images = random.normal(size=(5, *SPEC.shape)).astype(np.float32)
    rows = [session.run({"image": image}) for image in images]
    rest = np.stack([row["logits"][0] - row[CAM][0].mean((1, 2)) for row in rows])
    assert np.ptp(rest, axis=0).max() < 1e-4 < np.ptp([row["logits"] for row in rows], axis=0).max()
    with torch.no_grad():
        assert rows[0]["logits"] == pytest.approx(module(torch.from_numpy(images[0])).numpy(), abs=1e-4)


def test_a_place_shows_where_it_is():
    module = Net(HEADS["pool-linear"]()).eval()
    with torch.no_grad():
        module.body[0].weight.fill_(1.0)
        module.body[0].bias.zero_()
        module.head[2].weight.copy_(torch.tensor([[-1.0] * 6, [1.0] * 6]))
    session = from_bytes([heat_map_output(export_onnx(module, SPEC, TASK).content).content], 1)
    image = np.zeros(SPEC.shape, np.float32)
    image[0, 0, 4, 20] = 1
    maps = session.run({"image": image})[CAM][0]
    assert np.unravel_index(maps[1].argmax(), maps[1].shape) == (2, 10) and maps[0].min() < 0


REFUSED = {
    "between": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
        "Tanh stands between",
    ),
    "first-token": (lambda: Tokens(nn.Identity(), nn.Identity(), mean=False), "one token"),
    "one-place": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, (8, 12)), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1)),
        "1 × 1",
    ),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(576, 2)), "one by one"),
    "pooled-in-part": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(24, 2)), "one by"),
}


@pytest.mark.parametrize("head", REFUSED)
def test_a_network_without_such_maps_says_why_and_stays_as_it_is(head):
    make, reason = REFUSED[head]
    content = export_onnx(Net(make()).eval(), SPEC, TASK).content
    mapped = heat_map_output(content)
    assert mapped.output is None and mapped.content == content
    assert mapped.line.startswith("no heat map: ") and reason in mapped.line


def test_they_can_be_taken_away_again():
    content = export_onnx(Net(HEADS["norm-of-the-mean"]()).eval(), SPEC, TASK).content
    model = read_graph(content)
    nodes = [node.op_type for node in model.graph]
    assert cam_output(model) == "" and len(list(model.graph)) > len(nodes)
    assert remove_maps(model) and not remove_maps(model)
    assert [node.op_type for node in model.graph] == nodes and [v.name for v in model.graph.outputs] == ["logits"]
    assert "cam" not in " ".join(ir.to_proto(model).graph.initializer[0].name for _ in (0,))


def test_maps_that_do_not_make_up_the_logits_are_refused():
    mapped = heat_map_output(export_onnx(Net(HEADS["pool-linear"]()).eval(), SPEC, TASK).content)
    model = read_graph(mapped.content)
    weights = model.graph.initializers["cam_weights"]
    weights.const_value = ir.tensor(-weights.const_value.numpy(), name="cam_weights")
    session = from_bytes([ir.to_proto(model).SerializeToString()], 1)
    with pytest.raises(InputError, match="do not make up"):
        check_maps(mapped, [session], SPEC)
