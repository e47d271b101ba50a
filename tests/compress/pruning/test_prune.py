"""Pruning removes what it says, nothing else, and the result is rebuilt without pickle."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

from medfm_compress.compress.networks.attention_layers import find_attentions  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.macs import count_macs  # noqa: E402
from medfm_compress.compress.networks.model import Model, create_module, load_model, save_model  # noqa: E402
from medfm_compress.compress.networks.pruning_plan import PruningPlan, apply_plan, merge_plans  # noqa: E402
from medfm_compress.compress.pruning.apply import remove_channels  # noqa: E402
from medfm_compress.compress.pruning.channel_groups import find_channel_groups, head_groups  # noqa: E402
from medfm_compress.compress.pruning.goal import PruningGoal  # noqa: E402
from medfm_compress.compress.pruning.kinds import pruning_rules  # noqa: E402
from medfm_compress.compress.pruning.prune import prune, prune_module  # noqa: E402
from medfm_compress.compress.pruning.width_search import PruningData  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.image_spec import ImageSpec  # noqa: E402
from medfm_compress.runtime.strict_json import decode, encode  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402


@dataclass(frozen=True)
class Family:
    """A small member of a family of networks."""

    name: str
    px: int = 64
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        torch.manual_seed(0)
        network = timm.create_model(self.name, num_classes=2, **self.options).eval()
        for part in network.modules():  # untrained statistics would make every normalisation the identity
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 1.5)
        return network

    def images(self, count: int = 2) -> Any:
        return torch.rand(count, 3, self.px, self.px, generator=torch.Generator().manual_seed(1))


VIT = Family("vit_tiny_patch16_224", options={"img_size": 64, "depth": 2})
DEIT = Family("deit_tiny_distilled_patch16_224", options={"img_size": 64, "depth": 2})
RESNET = Family("resnet10t")
DENSENET = Family("densenet121", options={"block_config": (2, 2, 2, 2)})
COATNET = Family("coatnet_pico_rw_224", options={"img_size": 64})
MOBILEVIT = Family("mobilevitv2_050")
DEPTHWISE = Family("mobilenetv3_small_050")
FAMILIES = [VIT, DEIT, RESNET, DENSENET, COATNET, MOBILEVIT, DEPTHWISE]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@every_family
def test_half_the_macs_are_left_and_widths_are_round(family: Family) -> None:
    network = family.build()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    pruned = prune_module(network, family.images(1), PruningGoal(macs=0.5, round_to=16))

    assert 0.45 <= pruned.plan.macs_after / pruned.plan.macs_before <= 0.5
    assert pruned.plan.macs_after == count_macs(pruned.module, family.images(1)).total
    assert pruned.parameters_after < pruned.parameters_before
    assert all(change.after % 16 == 0 for change in pruned.widths if not change.name.endswith(" heads"))
    outputs = pruned.module(family.images())
    assert outputs.shape == (2, 2) and outputs.isfinite().all()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items()), "input was changed"


@every_family
def test_plan_rebuilds_the_network_bit_for_bit(family: Family) -> None:
    pruned = prune_module(family.build(), family.images(1), PruningGoal(macs=0.5))
    plan = decode(encode(pruned.plan), PruningPlan, source="plan.json")
    again = timm.create_model(family.name, num_classes=2, **family.options).eval()
    apply_plan(again, plan)
    again.load_state_dict(pruned.module.state_dict())
    assert torch.equal(again(family.images()), pruned.module(family.images()))


@every_family
def test_cutting_equals_silencing(family: Family) -> None:
    """A channel that nobody reads and a channel that is gone are the same thing, whatever the structure around it.

    Units that pass a LayerNorm or a GroupNorm are left out: there a silent channel still counts in mean and variance.
    """
    whole, cut = family.build(), family.build()
    attentions, sealed = find_attentions(cut)
    channels, _ = find_channel_groups(cut, family.images(1), attentions, sealed, lambda _: 8)
    heads, _ = head_groups(cut, attentions, lambda _: 8)
    mixing = tuple(
        name for name, part in cut.named_modules() if isinstance(part, (torch.nn.LayerNorm, torch.nn.GroupNorm))
    )
    groups = [group for group in [*channels, *heads] if not {member.layer for member in group.members} & set(mixing)]
    assert groups
    generator = torch.Generator().manual_seed(2)
    ranking = {group.name: torch.rand(group.width, generator=generator) for group in groups}
    widths = {group.name: group.levels[len(group.levels) // 2] for group in groups}

    parameters = dict(whole.named_parameters())
    for group in groups:
        gone = set(torch.argsort(ranking[group.name])[: group.width - widths[group.name]].tolist())
        for member in group.members:
            if member.side == "in":
                silent = [i for i, root in zip(member.indices, member.roots, strict=True) if root in gone]
                parameters[f"{member.layer}.weight"].data[:, silent] = 0
    remove_channels(cut, groups, widths, ranking)
    with torch.no_grad():
        expected, actual = whole(family.images()), cut(family.images())
    assert (expected - actual).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)


@pytest.mark.parametrize("family", [VIT, COATNET], ids=lambda family: family.name)
def test_fused_and_unfused_attention_agree_after_heads_are_gone(family: Family) -> None:
    pruned = prune_module(family.build(), family.images(1), PruningGoal(macs=0.5))
    assert any(change.name.endswith(" heads") for change in pruned.widths)
    attentions = [part for part in pruned.module.modules() if hasattr(part, "fused_attn")]
    outputs = []
    for fused in (True, False):
        for part in attentions:
            part.fused_attn = fused
        with torch.no_grad():
            outputs.append(pruned.module(family.images()))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    for part in attentions:
        width = part.head_dim if hasattr(part, "head_dim") else part.dim_head
        assert part.scale == width**-0.5


def test_heads_report_their_new_number() -> None:
    pruned = prune_module(VIT.build(), VIT.images(1), PruningGoal(macs=0.5))
    left = {change.name: change.after for change in pruned.widths}
    for number, block in enumerate(pruned.module.blocks):
        heads = left.get(f"blocks.{number}.attn heads", 3)
        assert (block.attn.num_heads, block.attn.attn_dim) == (heads, heads * 64)
        assert block.attn.qkv.out_features == 3 * heads * 64


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_channels_without_effect_go_first(importance: Any) -> None:
    """Half of every MLP and one head do nothing; removing them must not change the answer."""
    network = VIT.build()
    dead = torch.arange(0, 768, 2)
    with torch.no_grad():
        for block in network.blocks:
            block.mlp.fc1.weight[dead], block.mlp.fc1.bias[dead] = 0, 0
            block.mlp.fc2.weight[:, dead] = 0
            block.attn.qkv.weight.view(3, 3, 64, 192)[:, 1] = 0
            block.attn.proj.weight[:, 64:128] = 0
    images, targets = VIT.images(4), torch.tensor([0, 1, 0, 1])
    goal = PruningGoal(macs=0.65, importance=importance)
    data = PruningData(train=[(images, targets)] * 8, loss=torch.nn.functional.cross_entropy)
    pruned = prune_module(network, images[:1], goal, data)
    assert any(change.after < change.before for change in pruned.widths if change.name.endswith(" heads"))
    torch.testing.assert_close(pruned.module(images), network(images), rtol=1e-4, atol=1e-5)


def test_frozen_and_training_networks_are_pruned_like_any_other() -> None:
    network = RESNET.build().requires_grad_(False).train()
    pruned = prune_module(network, RESNET.images(1), PruningGoal(macs=0.5))
    assert pruned.plan.macs_after < pruned.plan.macs_before
    assert network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in pruned.module.parameters())


def test_the_classifier_stays_and_so_do_the_tokens_where_they_are_to() -> None:
    goal = PruningGoal(macs=0.5, allocation="global", embedding=False)
    pruned = prune_module(VIT.build(), VIT.images(1), goal)
    reasons = {entry.name: entry.reason for entry in pruned.protected}
    assert reasons["head"] == "they are the network's outputs"
    assert "the width of tokens is to stay" in reasons.values()
    assert pruned.module.patch_embed.proj.out_channels == 192
    assert pruned.module.head.weight.shape == (2, 192)


def test_attention_that_is_not_understood_is_left_alone_and_named() -> None:
    pruned = prune_module(MOBILEVIT.build(), MOBILEVIT.images(1), PruningGoal(macs=0.5))
    assert any("LinearSelfAttention" in entry.reason for entry in pruned.protected)


def test_pruned_network_is_pruned_again_and_one_plan_describes_both() -> None:
    first = prune_module(RESNET.build(), RESNET.images(1), PruningGoal(macs=0.7))
    second = prune_module(first.module, RESNET.images(1), PruningGoal(macs=0.7))
    plan = merge_plans(first.plan, second.plan)
    again = timm.create_model(RESNET.name, num_classes=2).eval()
    apply_plan(again, plan)
    again.load_state_dict(second.module.state_dict())
    assert torch.equal(again(RESNET.images()), second.module(RESNET.images()))
    assert plan.macs_before == first.plan.macs_before and plan.macs_after == second.plan.macs_after


def test_coarser_rounding_is_kept() -> None:
    pruned = prune_module(RESNET.build(), RESNET.images(1), PruningGoal(macs=0.6, round_to=32))
    assert pruned.widths and all(change.after % 32 == 0 for change in pruned.widths)


def test_macs_are_those_of_the_textbook() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    macs = count_macs(torch.nn.Sequential(conv, torch.nn.Flatten(), torch.nn.Linear(8 * 16, 5)), torch.rand(1, 3, 4, 4))
    assert macs.layers == {"0": 8 * 3 * 9 * 16, "2": 8 * 16 * 5}
    assert macs.total == sum(macs.layers.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [({"macs": 0.0}, "fraction"), ({"macs": 1.0}, "fraction"), ({"macs": 0.5, "round_to": -1}, "round_to")],
)
def test_goal_outside_its_range_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PruningGoal(**options)


def test_out_of_reach_says_what_can_be_reached() -> None:
    with pytest.raises(ModelError, match=r"at least 0\.\d+ of the MACs stay") as caught:
        prune_module(VIT.build(), VIT.images(1), PruningGoal(macs=0.05))
    least = float(str(caught.value).split("at least ")[1].split(" ")[0])
    reached = prune_module(VIT.build(), VIT.images(1), PruningGoal(macs=least))
    assert reached.plan.macs_after <= least * reached.plan.macs_before


def test_taylor_without_cases_is_refused() -> None:
    goal = PruningGoal(macs=0.5, importance="taylor")
    with pytest.raises(InputError, match="training cases"):
        prune_module(RESNET.build(), RESNET.images(1), goal, PruningData(loss=torch.nn.functional.cross_entropy))


def test_network_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing in this network"):
        prune_module(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)),
            torch.rand(1, 3, 8, 8),
            PruningGoal(macs=0.5),
        )


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {"nowhere.weight": (3,)}},
        {"tensors": {"conv1.0.weight": (10**6, 3, 3, 3)}},
        {"values": {"conv1.0": {"forward": 1}}},
        {"values": {"conv1.0": {"out_channels": 0.5}}},
        {"values": {"nowhere": {"out_channels": 8}}},
    ],
)
def test_plan_for_another_architecture_is_refused(change: dict[str, Any]) -> None:
    plan = PruningPlan(tensors={}, values={}, macs_before=2, macs_after=1, round_to=16, importance="magnitude")
    with pytest.raises(ModelError, match="pruning plan"):
        apply_plan(RESNET.build(), msgspec.structs.replace(plan, **change))


def small_model(kind: Any = "binary") -> Model:
    torch.manual_seed(0)
    return build_model("resnet10t", Task(kind=kind, labels=("normal", "opacity")), size_px=48, colour="grey")


def test_model_is_pruned_with_a_record_and_saves_like_any_other(tmp_path: Any) -> None:
    model = small_model()
    pruned = prune(model, PruningGoal(macs=0.5))
    assert pruned.macs_after <= 0.5 * pruned.macs_before
    assert pruned.model.provenance.steps[-1].startswith("prune: 0.4") or pruned.macs_after == 0.5 * pruned.macs_before
    assert not model.architecture.pruning
    again = load_model(save_model(pruned.model, tmp_path / "pruned"))
    images = torch.rand(2, *model.spec.shape[1:])
    assert torch.equal(again.module(images), pruned.model.module(images))

    twice = prune(again, PruningGoal(macs=0.7))
    assert twice.model.architecture.pruning["macs_before"] == pruned.macs_before
    create_module(twice.model.architecture).load_state_dict(twice.model.module.state_dict())


@pytest.mark.parametrize(("kind", "targets"), [("binary", [[0], [1]]), ("multilabel", [[0, 1], [1, 1]])])
def test_taylor_reads_targets_as_a_study_gives_them(kind: Any, targets: list[list[int]]) -> None:
    model = small_model(kind)
    batch = (torch.rand(2, *model.spec.shape[1:]), torch.tensor(targets))
    data = PruningData(train=[batch] * 8, loss=pruning_rules(model.task).loss(model.task))
    pruned = prune(model, PruningGoal(macs=0.5, importance="taylor"), data)
    assert pruned.macs_after <= 0.5 * pruned.macs_before
    assert all(parameter.grad is None for parameter in pruned.model.module.parameters())


def test_a_fresh_process_rebuilds_it_without_pickle(tmp_path: Any) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = small_model()
    pruned = prune(model, PruningGoal(macs=0.5)).model
    save_model(pruned, tmp_path / "pruned")
    images = torch.rand(2, *model.spec.shape[1:])
    safetensors.save_file({"images": images, "logits": pruned.module(images)}, tmp_path / "io.safetensors")
    program = f"""
