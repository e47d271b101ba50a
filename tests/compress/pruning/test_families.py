"""Every family of networks is pruned, loaded again in a fresh process and exported, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

import pruning_families as script  # noqa: E402
from medfm_compress.compress.networks.architecture import Architecture  # noqa: E402
from medfm_compress.compress.networks.attention_layers import find_attentions, why_sealed  # noqa: E402
from medfm_compress.compress.networks.model import create_module  # noqa: E402
from medfm_compress.compress.pruning.apply import remove_channels  # noqa: E402
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, head_groups  # noqa: E402
from medfm_compress.compress.pruning.linear_attention import linear_attention_groups  # noqa: E402

FAMILIES = {family.name: family for family in script.FAMILIES}


def check(outcome: Any, *, exported: bool) -> None:
    assert outcome.state != "crashed", f"{outcome.family.name}: {outcome.refusal}"
    if outcome.state == "refused":
        assert "distil into a smaller" in outcome.refusal, "a refusal says what to do instead"
        return
    assert outcome.kept <= 0.5 and outcome.shrinks
    assert outcome.reload is True, f"{outcome.family.name} answers otherwise in a fresh process"
    assert not exported or outcome.parity <= script.PARITY


def page_states() -> dict[str, str]:
    """Family → ``pruned`` or what else the committed page says."""
    lines = [line.split(" | ") for line in script.PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): line[2] for line in lines if line[0] != "| family"}
    return {name: "pruned" if state[0].isdigit() else state for name, state in cells.items()}


def test_quick_families_shrink_and_answer_alike_in_a_fresh_process(tmp_path: Path) -> None:
    quick = [family for family in script.FAMILIES if family.quick]
    outcomes = script.try_families(quick, tmp_path, export=False)
    assert len(outcomes) >= 8
    states = page_states()
    for outcome in outcomes:
        check(outcome, exported=False)
        assert outcome.state == states[outcome.family.name]


@pytest.mark.slow
def test_every_family_shrinks_and_exports_or_is_refused(tmp_path: Path) -> None:
    states = page_states()
    for outcome in script.try_families(script.FAMILIES, tmp_path, export=True):
        check(outcome, exported=True)
        assert outcome.state == states[outcome.family.name]


def test_the_page_names_every_family_and_no_failure() -> None:
    states = page_states()
    assert set(states) == set(FAMILIES)
    assert set(states.values()) <= {"pruned", "refused"}
    assert "DIFFERS" not in script.PAGE.read_text()


def test_a_reloaded_network_that_answers_otherwise_is_noticed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    family = FAMILIES["ResNet"]
    script.prune_family(family, tmp_path)
    path = tmp_path / family.network / "answers.safetensors"
    answers = load_file(path)
    assert script._reload(tmp_path) == {family.network: True}
    save_file({**answers, "logits": answers["logits"] + 1e-3}, path)
    assert script._reload(tmp_path) == {family.network: False}


def attention_groups(module: Any) -> list[ChannelGroup]:
    heads, _ = head_groups(module, find_attentions(module)[0], lambda _: 8)
    values, _ = linear_attention_groups(module, lambda _: 8)
    return [*heads, *values]


@pytest.mark.parametrize(
    "name",
    [
        "Swin",
        "MobileViT v2",
        "RoPE ViT",
        pytest.param("EfficientFormer", marks=pytest.mark.slow),
        pytest.param("TinyViT", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_cutting_attention_equals_silencing(name: str, fused: bool) -> None:
    """A head that nobody reads and a head that is gone are the same thing, fused or not."""
    family = FAMILIES[name]
    whole, cut = family.build().module, family.build().module
    with torch.no_grad():
        cut(family.images(1))  # fills the caches of position tables, which must not outlive the cut
    groups = attention_groups(cut)
    assert groups
    ranking = {group.name: torch.rand(group.width, generator=torch.Generator().manual_seed(2)) for group in groups}
    widths = {group.name: group.levels[-1] for group in groups}
    parameters = dict(whole.named_parameters())
    with torch.no_grad():
        before = whole(family.images())
        for group in groups:
            gone = set(torch.argsort(ranking[group.name])[: group.width - widths[group.name]].tolist())
            for member in group.members:
                silent = [i for i, root in zip(member.indices, member.roots, strict=True) if root in gone]
                if member.side == "in":
                    parameters[f"{member.layer}.weight"][:, silent] = 0
        remove_channels(cut, groups, widths, ranking)
        for part in [*whole.modules(), *cut.modules()]:
            if hasattr(part, "fused_attn"):
                part.fused_attn = fused
        expected, actual = whole(family.images()), cut(family.images())
    limit = 1e-5 * expected.abs().max()
    assert (expected - actual).abs().max() <= limit
    assert (expected - before).abs().max() > 10 * limit, "what was cut must have mattered"


def test_linear_attention_keeps_its_query() -> None:
    module = FAMILIES["MobileViT v2"].build().module
    groups, _ = linear_attention_groups(module, lambda _: 16)
    group = groups[0]
    remove_channels(module, [group], {group.name: 16}, {group.name: torch.arange(group.width)})
    part = module.get_submodule(group.name.removesuffix(" values"))
    assert (part.embed_dim, part.qkv_proj.out_channels, part.out_proj.in_channels) == (16, 33, 16)
    whole = FAMILIES["MobileViT v2"].build().module.get_submodule(group.name.removesuffix(" values"))
    assert torch.equal(part.qkv_proj.weight[0], whole.qkv_proj.weight[0])


def test_linear_attention_too_narrow_for_the_step_stays() -> None:
    groups, protected = linear_attention_groups(FAMILIES["MobileViT v2"].build().module, lambda _: 256)
    assert not groups and {entry.reason for entry in protected} > {"its width of 64 has no smaller multiple of 256"}


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("beit_base_patch16_224", "Attention reshapes to the width of its input, so that no head can go"),
        ("swinv2_tiny_window8_256", "WindowAttention reshapes to the width of its input, so that no head can go"),
        ("vit_small_patch16_rope_mixed_224", "AttentionRope is not understood"),
    ],
)
def test_attention_whose_heads_must_stay_says_why(network: str, says: str) -> None:
    family = next(family for family in script.FAMILIES if family.network == network)
    module = create_module(Architecture(name=network, arguments=family.arguments))
    attentions, sealed = find_attentions(module)
    assert not attentions and sealed
    assert {why_sealed(module.get_submodule(name)) for name in sealed} == {says}
