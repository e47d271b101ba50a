"""Token merging is the published one, keeps shapes static, exports, and travels in a plan."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from medfm_compress.compress.networks.block_removal import drop_blocks, droppable_blocks  # noqa: E402
from medfm_compress.compress.networks.features import as_map  # noqa: E402
from medfm_compress.compress.networks.macs import count_macs  # noqa: E402
from medfm_compress.compress.networks.pruning_plan import (  # noqa: E402
    PruningPlan,
    apply_plan,
    apply_pruning_plan,
    differences,
    merge_plans,
    shapes_of,
)
from medfm_compress.compress.networks.token_merging import merge, merge_tokens, merged_tokens, unmerge_tokens, unmerged  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.strict_json import decode, encode  # noqa: E402

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
PLAN = PruningPlan(tensors={}, values={}, macs_before=2, macs_after=1, round_to=16, importance="magnitude")
BLOCKS = tuple(f"blocks.{n}" for n in range(6))


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2, **options).eval()


def vit(**options: Any) -> Any:
    """Six blocks, 16 patches of an image of 64 px."""
    return build("test_vit", img_size=64, **options)


def tokens_after(network: Any, images: Any) -> list[int]:
    actual: list[int] = []
    hooks = [block.register_forward_hook(lambda *call: actual.append(call[2].shape[1])) for block in network.blocks]
    with torch.no_grad():
        assert network(images).isfinite().all()
    for hook in hooks:
        hook.remove()
    return actual


def merged_by_hand(tokens: list[Any], pairs: int) -> Any:
    """The paper's steps one by one, on one image's tokens."""
    leaving, staying = tokens[::2], tokens[1::2]
    cosine = [[float(torch.cosine_similarity(a, b, dim=0)) for b in staying] for a in leaving]
    best = [max(range(len(staying)), key=lambda j, row=row: row[j]) for row in cosine]
    order = sorted(range(len(leaving)), key=lambda i: -cosine[i][best[i]])
    groups = [[b] + [leaving[i] for i in order[:pairs] if best[i] == j] for j, b in enumerate(staying)]
    kept = [leaving[i] for i in sorted(order[pairs:])]
    return torch.stack([*kept, *(torch.stack(group).mean(0) for group in groups)])


@pytest.mark.parametrize(("tokens", "pairs"), [(16, 1), (16, 5), (16, 8), (15, 4), (15, 7), (2, 1)])
def test_merging_is_the_published_one(tokens: int, pairs: int) -> None:
    x = torch.randn(3, tokens, 8, generator=torch.Generator().manual_seed(tokens))
    merged = merge(x, pairs)
    assert merged.shape == (3, tokens - pairs, 8)
    for image, result in zip(x, merged, strict=True):
        torch.testing.assert_close(result, merged_by_hand(list(image), pairs), rtol=1e-5, atol=1e-6)


def test_equal_tokens_merge_without_loss_and_from_the_front() -> None:
    x = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    x[0, 1], x[0, 5] = x[0, 0], x[0, 4]  # two pairs that are as similar as can be
    torch.testing.assert_close(merge(x, 2)[0], x[0, [2, 6, 1, 3, 5, 7]])
    x[0, 4], x[0, 5] = 2 * x[0, 1], 3 * x[0, 1]  # now all four are alike: the first of the ties goes, to the first
    torch.testing.assert_close(merge(x, 1)[0], x[0, [2, 4, 6, 1, 3, 5, 7]])


def test_never_more_than_half_where_fewer_tokens_come() -> None:
    assert merge(torch.rand(1, 5, 4), 4).shape == (1, 3, 4)
    assert merge(torch.rand(1, 1, 4), 4).shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("r", "used"),
    [(1, dict.fromkeys(BLOCKS, 1)), (5, dict(zip(BLOCKS, (5, 5, 3, 1, 1), strict=False))), (99, None)],
)
def test_every_block_merges_r_or_half_of_what_is_left(r: int, used: dict[str, int] | None) -> None:
    network = vit()
    names, before = [*network.state_dict()], count_macs(network, IMAGES[:1]).total
    expected = used or dict(zip(BLOCKS, (8, 4, 2, 1), strict=False))
    assert merge_tokens(network, r) == expected == merged_tokens(network)
    left, after = 16, []
    for name in BLOCKS:
        left -= expected.get(name, 0)
        after.append(left + network.num_prefix_tokens)
    assert tokens_after(network, IMAGES) == after
    assert [*network.state_dict()] == names
    assert count_macs(network, IMAGES[:1]).total < before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "reg_tokens": 4, "init_values": 1e-2}),
    ],
)
def test_prefix_tokens_stay_in_front(name: str, options: dict[str, Any]) -> None:
    """The first block's prefix tokens do not depend on what is merged behind them."""
    network, merging = build(name, **options), build(name, **options)
    assert merge_tokens(merging, 3) == {"blocks.0": 3, "blocks.1": 3}
    prefix = network.num_prefix_tokens
    x = torch.rand(2, prefix + 16, 192, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, fewer = network.blocks[0](x), merging.blocks[0](x)
        assert fewer.shape == (2, prefix + 13, 192)
        torch.testing.assert_close(fewer[:, :prefix], whole[:, :prefix])
        assert merging(IMAGES).shape == (2, 2) and not torch.equal(merging(IMAGES), network(IMAGES))


def test_a_merging_network_learns_and_is_copied() -> None:
    network = vit().train()
    merge_tokens(network, 2)
    copied = copy.deepcopy(network)
    copied(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert merged_tokens(copied) == merged_tokens(network)


def test_unmerged_again_it_is_what_it_was() -> None:
    network = vit()
    with torch.no_grad():
        before = network(IMAGES)
        merge_tokens(network, 2)
        assert not torch.equal(network(IMAGES), before)
        unmerge_tokens(network)
        assert torch.equal(network(IMAGES), before)


def test_unmerged_for_a_while() -> None:
    network = vit()
    merging = merge_tokens(network, 2)
    left = tokens_after(network, IMAGES)
    with pytest.raises(ZeroDivisionError), unmerged(network):
        assert merged_tokens(network) == {} and set(tokens_after(network, IMAGES)) == {16 + network.num_prefix_tokens}
        raise ZeroDivisionError
    assert merged_tokens(network) == merging and tokens_after(network, IMAGES) == left


def test_no_map_is_made_of_merged_tokens() -> None:
    network = vit()
    inner = network.forward_features(IMAGES)
    assert as_map(inner, network) is not None
    merge_tokens(network, 2)
    inner = network.forward_features(IMAGES)
    assert inner.shape[1] == network.num_prefix_tokens + 4, "a square number, which says nothing of where they lie"
    assert as_map(inner, network) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("pit_ti_224", {}),
        ("vit_relpos_small_patch16_224", {"img_size": 64, "depth": 1}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}),
    ],
)
def test_other_networks_are_refused(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options)
    with pytest.raises(ModelError, match="cannot be merged in a"):
        merge_tokens(network, 2)
    assert merged_tokens(network) == {}


