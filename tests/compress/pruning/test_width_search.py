"""Goals are met by what is measured, or refused with an offer; damage and price decide who shrinks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

from medfm_compress.bench.types.sensitivity import SensitivityPoint  # noqa: E402
from medfm_compress.compress.networks.macs import count_macs  # noqa: E402
from medfm_compress.compress.pruning.allocate import deepest, evolve, knapsack, uniform  # noqa: E402
from medfm_compress.compress.pruning.apply import remove_channels, temporarily  # noqa: E402
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Member, find_channel_groups  # noqa: E402
from medfm_compress.compress.pruning.cost_model import CostTracker, macs_cost, size_cost  # noqa: E402
from medfm_compress.compress.pruning.goal import PruningGoal  # noqa: E402
from medfm_compress.compress.pruning.importance import Evidence, importance_scores  # noqa: E402
from medfm_compress.compress.pruning.isolation_check import check_in_isolation  # noqa: E402
from medfm_compress.compress.pruning.prune import prune_module  # noqa: E402
from medfm_compress.compress.pruning.sensitivity import (  # noqa: E402
    ValidationSet,
    measure_sensitivity,
    sensitivity_at_levels,
    tried_widths,
)
from medfm_compress.compress.pruning.width_search import PruningData, all_channel_groups  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402

PX = 32
MEASURED = PruningGoal(macs=0.5, allocation="measured")


def network(name: str = "test_resnet", **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=2, **options).eval().requires_grad_(True)


def vit() -> Any:
    return network("vit_tiny_patch16_224", img_size=PX, depth=3, embed_dim=96, num_heads=3)


def images(count: int = 1) -> Any:
    return torch.rand(count, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def validation() -> ValidationSet:
    return ValidationSet([(images(8), torch.tensor([0, 1] * 4))], lambda *_: None, centred=True)


def actual(module: Any, goal: PruningGoal = MEASURED) -> tuple[list[ChannelGroup], dict[str, Any]]:
    groups, _ = all_channel_groups(module, images(), goal)
    return groups, {
        group.name: importance_scores(group, Evidence("magnitude")) for group in groups if group.kind != "block"
    }


class FakeTargetLatency:
    """A target on which time is a base plus a share of the MACs, half as much as the price says."""

    floor_ms = 1.0

    def cost_model(self, module: Any, groups: Any) -> Any:
        macs = macs_cost(count_macs(module, images()), groups)
        scale = self.measure(module) / count_macs(module, images()).total

        class CostModel:
            fixed, layers = macs.fixed * scale, macs.layers

            def of(self, layer: str, inputs: float, outputs: float) -> float:
                return macs.of(layer, inputs, outputs) * scale

        return CostModel()

    def measure(self, module: Any) -> float:
        return 2.0 + count_macs(module, images()).total / 1e6

    def size(self, module: Any) -> int:
        return 1000 + 4 * sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "vit"])
def test_forecast_is_what_the_cut_network_counts(name: str) -> None:
    module = vit() if name == "vit" else network(name)
    groups, ranking = actual(module)
    tracker = CostTracker(groups, macs_cost(count_macs(module, images()), groups))
    assert tracker.total == pytest.approx(count_macs(module, images()).total)
    widths = {group.name: group.levels[len(group.levels) // 2] for group in groups if group.kind != "block"}
    blocks = [group.name for group in groups if group.kind == "block"][:1]
    assert blocks
    for group, width in {**widths, **dict.fromkeys(blocks, 0)}.items():
        before, change = tracker.total, tracker.change(group, width)
        tracker.set(group, width)
        assert tracker.total == pytest.approx(before + change)
    remove_channels(module, groups, {**widths, **dict.fromkeys(blocks, 0)}, ranking)
    assert count_macs(module, images()).total == pytest.approx(tracker.total, rel=1e-6)


def test_size_price_shares_the_file_out_over_the_parameters() -> None:
    module = network()
    groups, ranking = actual(module)
    target_latency = FakeTargetLatency()
    tracker = CostTracker(groups, size_cost(module, groups, target_latency.size(module)))
    for group in groups:
        if group.kind != "block":
            tracker.set(group.name, group.levels[-1])
    widths = {group.name: group.levels[-1] for group in groups if group.kind != "block"}
    remove_channels(module, groups, widths, ranking)
    assert tracker.total == pytest.approx(target_latency.size(module), rel=0.02)


def test_a_trial_leaves_no_trace() -> None:
    module = vit()
    groups, ranking = actual(module)
    before, state = module(images(2)), {name: value.clone() for name, value in module.state_dict().items()}
    attributes = {name: dict(vars(part)) for name, part in module.named_modules()}
    with temporarily(module):
        remove_channels(module, groups, {group.name: group.levels[-1] for group in groups}, ranking)
        assert not torch.equal(module(images(2)), before)
    assert torch.equal(module(images(2)), before)
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    after = {name: dict(vars(part)) for name, part in module.named_modules()}
    assert {k: set(v) for k, v in after.items()} == {k: set(v) for k, v in attributes.items()}
    assert module.blocks[0].attn.num_heads == 3


def test_damage_is_the_relative_logit_error_of_the_cut_network() -> None:
    module = network()
    groups, ranking = actual(module)
    known: dict[str, tuple[SensitivityPoint, ...]] = {}
    curves = measure_sensitivity(module, groups[:2], ranking, validation(), None, known, lambda _: None)
    group = groups[0]
    assert [trial.kept for trial in curves[group.name]] == [group.width, *tried_widths(group)]
    with torch.no_grad():
        whole = module(images(8)).double()
        with temporarily(module):
            remove_channels(module, [group], {group.name: curves[group.name][-1].kept}, ranking)
            cut = module(images(8)).double()
    spread = whole - whole.mean(1, keepdim=True)
    moved = (cut - whole) - (cut - whole).mean(1, keepdim=True)
    expected = (moved.norm() / (spread - spread.mean(0)).norm()).item()
    assert curves[group.name][-1].error == pytest.approx(expected, rel=1e-5)
    assert known == curves

    def never(*_: Any) -> None:
        raise AssertionError("known trials are not made again")

    again = ValidationSet(validation().batches, never, centred=True)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="not made again"):
        measure_sensitivity(module, groups[:1], ranking, again, None, {}, lambda _: None)


def test_a_cut_that_does_not_run_or_answers_nothing_is_hopeless() -> None:
    module = network()
    groups, ranking = actual(module)
    group = groups[0]

    broken = dataclasses.replace(
        group,
        members=tuple(dataclasses.replace(m, remove=lambda _: None) for m in group.members[:1]) + group.members[1:],
    )
    curves = measure_sensitivity(module, [broken], ranking, validation(), None, {}, lambda _: None)
    assert [trial.error for trial in curves[group.name][1:]] == [1e3] * len(tried_widths(group))
    assert all(trial.score is None for trial in curves[group.name][1:])


def test_damage_between_trials_is_interpolated_and_never_falls() -> None:
    group = ChannelGroup("u", 64, (64, 48, 32, 16), ())
    trials = (
        SensitivityPoint(kept=64, error=0),
        SensitivityPoint(kept=32, error=0.2),
        SensitivityPoint(kept=16, error=0.1),
    )
    sensitivities = sensitivity_at_levels(group, trials)
    assert sensitivities == {64: 0, 48: pytest.approx(0.01), 32: pytest.approx(0.04), 16: pytest.approx(0.04)}


def toy(seed: int) -> tuple[list[ChannelGroup], Any, Any]:
    """Three layers in a row and the two widths between and beyond them."""
    dice = torch.Generator().manual_seed(seed)

    def member(layer: str, side: Any) -> Member:
        return Member(layer, side, 64, tuple(range(64)), tuple(range(64)), (), lambda _: None)

    chain = [("a", "b"), ("b", "c"), ("c", "d")]
    groups = [
        ChannelGroup(f"{first}{then}", 64, (64, 48, 32, 16), (member(first, "out"), member(then, "in")))
        for first, then in chain
    ]

    class CostModel:
        fixed = 1.0
        layers = dict.fromkeys("abcd", (64, 64))

        def of(self, layer: str, inputs: float, outputs: float) -> float:
            return {"a": 1.0, "b": 4.0, "c": 2.0, "d": 1.0}[layer] * inputs * outputs / 4096

    curves = {
        group.name: {
            level: float(value)
            for level, value in zip(group.levels, torch.rand(4, generator=dice).cumsum(0) - 1e-9, strict=True)
        }
        for group in groups
    }
    for curve in curves.values():
        curve[64] = 0.0
    return groups, CostModel(), curves


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_search_against_every_possible_choice(seed: int, share: float) -> None:
    """Evolution finds the best of all 64 choices; the knapsack is within budget and near it."""
    groups, cost_model, sensitivities = toy(seed)
    budget = share * 9.0

    def cost(widths: dict[str, int]) -> float:
        tracker = CostTracker(groups, cost_model)
        for name, width in widths.items():
            tracker.set(name, width)
        return tracker.total

    choices = [
        dict(zip([group.name for group in groups], levels, strict=True))
        for levels in itertools.product(*(group.levels for group in groups))
    ]
    fitting = [widths for widths in choices if cost(widths) <= budget]
    best = min(sum(sensitivities[name][width] for name, width in widths.items()) for widths in fitting)
    greedy = knapsack(groups, sensitivities, cost_model, budget)
    assert greedy.cost <= budget and greedy.cost == pytest.approx(cost(greedy.widths))
    evolved = evolve(groups, sensitivities, cost_model, budget, greedy)
    assert evolved.cost <= budget and evolved.sensitivities <= greedy.sensitivities
    assert evolved.sensitivities == pytest.approx(best)


def test_uniform_takes_the_same_share_of_all() -> None:
    groups, cost_model, _ = toy(0)
    ranking = {group.name: torch.arange(64.0) for group in groups}
    half = uniform(groups, ranking, cost_model, 1 + 8 * 0.3)
    assert half.cost <= 1 + 8 * 0.3
    assert max(half.widths.values()) - min(half.widths.values()) <= 16, "nobody is two steps ahead"
    assert uniform(groups, ranking, cost_model, 100.0).widths == {group.name: 64 for group in groups}
    assert deepest(groups, cost_model) == pytest.approx(1 + (1 + 1) / 4 + (4 + 2) / 16)


def test_who_hurts_little_shrinks_most() -> None:
    """One MLP's outputs are multiplied by next to nothing: measured allocation takes it first."""
    module = vit()
    with torch.no_grad():
        module.blocks[1].mlp.fc2.weight.mul_(1e-4)
    goal = dataclasses.replace(MEASURED, macs=0.8, embedding=False, depth=False)
    pruned = prune_module(module, images(), goal, PruningData(validation=validation()))
    after = {change.name: change.after for change in pruned.widths}
    assert after["blocks.1.mlp.fc1"] == 16
    assert pruned.plan.macs_after <= 0.8 * pruned.plan.macs_before
    even = prune_module(module, images(), dataclasses.replace(goal, allocation="uniform"))
    assert {change.name: change.after for change in even.widths}["blocks.1.mlp.fc1"] > 16


