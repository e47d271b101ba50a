"""Masks and learners of pre-training: what is hidden stays hidden, what fits is built, what does not is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.pretrain.masking import FIXED, Masks, enlarge
from medfm_compress.compress.pretrain.method import make_masked_task
from medfm_compress.compress.training.job import Batch
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("absent", "present"))


def masked_task_of(name, size=64, **masking):
    torch.manual_seed(0)
    model = build_model(name, TASK, size_px=size, colour="grey")
    return make_masked_task(model.module, model.spec, name, Masking(**masking), seed=3)


def batch_of(masked_task, images, epoch=0):
    cases = torch.arange(len(images))
    return Batch(images, cases, epoch, {"mask": masked_task.masks.draw(cases, epoch)})


def test_a_mask_is_a_function_of_seed_epoch_and_case():
    masks = Masks((7, 7), 0.6, seed=1)
    together = masks.draw(torch.tensor([4, 9, 2]), epoch=3)
    alone = masks.draw(torch.tensor([9]), epoch=3)
    assert torch.equal(together[1], alone[0])
    others = [
        masks.draw(torch.tensor([9]), epoch=4),
        masks.draw(torch.tensor([10]), epoch=3),
        Masks((7, 7), 0.6, seed=2).draw(torch.tensor([9]), epoch=3),
        masks.draw(torch.tensor([9]), FIXED),
    ]
    assert not any(torch.equal(alone, other) for other in others)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.6, 29), (0.75, 37), (0.001, 1), (0.999, 48)])
def test_every_case_hides_the_same_number_of_cells(ratio, hidden):
    drawn = Masks((7, 7), ratio, seed=0).draw(torch.arange(200), epoch=0)
    assert drawn.flatten(1).sum(1).unique().tolist() == [hidden]


def test_every_cell_is_hidden_equally_often():
    often = Masks((4, 4), 0.5, seed=0).draw(torch.arange(4000), epoch=0).float().mean(0)
    assert often.sub(0.5).abs().max() < 0.04  # five standard deviations


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(InputError, match="above 0 and below 1"):
        Masking(ratio=ratio)


def test_a_mask_is_enlarged_to_pixels():
    mask = torch.tensor([[[True, False], [False, False]]])
    large = enlarge(mask, 4, 6)
    assert large.shape == (1, 1, 4, 6)
    assert large.sum() == 6
    assert large[0, 0, :2, :3].all()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("test_vit", "mae"),
        ("test_vit2", "mae"),  # register tokens
        ("deit_tiny_distilled_patch16_224", "mae"),  # two classifiers
        ("test_vit", "simmim"),
        ("test_resnet", "simmim"),
        ("test_convnext", "simmim"),
        ("swin_tiny_patch4_window7_224", "simmim"),  # channels last
    ],
)
def test_hidden_pixels_never_reach_the_network(name, method):
    size = 64
    masked_task = masked_task_of(name, size, method=method)
    learner = masked_task.learner.eval()
    torch.manual_seed(1)
    images = torch.randn(2, 1, size, size)
    batch = batch_of(masked_task, images)
    hidden = enlarge(batch.extras["mask"], size, size)
    known = []
    reader = learner.embed if method == "mae" else learner.decoder
    reader.register_forward_pre_hook(lambda module, supplied: known.append(supplied[0].clone()))
    with torch.no_grad():
        losses = [
            learner(batch._replace(images=torch.where(where, torch.randn_like(images), images)))
            for where in (torch.zeros_like(hidden), hidden, ~hidden)
        ]
    torch.testing.assert_close(known[0], known[1])
    assert not torch.allclose(known[0], known[2])
    assert losses[0] != losses[1]
    if method == "mae":
        assert known[0].shape[1] == 4 + learner.network.num_prefix_tokens  # of 16 patches


def test_mae_can_hide_squares_of_several_patches():
    masked_task = masked_task_of("test_vit", 128, method="mae", patch_px=32)
    assert (masked_task.masks.grid, masked_task.masks.hidden) == ((4, 4), 12)
    known = []
    masked_task.learner.embed.register_forward_pre_hook(lambda module, supplied: known.append(supplied[0].shape[1]))
    batch = batch_of(masked_task, torch.randn(2, 1, 128, 128))
    assert torch.isfinite(masked_task.learner(batch))
    assert known == [16 + masked_task.learner.network.num_prefix_tokens]  # of 64 patches


@pytest.mark.parametrize(("name", "method"), [("test_vit", "mae"), ("test_vit", "simmim"), ("test_resnet", "simmim")])
def test_the_loss_asks_for_hidden_pixels_alone(name, method):
    masked_task = masked_task_of(name, method=method)
    learner = masked_task.learner.eval()
    torch.manual_seed(1)
    batch = batch_of(masked_task, torch.randn(2, 1, 64, 64))
    batch.images.requires_grad_(True)
    # The decoder alone is left: with its answer held still, only the target can move the loss.
    decoder = learner.predict if method == "mae" else learner.decoder
    nn.init.zeros_(decoder.weight), nn.init.zeros_(decoder.bias)
    loss = learner(batch)
    (gradient,) = torch.autograd.grad(loss, batch.images)
    hidden = enlarge(batch.extras["mask"], 64, 64)
    assert (gradient * ~hidden).abs().max() == 0
    assert (gradient * hidden).abs().max() > 0
    if method == "simmim":
        expected = batch.images.detach().abs()[hidden].mean()
        torch.testing.assert_close(loss.detach(), expected)
    else:  # standardised patches have a mean square of (d - 1) / d
        assert float(loss.detach()) == pytest.approx(255 / 256, abs=1e-3)


@pytest.mark.parametrize(("name", "method"), [("test_vit", "mae"), ("test_vit", "simmim"), ("test_convnext", "simmim")])
def test_the_learner_overfits_a_batch(name, method):
    masked_task = masked_task_of(name, method=method)
    ramp = torch.linspace(-1, 1, 64)
    images = torch.stack([ramp.expand(64, 64), ramp.flip(0).expand(64, 64), ramp.unsqueeze(1).expand(64, 64)])
    batch = batch_of(masked_task, images.unsqueeze(1).contiguous())
    optimizer = torch.optim.AdamW(masked_task.learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = masked_task.learner(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.65 * losses[0]


def test_auto_takes_mae_for_a_plain_vit_and_simmim_for_the_rest():
    assert masked_task_of("test_vit").settled == Masking(method="mae", ratio=0.75, patch_px=16)
    assert masked_task_of("test_resnet").settled == Masking(method="simmim", ratio=0.6, patch_px=8)


@pytest.mark.parametrize(
    ("name", "size", "patch"),
    [("test_resnet", 224, 32), ("test_resnet", 96, 16), ("test_vit", 224, 32), ("test_vit", 96, 16)],
)
def test_the_patch_leaves_six_along_a_side(name, size, patch):
    assert masked_task_of(name, size, method="simmim").settled.patch_px == patch


@pytest.mark.parametrize(
    ("name", "size", "masking", "message"),
    [
        ("test_resnet", 64, {"method": "mae"}, "mae does not apply to test_resnet: it is no plain ViT"),
        ("vit_tiny_r_s16_p8_224", 224, {"method": "mae"}, "its patches are cut from a convolution's output"),
        ("test_resnet", 50, {}, r"50×50 px are no multiple of 32 px, the stride of test_resnet; .* e.g. 64"),
        ("pit_ti_224", 224, {}, "pit_ti_224 gives no feature map"),
        ("crossvit_9_240", 240, {}, "crossvit_9_240 gives no feature map"),
        (
            "test_vit",
            64,
            {"patch_px": 24, "method": "simmim"},
            "mask patch is 24 px; .* take one of 1, 2, 4, 8, 16, 32",
        ),
        ("test_vit", 64, {"patch_px": 8, "method": "mae"}, "mask patch is 8 px; .* take one of 16, 32"),
        ("test_vit", 64, {"patch_px": 64}, "too few in an image of 64×64 px"),
        ("test_resnet", 32, {"patch_px": 32}, "too few in an image of 32×32 px"),
    ],
)
def test_what_does_not_fit_is_refused(name, size, masking, message):
    with pytest.raises((InputError, ModelError), match=message):
        masked_task_of(name, size, **masking)


def test_a_network_of_unknown_make_is_refused_for_its_lack_of_a_map():
    spec = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
    with pytest.raises(ModelError, match="plain gives no feature map"):
        make_masked_task(nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)), spec, "plain", Masking(), seed=0)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="must be one of auto, mae, simmim"):
        Masking(method="dino")
    with pytest.raises(InputError, match="mask patch is -1"):
        Masking(patch_px=-1)
