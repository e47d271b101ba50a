"""Pruning of networks that answer for every pixel: skip connections, transposed convolutions, scored by Dice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

import tiny_segmentation  # noqa: E402
from torch import nn  # noqa: E402

from medfm_compress.compress.distillation.options import Distillation  # noqa: E402
from medfm_compress.compress.networks.architecture import Architecture  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import Model, load_model  # noqa: E402
from medfm_compress.compress.pruning.calibration_cases import training_batches, validation_set  # noqa: E402
from medfm_compress.compress.pruning.goal import PruningGoal  # noqa: E402
from medfm_compress.compress.pruning.iterative import PruningRun, prune_and_recover  # noqa: E402
from medfm_compress.compress.pruning.kinds import pruning_rules  # noqa: E402
from medfm_compress.compress.pruning.options import PruneOptions  # noqa: E402
from medfm_compress.compress.pruning.prune import prune, prune_module  # noqa: E402
from medfm_compress.compress.pruning.record import record_step  # noqa: E402
from medfm_compress.compress.pruning.sensitivity_record import sensitivity_of  # noqa: E402
from medfm_compress.compress.pruning.width_search import PruningData  # noqa: E402
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher  # noqa: E402
from medfm_compress.compress.training.config import TrainingConfig  # noqa: E402
from medfm_compress.compress.training.dataset import task_of  # noqa: E402
from medfm_compress.data.study import Study  # noqa: E402
from medfm_compress.runtime.progress import no_progress  # noqa: E402


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return tiny_segmentation.make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def model(study: Study) -> Model:
    module = tiny_segmentation.trained(study)
    return Model("tiny", module, tiny_segmentation.SPEC, tiny_segmentation.TASK, Architecture(library="smp", name="x"))


def dice(module: nn.Module, study: Study) -> float:
    images, masks = tiny_segmentation.inputs_of(study, "val")
    with torch.no_grad():
        score = pruning_rules(tiny_segmentation.TASK).score(tiny_segmentation.TASK)(module(images), masks)
    assert score is not None
    return score


@pytest.mark.parametrize("importance", ["taylor", "activation", "hessian"])
def test_what_is_cut_by_pixels_keeps_its_dice_where_an_eighth_of_the_work_goes(
    study: Study, model: Model, importance: str
) -> None:
    data = PruningData(
        train=training_batches(study, model, no_progress),
        loss=pruning_rules(model.task).loss(model.task),
        validation=validation_set(study, model, no_progress),
    )
    goal = PruningGoal(macs=0.75, importance=importance, allocation="measured", depth=False)  # type: ignore[arg-type]
    before, pruned = dice(model.module, study), prune(model, goal, data)
    assert before > 0.8
    assert pruned.macs_after <= 0.75 * pruned.macs_before
    assert dice(pruned.model.module, study) > before - 0.1
    assert "mean Dice" in sensitivity_of(record_step(pruned, "", goal), "tiny", "", data.validation).metric
    points = [point for curve in data.curves.values() for point in curve]
    assert all(point.score is not None and 0 <= point.score <= 1 for point in points)


def test_narrow_groups_of_a_segmentation_shrink_by_eight(model: Model) -> None:
    pruned = prune(model, PruningGoal(macs=0.5))
    assert {change.after % 8 for change in pruned.widths} == {0}
    assert any(change.after % 16 for change in pruned.widths)
    assert "multiples of 8, 16 or 32" in pruned.model.provenance.steps[-1]


def test_channels_are_followed_through_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    ).eval()  # fmt: skip
    pruned = prune_module(network, torch.zeros(1, 3, 16, 16), PruningGoal(macs=0.5, round_to=8))
    assert {change.name for change in pruned.widths} == {"0", "3"}
    small = pruned.module
    assert small[3].weight.shape == (small[0].out_channels, small[5].in_channels, 2, 2)
    assert small(torch.rand(1, 3, 16, 16)).shape == (1, 1, 16, 16)


def test_a_transposed_convolution_in_groups_is_left_alone_and_said() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ConvTranspose2d(32, 32, 2, 2, groups=32), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 1, 1)
    )
    pruned = prune_module(network.eval(), torch.zeros(1, 3, 16, 16), PruningGoal(macs=0.9, round_to=8))
    reasons = {entry.name: entry.reason for entry in pruned.protected}
    assert "they meet a convolution in 32 groups" in reasons.values()
    assert {change.name for change in pruned.widths} == {"2"}


def test_sensitivity_of_pixels_is_relative_to_their_spread(study: Study, model: Model) -> None:
    """By the definition of the relative logit error, as `quantize` and the goldens have it."""
    from medfm_compress.compress.pruning.apply import remove_channels, temporarily
    from medfm_compress.compress.pruning.sensitivity import measure_sensitivity
    from medfm_compress.compress.pruning.width_search import WidthSearch
    from medfm_compress.runtime.golden_cases import relative_logit_error

    validation = validation_set(study, model, no_progress)
    goal = PruningGoal(macs=0.5, round_to=8)
    search = WidthSearch(model.module, torch.zeros(model.spec.shape), goal, PruningData())
    group = search.groups[0]
    curves = measure_sensitivity(model.module, [group], search.importance_scores, validation, None, {}, no_progress)
    point = curves[group.name][1]
    images = torch.cat([images for images, _ in validation.batches])
    with torch.no_grad():
        whole = model.module(images).numpy()
        with temporarily(model.module):
            remove_channels(model.module, [group], {group.name: point.kept}, search.importance_scores)
            cut = model.module(images).numpy()
    assert np.isclose(point.error, relative_logit_error(cut, whole, model.task), rtol=1e-3)


def test_a_slope_that_all_channels_share_is_no_channel() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(), nn.Conv2d(32, 1, 3, padding=1)).eval()
    pruned = prune_module(network, torch.zeros(1, 3, 16, 16), PruningGoal(macs=0.6, round_to=8))
    assert [(change.name, change.after) for change in pruned.widths] == [("0", 16)]
    assert pruned.module[1].weight.shape == (1,)


def test_a_pruned_network_recovers_from_what_it_was_and_comes_back_from_disk(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    from drawn_discs import open_discs

    study = open_discs(tmp_path / "discs", squares=True)
    torch.manual_seed(0)
    model = build_model("smp:unet/tu-mobilenetv3_small_050", task_of(study), size_px=32, colour="rgb")
    training = TrainingConfig(epochs=1, batch_size=8, precision="fp32", modality="dermoscopy")
    options = PruneOptions(
        max_macs=0.6,
        target="",
        allocation="global",
        depth=False,
        training=training,
        distillation=Distillation(views=1, teacher_precision="fp32"),
    )
    run = PruningRun(study, ModuleTeacher(model), options, tmp_path / "out", no_progress)
    record = prune_and_recover(run, model)
    assert record.macs_after <= 0.6 * record.macs_before
    small = load_model(tmp_path / "out")
    assert [step.split()[0].strip(":") for step in small.provenance.steps] == ["prune", "distilled"]
    with torch.no_grad():
        assert small.module(torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)