def test_a_block_that_does_nothing_goes() -> None:
    module = vit()
    with torch.no_grad():
        for name in ("attn.proj", "mlp.fc2"):
            part = module.blocks[1].get_submodule(name)
            part.weight.mul_(1e-4), part.bias.mul_(1e-4)
    goal = dataclasses.replace(MEASURED, macs=0.72, embedding=False)
    pruned = prune_module(module, images(), goal, PruningData(validation=validation()))
    assert pruned.plan.dropped == ("blocks.1",)
    assert (pruned.module(images(2)) - module(images(2))).norm() < 0.01 * module(images(2)).norm()


def test_the_width_of_tokens_shrinks_with_all_that_states_it() -> None:
    goal = PruningGoal(macs=0.3, allocation="global")
    pruned = prune_module(vit(), images(), goal)
    assert "embedding" in {change.kind for change in pruned.widths}
    width = pruned.module.pos_embed.shape[-1]
    assert width < 96 and width % 16 == 0
    assert (pruned.module.num_features, pruned.module.embed_dim, pruned.module.head.in_features) == (width,) * 3
    assert torch.isfinite(pruned.module(images(2))).all()


@pytest.mark.parametrize(
    "wanted", [{"speedup": 1.5}, {"latency_ms": 3.0}, {"size_mb": 0.5}], ids=lambda wanted: next(iter(wanted))
)
def test_goals_of_time_and_size_hold_for_what_is_measured(wanted: dict[str, float]) -> None:
    """The price is off by a factor, so that only correction by the measurement gets there."""
    module, target_latency = vit(), FakeTargetLatency()
    goal = PruningGoal(**wanted, allocation="global")
    pruned = prune_module(module, images(), goal, PruningData(target_latency=target_latency))
    if "size_mb" in wanted:
        assert pruned.measured == target_latency.size(pruned.module) <= 0.5e6 * 1.01
        assert pruned.before == target_latency.size(module)
    else:
        budget = wanted.get("latency_ms") or target_latency.measure(module) / 1.5
        assert pruned.measured == target_latency.measure(pruned.module) <= budget * 1.01
        assert pruned.measured >= 0.8 * budget, "no more is cut than must be"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"speedup": 50.0}, r"speedup 50 is out of reach: .* about [\d.]+ can be reached"),
        ({"latency_ms": 0.9}, "an empty graph takes 1 ms"),
        ({"latency_ms": 1.1}, r"about 2\.\d+ ms can be reached"),
        ({"size_mb": 0.002}, r"at least [\d.]+ MB stay"),
        ({"macs": 0.001}, r"at least 0\.\d+ of the MACs stay"),
    ],
)
def test_what_is_out_of_reach_is_refused_with_an_offer(wanted: dict[str, float], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        prune_module(vit(), images(), PruningGoal(**wanted), PruningData(target_latency=FakeTargetLatency()))


def test_time_without_a_target_and_damage_without_cases_are_refused() -> None:
    with pytest.raises(InputError, match="needs a target"):
        prune_module(network(), images(), PruningGoal(speedup=2))
    with pytest.raises(InputError, match="validation cases"):
        prune_module(network(), images(), MEASURED)


def test_a_shared_layer_stays_whole_and_says_why() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared = torch.nn.Conv2d(3, 32, 3), torch.nn.Conv2d(32, 32, 3, padding=1)
            self.own, self.head = torch.nn.Conv2d(32, 64, 3), torch.nn.Linear(64, 2)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            x = self.own(self.shared(torch.relu(self.shared(x))))
            return self.head(x.mean((2, 3)))

    pruned = prune_module(Twice(), images(), PruningGoal(macs=0.9))
    assert any("more than once" in entry.reason for entry in pruned.protected), pruned.protected
    assert pruned.module.shared.weight.shape == (32, 32, 3, 3)
    assert pruned.module.own.out_channels < 64


def test_layers_that_share_a_tensor_stay_whole() -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3),
        torch.nn.Conv2d(32, 64, 3), torch.nn.Conv2d(64, 64, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(64, 2),
    )  # fmt: skip
    module[3].weight = module[1].weight
    pruned = prune_module(module, images(), PruningGoal(macs=0.8))
    assert sum("shared with another layer" in entry.reason for entry in pruned.protected) >= 2
    assert pruned.module[1].weight is pruned.module[3].weight and pruned.module[1].weight.shape[0] == 32
    assert pruned.widths


def test_a_group_that_was_traced_wrongly_is_left_alone() -> None:
    """Shapes fit, so that the network runs; only its answer tells that other columns should have gone."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 2),
    )  # fmt: skip
    module.eval().requires_grad_(True)
    groups, _ = find_channel_groups(module, images(), [], [], lambda _: 16)
    sound, left = check_in_isolation(module, images(), groups)
    assert [group.name for group in sound] == [group.name for group in groups] and not left

    group = next(group for group in groups if group.name == "0")
    crossed = tuple(
        dataclasses.replace(member, roots=member.roots[::-1]) if member.side == "out" else member
        for member in group.members
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    sound, left = check_in_isolation(module, images(), [dataclasses.replace(group, members=crossed)])
    assert not sound and left[0].reason == "the network answers otherwise without them"

    short = tuple(
        dataclasses.replace(member, remove=lambda _: None) if member.side == "in" else member
        for member in group.members
    )
    sound, left = check_in_isolation(module, images(), [dataclasses.replace(group, members=short)])
    assert not sound and left[0].reason == "the network does not run without them"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
