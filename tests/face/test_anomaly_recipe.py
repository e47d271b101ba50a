"""A recipe of an anomaly model: the teacher's scorer, a small encoder that learned from it, and the scorer on that."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

import striped_study  # noqa: E402

from medfm_compress.artefacts import StudyTable  # noqa: E402
from medfm_compress.compress.anomaly.nearest_cases import load_nearest_cases  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import load_model, save_model  # noqa: E402
from medfm_compress.pipeline import Job  # noqa: E402
from medfm_compress.recipe import load_recipe, with_backbone  # noqa: E402
from medfm_compress.runtime.errors import InputError  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

RECIPE = """\
name: stripes
study: study
policy: policy.yaml
anomaly:
  normal: [normal]
  teachers: [{encoder: given}]
  embed:
    student: test_resnet
    training: {epochs: 1, batch_size: 8, patience: 0, device: cpu, precision: fp32}
    embedding: {length: [4, 8], views: 1, teacher_length: 8}
  fit: {scorer: mahalanobis, length: 4}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recipe, its study, in which one label stands in test alone, and the network that teaches."""
    (tmp_path / "study").mkdir()
    table = striped_study.write(tmp_path / "study") / "cases.csv"
    table.write_text(table.read_text().replace("50.png,test,lesion", "50.png,test,rare"))
    torch.manual_seed(0)
    network = build_model("resnet10t", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="grey")
    save_model(network, tmp_path / "given")
    (tmp_path / "job.yaml").write_text(RECIPE)
    return tmp_path


def models(folder: Path) -> list[str]:
    """Make teacher and student as the recipe says; which steps were run."""
    lines: list[str] = []
    loaded = load_recipe(folder / "job.yaml")
    job = Job(loaded, folder / "out", lambda line: lines.append(str(line)))
    table = job.study(StudyTable(Path(loaded.recipe.study), loaded.recipe.normal))
    teacher, student = job.models(table)
    assert [source.source for source in teacher.sources] == [str(folder / "out" / "teacher")]
    assert student.path == folder / "out" / "student"
    begun = [line.removesuffix(" …") for line in lines if line.endswith(" …")]
    return [name for name in begun if " " not in name]  # a step's own lines have more than one word


def test_the_scorer_is_fitted_on_the_teacher_and_on_what_learned_from_it(folder: Path) -> None:
    assert models(folder) == ["study", "teacher", "embed", "student"]
    teacher, student = (load_model(folder / "out" / name) for name in ("teacher", "student"))
    for model in (teacher, student):
        assert model.task.kind == "anomaly" and model.task.normal_labels == ("normal",)
        assert model.module.encoder.width == 4  # type: ignore[union-attr]
    assert teacher.name.startswith("resnet10t") and student.name.startswith("test_resnet")
    assert student.provenance.teacher.startswith("resnet10t@")

    assert models(folder) == []
    (folder / "job.yaml").write_text(RECIPE.replace("length: 4}", "length: 8}"))
    assert models(folder) == ["teacher", "student"], "the encoder learned both lengths"
    (folder / "job.yaml").write_text(RECIPE.replace("epochs: 1", "epochs: 2").replace("mahalanobis", "knn"))
    assert models(folder) == ["teacher", "embed", "student"]
    assert load_nearest_cases(folder / "out" / "student")
    (folder / "job.yaml").write_text(RECIPE.replace("epochs: 1", "epochs: 2"))
    assert models(folder) == ["teacher", "student"]
    assert load_nearest_cases(folder / "out" / "student") == (), "those of the scorer before are gone"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  fit:", "distill: {student: resnet10t}\nprune: {min_speedup: 1.5}\nbench: {}\n#", "leave 'distill' out"),
        ("  fit:", "prune: {min_speedup: 1.5}\n#", "leave 'prune' out"),
        ("[normal]", "[]", "names no normal label"),
        ("[{encoder: given}]", "[]", "names no teacher"),
        ("  fit:", "pretrain: {model: resnet18}\n#", "neither a teacher nor the student"),
        ("    student: test_resnet", "    student: resnet18\n    weights: a.safetensors", "leave its weights"),
        ("encoder: given", "encoder: resnet18, image_size: 128", "leave its image_size 128 out"),
        ("  fit:", "export: {rule: youden}\n#", "decides by normal ones alone"),
        ("anomaly:", "anomalies:", "anomalies"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = RECIPE.replace(old, new, 1)
    if "2 teachers" in message:
        text = RECIPE.split("  embed:", maxsplit=1)[0].replace(
            "[{encoder: given}]", "[{encoder: given}, {encoder: other}]"
        )
    if "leave its" in message:
        text += "pretrain: {model: resnet18}\n"
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "job.yaml")


def test_two_teachers_take_an_encoder_that_learns_from_them(tmp_path: Path) -> None:
    text = RECIPE.split("  embed:", maxsplit=1)[0].replace("[{encoder: given}]", "[{encoder: given}, {encoder: other}]")
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(InputError, match="2 teachers and no 'embed'"):
        load_recipe(tmp_path / "job.yaml")


def test_neither_a_student_nor_an_anomaly_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(RECIPE.split("anomaly:", maxsplit=1)[0])
    with pytest.raises(InputError, match="add one of them"):
        load_recipe(tmp_path / "job.yaml")


def test_paths_are_relative_to_the_recipe_and_a_backbone_starts_what_it_is_named_for(folder: Path) -> None:
    text = RECIPE.replace("{encoder: given}", "{encoder: given}, {encoder: resnet18, licence: MIT}")
    text = text.replace("student: test_resnet", "student: resnet10t")
    (folder / "job.yaml").write_text(f"{text}pretrain: {{model: resnet18}}\n")
    recipe = load_recipe(folder / "job.yaml").recipe
    assert recipe.anomaly is not None and recipe.pretrain is not None
    assert [source.encoder for source in recipe.anomaly.teachers] == [str(folder / "given"), "resnet18"]
    started = with_backbone(recipe, recipe.pretrain, "backbone").anomaly
    assert started is not None and started.teachers[1].encoder == "backbone" and started.teachers[1].licence == "MIT"
    assert started.embed == recipe.anomaly.embed

    twice = text.replace("licence: MIT}", "licence: MIT}, {encoder: resnet18, weights: w.safetensors}")
    (folder / "job.yaml").write_text(f"{twice}pretrain: {{model: resnet18}}\n")
    recipe = load_recipe(folder / "job.yaml").recipe
    assert recipe.anomaly is not None and recipe.pretrain is not None
    started = with_backbone(recipe, recipe.pretrain, "backbone").anomaly
    assert started is not None and started.teachers[1].encoder == "backbone"
    assert started.teachers[2] == recipe.anomaly.teachers[2], "which has weights of its own"

    (folder / "job.yaml").write_text(f"{text}pretrain: {{model: resnet10t}}\n")
    recipe = load_recipe(folder / "job.yaml").recipe
    assert recipe.anomaly is not None and recipe.pretrain is not None
    started = with_backbone(recipe, recipe.pretrain, "backbone").anomaly
    assert started is not None and started.embed is not None and started.embed.weights == "backbone"
    assert started.teachers == recipe.anomaly.teachers
