"""Importance against brute force: explicit per-case gradients, true changes of the loss, explicit contributions."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Member  # noqa: E402
from medfm_compress.compress.pruning.importance import (  # noqa: E402
    IMPORTANCES,
    MIN_CASES,
    NEEDS_CASES,
    Evidence,
    gather,
    importance_scores,
    input_moments,
)
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402

WIDTH, DEAD = 8, (1, 6)
with_cases = pytest.mark.parametrize("importance", sorted(NEEDS_CASES))
every = pytest.mark.parametrize("importance", IMPORTANCES)


class Tiny(nn.Module):
    """conv → batch norm → layer scale → depthwise → conv → linear; the first conv's channels are the unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.scale = nn.Parameter(torch.rand(1, WIDTH, 1, 1) + 0.5)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False)
        self.second = nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.side = nn.Linear(WIDTH, 4, bias=False)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images: Any) -> Any:
        hidden = self.depthwise(functional.gelu(self.norm(self.first(images)) * self.scale))
        both = self.second(hidden).mean((2, 3)) + self.side(hidden.movedim(1, -1)).mean((1, 2))
        return self.classifier(functional.gelu(both))


def tiny(dead: tuple[int, ...] = ()) -> Tiny:
    torch.manual_seed(0)
    network = Tiny()
    with torch.no_grad():
        network.norm.running_mean.normal_(std=0.1)
        network.norm.running_var.uniform_(0.5, 1.5)
        for channel in dead:
            network.second.weight[:, channel] = 0
            network.side.weight[:, channel] = 0
            for parameter in (network.first.weight, network.first.bias, network.norm.weight, network.norm.bias):
                parameter[channel] = 0
            network.scale[:, channel] = 0
            network.depthwise.weight[channel] = 0
    return network.eval()


def member(layer: str, side: Any, weights: Any, size: int = WIDTH) -> Member:
    return Member(layer, side, size, tuple(range(size)), tuple(range(size)), weights, lambda positions: None)


def group_of(network: Tiny, *names: str) -> ChannelGroup:
    members = {
        "first": member("first", "out", ((network.first.weight, 0), (network.first.bias, 0))),
        "norm": member("norm", "out", ((network.norm.weight, 0), (network.norm.bias, 0))),
        "scale": member("scale", "out", ((network.scale, 1),)),
        "depthwise": member("depthwise", "out", ((network.depthwise.weight, 0),)),
        "second": member("second", "in", ((network.second.weight, 1),)),
        "side": member("side", "in", ((network.side.weight, 1),)),
    }
    return ChannelGroup("first", WIDTH, (WIDTH, 4), tuple(members[name] for name in names or members))


def cases(count: int = 32, size: int = 5) -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 6, 6, generator=generator)
    targets = torch.arange(count) % 2
    return list(zip(images.split(size), targets.split(size), strict=True))  # the last batch is smaller


def loss_of(network: Any, batches: Any) -> Any:
    images, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    return functional.cross_entropy(network(images), targets)


def ranked(network: Tiny, importance: Any, *names: str) -> Any:
    group = group_of(network, *names)
    return importance_scores(group, gather(network, [group], importance, cases(), functional.cross_entropy))


@every
def test_channels_without_effect_score_nothing_and_the_others_something(importance: Any) -> None:
    scores = ranked(tiny(DEAD), importance)
    alive = [channel for channel in range(WIDTH) if channel not in DEAD]
    assert scores.dtype == torch.float64 and scores.shape == (WIDTH,)
    assert scores[list(DEAD)].tolist() == [0, 0]
    assert bool((scores[alive] > 0).all())


def test_a_channel_that_nobody_reads_is_worthless_by_data_but_not_by_magnitude() -> None:
    network = tiny()
    with torch.no_grad():
        network.second.weight[:, 2] = 0
        network.side.weight[:, 2] = 0
    for importance in sorted(NEEDS_CASES):
        assert ranked(network, importance)[2] == 0
    assert ranked(network, "magnitude")[2] > 0


def test_magnitude_is_the_sum_of_squares_and_needs_no_cases() -> None:
    network = tiny()
    group = group_of(network)
    scores = importance_scores(group, gather(network, [group], "magnitude", [], None))
    expected = sum(
        (weight.detach().double() ** 2).movedim(dim, 0).flatten(1).sum(1) if weight.ndim > 1 else weight.detach() ** 2
        for part in group.members
        for weight, dim in part.weights
    )
    torch.testing.assert_close(scores, expected.double())
    assert torch.equal(scores, importance_scores(group, Evidence("magnitude")))


