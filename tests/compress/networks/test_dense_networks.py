"""Networks that answer for every pixel: by name, at the input's size, saved and loaded, from a classifier's file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("monai")

import timm
import torch
from safetensors.torch import save_file

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.backbone import BackboneCard, save_backbone
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.listed_names import refuse_unlisted
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.networks.model import create_module, load_model, save_model
from medfm_compress.compress.networks.monai_networks import NETWORKS
from medfm_compress.compress.networks.smp_networks import DECODERS
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

_TASK = Task(kind="segmentation", labels=("nucleus", "border"))
_ENCODER = "tu-mobilenetv3_small_050"
_NAMES = [*(f"smp:{decoder}/{_ENCODER}" for decoder in DECODERS), *(f"monai:{name}" for name in NETWORKS)]


@pytest.mark.parametrize("name", _NAMES)
def test_every_network_answers_at_its_inputs_size_and_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    if "unetr" in name:
        pytest.importorskip("einops")
    model = build_model(name, _TASK, size_px=64, colour="grey")
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        logits = model.module(images)
        assert logits.shape == (2, 2, 64, 64)
        assert (model.spec.resize, model.spec.crop_fraction, model.spec.colour) == ("stretch", 1.0, "grey")
        read = load_model(save_model(model, tmp_path)).module
        # The same weights to the bit; how they lie in memory may change the order of a sum.
        assert all(torch.equal(read.state_dict()[name], tensor) for name, tensor in model.module.state_dict().items())
        torch.testing.assert_close(read(images), logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "multiple"), [("smp:fpn/" + _ENCODER, "32"), ("monai:unet", "16")])
def test_a_size_that_a_network_cannot_take_is_refused_with_the_multiple_it_needs(name: str, multiple: str) -> None:
    with pytest.raises(ModelError, match=f"cannot take 72 px; give a multiple of {multiple}"):
        build_model(name, _TASK, size_px=72, colour="rgb")


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot take 32 px; it is too small: give 64"):
        build_model("smp:fpn/" + _ENCODER, _TASK, size_px=32, colour="rgb")


def test_a_decoder_is_as_wide_as_its_encoder_unless_it_is_said() -> None:
    small = build_model("smp:unet/tu-mobilenetv3_small_100", _TASK, size_px=64, colour="rgb")
    assert small.architecture.arguments["decoder_channels"] == [48, 32, 16, 16, 16]
    wide = build_model(
        "smp:unet/tu-mobilenetv3_small_100",
        _TASK,
        size_px=64,
        colour="rgb",
        arguments={"decoder_channels": [64, 48, 32, 16, 16]},
    )
    assert wide.architecture.arguments["decoder_channels"] == [64, 48, 32, 16, 16]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp:unet", "names no encoder"),
        ("smp:yolo/resnet18", "allowed are unet"),
        ("smp:unet/tu-mobilenetv3_smal", "near it: mobilenetv3_small"),
        ("smp:unet/resnet19", "near it: resnet1"),
        ("monai:vnet", "allowed are unet"),
        ("resnet18", "gives one answer an image and the study has masks"),
    ],
)
def test_a_name_that_cannot_be_built_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, _TASK, size_px=64, colour="rgb")


def test_a_network_of_pixels_is_refused_for_labels_of_images() -> None:
    with pytest.raises(ModelError, match="answers for every pixel and the task is binary"):
        build_model("monai:unet", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="rgb")


def test_a_misspelt_encoder_is_said_without_the_library() -> None:
    with pytest.raises(ModelError, match="timm has no model"):
        refuse_unlisted("smp:unet/tu-mobilenetv3_smal_100")
    refuse_unlisted("smp:unet/tu-mobilenetv3_small_100")
    refuse_unlisted("monai:unet")


@pytest.mark.parametrize("arguments", [{"encoder_weights": "imagenet"}, {"activation": "sigmoid"}, {"weights": "x"}])
def test_arguments_that_would_download_or_change_the_answer_are_refused(arguments: dict[str, str]) -> None:
    architecture = Architecture(library="smp", name="unet", arguments={"encoder_name": _ENCODER, **arguments})
    with pytest.raises(ModelError, match="takes no argument"):
        create_module(architecture)


def test_the_encoder_starts_from_a_classifiers_file(tmp_path: Path) -> None:
    classifier = timm.create_model("mobilenetv3_small_050", num_classes=7)
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    weights = tmp_path / "classifier.safetensors"
    model = build_model(f"smp:unet/{_ENCODER}", _TASK, size_px=64, colour="rgb", weights=weights)
    assert torch.equal(model.module.encoder.model.conv_stem.weight, classifier.conv_stem.weight)
    with pytest.raises(ModelError, match="does not fit"):
        build_model("smp:unet/tu-resnet18", _TASK, size_px=64, colour="rgb", weights=weights)


def test_the_whole_network_starts_from_its_own_file_with_a_new_head(tmp_path: Path) -> None:
    one = build_model(f"smp:unet/{_ENCODER}", Task(kind="segmentation", labels=("cell",)), size_px=64, colour="rgb")
    save_file(one.module.state_dict(), tmp_path / "one.safetensors")
    two = build_model(f"smp:unet/{_ENCODER}", _TASK, size_px=64, colour="rgb", weights=tmp_path / "one.safetensors")
    kept, head = "decoder.blocks.0.conv1.0.weight", "segmentation_head.0.weight"
    assert torch.equal(two.module.state_dict()[kept], one.module.state_dict()[kept])
    assert not two.module.state_dict()[head].any()


def test_a_library_that_is_not_known_is_refused() -> None:
    with pytest.raises(ModelError, match="those that can be built are timm, smp, monai"):
        create_module(msgspec.structs.replace(Architecture(name="resnet18"), library="keras"))


def test_the_encoder_starts_from_what_pretraining_made(tmp_path: Path) -> None:
    binary = Task(kind="binary", labels=("no", "yes"))
    learned = build_model("mobilenetv3_small_050", binary, size_px=64, colour="grey")
    card = BackboneCard(
        name=learned.name,
        architecture=learned.architecture,
        spec=learned.spec,
        masking=Masking(),
        images=1,
        epochs=1,
        seed=0,
        score=0.0,
        licence="MIT",
    )
    save_backbone(learned.module, card, tmp_path)
    model = build_model(f"smp:unet/{_ENCODER}", _TASK, size_px=64, colour="grey", weights=tmp_path)
    assert torch.equal(model.module.encoder.model.conv_stem.weight, learned.module.conv_stem.weight)
    assert model.licence == "MIT"
    with pytest.raises(ModelError, match="give --colour grey"):
        build_model(f"smp:unet/{_ENCODER}", _TASK, size_px=64, colour="rgb", weights=tmp_path)
