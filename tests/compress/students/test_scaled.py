"""Scaled copies of a teacher: what they start from, that they reload, and what cannot be scaled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import Model, load_model, save_model  # noqa: E402
from medfm_compress.compress.students.architecture_sizes import Sizes, Stage, scaled, sizes_of  # noqa: E402
from medfm_compress.compress.students.scaled import Scale, parse_scale, scale_model  # noqa: E402
from medfm_compress.compress.students.weight_selection import evenly_spaced, select  # noqa: E402
from medfm_compress.compress.teachers.label_mapping import Groups, LabelMap, mapped  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

TASK = Task(kind="multiclass", labels=("a", "b", "c"))
PIXELS = 64


def teacher_of(name: str, seed: int = 0) -> Model:
    """An untrained network whose normalisations are not neutral, so that a wrong one shows."""
    torch.manual_seed(seed)
    model = build_model(name, TASK, size_px=PIXELS, colour="grey")
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.rand_like(parameter))
        model.module.train()(torch.randn(8, 1, PIXELS, PIXELS))
    model.module.eval()
    return model


def embeddings(model: Model, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.module.forward_head(model.module.forward_features(images), pre_logits=True)


def likeness(first: torch.Tensor, other: torch.Tensor) -> float:
    """Correlation over images and channels, each channel's mean over the images taken out."""
    pair = torch.stack([(embedding - embedding.mean(0)).flatten() for embedding in (first, other)])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "resnet10t"])
def test_a_full_copy_gives_the_teachers_very_outputs(name: str) -> None:
    teacher, images = teacher_of(name), torch.randn(4, 1, PIXELS, PIXELS)
    copy = scale_model(teacher, Scale(), TASK, teacher.spec)
    with torch.inference_mode():
        assert torch.equal(copy.module(images), teacher.module(images))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "resnet10t", "resnet18"])
def test_half_a_copy_is_smaller_and_loads_again(name: str, tmp_path: Path) -> None:
    teacher, images = teacher_of(name), torch.randn(2, 1, PIXELS, PIXELS)
    before = teacher.weights_sha256()
    student = scale_model(teacher, Scale(width=0.5, depth=0.5), TASK, teacher.spec)
    assert teacher.weights_sha256() == before
    counts = [sum(p.numel() for p in model.module.parameters()) for model in (student, teacher)]
    assert counts[0] < counts[1] / 2
    loaded = load_model(save_model(student, tmp_path / "student"))
    assert loaded.architecture == student.architecture
    with torch.inference_mode():
        assert torch.equal(loaded.module(images), student.module(images))


def test_every_tensor_holds_evenly_spaced_elements_of_the_first_blocks() -> None:
    teacher = teacher_of("test_vit")
    student = scale_model(teacher, Scale(width=0.5, depth=0.5), TASK, teacher.spec)
    own, whole = student.module.state_dict(), teacher.module.state_dict()
    assert {name.split(".")[1] for name in own if name.startswith("blocks.")} == {"0", "1", "2"}
    assert torch.equal(own["pos_embed"], whole["pos_embed"][:, :, ::2])
    assert torch.equal(own["blocks.2.attn.proj.weight"], whole["blocks.2.attn.proj.weight"][::2, ::2])
    # queries, keys and values each keep to themselves
    parts = zip(own["blocks.0.attn.qkv.weight"].chunk(3), whole["blocks.0.attn.qkv.weight"].chunk(3), strict=True)
    assert all(torch.equal(small, large[::2, ::2]) for small, large in parts)
    assert torch.equal(own["head.weight"], whole["head.weight"][:, ::2])
    assert student.provenance.steps == (
        "scaled copy of test_vit: width 0.5, depth 0.5: embed_dim 32, depth 3, num_heads 1",
    )


def test_blocks_of_one_dimension_keep_to_themselves_at_any_ratio() -> None:
    whole = torch.arange(3 * 48).reshape(3, 48)
    selected = select(whole.flatten(), (3 * 32,)).reshape(3, 32)
    assert torch.equal(selected, whole[:, evenly_spaced(48, 32)])
    assert len(set(evenly_spaced(48, 32).tolist())) == 32


