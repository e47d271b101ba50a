"""Model folders: whole, without pickles, and refused where anything does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.heads import check_answers, is_at_zero
from medfm_compress.compress.networks.model import WEIGHTS, Model, load_model, read_state_dict, save_model
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("normal", "finding"))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return build_model("resnet10t", TASK, size_px=48, colour="grey")


def test_a_saved_model_gives_the_same_logits(model: Model, tmp_path: Path) -> None:
    loaded = load_model(save_model(model, tmp_path / "m"))
    image = torch.rand(2, 1, 48, 48)
    assert torch.equal(loaded.module(image), model.module(image))
    assert (loaded.spec, loaded.task, loaded.architecture) == (model.spec, model.task, model.architecture)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 96), ("deit_tiny_patch16_224", 64), ("densenet121", 64), ("coatnet_pico_rw_224", 64)],
)
def test_families_are_built_at_other_sizes(name: str, size: int) -> None:
    built = build_model(name, TASK, size_px=size, colour="grey")
    assert built.module(torch.zeros(1, *built.spec.shape[1:])).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet10x", 48, "timm has no model"),
        ("resnet10t", 0, "32 to 1024"),
        ("vit_tiny_patch16_224", 50, "cannot"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, TASK, size_px=size, colour="grey")


def test_a_corrupt_safetensors_is_refused(model: Model, tmp_path: Path) -> None:
    weights = save_model(model, tmp_path / "m") / WEIGHTS
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    with pytest.raises(ModelError, match="not readable as safetensors"):
        load_model(tmp_path / "m")


def test_other_weights_than_the_card_names_are_refused(model: Model, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "m")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(ModelError, match="is not the file that"):
        load_model(folder)


def test_weights_are_told_by_their_content(model: Model, tmp_path: Path) -> None:
    state = model.module.state_dict()
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a.bin")
    torch.save(state, tmp_path / "b.bin")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for name in ("a.bin", "b.bin", "c.bin"):
        read = read_state_dict(tmp_path / name)
        assert all(torch.equal(read[key], tensor) for key, tensor in state.items())


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_what_is_no_file_of_weights_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save(module, tmp_path / "module.pt")
    torch.save(module, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.trace(module, torch.zeros(1, 2)).save(tmp_path / "program.pt")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    (tmp_path / "empty.pt").touch()
    for name, message in {
        "module.pt": "holds more than tensors, among it torch.nn.modules.linear.Linear,",
        "old.pt": "holds more than tensors, among it torch.nn.modules.linear.Linear,",
        "program.pt": "is a program",
        "net.onnx": "an ONNX file is a whole network: give it as a teacher",
        "empty.pt": "is no file of weights",
    }.items():
        with pytest.raises(ModelError, match=message) as refused:
            read_state_dict(tmp_path / name)
        assert "weights_only" not in str(refused.value) and "state_dict()" in str(refused.value)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (marker,))

    torch.save({"weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError):
        read_state_dict(tmp_path / "bomb.pth")
    assert not marker.exists()


def test_local_weights_with_another_classifier_keep_the_backbone(model: Model, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "m")
    task = Task(kind="multiclass", labels=("a", "b", "c"))
    built = build_model("resnet10t", task, size_px=48, colour="grey", weights=folder / WEIGHTS)
    assert torch.equal(built.module.state_dict()["conv1.0.weight"], model.module.state_dict()["conv1.0.weight"])
    assert built.module(torch.zeros(1, 1, 48, 48)).shape == (1, 3)


def test_a_new_classifier_that_nothing_trained_is_told(model: Model, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "m")
    task = Task(kind="multiclass", labels=("a", "b", "c"))
    new = build_model("resnet10t", task, size_px=48, colour="grey", weights=folder / WEIGHTS)
    own = build_model("resnet10t", TASK, size_px=48, colour="grey", weights=folder / WEIGHTS)
    assert is_at_zero(new.module) and not is_at_zero(own.module) and not is_at_zero(model.module)
    check_answers(own.module, "own")
    with pytest.raises(ModelError, match="gives every image the same answer"):
        check_answers(new.module, "new")


def test_a_checkpoint_with_a_moving_average_is_ambiguous(model: Model, tmp_path: Path) -> None:
    state = model.module.state_dict()
    for key in ("state_dict_ema", "model_ema"):
        torch.save({"state_dict": state, key: state, "epoch": 3}, tmp_path / "both.pth")
        with pytest.raises(ModelError, match=f"'state_dict' and '{key}'"):
            read_state_dict(tmp_path / "both.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "one.pth")
    assert read_state_dict(tmp_path / "one.pth").keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: (100 * weight).to(torch.int8), "which is int8 in the file and float in the network"),
        (lambda weight: weight.index_fill(0, torch.tensor([1]), torch.nan), "is not finite in"),
        (lambda weight: weight / 0, "is not finite in"),
    ],
)
def test_values_that_are_no_weights_are_refused(model: Model, tmp_path: Path, change, message: str) -> None:
    state = model.module.state_dict()
    state["fc.weight"] = change(state["fc.weight"])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        build_model("resnet10t", TASK, size_px=48, colour="grey", weights=tmp_path / "w.pth")
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in model.module.state_dict().items()
    }
    torch.save(half, tmp_path / "half.pth")
    build_model("resnet10t", TASK, size_px=48, colour="grey", weights=tmp_path / "half.pth")


def test_weights_of_another_architecture_are_refused(model: Model, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "m")
    with pytest.raises(ModelError, match="does not fit"):
        build_model("resnet18", TASK, size_px=48, colour="grey", weights=folder / WEIGHTS)
