"""Blocks that are said to be droppable can be, others are not touched, and a plan tells which have gone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from medfm_compress.compress.networks.block_removal import Dropped, drop_blocks, droppable_blocks, dropped_blocks  # noqa: E402
from medfm_compress.compress.networks.pruning_plan import (  # noqa: E402
    PruningPlan,
    apply_plan,
    apply_pruning_plan,
    differences,
    merge_plans,
    shapes_of,
)
from medfm_compress.runtime.errors import ModelError  # noqa: E402
from medfm_compress.runtime.strict_json import decode, encode  # noqa: E402

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
PLAN = PruningPlan(tensors={}, values={}, macs_before=2, macs_after=1, round_to=16, importance="magnitude")


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2, **options).eval()


def vit() -> Any:
    return build("test_vit", img_size=64)


FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "test_vit": ({"img_size": 64}, tuple(f"blocks.{n}" for n in range(6))),
    "resnet26d": ({}, ("layer1.1", "layer2.1", "layer3.1", "layer4.1")),
    "test_convnext": (
        {},
        (
            "stages.0.blocks.0",
            *(f"stages.1.blocks.{n}" for n in range(2)),
            *(f"stages.2.blocks.{n}" for n in range(4)),
            *(f"stages.3.blocks.{n}" for n in range(2)),
        ),
    ),
    "mobilenetv3_small_050": (
        {},
        tuple(f"blocks.{block}" for block in ("1.1", "2.1", "2.2", "3.0", "3.1", "4.1", "4.2")),
    ),
    "coatnet_pico_rw_224": (
        {"img_size": 64},
        tuple(f"stages.{block}" for block in ("0.blocks.1", "1.blocks.1", "1.blocks.2"))
        + tuple(f"stages.2.blocks.{n}" for n in range(1, 5))
        + ("stages.3.blocks.1",),
    ),
    "densenet121": ({"block_config": (2, 2, 2, 2)}, ()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_the_residual_blocks_without_a_layer_in_the_shortcut(name: str) -> None:
    options, expected = FAMILIES[name]
    network = build(name, **options).train()
    state = {key: value.clone() for key, value in network.state_dict().items()}

    assert droppable_blocks(network, torch.zeros(1, 3, 64, 64)) == expected
    assert network.training and all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

    network.eval()
    drop_blocks(network, expected)
    assert dropped_blocks(network) == expected
    left = set(network.state_dict())
    assert left == {key for key in state if not key.startswith(tuple(f"{block}." for block in expected))}
    with torch.no_grad():
        assert network(IMAGES).shape == (2, 2)


def test_a_dropped_block_equals_one_whose_branch_is_silent() -> None:
    silent, shorter = vit(), vit()
    with torch.no_grad():
        before = silent(IMAGES)
        for layer in (silent.blocks[2].attn.proj, silent.blocks[2].mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        drop_blocks(shorter, ["blocks.2"])
        torch.testing.assert_close(shorter(IMAGES), silent(IMAGES), rtol=0, atol=1e-6)
        assert (shorter(IMAGES) - before).abs().max() > 1e-5


class Branch(torch.nn.Module):
    """Two layers; ``shortcut`` says what is done with their sum."""

    def __init__(self, shortcut: str) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.one, self.two = torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(5, 3, 1)
        self.norm = torch.nn.GroupNorm(1, 3)

    def forward(self, x: Any) -> Any:
        branch = self.two(self.one(x).relu())
        if self.shortcut == "product":
            return x * branch
        kept = {"none": 0.0, "half": 0.5}.get(self.shortcut, 1.0) * x + branch
        after = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "norm": self.norm}
        return after[self.shortcut](kept) if self.shortcut in after else kept


@pytest.mark.parametrize(
    ("shortcut", "droppable"),
    [("sum", True), ("relu", True), *((other, False) for other in ("none", "product", "half", "norm", "gelu"))],
)
def test_residual_is_what_behaves_so(shortcut: str, droppable: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), Branch(shortcut))
    assert droppable_blocks(network, IMAGES[:1]) == (("1",) if droppable else ())


def test_single_layers_repeated_blocks_and_blocks_that_are_looked_into_stay() -> None:
    class Looked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList([Branch("sum"), Branch("sum"), Branch("sum"), torch.nn.Conv2d(3, 3, 1)])

        def forward(self, x: Any) -> Any:
            read, twice, plain, layer = self.parts
            x = read(x) * read.one.weight.sum()
            return layer(plain(twice(twice(x))))

    assert droppable_blocks(Looked(), IMAGES[:1]) == ("parts.2",)


def test_a_block_may_be_called_with_more_than_its_tensor() -> None:
    network = build("eva02_tiny_patch14_224", img_size=56, depth=2)  # rope goes along
    assert droppable_blocks(network, torch.zeros(1, 3, 56, 56)) == ("blocks.0", "blocks.1")
    features = torch.rand(1, 3)
    assert Dropped()(features, 7, rope=None) is features


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["blocks.6"], "no such block"),
        ([""], "no such block"),
        (["head"], "no such block"),
        (["blocks.0.attn"], "no such block"),
        (["blocks"], "no such block"),
        (["blocks.1", "blocks.1"], "twice"),
        (["blocks.3"], "already"),
    ],
)
def test_what_is_no_block_is_refused_and_nothing_changes(names: list[str], says: str) -> None:
    network = vit()
    drop_blocks(network, ["blocks.3"])
    before = set(network.state_dict())
    with pytest.raises(ModelError, match=says):
        drop_blocks(network, ["blocks.0", *names])
    assert set(network.state_dict()) == before
    with pytest.raises(ModelError, match=f"pruning plan.*{says}"):
        apply_plan(network, msgspec.structs.replace(PLAN, dropped=tuple(names)))


def test_a_block_inside_a_dropped_one_is_refused() -> None:
    inner = torch.nn.Sequential(Branch("sum"), Branch("sum"))
    with pytest.raises(ModelError, match="outer one"):
        drop_blocks(torch.nn.Sequential(inner, torch.nn.Conv2d(3, 3, 1)), ["0", "0.1"])


def narrowed(network: Any, block: int, width: int) -> None:
    """Cut the MLP of one block of a ViT to ``width``."""
    mlp = network.blocks[block].mlp
    mlp.fc1.out_features = mlp.fc2.in_features = width
    mlp.fc1.weight, mlp.fc1.bias = (torch.nn.Parameter(p.detach()[:width]) for p in (mlp.fc1.weight, mlp.fc1.bias))
    mlp.fc2.weight = torch.nn.Parameter(mlp.fc2.weight.detach()[:, :width])


def plan_of(before: Any, network: Any, *dropped: str) -> PruningPlan:
    tensors, values = differences(before, shapes_of(network))
    return msgspec.structs.replace(PLAN, tensors=tensors, values=values, dropped=dropped)


def test_two_plans_with_dropped_blocks_become_one_that_rebuilds_bit_for_bit() -> None:
    network = vit()
    start = shapes_of(network)
    narrowed(network, 1, 32)
    narrowed(network, 4, 32)
    drop_blocks(network, ["blocks.2"])
    first = plan_of(start, network, "blocks.2")
    middle = shapes_of(network)
    narrowed(network, 4, 16)
    drop_blocks(network, ["blocks.1"])
    plan = merge_plans(first, plan_of(middle, network, "blocks.1"))

    assert plan.dropped == ("blocks.2", "blocks.1")
    assert {name.rsplit(".", 2)[0] for name in plan.tensors} == {"blocks.4.mlp"}
    assert set(plan.values) == {"blocks.4.mlp.fc1", "blocks.4.mlp.fc2"}
    again = build("test_vit", img_size=64)
    apply_plan(again, decode(encode(plan), PruningPlan, source="plan.json"))
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), network(IMAGES))


def test_a_block_inside_one_that_goes_later_leaves_the_plan() -> None:
    first = msgspec.structs.replace(PLAN, dropped=("0.1", "00.1"), tensors={"0.0.weight": (1,), "00.weight": (1,)})
    plan = merge_plans(first, msgspec.structs.replace(PLAN, dropped=("0",)))
    assert (plan.dropped, plan.tensors) == (("00.1", "0"), {"00.weight": (1,)})


def test_plans_of_before_still_load() -> None:
    old = {"tensors": {}, "values": {}, "macs_before": 2, "macs_after": 1, "round_to": 16, "importance": "magnitude"}
    network = vit()
    assert apply_pruning_plan(network, old) is network
    assert dropped_blocks(network) == ()


@pytest.mark.parametrize("value", [{"embed_dim": 10**6}, {"embed_dim": 0}, {"embed_dim": -1}, {"num_prefix_tokens": 2}])
def test_a_plan_cannot_make_a_number_grow(value: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"pruning plan sets .*; this architecture has"):
        apply_plan(vit(), msgspec.structs.replace(PLAN, values={"": value}))