def test_a_plain_stem_of_a_resnet_passes_its_selected_channels_on() -> None:
    teacher = teacher_of("resnet18")
    student = scale_model(teacher, Scale(width=0.5), TASK, teacher.spec)
    assert teacher.module.layer1[0].downsample is None
    stem = torch.rand(2, 64, 8, 8)
    with torch.inference_mode():
        passed = student.module.layer1[0].downsample(stem)
    assert torch.allclose(passed, stem[:, ::2], rtol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_shallow_copy_starts_close_to_the_teacher(name: str) -> None:
    teacher, images = teacher_of(name), torch.randn(16, 1, PIXELS, PIXELS)
    copy = scale_model(teacher, Scale(depth=0.5), TASK, teacher.spec)
    stranger = build_model(name, TASK, size_px=PIXELS, colour="grey")
    expected = embeddings(teacher, images)
    assert likeness(embeddings(copy, images), expected) > 0.3
    assert abs(likeness(embeddings(stranger, images), expected)) < 0.15


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_narrow_copy_starts_closer_than_a_stranger(name: str) -> None:
    teacher, images = teacher_of(name), torch.randn(16, 1, PIXELS, PIXELS)
    copy = scale_model(teacher, Scale(width=0.5), TASK, teacher.spec)
    selected = embeddings(copy, images)
    expected = embeddings(teacher, images)
    assert likeness(selected, expected[:, evenly_spaced(expected.shape[1], selected.shape[1])]) > 0.15


def test_another_image_size_resamples_the_positions() -> None:
    teacher = teacher_of("test_vit")
    spec = msgspec.structs.replace(teacher.spec, height_px=96, width_px=96)
    student = scale_model(teacher, Scale(depth=0.5), TASK, spec)
    assert student.module(torch.zeros(1, 1, 96, 96)).shape == (1, 3)
    grid = student.module.state_dict()["pos_embed"][0, -36:].reshape(6, 6, -1)
    old = teacher.module.state_dict()["pos_embed"][0, -16:].reshape(4, 4, -1)
    assert likeness(grid[[0, 0, -1, -1], [0, -1, 0, -1]], old[[0, 0, -1, -1], [0, -1, 0, -1]]) > 0.8


def test_another_label_set_gets_a_classifier_of_its_own() -> None:
    teacher = teacher_of("test_vit")
    student = scale_model(teacher, Scale(), Task(kind="binary", labels=("a", "d")), teacher.spec)
    own, whole = student.module.state_dict(), teacher.module.state_dict()
    assert own["head.weight"].shape[0] == 2
    assert all(torch.equal(own[name], whole[name]) for name in own if not name.startswith("head."))


@pytest.mark.parametrize(
    ("groups", "single", "outputs"), [(((1,), (0, 2)), False, 3), (((0,), (1,)), True, 1)], ids=["summed", "single"]
)
def test_a_teacher_of_mapped_labels_gives_its_layers(groups: Groups, single: bool, outputs: int) -> None:
    teacher = teacher_of("test_vit")
    teacher.module.reset_classifier(outputs)
    binary = Task(kind="binary", labels=("absent", "present"))
    label_map = LabelMap(groups, ("absent", "present") if single else TASK.labels, single)
    wrapped = dataclasses.replace(teacher, module=mapped(teacher.module, label_map), task=binary)
    student = scale_model(wrapped, Scale(), binary, teacher.spec)
    own, whole = student.module.state_dict(), teacher.module.state_dict()
    assert student.module(torch.zeros(1, 1, PIXELS, PIXELS)).shape == (1, 2)
    assert all(torch.equal(own[name], whole[name]) for name in own if not name.startswith("head."))


@pytest.mark.parametrize(
    ("stage", "width", "depth", "expected"),
    [
        (Stage(192, 12, 3), 0.5, 0.5, Stage(128, 6, 2)),  # whole heads of 64
        (Stage(384, 12, 6), 0.5, 0.25, Stage(192, 3, 3)),
        (Stage(384, 12, 6), 0.01, 0.01, Stage(64, 1, 1)),
        (Stage(40, 3, 0), 0.5, 0.5, Stage(16, 2, 0)),
        (Stage(40, 3, 0), 1, 1, Stage(40, 3, 0)),
        (Stage(12, 1, 0), 0.5, 0.5, Stage(12, 1, 0)),  # narrower than 16 already
    ],
)
def test_widths_are_multiples_of_16_and_of_whole_heads(
    stage: Stage, width: float, depth: float, expected: Stage
) -> None:
    sizes = Sizes(stages=(stage,), stem=0, names=("embed_dim", "depth", "num_heads"), form="one")
    assert scaled(sizes, width, depth).stages == (expected,)


def test_widths_that_double_follow_the_first_stage() -> None:
    stages = tuple(Stage(96 * 2**i, 2, 3 * 2**i) for i in range(4))
    sizes = Sizes(stages=stages, stem=0, names=("embed_dim", "depths", "num_heads"), form="first")
    half = scaled(sizes, 0.5, 1)
    assert half.arguments() == {"embed_dim": 64, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}


def test_a_scaled_student_can_be_scaled_again() -> None:
    teacher = teacher_of("test_vit")
    half = scale_model(teacher, Scale(width=0.5), TASK, teacher.spec)
    quarter = scale_model(half, Scale(depth=0.5), TASK, teacher.spec)
    assert sizes_of(quarter.module, quarter.architecture).stages == (Stage(32, 3, 1),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scaled:width=0.5,depth=0.25", Scale(width=0.5, depth=0.25)),
        ("scaled:depth=0.5", Scale(depth=0.5)),
        ("scaled: width=1 , depth=1", Scale()),
    ],
)
def test_factors_are_read(text: str, expected: Scale) -> None:
    assert parse_scale(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "scaled:",
        "scaled:0.5",
        "scaled:width=",
        "scaled:width=half",
        "scaled:width=0",
        "scaled:width=1.5",
        "scaled:depth=nan",
        "scaled:width=0.5,width=0.5",
        "scaled:width=0.5,height=0.5",
    ],
)
def test_other_factors_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(InputError, match=r"scaled:width=0\.5,depth=0\.5"):
        parse_scale(text)


def test_what_cannot_be_scaled_is_told_what_to_do_instead() -> None:
    other = teacher_of("test_efficientnet")
    with pytest.raises(ModelError, match=r"test_efficientnet cannot be scaled.*resnet.*medfm-compress prune"):
        scale_model(other, Scale(width=0.5), TASK, other.spec)
    teacher = teacher_of("test_resnet")
    pruned = msgspec.structs.replace(teacher.architecture, pruning={"layers": {}})
    with pytest.raises(ModelError, match=r"is pruned.*medfm-compress prune"):
        scale_model(dataclasses.replace(teacher, architecture=pruned), Scale(width=0.5), TASK, teacher.spec)
    foreign = msgspec.structs.replace(teacher.architecture, library="torchvision")
    with pytest.raises(ModelError, match="no timm network"):
        scale_model(dataclasses.replace(teacher, architecture=foreign), Scale(width=0.5), TASK, teacher.spec)
    spec = msgspec.structs.replace(teacher.spec, height_px=16, width_px=16)
    with pytest.raises(ModelError, match="32 to 1024"):
        scale_model(teacher, Scale(width=0.5), TASK, spec)