def test_taylor_is_the_first_order_change_of_the_mean_loss() -> None:
    """Shrinking a channel's columns by a small fraction changes the loss by that fraction of its score."""
    network, step = tiny().double(), 1e-4
    batches = [(images.double(), targets) for images, targets in cases()]
    group = group_of(network, "second")
    scores = importance_scores(group, gather(network, [group], "taylor", batches, functional.cross_entropy))
    for channel in range(WIDTH):
        other = tiny().double()
        with torch.no_grad():
            other.second.weight[:, channel] *= 1 - step
            change = float(loss_of(other, batches) - loss_of(network, batches))
        assert abs(change) / step == pytest.approx(float(scores[channel]), rel=1e-2)


def test_taylor_predicts_what_removing_a_channel_of_small_weights_does() -> None:
    network = tiny().double()
    batches = [(images.double(), targets) for images, targets in cases()]
    with torch.no_grad():
        network.second.weight *= 1e-3
    group = group_of(network, "second")
    scores = importance_scores(group, gather(network, [group], "taylor", batches, functional.cross_entropy))
    whole = network.second.weight.detach().clone()
    for channel in range(WIDTH):
        with torch.no_grad():
            before = loss_of(network, batches)
            network.second.weight[:, channel] = 0
            change = float(loss_of(network, batches) - before)
            network.second.weight.copy_(whole)
        assert abs(change) == pytest.approx(float(scores[channel]), rel=0.05)


def test_hessian_is_half_the_explicit_fisher_diagonal_times_squared_weights() -> None:
    network = tiny()
    group = group_of(network)
    weights = [(weight, dim) for part in group.members for weight, dim in part.weights]
    expected = torch.zeros(WIDTH, dtype=torch.float64)
    images, targets = (torch.cat(part) for part in zip(*cases(), strict=True))
    for image, target in zip(images, targets, strict=True):
        value = functional.cross_entropy(network(image[None]), target[None])
        slopes = torch.autograd.grad(value, [weight for weight, _ in weights])
        for (weight, dim), slope in zip(weights, slopes, strict=True):
            effect = (slope * weight).detach().double() ** 2 / 2 / len(images)
            expected += torch.stack([part.sum() for part in effect.unbind(dim)])
    torch.testing.assert_close(ranked(network, "hessian"), expected, rtol=1e-4, atol=1e-12)


def test_hessian_does_not_depend_on_how_cases_are_batched() -> None:
    network = tiny()
    group = group_of(network)
    first, other = (
        importance_scores(group, gather(network, [group], "hessian", cases(size=size), functional.cross_entropy))
        for size in (1, 32)
    )
    torch.testing.assert_close(first, other)


def test_taylor_weighs_every_case_alike_however_they_are_batched() -> None:
    network = tiny()
    group = group_of(network)
    first, other = (
        importance_scores(group, gather(network, [group], "taylor", cases(size=size), functional.cross_entropy))
        for size in (5, 32)
    )
    torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-9)


def test_activation_is_the_mean_square_of_contributions_of_a_pointwise_consumer() -> None:
    """For a linear layer it is exactly the mean squared length of what the channel adds to the output."""
    network = tiny()
    images = torch.cat([images for images, _ in cases()])
    with torch.no_grad():
        hidden = network.depthwise(functional.gelu(network.norm(network.first(images)) * network.scale))
    read = hidden.movedim(1, -1).reshape(-1, WIDTH).double()
    column = network.side.weight.detach().double()
    added = torch.stack([(read[:, k, None] * column[:, k]).square().sum(1).mean() for k in range(WIDTH)])
    torch.testing.assert_close(ranked(network, "activation", "side"), added)
    moments = read.square().mean(0)
    kernel = network.second.weight.detach().double().square().sum((0, 2, 3))
    torch.testing.assert_close(ranked(network, "activation"), added + moments * kernel)


@every
def test_members_are_summed_and_parameters_without_a_layer_count(importance: Any) -> None:
    """Taylor takes the magnitude of every member by itself, so all four add up."""
    network = tiny()
    names = ("first", "norm", "scale", "depthwise", "second", "side")
    apart = sum(ranked(network, importance, name) for name in names)
    torch.testing.assert_close(ranked(network, importance), apart)
    assert bool((ranked(network, importance, "scale") > 0).all()) == (importance != "activation")


