"""Views: the same seed gives the same pixels, nothing leaves [0, 1], a radiograph is never mirrored."""

from __future__ import annotations

import pytest
import torch

from medfm_compress.compress.training.augment import Augmentation, apply_view, augmentation_for, draw_view
from medfm_compress.runtime.errors import InputError


def test_the_same_seed_gives_the_same_view() -> None:
    images, index = torch.rand(4, 1, 16, 16), torch.arange(4)
    ranges = augmentation_for("radiograph")
    first, second, other = (apply_view(images, draw_view(ranges, 4, seed), index) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(3, 1, 16, 16)
    same = apply_view(images, draw_view(augmentation_for("none"), 3, 0), torch.arange(3))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_a_view_is_the_same_at_another_resolution() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    large = torch.exp(-8 * ((x - 0.3) ** 2 + y**2)).reshape(1, 1, 128, 128)
    small = torch.nn.functional.interpolate(large, size=64, mode="area")
    view = draw_view(Augmentation(rotation_deg=20, scale=0.1, shift=0.1), 1, 3)
    moved = apply_view(large, view, torch.tensor([0]))
    reduced = torch.nn.functional.interpolate(moved, size=64, mode="area")
    torch.testing.assert_close(apply_view(small, view, torch.tensor([0])), reduced, atol=0.02, rtol=0)


@pytest.mark.parametrize(("modality", "mirrors"), [("radiograph", False), ("dermoscopy", True)])
def test_only_some_modalities_may_be_mirrored(modality: str, mirrors: bool) -> None:
    view = draw_view(augmentation_for(modality), 64, 0)
    determinant = torch.linalg.det(view.affine[:, :, :2])
    assert bool((determinant < 0).any()) is mirrors


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(InputError, match="radiograph, dermoscopy"):
        augmentation_for("photograph")