def test_blocks_that_are_not_plain_are_refused() -> None:
    from timm.models.vision_transformer import DiffParallelScalingBlock, ResPostBlock

    for block in (ResPostBlock, DiffParallelScalingBlock):
        network = build("vit_tiny_patch16_224", img_size=64, depth=1, block_fn=block)
        with pytest.raises(ModelError, match=rf"blocks.0, a {block.__name__}"):
            merge_tokens(network, 2)


def test_r_below_one_and_merging_twice_are_refused() -> None:
    network = vit()
    with pytest.raises(InputError, match="at least 1"):
        merge_tokens(network, 0)
    merge_tokens(network, 1)
    with pytest.raises(ModelError, match="already"):
        merge_tokens(network, 1)


def test_a_plan_with_merging_and_dropped_blocks_rebuilds_bit_for_bit() -> None:
    network = vit()
    start = shapes_of(network)
    merging = merge_tokens(network, 3)
    assert differences(start, shapes_of(network)) == ({}, {})
    assert droppable_blocks(network, IMAGES[:1]) == BLOCKS
    drop_blocks(network, ["blocks.1"])
    first = msgspec.structs.replace(PLAN, merging=merging)
    plan = merge_plans(first, msgspec.structs.replace(PLAN, dropped=("blocks.1",)))
    assert plan.merging == {name: pairs for name, pairs in merging.items() if name != "blocks.1"}
    both_at_once = msgspec.structs.replace(PLAN, merging=merging, dropped=("blocks.1",))
    for entry in (plan, both_at_once):
        again = vit()
        apply_plan(again, decode(encode(entry), PruningPlan, source="plan.json"))
        again.load_state_dict(network.state_dict())
        with torch.no_grad():
            assert torch.equal(again(IMAGES), network(IMAGES))