@every
def test_positions_reach_the_channel_they_belong_to(importance: Any) -> None:
    """A concatenation or a flattening: only some positions of a layer, several of them for one channel."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    weights = ((network[1].weight, 1),)
    whole = ChannelGroup("0", 36, (36, 18), (member("1", "in", weights, 36),))
    indices, roots = (4, 9, 5, 20), (0, 0, 1, 2)
    part = ChannelGroup("0", 3, (3, 1), (Member("1", "in", 36, indices, roots, weights, lambda positions: None),))
    evidence = gather(network, [part], importance, cases(), functional.cross_entropy)
    all_of_them, scores = importance_scores(whole, evidence), importance_scores(part, evidence)
    torch.testing.assert_close(scores, torch.stack([all_of_them[4] + all_of_them[9], all_of_them[5], all_of_them[20]]))


@with_cases
def test_nothing_of_the_network_changes(importance: Any) -> None:
    network = tiny()
    network.train()
    network.norm.eval()
    network.side.weight.grad = torch.ones_like(network.side.weight)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gather(network, [group_of(network)], importance, cases(), functional.cross_entropy)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert network.training and network.first.training and not network.norm.training
    assert torch.equal(network.side.weight.grad, torch.ones_like(network.side.weight))
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if name != "side.weight")
    assert not any(part._forward_pre_hooks for part in network.modules())


@with_cases
def test_batches_may_be_an_iterator(importance: Any) -> None:
    network = tiny()
    group = group_of(network)
    scores = importance_scores(group, gather(network, [group], importance, iter(cases()), functional.cross_entropy))
    torch.testing.assert_close(scores, ranked(network, importance))


@with_cases
@pytest.mark.parametrize("count", [0, MIN_CASES - 1])
def test_too_few_cases_are_refused(importance: Any, count: int) -> None:
    network = tiny()
    batches = cases(count) if count else []
    with pytest.raises(InputError, match=rf"at least {MIN_CASES} training cases, and there are {count};.*'magnitude'"):
        gather(network, [group_of(network)], importance, batches, functional.cross_entropy)
    enough = cases(MIN_CASES)
    assert gather(network, [group_of(network)], importance, enough, functional.cross_entropy).importance == importance


@with_cases
def test_cases_of_one_class_are_refused(importance: Any) -> None:
    network = tiny()
    batches = [(images, torch.ones_like(targets)) for images, targets in cases()]
    with pytest.raises(InputError, match=r"two classes, and all 32 have the same labels.*'magnitude'"):
        gather(network, [group_of(network)], importance, batches, functional.cross_entropy)


def test_findings_that_vary_in_one_label_are_enough() -> None:
    network = tiny()
    batches = [(images, torch.stack([torch.ones_like(t), t], 1)) for images, t in cases()]

    def loss(logits: Any, targets: Any) -> Any:
        return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))

    assert importance_scores(group_of(network), gather(network, [group_of(network)], "taylor", batches, loss)).sum() > 0
    with pytest.raises(InputError, match="same labels"):
        gather(network, [group_of(network)], "taylor", [(i, torch.ones_like(t)) for i, t in batches], loss)


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_a_loss_is_needed_for_gradients(importance: Any) -> None:
    network = tiny()
    with pytest.raises(InputError, match="needs a loss"):
        gather(network, [group_of(network)], importance, cases(), None)
    assert gather(network, [group_of(network)], "activation", cases(), None).moments


@with_cases
def test_what_is_not_finite_is_refused(importance: Any) -> None:
    network = tiny()
    with torch.no_grad():
        network.first.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        gather(network, [group_of(network)], importance, cases(), functional.cross_entropy)


def test_moments_are_of_inputs_whatever_the_rank() -> None:
    network = tiny()
    scores = input_moments(network, ["first", "classifier"], cases())
    images = torch.cat([images for images, _ in cases()])
    torch.testing.assert_close(scores["first"], images.double().square().mean().reshape(1))
    assert scores["classifier"].shape == (4,) and scores["classifier"].dtype == torch.float64


@every
def test_real_units_of_a_transformer_and_its_heads(importance: Any) -> None:
    timm = pytest.importorskip("timm")
    pytest.importorskip("torch_pruning")
    from medfm_compress.compress.networks.attention_layers import find_attentions
    from medfm_compress.compress.pruning.channel_groups import head_groups

    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=32, in_chans=1, num_classes=2).eval()
    width = network.blocks[0].attn.head_dim
    with torch.no_grad():
        network.blocks[0].attn.proj.weight[:, :width] = 0
        for part in network.blocks[0].attn.qkv.weight.view(3, -1, width, network.embed_dim):
            part[0] = 0
        for part in network.blocks[0].attn.qkv.bias.view(3, -1, width):
            part[0] = 0
    attentions, _ = find_attentions(network)
    groups, _ = head_groups(network, attentions, lambda width: 16)
    assert groups
    batches = [(torch.rand(16, 1, 32, 32), torch.arange(16) % 2)]
    scores = importance_scores(groups[0], gather(network, groups, importance, batches, functional.cross_entropy))
    assert scores[0] == 0 and bool((scores[1:] > 0).all())
