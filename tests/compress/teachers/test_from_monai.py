"""A MONAI bundle as a teacher: built from a list, prepared exactly or not at all, and none of its Python run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.monai_networks import NETWORKS, build_network
from medfm_compress.compress.teachers.monai_transforms import follow, nearest_spec
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import MissingDependency, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import prepare, preprocess
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.task import Task

STUDY = Task(kind="binary", labels=("in body", "out body"))
NETWORK = {
    "_target_": "DenseNet",
    "spatial_dims": 2,
    "in_channels": "@channels",
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": [1, 1],
}
METADATA = {
    "name": "Endoscopy",
    "intended_use": "research only",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [40, 32]}},
        "outputs": {"pred": {"channel_def": {"0": "in body", "1": "out body"}}},
    },
}
LOAD = {"_target_": "LoadImaged", "keys": "image"}
FIRST = {"_target_": "EnsureChannelFirstd", "keys": ["image"]}
RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1}
NORMAL = {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 0.2, "divisor": 0.5}
TYPED = {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"}
EXACT = [LOAD, FIRST, RANGE, NORMAL, TYPED]


@pytest.fixture(scope="module")
def nets() -> Any:
    return pytest.importorskip("monai.networks.nets", reason="monai is not installed")


@pytest.fixture(scope="module")
def network(nets: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = {key: value for key, value in NETWORK.items() if key != "_target_"}
    module: torch.nn.Module = nets.DenseNet(**{**arguments, "in_channels": 1}).eval()
    return module


def publish(folder: Path, state: Any, config: dict[str, Any] | None = None, **metadata: Any) -> str:
    """A bundle folder."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    whole = {
        "imports": ["$import os"],
        "device": "$torch.device('cpu')",
        "channels": 1,
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": EXACT},
        "evaluating": ["$os.system('touch ran')"],
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps({**METADATA, **metadata}))
    (folder / "configs" / "inference.json").write_text(json.dumps({**whole, **(config or {})}))
    (folder / "LICENSE").write_text("\nApache License 2.0\nand so on\n")
    torch.save(state, folder / "models" / "model.pt")
    return str(folder)


def opened(folder: str, study: Task = STUDY, **options: object) -> ModuleTeacher:
    source = TeacherSource(source=folder, **options)  # type: ignore[arg-type]
    teacher = open_teacher((source,), study, TrainingConfig(device="cpu"))
    assert isinstance(teacher, ModuleTeacher)
    return teacher


def chain(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"preprocessing": {"_target_": "Compose", "transforms": list(transforms)}}


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # of MONAI, where that is not installed
def test_a_bundle_answers_as_monai_does(nets: Any, network: torch.nn.Module, tmp_path: Path) -> None:
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, ScaleIntensityRanged

    values = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "image.png")
    theirs = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            ScaleIntensityRanged("image", 0, 255, -1, 1),
            NormalizeIntensityd("image", 0.2, 0.5),
        ]
    )({"image": str(tmp_path / "image.png")})["image"].as_tensor()
    teacher = opened(publish(tmp_path / "b", network.state_dict()))
    assert teacher.card.spec.shape == (1, 1, 32, 40)  # rows and columns as they are stored
    pixels = Pixels(values, 0, 255)
    assert np.allclose(preprocess(pixels, teacher.card.spec)[0], theirs.transpose(1, 2).numpy(), atol=1e-5)
    supplied = teacher.answer(torch.from_numpy(prepare(pixels, teacher.card.spec))[None]).logits
    assert torch.allclose(supplied, network(theirs[None]), atol=1e-5)
    assert not torch.allclose(supplied, network(theirs.transpose(1, 2)[None]), atol=1e-5)


def test_what_a_bundle_says_of_itself_travels_along(network: torch.nn.Module, tmp_path: Path) -> None:
    card = opened(publish(tmp_path / "b", network.state_dict())).card
    assert (card.name, card.licence, card.intended_use) == ("Endoscopy", "Apache License 2.0", "research only")
    assert card.task == STUDY and card.family == "cnn"
    assert "transposed" in card.steps[0]
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()


