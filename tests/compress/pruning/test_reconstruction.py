"""What is left of a layer comes as near to its former outputs as it can."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("torch_pruning")

from medfm_compress.compress.pruning.apply import remove_channels  # noqa: E402
from medfm_compress.compress.pruning.goal import PruningGoal  # noqa: E402
from medfm_compress.compress.pruning.importance import Evidence, importance_scores  # noqa: E402
from medfm_compress.compress.pruning.prune import prune_module  # noqa: E402
from medfm_compress.compress.pruning.reconstruction import Reconstruction, _Moments, recalibrate  # noqa: E402
from medfm_compress.compress.pruning.width_search import PruningData, all_channel_groups  # noqa: E402


class Chain(torch.nn.Module):
    """Two layers with 32 channels between them; a normalisation after the second."""

    def __init__(self, kind: str, *, bias: bool) -> None:
        super().__init__()
        conv = kind == "conv"
        self.first: Any = torch.nn.Conv2d(3, 32, 3) if conv else torch.nn.Linear(3, 32)
        self.second: Any = (
            torch.nn.Conv2d(32, 8, 3, padding=1, stride=2, bias=bias) if conv else torch.nn.Linear(32, 8, bias=bias)
        )
        self.norm = torch.nn.BatchNorm2d(8) if conv else torch.nn.Identity()
        self.head, self.conv = torch.nn.Linear(8, 2), conv

    def forward(self, x: Any) -> Any:
        if not self.conv:
            x = x.flatten(2).transpose(1, 2)
        x = self.norm(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3) if self.conv else 1))


def cases(count: int = 32, seed: int = 1) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(16, 3, 12, 12, generator=generator) - 0.4, torch.zeros(16, 1)) for _ in range(count // 16)]


def halved(module: Any, fit: bool) -> Any:
    groups, _ = all_channel_groups(module, cases()[0][0][:1], PruningGoal(macs=0.5))
    group = next(group for group in groups if group.width == 32)
    repair = Reconstruction(module, [group], cases()) if fit else None
    cut = remove_channels(
        module, [group], {group.name: 16}, {group.name: importance_scores(group, Evidence("magnitude"))}
    )
    if repair is not None:
        repair.repair(module, cut)
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_outputs_come_nearer_on_other_cases(kind: str, bias: bool) -> None:
    errors = []
    for fit in (False, True):
        torch.manual_seed(0)
        module = Chain(kind, bias=bias).eval().requires_grad_(True)
        images = cases(seed=2)[0][0]
        with torch.no_grad():
            whole = module(images)
            errors.append((halved(module, fit)(images) - whole).norm().item())
    assert module.second.weight.shape[:2] == (8, 16)
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_channel_that_others_can_stand_in_for_costs_little(kind: str) -> None:
    torch.manual_seed(0)
    module = Chain(kind, bias=True).eval().requires_grad_(True)
    with torch.no_grad():  # 16 channels, each twice, one of them a little smaller so that it goes first
        for parameter in (module.first.weight, module.first.bias):
            parameter[16:] = 0.9 * parameter[:16]
        module.second.weight[:, 16:] *= 0.5
        whole, plain = module(cases()[0][0]), Chain(kind, bias=True).eval().requires_grad_(True)
        plain.load_state_dict(module.state_dict())
        repaired = (halved(module, True)(cases()[0][0]) - whole).norm() / (whole - whole.mean(0)).norm()
        untouched = (halved(plain, False)(cases()[0][0]) - whole).norm() / (whole - whole.mean(0)).norm()
    assert repaired < 0.3 * untouched


def test_against_least_squares() -> None:
    """But for its damping it is the least-squares fit of the former outputs on the inputs left."""
    torch.manual_seed(0)
    module = Chain("linear", bias=False).eval().requires_grad_(True)
    batches = [(torch.randn(16, 3, 4, 4), torch.zeros(16, 1)) for _ in range(4)]
    inputs: list[Any] = []
    hook = module.second.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for images, _ in batches:
            module(images)
    hook.remove()
    x, weight = torch.cat(inputs).detach(), module.second.weight.detach().clone()
    groups, _ = all_channel_groups(module, batches[0][0][:1], PruningGoal(macs=0.5))
    group = next(group for group in groups if group.width == 32)
    repair = Reconstruction(module, [group], batches)
    ranking = {group.name: importance_scores(group, Evidence("magnitude"))}
    cut = remove_channels(module, [group], {group.name: 16}, ranking)
    repair.repair(module, cut)
    kept = sorted(torch.argsort(ranking[group.name], stable=True)[16:].tolist())
    expected = torch.linalg.lstsq(x[:, kept], x @ weight.T).solution.T

    def miss(fitted: Any) -> float:
        return float((x[:, kept] @ fitted.T - x @ weight.T).norm())

    assert miss(module.second.weight.detach()) <= 1.1 * miss(expected)
    assert miss(weight[:, kept]) > 1.2 * miss(expected)


def test_both_ways_to_the_coefficients_agree() -> None:
    """By the inverse of what is gone, and by what is kept: the regression of one on the other."""
    torch.manual_seed(0)
    rows = torch.randn(400, 24) @ torch.randn(24, 24)
    second, mean = rows.T @ rows / len(rows), rows.mean(0)
    moments = _Moments(torch.zeros(4, 24, 1), second, mean, centred=True)
    for lost_count in (4, 12, 20):
        lost, kept = torch.arange(lost_count), torch.arange(lost_count, 24)
        damped = moments.damped.double()
        expected = torch.linalg.solve(damped[kept][:, kept], damped[kept][:, lost])
        replacement = moments.stand_in(kept, lost)
        assert replacement is not None
        torch.testing.assert_close(replacement.double(), expected, rtol=1e-3, atol=1e-4)
    broken = _Moments(torch.zeros(4, 2, 1), torch.full((2, 2), float("nan")), torch.zeros(2), centred=False)
    assert broken.stand_in(torch.tensor([0]), torch.tensor([1])) is None


def test_statistics_are_measured_anew_and_nothing_else_changes() -> None:
    module = timm.create_model("test_resnet", num_classes=2).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches = [(torch.rand(8, 3, 32, 32) * 3, torch.zeros(8, 1)) for _ in range(2)]
    recalibrate(module, batches)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("running_" in name or "num_batches" in name for name in changed)
    assert not any(part.training for part in module.modules())
    norm = next(part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert norm.momentum == 0.1


def test_repair_makes_pruning_gentler() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, depth=2, embed_dim=96, num_heads=3)
    module.eval().requires_grad_(True)
    train = [(torch.rand(16, 3, 32, 32), torch.tensor([[0], [1]] * 8)) for _ in range(4)]
    probe = torch.rand(16, 3, 32, 32)
    errors = {}
    for repair in (False, True):
        goal = PruningGoal(macs=0.7, repair=repair)
        pruned = prune_module(module, probe[:1], goal, PruningData(train=train))
        with torch.no_grad():
            errors[repair] = float((pruned.module(probe) - module(probe)).norm())
    assert errors[True] < errors[False]