@pytest.mark.parametrize(
    "merging",
    [
        {"blocks.9": 1},
        {"blocks": 1},
        {"blocks.0": 9},
        {"blocks.0": 8, "blocks.1": 5},
        {"blocks.0": 0},
        {"blocks.0": -3},
        {"blocks.0.attn": 1},
    ],
)
def test_merging_that_does_not_fit_is_refused_and_nothing_changes(merging: dict[str, int]) -> None:
    network = vit()
    with pytest.raises(ModelError, match=r"pruning plan is not one for this architecture: .*cannot merge"):
        apply_plan(network, msgspec.structs.replace(PLAN, merging=merging))
    assert merged_tokens(network) == {}


def test_merging_in_a_plan_for_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="only in a plain ViT"):
        apply_plan(build("resnet10t"), msgspec.structs.replace(PLAN, merging={"layer1.0": 1}))
    with pytest.raises(ModelError, match="pruning plan"):
        apply_pruning_plan(vit(), {**msgspec.to_builtins(PLAN), "merging": {"blocks.0": "8"}})
    network = vit()
    merge_tokens(network, 1)
    with pytest.raises(ModelError, match="does not have"):
        apply_plan(network, msgspec.structs.replace(PLAN, values={"blocks.0": {"merging": 8}}))


def two_kinds_of_patches() -> Any:
    """Black and white patches: most pairs are as similar as any other."""
    white = torch.tensor([0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1.0]).reshape(1, 1, 4, 4)
    return white.repeat_interleave(16, 2).repeat_interleave(16, 3).expand(-1, 3, -1, -1).contiguous()


def test_it_exports_and_both_engines_answer_alike_even_where_pairs_tie() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    from medfm_compress.export.onnx_export import export_onnx
    from medfm_compress.export.openvino_ir import to_openvino_ir
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.sessions import openvino
    from medfm_compress.runtime.task import Task

    network = vit(depth=3)
    with torch.no_grad():
        network.pos_embed.zero_()  # nothing tells two equal patches apart
    merge_tokens(network, 5)
    drop_blocks(network, ["blocks.1"])
    spec = ImageSpec(height_px=64, width_px=64, colour="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)
    exported = export_onnx(network, spec, Task(kind="binary", labels=("normal", "opacity")))
    assert exported.exporter == "dynamo"
    session = onnxruntime.InferenceSession(exported.content, providers=["CPUExecutionProvider"])
    ir = to_openvino_ir(exported.content)
    other = openvino.from_bytes([ir.xml, ir.weights], threads=1, precision="fp32")
    answers = []
    for image in (IMAGES[:1], two_kinds_of_patches()):
        with torch.no_grad():
            expected = network(image)
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-5)
        logits = other.run({"image": image.numpy()})["logits"]
        torch.testing.assert_close(torch.from_numpy(logits.copy()), expected, rtol=1e-4, atol=1e-4)
        answers.append(expected)
    assert (answers[0] - answers[1]).abs().max() > 1e-3
