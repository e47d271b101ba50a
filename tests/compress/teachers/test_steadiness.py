"""A teacher that answers by its neighbours in the batch, or by chance, is refused, whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.steadiness import check_steady
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task

STUDY = Task(kind="multiclass", labels=("a", "b", "c"))
SPEC = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))


def network(norm: nn.Module | None = None, drop: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        norm or nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        drop or nn.Identity(),
        nn.Linear(8, 3),
    )
    with torch.no_grad():
        made[-1].weight.mul_(12)
    return made


class BatchMean(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.inner(images - images.mean((0, 2, 3), keepdim=True))
        return out


class RandomMask(nn.Module):
    """Dropout that ONNX Runtime does not take out, as it does with the operator of that name."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand_like(inputs) > 0.3)


class AlwaysDropout(nn.Module):
    """Dropout that no eval mode switches off."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(inputs, 0.3, training=True)


def exported(module: nn.Module, path: Path, *, training: bool, batch: int | None = None) -> str:
    free = {} if batch else {"dynamic_axes": {"image": {0: "n"}, "logits": {0: "n"}}}
    mode = torch.onnx.TrainingMode.PRESERVE if training else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        module.train(training),
        (torch.zeros(batch or 2, 1, 32, 32),),
        path,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        opset_version=17,
        training=mode,
        do_constant_folding=False,
        **free,
    )
    return str(path)


def opened(path: str) -> object:
    Path(path).with_suffix(".json").write_bytes(encode(SPEC))
    source = TeacherSource(source=path, labels=STUDY.labels, spec=str(Path(path).with_suffix(".json")))
    return open_teacher((source,), STUDY, TrainingConfig(device="cpu"))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: network(norm=nn.BatchNorm2d(8)), "depends on the others in its batch"),
        (BatchMean, "depends on the others in its batch"),
        (lambda: network(drop=RandomMask()), "left to chance"),
    ],
)
@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.filterwarnings("ignore")
def test_a_file_in_training_mode_is_refused(
    make: Callable[[], nn.Module], match: str, batch: int | None, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=match):
        opened(exported(make(), tmp_path / "net.onnx", training=True, batch=batch))


@pytest.mark.filterwarnings("ignore")
def test_the_same_file_in_evaluation_mode_is_taken(tmp_path: Path) -> None:
    opened(exported(network(nn.BatchNorm2d(8), nn.Dropout(0.3)), tmp_path / "net.onnx", training=False))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda module: setattr(module, "global_pool", nn.Sequential(module.global_pool, AlwaysDropout())), "chance"),
        (
            lambda module: setattr(module, "bn1", nn.BatchNorm2d(module.bn1.num_features, track_running_stats=False)),
            "batch",
        ),
    ],
)
def test_a_network_is_held_to_the_same(change: Callable[[nn.Module], None], match: str) -> None:
    torch.manual_seed(0)
    model = build_model("resnet10t", Task(kind="binary", labels=("a", "b")), size_px=32, colour="grey")
    nn.init.normal_(model.module.fc.weight)
    check_steady(ModuleTeacher(model))
    change(model.module)
    with pytest.raises(ModelError, match=match):
        check_steady(ModuleTeacher(model))


class Counting(nn.Module):
    """Answers otherwise in large batches (``mean``), or from the fifth row on (``row``), and never in small ones."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = network(), kind

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.inner(images)
        beyond = torch.relu(torch.cumsum(torch.ones_like(out), 0) - 4)
        return out + (beyond if self.kind == "row" else beyond[-1:] * out.mean(0, keepdim=True))


@pytest.mark.parametrize("kind", ["row", "mean"])
@pytest.mark.filterwarnings("ignore")
def test_what_only_a_large_batch_shows_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="depends on the others in its batch"):
        opened(exported(Counting(kind), tmp_path / "net.onnx", training=False))


def test_a_row_that_is_not_asked_alone_shows_in_the_other_order() -> None:
    class Seventh:
        card, engine = ModuleTeacher(build_model("resnet10t", STUDY, size_px=32, colour="grey")).card, "pytorch fp32"

        def answer(self, images: Tensor, features: tuple[str, ...] = ()) -> TeacherOutputs:
            logits = images.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 2.0, 3.0])
            logits[7:8] += 1
            return TeacherOutputs(logits)

    with pytest.raises(ModelError, match="depends on the others in its batch"):
        check_steady(Seventh())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_ordinary_networks_pass(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model(name, num_classes=3).state_dict(), tmp_path / "net.safetensors")
    source = TeacherSource(source=f"timm:{name}", weights=str(tmp_path / "net.safetensors"), labels=STUDY.labels)
    open_teacher((source,), STUDY, TrainingConfig(device="cpu"))