import pickle
import timm, torch
from pathlib import Path
from safetensors.torch import load_file
from medfm_compress.compress.networks.model import load_model
def refuse(*_a, **_k): raise SystemExit("pickle was used")
pickle.load = pickle.loads = torch.load = refuse
folder = Path({str(tmp_path)!r})
model = load_model(folder / "pruned")
io = load_file(folder / "io.safetensors")
# Sums are ordered by the number of threads, which the two processes need not share.
torch.testing.assert_close(model.module(io["images"]), io["logits"], rtol=0, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=[] if family is VIT else pytest.mark.slow) for family in FAMILIES],
    ids=lambda family: family.name,
)
def test_pruned_network_exports_and_answers_alike(family: Family) -> None:
    """ONNX Runtime on the exported file against PyTorch on the module."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from medfm_compress.export.onnx_export import export_onnx

    pruned = prune_module(family.build(), family.images(1), PruningGoal(macs=0.5))
    black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    spec = ImageSpec(height_px=family.px, width_px=family.px, colour="rgb", mean=black, std=white)
    exported = export_onnx(pruned.module, spec, Task(kind="binary", labels=("normal", "opacity")))
    session = onnxruntime.InferenceSession(exported.content, providers=["CPUExecutionProvider"])
    image = family.images(1)
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    with torch.no_grad():
        expected = pruned.module(image)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-5)
