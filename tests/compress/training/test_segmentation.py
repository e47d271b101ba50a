"""Training of a segmentation: it learns, masks move with their images, and it resumes to the same bits."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("segmentation_models_pytorch")

import torch
from drawn_discs import DISC, open_discs

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.training.augment import (
    Augmentation,
    CycledViews,
    augmentation_for,
    draw_view,
    view_seed,
)
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.compress.training.kinds import training_rules
from medfm_compress.compress.training.segmentation import mean_dice
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import Task

FAST = TrainingConfig(
    epochs=3, batch_size=8, learning_rate=3e-3, ema=0.8, patience=0, precision="fp32", modality="dermoscopy"
)
NAME = "smp:unet/tu-mobilenetv3_small_050"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return open_discs(tmp_path_factory.mktemp("discs"), bare=2)


def start(study: Study, name: str = NAME) -> Model:
    torch.manual_seed(0)
    return build_model(name, task_of(study), size_px=32, colour="rgb")


def silent(_: str) -> None:
    pass


def test_a_separable_structure_is_learned(drawn: Study, tmp_path: Path) -> None:
    lines: list[str] = []
    trained = finetune(drawn, start(drawn), msgspec.structs.replace(FAST, epochs=12), tmp_path / "t", lines.append)
    scores = [float(line.split("val Dice ")[1][:6]) for line in lines if line.startswith("epoch")]
    assert max(scores) > 0.9
    assert f"validation Dice {max(scores):.4f}" in trained.provenance.steps[-1]
    assert trained.task == Task(kind="segmentation", labels=(DISC,))


def test_an_interrupted_training_ends_with_the_same_bits(drawn: Study, tmp_path: Path) -> None:
    whole = finetune(drawn, start(drawn), FAST, tmp_path / "whole", silent)

    def stop_after_one(line: str) -> None:
        if line.startswith("epoch   1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(drawn, start(drawn), FAST, tmp_path / "cut", stop_after_one)
    assert finetune(drawn, start(drawn), FAST, tmp_path / "cut", silent).weights_sha256() == whole.weights_sha256()


@pytest.mark.parametrize(
    "augmentation", [Augmentation(flip_horizontal=True, flip_vertical=True), augmentation_for("dermoscopy")]
)
def test_an_image_that_is_its_own_mask_stays_so(augmentation: Augmentation) -> None:
    y, x = np.mgrid[:64, :64]
    mask = torch.from_numpy(((y - 28) ** 2 + 2 * (x - 36) ** 2 < 150).astype(np.uint8)).expand(16, 64, 64)
    plain = msgspec.structs.replace(augmentation, contrast=0.0, brightness=0.0, gamma=0.0, noise=0.0)
    views = CycledViews(plain, 16, lambda epoch: view_seed(0, epoch))
    index = torch.arange(16)
    for epoch in range(3):
        images = views.apply(mask[:, None].float(), epoch, index)[:, 0]
        moved = views.move(mask, epoch, index)
        assert moved.dtype == torch.uint8
        differing = ((images >= 0.5) != (moved == 1)).flatten(1).sum(1)
        border = 16 if augmentation.rotation_deg else 0  # of the pixels on it, where interpolation rounds
        assert int(differing.max()) <= border
        assert not torch.equal(moved, mask)


def test_what_moves_in_from_outside_is_background() -> None:
    view = draw_view(Augmentation(shift=0.45), 64, 1)
    from medfm_compress.compress.training.augment import move_maps

    moved = move_maps(torch.full((64, 8, 8), 3, dtype=torch.uint8), view, torch.arange(64))
    assert set(moved.unique().tolist()) == {0, 3}


def test_targets_are_looked_up_by_case_and_255_where_nobody_judged(drawn: Study, tmp_path: Path) -> None:
    cases = (*drawn.split("unlabelled")[:1], *drawn.split("train")[:2])
    labelled = torch.tensor([False, True, True])
    task, spec = task_of(drawn), start(drawn).spec
    look_up = training_rules(task).targets([(drawn, cases)], labelled, task, spec, tmp_path, silent)
    maps = look_up(torch.tensor([2, 0, 1]))
    assert maps.dtype == torch.uint8
    assert set(maps[0].unique().tolist()) == {0, 1}
    assert set(maps[1].unique().tolist()) == {255}
    assert not torch.equal(maps[0], maps[2])


def test_an_absent_structure_that_is_not_drawn_counts_as_right() -> None:
    logits = torch.full((3, 1, 4, 4), -1.0)
    logits[1, 0, :2] = 1
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[1, :2, :2] = 1
    truth[2, 0, 0] = 1
    assert mean_dice(iter([logits[:2], logits[2:]]), truth) == pytest.approx((1 + 2 * 4 / (8 + 4) + 0) / 3)
    assert mean_dice(iter([logits * torch.nan]), truth) == 0.0


def test_labels_of_images_are_refused_for_a_network_of_pixels(drawn: Study, discs: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="segmentation"):
        finetune(discs, start(drawn), FAST, tmp_path / "t", silent)
