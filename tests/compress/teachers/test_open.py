"""Teachers from timm, the hub's cache and torchvision, found by their source; and what is refused."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.teachers.from_torchvision import crop_fraction
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task

STUDY = Task(kind="binary", labels=("normal", "finding"))
THREE = Task(kind="multiclass", labels=("a", "b", "c"))
GREY = ImageSpec(height_px=64, width_px=64, colour="grey", mean=(0.5,), std=(0.25,))


def opened(source: str, study: Task = STUDY, **options: object) -> ModuleTeacher:
    teacher = open_all(TeacherSource(source=source, **options), study=study)  # type: ignore[arg-type]
    assert isinstance(teacher, ModuleTeacher)
    return teacher


def open_all(*sources: TeacherSource, study: Task = STUDY) -> object:
    return open_teacher(sources, study, TrainingConfig(device="cpu"))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return build_model("resnet10t", STUDY, size_px=48, colour="grey")


def test_a_model_folder_is_its_own_teacher(model: Model, tmp_path: Path) -> None:
    teacher = opened(str(save_model(model, tmp_path / "m")))
    assert teacher.card.identity == f"resnet10t@{model.weights_sha256()}"
    images = torch.rand(2, 1, 48, 48)
    assert torch.equal(teacher.answer(images).logits, ModuleTeacher(model).answer(images).logits)


def test_a_model_folder_keeps_its_own_weights_and_spec(model: Model, tmp_path: Path) -> None:
    folder = str(save_model(model, tmp_path / "m"))
    (tmp_path / "own.json").write_bytes(encode(model.spec))
    (tmp_path / "other.json").write_bytes(encode(GREY))
    assert opened(folder, spec=str(tmp_path / "own.json")).card.spec == model.spec
    with pytest.raises(ModelError, match="leave --teacher-spec out"):
        opened(folder, spec=str(tmp_path / "other.json"))
    with pytest.raises(ModelError, match="leave --teacher-weights out"):
        opened(folder, weights="w.pth")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("keras:thing", r"kind 'keras' is not known; a teacher is a model folder, timm:NAME, hf-hub:OWNER/NAME"),
        ("/no/such/thing", r"/no/such/thing does not exist; a teacher is a model folder"),
        ("no-such.onnx", r"no-such.onnx does not exist"),
        ("timm:resnet10x", r"no model 'resnet10x'; near it: .*resnet10t"),
        ("timm:hf-hub:timm/test_vit", "no model 'hf-hub:timm/test_vit'"),
        ("timm:resnet10t", r"no weights; .* --teacher-weights, or the hub's with hf-hub:timm/resnet10t"),
        ("torchvision:resnet81", r"no classification model 'resnet81'; near it: .*resnet18"),
        ("torchvision:squeezenet1_1", r"no weights; .*--teacher-weights"),
        ("torchvision:inception_v3", "normalises its input or not by how it was built"),
        ("outputs:/no/such/folder", "no cached answers"),
    ],
)
def test_a_source_that_is_no_teacher_is_refused(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        opened(source)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no teacher"):
        opened(str(tmp_path))


def test_cached_answers_stand_alone_and_as_they_are(model: Model, tmp_path: Path) -> None:
    answers = TeacherSource(source="outputs:a")
    folder = TeacherSource(source=str(save_model(model, tmp_path / "m")))
    with pytest.raises(ModelError, match="cannot be averaged"):
        open_all(folder, answers)
    with pytest.raises(ModelError, match="leave --map out"):
        open_all(TeacherSource(source="outputs:a", mapping={"x": "normal"}))


def test_a_timm_network_has_the_classes_and_channels_of_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3, in_chans=1).eval()
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "w.pth")
    source = {"weights": str(tmp_path / "w.pth"), "licence": "MIT", "intended_use": "tests"}
    teacher = opened("timm:test_resnet", THREE, labels=("a", "b", "c"), **source)
    spec = teacher.card.spec
    assert (spec.shape, spec.filter, spec.crop_fraction) == ((1, 1, 160, 160), "bilinear", 0.95)
    assert (teacher.card.licence, teacher.card.intended_use, teacher.card.family) == ("MIT", "tests", "cnn")
    images = torch.rand(2, 1, 160, 160)
    expected = network((images - spec.mean[0]) / spec.std[0])
    assert torch.allclose(teacher.answer(images).logits, expected, atol=1e-5)
    with pytest.raises(ModelError, match="--teacher-labels a,b,c"):
        opened("timm:test_resnet", THREE, **source)
    with pytest.raises(ModelError, match="--teacher-labels a,b,c --map a=normal --map b=finding"):
        opened("timm:test_resnet", STUDY, **source)
    with pytest.raises(ModelError, match="3 outputs, but 2 labels"):
        opened("timm:test_resnet", STUDY, labels=STUDY.labels, **source)


def test_a_timm_network_of_another_size_needs_its_spec(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=2, in_chans=1, img_size=64).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "spec.json").write_bytes(encode(GREY))
    supplied = {"weights": str(tmp_path / "w.safetensors"), "labels": STUDY.labels}
    teacher = opened("timm:test_vit", spec=str(tmp_path / "spec.json"), **supplied)
    assert teacher.card.spec == GREY
    images = torch.rand(2, 1, 64, 64)
    assert torch.allclose(teacher.answer(images).logits, network((images - 0.5) / 0.25), atol=1e-5)
    with pytest.raises(ModelError, match="trained at another image size, give its --teacher-spec"):
        opened("timm:test_vit", **supplied)


def test_weights_that_are_not_the_networks_are_refused(model: Model, tmp_path: Path) -> None:
    weights = str(save_model(model, tmp_path / "m") / "model.safetensors")
    with pytest.raises(ModelError, match="no classifier 'head'"):
        opened("timm:test_vit", weights=weights)
    with pytest.raises(ModelError, match="does not fit the architecture"):
        opened("timm:resnet18", weights=weights)
    with pytest.raises(ModelError, match=r"has no 'classifier\.1.weight' of squeezenet1_1"):
        opened("torchvision:squeezenet1_1", weights=weights)


@pytest.mark.parametrize("source", ["timm:test_vit", "torchvision:squeezenet1_1"])
def test_a_pickle_with_code_is_refused_and_not_run(source: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (marker,))

    torch.save({"head.weight": Bomb()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ModelError):
            opened(source, weights=str(tmp_path / name))
    assert not marker.exists()


def test_weights_and_answers_that_are_not_finite_are_refused(model: Model, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=2)
    supplied = {"weights": str(tmp_path / "w.safetensors"), "labels": STUDY.labels}
    network.state_dict()["fc.weight"].fill_(float("nan"))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="which is not finite in 192 of 192 values"):
        opened("timm:test_resnet", **supplied)
    network.state_dict()["fc.weight"].fill_(3e38)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    teacher = opened("timm:test_resnet", **supplied)
    with pytest.raises(ModelError, match="not finite"):
        teacher.answer(torch.rand(1, 3, 160, 160))


def test_a_spec_that_is_none_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    supplied = {"weights": str(tmp_path / "w.safetensors"), "labels": STUDY.labels}
    (tmp_path / "bad.json").write_text('{"height_px": 64}')
    for spec, message in (("none.json", "cannot read --teacher-spec"), ("bad.json", "--teacher-spec .*width_px")):
        with pytest.raises(ModelError, match=message):
            opened("timm:test_resnet", spec=str(tmp_path / spec), **supplied)
    (tmp_path / "grey.json").write_bytes(encode(GREY))
    with pytest.raises(ModelError, match="cannot run on images of 1×64×64"):
        opened("timm:test_resnet", spec=str(tmp_path / "grey.json"), **supplied)


# ------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def publish(hub: Path, config: dict[str, object], card: str = "") -> torch.nn.Module:
    """A tiny network as the hub's cache holds it: ``blobs``, and a snapshot that ``refs/main`` names."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    network.fc.bias.data = torch.tensor([0.5, -1.0, 2.0])
    repository = hub / "models--clinic--chest"
    snapshot = repository / "snapshots" / ("c" * 40)
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    save_file(network.state_dict(), repository / "blobs" / "weights")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/weights"))
    (snapshot / "config.json").write_text(json.dumps(config))
    if card:
        (snapshot / "README.md").write_text(card)
    return network