def test_a_bundle_in_yaml_that_reads_images_as_they_are(network: torch.nn.Module, tmp_path: Path) -> None:
    import yaml

    load = {**LOAD, "reader": "PILReader", "reverse_indexing": False}
    config = {"network_def": {**NETWORK, "in_channels": 1}, **chain(load, FIRST, RANGE)}
    folder = Path(publish(tmp_path / "b", network.state_dict()))
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(config))
    teacher = opened(str(folder))
    assert teacher.card.spec.shape == (1, 1, 40, 32) and teacher.card.steps == ()
    images = torch.rand(2, 1, 40, 32)
    assert torch.allclose(teacher.answer(images).logits, network(2 * images - 1), atol=1e-5)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"_target_": "Resized", "keys": "image", "spatial_size": [24, 16]}], "does not antialias"),
        ([{"_target_": "ScaleIntensityd", "keys": "image"}], "by its own extremes"),
        ([{"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}], "by its own values"),
        ([{**RANGE, "a_max": 4095}], "expects values of 0 to 4095, not 0 to 255"),
        ([{"_target_": "scripts.Odd", "keys": "image"}], "scripts.Odd is not known"),
    ],
)
def test_a_preprocessing_that_is_no_spec_is_refused_with_the_nearest(
    transforms: list[dict[str, Any]], message: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    folder = publish(tmp_path / "b", network.state_dict(), chain(LOAD, FIRST, *transforms))
    with pytest.raises(ModelError, match=f"{message}.* --teacher-spec") as caught:
        opened(folder)
    text = str(caught.value)
    near = decode(text[text.index("{") : text.rindex("}") + 1], ImageSpec, source="the message")
    assert near.shape == ((1, 1, 16, 24) if "Resize" in str(transforms) else (1, 1, 32, 40))
    (tmp_path / "spec.json").write_bytes(encode(near))
    teacher = opened(folder, spec=str(tmp_path / "spec.json"))
    assert teacher.card.spec == near and "transposed" in teacher.card.steps[0]


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([LOAD, {"_target_": "Rotate90d", "keys": "image"}], "turns or mirrors"),
        ([LOAD, {"_target_": "Transposed", "keys": "image", "indices": [2, 1, 0]}], r"only \[0, 2, 1\]"),
        ([{**LOAD, "reader": "scripts.OwnReader"}], "OwnReader, whose axes are not known"),
        ([LOAD, {**NORMAL, "divisor": 0}], "unusable"),
        ([LOAD, {**RANGE, "a_min": "low"}], "unusable"),
        ([LOAD, {"keys": "image"}], "has no '_target_'"),
    ],
)
def test_a_chain_that_turns_images_or_makes_no_sense_is_refused(transforms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        follow(transforms, 1, (32, 32))


def test_what_the_chain_does_to_other_keys_is_not_the_images() -> None:
    label = {"_target_": "Rotate90d", "keys": ["label"]}
    actual = follow([LOAD, label, {"_target_": "Flipd", "keys": "image", "_disabled_": True}, RANGE], 3, (32, 40))
    assert actual.differences == []
    assert nearest_spec(actual) == ImageSpec(
        height_px=40, width_px=32, colour="rgb", mean=(0.5,) * 3, std=(0.5,) * 3, filter="bilinear"
    )


@pytest.mark.parametrize(
    "target",
    ["os.system", "monai.networks.nets.VNet", "scripts.DenseNet121", "torchvision.models.os", "", "builtins.eval"],
)
def test_a_network_that_is_not_in_the_list_is_refused(target: str, tmp_path: Path) -> None:
    folder = publish(tmp_path / "b", {}, {"network_def": {"_target_": target, "command": "touch ran"}})
    message = "no classification model 'os'" if target.startswith("torchvision") else "DenseNet121"
    with pytest.raises(ModelError, match=message):
        opened(folder)
    assert "VNet" not in NETWORKS and not Path("ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out_channels": "$__import__('os').system('touch ran')"}, "expressions are not run"),
        ({"out_channels": "%other.json"}, "expressions are not run"),
        ({"out_channels": "@nowhere::at_all"}, "refers to '@nowhere::at_all', which is not there"),
        ({"out_channels": "@network_def::out_channels"}, "in a circle"),
        ({"act": {"_target_": "os.system"}}, "is itself built"),
        ({"spatial_dims": 3}, "not 2-D"),
        ({"out_channels": 3}, "does not fit the architecture"),
        ({"wings": 2}, "cannot be built"),
        ({"in_channels": 4}, "does not fit the architecture"),
    ],
)
def test_an_argument_that_is_no_plain_value_is_refused(
    change: dict[str, Any], message: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    folder = publish(tmp_path / "b", network.state_dict(), {"network_def": {**NETWORK, **change}})
    with pytest.raises(ModelError, match=message):
        opened(folder)
    assert not Path("ran").exists()


def test_weights_with_code_are_refused_and_not_run(network: torch.nn.Module, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (marker,))

    with pytest.raises(ModelError):
        opened(publish(tmp_path / "b", {"x": Bomb()}))
    assert not marker.exists()


def test_damaged_bundles_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    folder = Path(publish(tmp_path / "b", network.state_dict()))
    (folder / "models" / "model.pt").rename(folder / "models" / "other.pt")
    with pytest.raises(ModelError, match="has no weights"):
        opened(str(folder))
    (folder / "configs" / "inference.json").write_text("{")
    with pytest.raises(ModelError, match=r"inference.json is damaged"):
        opened(str(folder))
    (folder / "configs" / "inference.json").unlink()
    with pytest.raises(ModelError, match="no configuration that defines 'network_def'"):
        opened(str(folder))
    (folder / "configs" / "metadata.json").write_text("[]")
    with pytest.raises(ModelError, match="holds a list"):
        opened(str(folder))


def test_labels_come_from_the_metadata_or_the_user(network: torch.nn.Module, tmp_path: Path) -> None:
    unnamed = publish(
        tmp_path / "b", network.state_dict(), network_data_format={"inputs": METADATA["network_data_format"]["inputs"]}
    )  # type: ignore[index]
    with pytest.raises(ModelError, match="--teacher-labels 'in body,out body'"):
        opened(unnamed)
    assert opened(unnamed, labels=STUDY.labels).card.task == STUDY
    sigmoid = chain(*EXACT) | {"postprocessing": {"transforms": [{"_target_": "Activationsd", "sigmoid": True}]}}
    with pytest.raises(ModelError, match="same kind"):
        opened(publish(tmp_path / "s", network.state_dict(), sigmoid))


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "TorchVisionFCModel", "model_name": "resnet18", "num_classes": 2, "use_conv": False, "pool": None},
        {"_target_": "torchvision.models.squeezenet1_1", "num_classes": 2},
        {"_target_": "timm.create_model", "model_name": "test_resnet", "num_classes": 2, "pretrained": True},
        {"_target_": "monai.networks.nets.resnet10", "spatial_dims": 2, "n_input_channels": 3, "num_classes": 2},
        {
            "_target_": "EfficientNetBN",
            "model_name": "efficientnet-b0",
            "spatial_dims": 2,
            "in_channels": 3,
            "num_classes": 2,
        },
    ],
)
def test_networks_of_the_list_are_built_without_a_download(
    definition: dict[str, Any], nets: Any, tmp_path: Path
) -> None:
    built, _ = build_network(definition, "b")
    torch.manual_seed(0)
    for value in built.state_dict().values():
        if value.dtype.is_floating_point and value.ndim > 1:
            value.normal_(0, 0.05)
    config = {"network_def": definition, **chain(LOAD, FIRST, RANGE)}
    teacher = opened(publish(tmp_path / "b", built.state_dict(), config))
    images = torch.rand(1, 3, 32, 40)
    expected = built.eval()(2 * images.transpose(2, 3) - 1)
    assert torch.allclose(teacher.answer(images).logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"_target_": "timm.create_model", "model_name": "test_resnet", "checkpoint_path": "x"}, "'checkpoint_path'"),
        ({"_target_": "timm.create_model", "model_name": "hf-hub:a/b"}, "is no timm name"),
        ({"_target_": "timm.create_model", "model_name": "test_rsnet"}, "near it: test_resnet"),
        ({"_target_": "torchvision.models.resnet18", "norm_layer": "os.system"}, "cannot be built"),
        ({"_target_": "TorchVisionFCModel", "model_name": "os"}, "no classification model 'os'"),
        ({"_target_": "TorchVisionFCModel", "model_name": "inception_v3", "pretrained": True}, "normalises its input"),
    ],
)
def test_arguments_that_would_do_more_than_build_are_refused(definition: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_network(definition, "b")


def test_a_missing_library_names_the_command(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(MissingDependency, match="pip install monai"):
        opened(publish(tmp_path / "b", network.state_dict()))
