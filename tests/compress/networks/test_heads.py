"""A classifier that is replaced begins at zero, whatever the family; weights that do not fit say what would help."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medfm_compress.compress.networks.build import build_model, replaces_classifier
from medfm_compress.compress.networks.model import load_weights, read_state_dict
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("normal", "finding"))
FAMILIES = (
    "test_efficientnet",
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_byobnet",
    "test_nfnet",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "regnetx_002",
    "levit_128s",
    "deit_tiny_distilled_patch16_224",
    "fastvit_t8",
    "ghostnet_050",
)


def published(name: str, path: Path, classes: int, **arguments: object) -> Path:
    torch.manual_seed(1)
    module = timm.create_model(name, num_classes=classes, **arguments)
    save_file({key: value.clone().contiguous() for key, value in module.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_replaced_classifier_begins_at_zero(name: str, tmp_path: Path) -> None:
    size = 224 if "224" in name or "levit" in name else 64
    arguments = {"img_size": size} if name == "test_vit" else {}
    weights = published(name, tmp_path / "net.safetensors", 7, **arguments)
    model = build_model(name, TASK, size_px=size, colour="rgb", weights=weights)
    with torch.inference_mode():
        logits = model.module(torch.randn(2, 3, size, size))
    assert logits.abs().max() < 1e-6
    loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert math.isclose(loss.item(), math.log(2), abs_tol=1e-4), "a coin's"


def test_a_classifier_that_fits_is_kept(tmp_path: Path) -> None:
    weights = published("test_efficientnet", tmp_path / "net.safetensors", 2)
    model = build_model("test_efficientnet", TASK, size_px=64, colour="rgb", weights=weights)
    assert torch.equal(model.module.classifier.weight, read_state_dict(weights)["classifier.weight"])


def test_a_network_with_a_new_classifier_learns(discs: Study, tmp_path: Path) -> None:
    weights = published("test_efficientnet", tmp_path / "net.safetensors", 7, in_chans=1)
    model = build_model("test_efficientnet", task_of(discs), size_px=48, colour="grey", weights=weights)
    before = model.module.state_dict()["conv_stem.weight"].clone()
    config = TrainingConfig(epochs=2, batch_size=12, learning_rate=3e-3, precision="fp32")
    after = finetune(discs, model, config, tmp_path / "t", lambda line: None).module.state_dict()
    assert after["classifier.weight"].abs().max() > 0
    assert not torch.equal(after["conv_stem.weight"], before)


@pytest.mark.parametrize(("built", "stated", "replaced"), [(2, 1000, True), (1000, 1000, False), (2, None, False)])
def test_the_hubs_classifier_is_replaced_for_another_number(built: int, stated: int | None, replaced: bool) -> None:
    module = nn.Module()
    module.num_classes, module.pretrained_cfg = built, {"num_classes": stated}
    assert replaces_classifier(module) is replaced


def test_weights_of_grey_images_name_the_option(tmp_path: Path) -> None:
    weights = published("test_resnet", tmp_path / "net.safetensors", 2, in_chans=1)
    match = r"'conv1.0.weight', which is \[\d+, 1, 3, 3\] in the file and \[\d+, 3, 3, 3\] .* give --colour grey"
    with pytest.raises(ModelError, match=match):
        build_model("test_resnet", TASK, size_px=64, colour="rgb", weights=weights)


def test_missing_and_unknown_tensors_are_told_apart(tmp_path: Path) -> None:
    state = read_state_dict(published("test_resnet", tmp_path / "net.safetensors", 2))
    module = timm.create_model("test_resnet", num_classes=2)
    fewer = {name: value for name, value in state.items() if name != "bn1.weight"}
    save_file(fewer, tmp_path / "fewer.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors differ, first 'bn1.weight', which the network has and the file"):
        load_weights(module, tmp_path / "fewer.safetensors")
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelError, match="1 tensors differ, first 'more', which the file has and the network"):
        load_weights(module, tmp_path / "more.safetensors")


def test_old_files_without_counters_of_batches_are_read(tmp_path: Path) -> None:
    state = read_state_dict(published("test_resnet", tmp_path / "net.safetensors", 2))
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "old.safetensors")
    load_weights(timm.create_model("test_resnet", num_classes=2), tmp_path / "old.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02.", b"text"])
def test_damaged_files_are_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_weights(timm.create_model("test_resnet"), tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ModelError):
        load_weights(timm.create_model("test_resnet"), tmp_path / "net.pth")