CONFIG: dict[str, object] = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "label_names": ["viral", "normal", "bacterial"],
    "pretrained_cfg": {
        "num_classes": 3,
        "input_size": [3, 96, 96],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "first_conv": "conv1.0",
        "classifier": "fc",
    },
}


def test_a_network_of_the_hub_keeps_its_classifier_labels_and_licence(hub: Path) -> None:
    network = publish(hub, CONFIG, "---\nlicense: cc-by-4.0\n---\n# Chest\n")
    study = Task(kind="binary", labels=("normal", "pneumonia"))
    mapping = {"viral": "pneumonia", "bacterial": "pneumonia"}
    teacher = opened("hf-hub:clinic/chest", study, mapping=mapping)
    assert teacher.card.spec == ImageSpec(
        height_px=96, width_px=96, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3, resize="shortest", filter="bilinear"
    )
    assert (teacher.card.licence, teacher.card.name) == ("cc-by-4.0", "chest")
    images = torch.rand(2, 3, 96, 96)
    p = torch.softmax(network((images - 0.5) / 0.25), 1)
    supplied = torch.softmax(teacher.answer(images).logits, 1)
    assert torch.allclose(supplied, torch.stack([p[:, 1], p[:, 0] + p[:, 2]], 1), atol=1e-5)


def test_a_network_of_the_hub_whose_classifier_would_be_new_is_refused(hub: Path) -> None:
    publish(hub, {**CONFIG, "model_args": {"num_classes": 2}})
    with pytest.raises(ModelError, match="names 3 classes and builds 2"):
        opened("hf-hub:clinic/chest")


