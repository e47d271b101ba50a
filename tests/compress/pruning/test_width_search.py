"""Goals are met by what is measured, or refused with an offer; damage and price decide who shrinks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

from medfm_compress.compress.networks.macs import count_macs  # noqa: E402
from medfm_compress.compress.pruning.allocate import deepest, evolve, knapsack, uniform  # noqa: E402
from medfm_compress.compress.pruning.apply import cut_units, undone  # noqa: E402
from medfm_compress.compress.pruning.channel_groups import Member, Unit, find_units  # noqa: E402
from medfm_compress.compress.pruning.cost_model import Forecast, macs_price, size_price  # noqa: E402
from medfm_compress.compress.pruning.goal import PruningGoal  # noqa: E402
from medfm_compress.compress.pruning.importance import Evidence, scores  # noqa: E402
from medfm_compress.compress.pruning.isolation_check import tried_alone  # noqa: E402
from medfm_compress.compress.pruning.prune import prune_module  # noqa: E402
from medfm_compress.compress.pruning.sensitivity import Question, Trial, damage_of, measure_damage, tried_widths  # noqa: E402
from medfm_compress.compress.pruning.width_search import Material, all_units  # noqa: E402
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


def question() -> Question:
    return Question([(images(8), torch.tensor([0, 1] * 4))], lambda *_: None, centred=True)


def found(module: Any, goal: PruningGoal = MEASURED) -> tuple[list[Unit], dict[str, Any]]:
    units, _ = all_units(module, images(), goal)
    return units, {unit.name: scores(unit, Evidence("magnitude")) for unit in units if unit.kind != "block"}


class FakeClock:
    """A target on which time is a base plus a share of the MACs, half as much as the price says."""

    floor_ms = 1.0

    def price(self, module: Any, units: Any) -> Any:
        macs = macs_price(count_macs(module, images()), units)
        scale = self.measure(module) / count_macs(module, images()).total

        class Price:
            fixed, layers = macs.fixed * scale, macs.layers

            def of(self, layer: str, inputs: float, outputs: float) -> float:
                return macs.of(layer, inputs, outputs) * scale

        return Price()

    def measure(self, module: Any) -> float:
        return 2.0 + count_macs(module, images()).total / 1e6

    def size(self, module: Any) -> int:
        return 1000 + 4 * sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "vit"])
def test_forecast_is_what_the_cut_network_counts(name: str) -> None:
    module = vit() if name == "vit" else network(name)
    units, ranking = found(module)
    forecast = Forecast(units, macs_price(count_macs(module, images()), units))
    assert forecast.total == pytest.approx(count_macs(module, images()).total)
    widths = {unit.name: unit.levels[len(unit.levels) // 2] for unit in units if unit.kind != "block"}
    blocks = [unit.name for unit in units if unit.kind == "block"][:1]
    assert blocks
    for unit, width in {**widths, **dict.fromkeys(blocks, 0)}.items():
        before, change = forecast.total, forecast.change(unit, width)
        forecast.set(unit, width)
        assert forecast.total == pytest.approx(before + change)
    cut_units(module, units, {**widths, **dict.fromkeys(blocks, 0)}, ranking)
    assert count_macs(module, images()).total == pytest.approx(forecast.total, rel=1e-6)


def test_size_price_shares_the_file_out_over_the_parameters() -> None:
    module = network()
    units, ranking = found(module)
    clock = FakeClock()
    forecast = Forecast(units, size_price(module, units, clock.size(module)))
    for unit in units:
        if unit.kind != "block":
            forecast.set(unit.name, unit.levels[-1])
    widths = {unit.name: unit.levels[-1] for unit in units if unit.kind != "block"}
    cut_units(module, units, widths, ranking)
    assert forecast.total == pytest.approx(clock.size(module), rel=0.02)


def test_a_trial_leaves_no_trace() -> None:
    module = vit()
    units, ranking = found(module)
    before, state = module(images(2)), {name: value.clone() for name, value in module.state_dict().items()}
    attributes = {name: dict(vars(part)) for name, part in module.named_modules()}
    with undone(module):
        cut_units(module, units, {unit.name: unit.levels[-1] for unit in units}, ranking)
        assert not torch.equal(module(images(2)), before)
    assert torch.equal(module(images(2)), before)
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    after = {name: dict(vars(part)) for name, part in module.named_modules()}
    assert {k: set(v) for k, v in after.items()} == {k: set(v) for k, v in attributes.items()}
    assert module.blocks[0].attn.num_heads == 3


def test_damage_is_the_relative_logit_error_of_the_cut_network() -> None:
    module = network()
    units, ranking = found(module)
    known: dict[str, tuple[Trial, ...]] = {}
    curves = measure_damage(module, units[:2], ranking, question(), None, known, lambda _: None)
    unit = units[0]
    assert [trial.kept for trial in curves[unit.name]] == [unit.width, *tried_widths(unit)]
    with torch.no_grad():
        whole = module(images(8)).double()
        with undone(module):
            cut_units(module, [unit], {unit.name: curves[unit.name][-1].kept}, ranking)
            cut = module(images(8)).double()
    spread = whole - whole.mean(1, keepdim=True)
    moved = (cut - whole) - (cut - whole).mean(1, keepdim=True)
    expected = (moved.norm() / (spread - spread.mean(0)).norm()).item()
    assert curves[unit.name][-1].error == pytest.approx(expected, rel=1e-5)
    assert known == curves

    def never(*_: Any) -> None:
        raise AssertionError("known trials are not made again")

    again = Question(question().batches, never, centred=True)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="not made again"):
        measure_damage(module, units[:1], ranking, again, None, {}, lambda _: None)


def test_a_cut_that_does_not_run_or_answers_nothing_is_hopeless() -> None:
    module = network()
    units, ranking = found(module)
    unit = units[0]

    broken = dataclasses.replace(
        unit, members=tuple(dataclasses.replace(m, remove=lambda _: None) for m in unit.members[:1]) + unit.members[1:]
    )
    curves = measure_damage(module, [broken], ranking, question(), None, {}, lambda _: None)
    assert [trial.error for trial in curves[unit.name][1:]] == [1e3] * len(tried_widths(unit))
    assert all(trial.auroc is None for trial in curves[unit.name][1:])


def test_damage_between_trials_is_interpolated_and_never_falls() -> None:
    unit = Unit("u", 64, (64, 48, 32, 16), ())
    trials = (Trial(kept=64, error=0), Trial(kept=32, error=0.2), Trial(kept=16, error=0.1))
    damage = damage_of(unit, trials)
    assert damage == {64: 0, 48: pytest.approx(0.01), 32: pytest.approx(0.04), 16: pytest.approx(0.04)}


def toy(seed: int) -> tuple[list[Unit], Any, Any]:
    """Three layers in a row and the two widths between and beyond them."""
    dice = torch.Generator().manual_seed(seed)

    def member(layer: str, side: Any) -> Member:
        return Member(layer, side, 64, tuple(range(64)), tuple(range(64)), (), lambda _: None)

    chain = [("a", "b"), ("b", "c"), ("c", "d")]
    units = [
        Unit(f"{first}{then}", 64, (64, 48, 32, 16), (member(first, "out"), member(then, "in")))
        for first, then in chain
    ]

    class Price:
        fixed = 1.0
        layers = dict.fromkeys("abcd", (64, 64))

        def of(self, layer: str, inputs: float, outputs: float) -> float:
            return {"a": 1.0, "b": 4.0, "c": 2.0, "d": 1.0}[layer] * inputs * outputs / 4096

    curves = {
        unit.name: {
            level: float(value)
            for level, value in zip(unit.levels, torch.rand(4, generator=dice).cumsum(0) - 1e-9, strict=True)
        }
        for unit in units
    }
    for curve in curves.values():
        curve[64] = 0.0
    return units, Price(), curves


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_search_against_every_possible_choice(seed: int, share: float) -> None:
    """Evolution finds the best of all 64 choices; the knapsack is within budget and near it."""
    units, price, damage = toy(seed)
    budget = share * 9.0

    def cost(widths: dict[str, int]) -> float:
        forecast = Forecast(units, price)
        for name, width in widths.items():
            forecast.set(name, width)
        return forecast.total

    choices = [
        dict(zip([unit.name for unit in units], levels, strict=True))
        for levels in itertools.product(*(unit.levels for unit in units))
    ]
    fitting = [widths for widths in choices if cost(widths) <= budget]
    best = min(sum(damage[name][width] for name, width in widths.items()) for widths in fitting)
    greedy = knapsack(units, damage, price, budget)
    assert greedy.cost <= budget and greedy.cost == pytest.approx(cost(greedy.widths))
    evolved = evolve(units, damage, price, budget, greedy)
    assert evolved.cost <= budget and evolved.damage <= greedy.damage
    assert evolved.damage == pytest.approx(best)


def test_uniform_takes_the_same_share_of_all() -> None:
    units, price, _ = toy(0)
    ranking = {unit.name: torch.arange(64.0) for unit in units}
    half = uniform(units, ranking, price, 1 + 8 * 0.3)
    assert half.cost <= 1 + 8 * 0.3
    assert max(half.widths.values()) - min(half.widths.values()) <= 16, "nobody is two steps ahead"
    assert uniform(units, ranking, price, 100.0).widths == {unit.name: 64 for unit in units}
    assert deepest(units, price) == pytest.approx(1 + (1 + 1) / 4 + (4 + 2) / 16)


def test_who_hurts_little_shrinks_most() -> None:
    """One MLP's outputs are multiplied by next to nothing: measured allocation takes it first."""
    module = vit()
    with torch.no_grad():
        module.blocks[1].mlp.fc2.weight.mul_(1e-4)
    goal = dataclasses.replace(MEASURED, macs=0.8, embedding=False, depth=False)
    pruned = prune_module(module, images(), goal, Material(question=question()))
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
    pruned = prune_module(module, images(), goal, Material(question=question()))
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
    module, clock = vit(), FakeClock()
    goal = PruningGoal(**wanted, allocation="global")
    pruned = prune_module(module, images(), goal, Material(clock=clock))
    if "size_mb" in wanted:
        assert pruned.measured == clock.size(pruned.module) <= 0.5e6 * 1.01
        assert pruned.before == clock.size(module)
    else:
        budget = wanted.get("latency_ms") or clock.measure(module) / 1.5
        assert pruned.measured == clock.measure(pruned.module) <= budget * 1.01
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
        prune_module(vit(), images(), PruningGoal(**wanted), Material(clock=FakeClock()))


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
    units, _ = find_units(module, images(), [], [], lambda _: 16)
    sound, left = tried_alone(module, images(), units)
    assert [unit.name for unit in sound] == [unit.name for unit in units] and not left

    unit = next(unit for unit in units if unit.name == "0")
    crossed = tuple(
        dataclasses.replace(member, roots=member.roots[::-1]) if member.side == "out" else member
        for member in unit.members
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    sound, left = tried_alone(module, images(), [dataclasses.replace(unit, members=crossed)])
    assert not sound and left[0].reason == "the network answers otherwise without them"

    short = tuple(
        dataclasses.replace(member, remove=lambda _: None) if member.side == "in" else member for member in unit.members
    )
    sound, left = tried_alone(module, images(), [dataclasses.replace(unit, members=short)])
    assert not sound and left[0].reason == "the network does not run without them"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
