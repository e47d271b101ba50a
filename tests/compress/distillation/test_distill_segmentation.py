"""Distillation of a segmentation: it helps, at another size too; answers are kept small; a bad teacher is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("segmentation_models_pytorch")

import torch
from drawn_discs import open_discs
from torch import Tensor, nn

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.distillation.teacher_metric import check_teacher
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher, mean_of_maps
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.steadiness import check_steady
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError

FAST = TrainingConfig(
    epochs=4, batch_size=8, learning_rate=3e-3, ema=0.8, patience=0, precision="fp32", modality="dermoscopy"
)
DISTILLATION = Distillation(views=2, teacher_precision="fp32")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return open_discs(tmp_path_factory.mktemp("discs"), squares=True, bare=24)


@pytest.fixture(scope="module")
def teacher(drawn: Study, tmp_path_factory: pytest.TempPathFactory) -> Model:
    config = msgspec.structs.replace(FAST, epochs=10)
    return finetune(drawn, student(drawn), config, tmp_path_factory.mktemp("teacher"), silent)


def student(study: Study, name: str = "smp:unet/tu-mobilenetv3_small_050", size: int = 32) -> Model:
    torch.manual_seed(1)
    return build_model(name, task_of(study), size_px=size, colour="rgb")


def silent(_: str) -> None:
    pass


def val_dice(model: Model) -> float:
    return float(model.provenance.steps[-1].split("validation Dice ")[1][:6])


def test_a_student_learns_from_maps_without_any_label(drawn: Study, teacher: Model, tmp_path: Path) -> None:
    few = msgspec.structs.replace(
        drawn, cases=tuple(c for c in drawn.cases if c.split != "train" or drawn.cases.index(c) < 4)
    )
    config = msgspec.structs.replace(FAST, epochs=8)
    alone = finetune(few, student(drawn), config, tmp_path / "alone", silent)
    lines: list[str] = []
    taught = distill((few,), ModuleTeacher(teacher), student(drawn), config, tmp_path / "t", lines.append, DISTILLATION)
    assert val_dice(taught) > val_dice(alone) + 0.05
    assert "losses pixel-kl + channel-wise" in taught.provenance.steps[-1]
    assert "maps kept at 1/2 of the teacher's size" in taught.provenance.steps[-1]
    assert "teacher: maps of logits kept at 16×16 in float16" in lines
    assert load_model(tmp_path / "t").weights_sha256() == taught.weights_sha256()


def test_an_interrupted_distillation_ends_with_the_same_bits(drawn: Study, teacher: Model, tmp_path: Path) -> None:
    def run(out: str, progress: object = silent) -> str:
        source, own = ModuleTeacher(teacher), student(drawn)
        config = msgspec.structs.replace(FAST, epochs=2)
        return distill((drawn,), source, own, config, tmp_path / out, progress, DISTILLATION).weights_sha256()  # type: ignore[arg-type]

    def stop(line: str) -> None:
        if line.startswith("epoch   1"):
            raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop)
    assert run("cut") == whole


@pytest.mark.parametrize(("stride", "bytes_per_case"), [(1, 2 * 2 * 32 * 32 * 2), (4, 2 * 2 * 8 * 8 * 2)])
def test_a_student_of_another_size_and_the_cached_answers_alone(
    drawn: Study, teacher: Model, tmp_path: Path, stride: int, bytes_per_case: int
) -> None:
    options = msgspec.structs.replace(
        DISTILLATION, output_stride=stride, losses={"boundary-kl": 1.0, "feature": 0.1, "attention": 1.0}
    )
    config = msgspec.structs.replace(FAST, epochs=1)
    small = student(drawn, "smp:fpn/tu-mobilenetv3_small_050", 64)
    distill((drawn,), ModuleTeacher(teacher), small, config, tmp_path / "t", silent, options)
    cache = OutputCache.open(tmp_path / "t" / "training" / "teacher-outputs")
    assert cache.bytes_per_case >= bytes_per_case
    assert cache.header.logits_shape == (2, 32 // stride, 32 // stride)
    heard: list[str] = []
    check_teacher((drawn,), cache, None, heard.append, options)
    assert float(heard[-1].split("Dice ")[1][:6]) > 0.5
    plain = msgspec.structs.replace(options, losses={"pixel-kl": 1.0})
    distill((drawn,), cache, student(drawn), config, tmp_path / "again", silent, plain)


def test_a_student_that_sees_another_part_of_the_image_is_refused(drawn: Study, teacher: Model, tmp_path: Path) -> None:
    own = student(drawn)
    own = replace(own, spec=msgspec.structs.replace(own.spec, resize="longest"))
    with pytest.raises(ModelError, match="a pixel of one is no pixel of the other"):
        distill((drawn,), ModuleTeacher(teacher), own, FAST, tmp_path / "t", silent, DISTILLATION)


class Inverted(nn.Module):
    """Draws what the network does not, and the other way round."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return -self.network(images).amax(1, keepdim=True).expand(-1, 2, -1, -1)


def test_a_teacher_tells_its_dice_and_an_inverted_one_is_refused(drawn: Study, teacher: Model) -> None:
    heard: list[str] = []
    check_teacher((drawn,), ModuleTeacher(teacher), None, heard.append)
    assert heard[-1].startswith("teacher: Dice 0.")
    assert heard[-1].endswith("on 8 validation cases")
    with pytest.raises(ModelError, match=r"worse than chance .* inverted"):
        check_teacher((drawn,), ModuleTeacher(replace(teacher, module=Inverted(teacher.module))), None, silent)


class OfItsBatch(nn.Module):
    """Its answer depends on the others in the batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network(images)
        return maps - maps.mean(0, keepdim=True)


def test_a_teacher_of_maps_has_to_be_steady(teacher: Model) -> None:
    check_steady(ModuleTeacher(teacher))
    with pytest.raises(ModelError, match="depends on the others in its batch"):
        check_steady(ModuleTeacher(replace(teacher, module=OfItsBatch(teacher.module))))


def test_several_teachers_give_the_mean_of_their_probabilities(drawn: Study, teacher: Model) -> None:
    z = torch.randn(2, 1, 2, 3, 3)
    p = torch.softmax(torch.cat([torch.zeros(2, 1, 1, 3, 3), z], 2), 2).mean(0)
    mean = torch.softmax(torch.cat([torch.zeros(1, 1, 3, 3), mean_of_maps(z)], 1), 1)
    assert torch.allclose(mean, p, atol=1e-6)
    both = EnsembleTeacher([ModuleTeacher(teacher), ModuleTeacher(student(drawn))])
    assert both.answer(torch.rand(2, 3, 32, 32)).logits.shape == (2, 2, 32, 32)


def test_quantization_aware_training_of_a_segmentation(drawn: Study, teacher: Model, tmp_path: Path) -> None:
    options = msgspec.structs.replace(DISTILLATION, qat=True)
    config = msgspec.structs.replace(FAST, epochs=2)
    trained = distill((drawn,), ModuleTeacher(teacher), student(drawn), config, tmp_path / "t", silent, options)
    assert "layers with INT8 values" in trained.provenance.steps[-1]
    assert (tmp_path / "t" / "quantization.json").is_file()