def test_a_network_that_neither_hub_nor_cache_has_is_refused(hub: Path) -> None:
    with pytest.raises(ModelError, match="could not be had from the hub or its cache"):
        opened("hf-hub:clinic/nothing")
    with pytest.raises(ModelError, match="leave --teacher-weights out"):
        opened("hf-hub:clinic/nothing", weights="w.pth")


# --------------------------------------------------------------------------------------------------------- torchvision


def test_a_torchvision_network_has_the_classes_of_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=2).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    teacher = opened("torchvision:squeezenet1_1", weights=str(tmp_path / "w.safetensors"), labels=("finding", "normal"))
    assert teacher.model.architecture.arguments == {"num_classes": 2}
    assert teacher.card.features == () and "IMAGENET1K_V1" in teacher.card.steps[0]
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (300, 260, 3), dtype=np.uint8)
    preset = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    theirs = preset(Image.fromarray(photo))[None]
    ours = torch.from_numpy(preprocess(Pixels(photo, 0, 255), teacher.card.spec))
    assert (ours - theirs).abs().mean() < 0.02  # theirs rounds to 8 bits after the resize
    images = torch.rand(1, 3, 224, 224)
    normal = (images - torch.tensor(preset.mean)[:, None, None]) / torch.tensor(preset.std)[:, None, None]
    assert torch.allclose(teacher.answer(images).logits, network(normal)[:, [1, 0]], atol=1e-5)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "mobilenet_v3_small"])
def test_the_classes_of_other_torchvision_families_are_counted(name: str, tmp_path: Path) -> None:
    save_file(torchvision.models.get_model(name, num_classes=3).state_dict(), tmp_path / "w.safetensors")
    teacher = opened(f"torchvision:{name}", THREE, weights=str(tmp_path / "w.safetensors"), labels=THREE.labels)
    assert teacher.model.architecture.arguments == {"num_classes": 3}


def test_the_crop_of_a_preset_is_exact() -> None:
    sizes = {
        (preset.crop_size[0], preset.resize_size[0])
        for name in torchvision.models.list_models(module=torchvision.models)
        for preset in [torchvision.models.get_model_weights(name).DEFAULT.transforms()]
    }
    assert len(sizes) > 10
    for size, resized in sizes:
        assert math.floor(size / crop_fraction(size, resized)) == resized


@pytest.mark.shared
def test_a_real_pneumonia_classifier_teaches_two_labels(shared_data: Path) -> None:
    path = shared_data / "models" / "squeezenet1_1-pneumonia-3class.pth"
    labels = ("bacterial", "normal", "viral")
    source = TeacherSource(
        source="torchvision:squeezenet1_1",
        weights=str(path),
        labels=labels,
        mapping={"bacterial": "pneumonia", "viral": "pneumonia"},
        licence="MIT",
    )
    teacher = open_all(source, study=Task(kind="binary", labels=("normal", "pneumonia")))
    assert isinstance(teacher, ModuleTeacher)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    inner = torchvision.models.squeezenet1_1(num_classes=3).eval()
    inner.load_state_dict(torch.load(path, weights_only=True))
    spec = teacher.card.spec
    normal = (images - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]
    p = torch.softmax(inner(normal), 1)
    supplied = torch.softmax(teacher.answer(images).logits, 1)
    assert torch.allclose(supplied[:, 0], p[:, 1], atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_loader_that_needs_the_version_of_its_layers_gets_it(suffix: str, prefix: str, tmp_path: Path) -> None:
    """torchvision's MNASNet; safetensors keeps no versions."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.mnasnet0_5(num_classes=2).eval()
    path = tmp_path / f"net{suffix}"
    wrapped = nn.DataParallel(network) if prefix else network
    state = wrapped.state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(dict(state), path)
    spec = ImageSpec(height_px=64, width_px=64, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    (tmp_path / "spec.json").write_bytes(encode(spec))
    source = TeacherSource(
        source="torchvision:mnasnet0_5", weights=str(path), labels=("a", "b"), spec=str(tmp_path / "spec.json")
    )
    teacher = open_teacher((source,), Task(kind="binary", labels=("a", "b")), TrainingConfig(device="cpu"))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(teacher.answer(images).logits, network((images - 0.5) / 0.25), atol=1e-5)


def test_whatever_a_loader_raises_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: TeacherSource, task: Task) -> None:
        raise KeyError("layer4.weight")

    monkeypatch.setattr("medfm_compress.compress.teachers.open._opener", lambda text: fail)
    with pytest.raises(ModelError, match=r"cannot be opened as a teacher: KeyError: 'layer4.weight'"):
        open_teacher(
            (TeacherSource(source="timm:x"),), Task(kind="binary", labels=("a", "b")), TrainingConfig(device="cpu")
        )
