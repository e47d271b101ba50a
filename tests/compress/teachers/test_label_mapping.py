"""Labels of a teacher in the words of a study: permuted, added, left out, or refused with the option that helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.features import offered, tapped
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.teacher_outputs.onnx_graph import IMAGE, export_graph
from medfm_compress.compress.teachers.label_mapping import Labelled, LabelMap, Settled, mapped, settle, unmapped
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.open import TeacherSource, open_teacher
from medfm_compress.compress.teachers.teacher import BATCH
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task

CHEST = Task(kind="binary", labels=("normal", "pneumonia"))
THREE = ("bacterial", "normal", "viral")
SOURCE = TeacherSource(source="x")


def settled(theirs: tuple[str, ...], study: Task = CHEST, outputs: int = 0, **options: object) -> Settled:
    source = TeacherSource(source="x", **options)  # type: ignore[arg-type]
    return settle("x", outputs or len(theirs), Labelled(theirs), source, study)


def test_the_studys_own_labels_need_no_map() -> None:
    assert settled(CHEST.labels).label_map is None
    assert settled(CHEST.labels).steps == ()


def test_the_same_labels_in_another_order_are_permuted() -> None:
    label_map = settled(("pneumonia", "normal")).label_map
    assert label_map is not None
    assert label_map(torch.tensor([[1.0, 2.0], [5.0, 3.0]])).tolist() == [[2.0, 1.0], [3.0, 5.0]]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_of_labels_that_mean_the_same_are_added(temperature: float) -> None:
    known = Labelled((*THREE, "blurred"), "multiclass", temperature)
    source = TeacherSource(source="x", mapping={"bacterial": "pneumonia", "viral": "pneumonia"})
    actual = settle("x", 4, known, source, CHEST)
    assert actual.label_map is not None and actual.task == Task(
        kind="binary", labels=CHEST.labels, temperature=temperature
    )
    logits = 4 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double() / temperature, 1)
    expected = torch.stack([p[:, 1], p[:, 0] + p[:, 2]], 1)
    expected = expected / expected.sum(1, keepdim=True)  # what is blurred is left out, the rest renormalised
    supplied = torch.softmax(actual.label_map(logits).double() / temperature, 1)
    assert torch.allclose(supplied, expected, atol=1e-6)
    assert "bacterial + viral as pneumonia" in actual.steps[0] and "left out: blurred" in actual.steps[0]


def test_one_output_of_a_binary_network_is_a_pair() -> None:
    actual = settled((), outputs=1, labels=CHEST.labels)
    assert actual.label_map is not None
    logits = torch.tensor([[-1.5], [0.0], [3.0]])
    assert torch.allclose(torch.softmax(actual.label_map(logits), 1)[:, 1:], torch.sigmoid(logits))


def test_independent_findings_are_mapped_one_to_one() -> None:
    study = Task(kind="multilabel", labels=("effusion", "mass"))
    actual = settled(("Mass", "effusion", "hernia"), study, mapping={"Mass": "mass"})
    assert actual.label_map is not None
    assert actual.label_map(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[2.0, 1.0]]
    with pytest.raises(ModelError, match="cannot be added"):
        settled(("Mass", "effusion", "mass"), study, mapping={"Mass": "mass"})


@pytest.mark.parametrize(
    ("theirs", "options", "message"),
    [
        ((), {"outputs": 2}, r"--teacher-labels normal,pneumonia"),
        ((), {"outputs": 5}, r"5 outputs .* --teacher-labels a,b,c,d,e --map a=normal --map b=pneumonia"),
        ((), {"outputs": 5, "labels": ("a", "b")}, r"5 outputs, but 2 labels"),
        (("a", "a"), {}, "name one twice"),
        (("normal", "sick"), {}, r"means 'pneumonia' .* --map sick=pneumonia"),
        (THREE, {}, r"means 'pneumonia' .* --map bacterial=pneumonia"),
        (tuple(f"n{i}" for i in range(1000)), {}, r"n15,\.\.\. \(1000 in all\)\) means 'normal', 'pneumonia'"),
        (THREE, {"mapping": {"virus": "pneumonia"}}, "has no label 'virus'; its labels: bacterial,normal,viral"),
        (THREE, {"mapping": {"viral": "ill"}}, "the study has no label 'ill'; its labels: normal,pneumonia"),
        (("pneumonia", "normal"), {"labels": CHEST.labels}, "leave the option out"),
    ],
)
def test_labels_that_cannot_be_the_studys_are_refused_with_what_helps(
    theirs: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        settled(theirs, **options)  # type: ignore[arg-type]


def test_independent_findings_do_not_teach_exclusive_labels() -> None:
    with pytest.raises(ModelError, match="same kind"):
        settle("x", 2, Labelled(CHEST.labels, "multilabel"), SOURCE, CHEST)
    with pytest.raises(ModelError, match="same kind"):
        settle("x", 2, Labelled(("a", "b"), "binary"), SOURCE, Task(kind="multilabel", labels=("a", "b")))


@pytest.fixture(scope="module")
def three() -> Model:
    torch.manual_seed(0)
    return build_model("test_vit", Task(kind="multiclass", labels=THREE), size_px=48, colour="grey")


def test_a_mapped_network_keeps_its_features_and_gets_another_identity(three: Model) -> None:
    label_map = LabelMap(((1,), (0, 2)), THREE)
    network = mapped(three.module, label_map)
    images = torch.rand(2, 1, 48, 48)
    assert not network.training
    assert torch.allclose(network(images), label_map(three.module(images)))
    assert offered(network, three.spec.shape) == offered(three.module, three.spec.shape) != {}
    expected = ("embedding", "map", "attention")
    ours, theirs = tapped(network, expected)(images), tapped(three.module, expected)(images)
    assert torch.allclose(ours.logits, network(images), atol=1e-6)
    assert all(torch.equal(ours.features[name], theirs.features[name]) for name in expected)
    others = [LabelMap(((1,), (0,)), THREE), LabelMap(((0, 2), (1,)), THREE), label_map]
    hashes = {replace(three, module=mapped(three.module, other)).weights_sha256() for other in others}
    assert len(hashes | {three.weights_sha256()}) == 4


def test_a_mapped_network_gets_the_fastest_engine(three: Model) -> None:
    import onnxruntime

    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(36, 3))
    model = replace(three, module=mapped(network, LabelMap(((1,), (0, 2)), THREE)))
    graph = onnxruntime.InferenceSession(export_graph(model, ()), providers=["CPUExecutionProvider"])
    images = torch.rand(BATCH, 1, 48, 48)
    (logits,) = graph.run(None, {IMAGE: images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), model.module(images), atol=1e-5)


def test_a_network_without_features_is_mapped_too() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    network = mapped(plain, LabelMap(((1,), (0,)), ("b", "a")))
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(network(images), plain(images)[:, [1, 0]])
    assert offered(network, (1, 1, 2, 2)) == {}


def test_a_model_folder_teaches_a_study_of_other_labels(three: Model, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(save_model(three, tmp_path_factory.mktemp("three") / "m"))
    config, distillation = TrainingConfig(device="cpu"), Distillation(teacher_precision="fp32")
    source = TeacherSource(source=folder, mapping={"bacterial": "pneumonia", "viral": "pneumonia"}, licence="CC0")
    teacher = open_teacher((source,), CHEST, config, distillation.teacher_precision)
    assert isinstance(teacher, ModuleTeacher)
    assert (teacher.card.task, teacher.card.licence, teacher.engine) == (CHEST, "CC0", "pytorch fp32")
    assert set(teacher.card.features) == {"embedding", "map", "attention"}
    images = torch.rand(2, 1, 48, 48)
    p = torch.softmax(ModuleTeacher(three).answer(images).logits, 1)
    supplied = torch.softmax(teacher.answer(images).logits, 1)
    assert torch.allclose(supplied, torch.stack([p[:, 1], p[:, 0] + p[:, 2]], 1), atol=1e-5)
    plain = open_teacher((TeacherSource(source=folder),), three.task, config, distillation.teacher_precision)
    assert teacher.card.identity != plain.card.identity
    assert (unmapped(teacher.model).task, unmapped(plain.model)) == (three.task, plain.model)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"--map bacterial=pneumonia"):
        open_teacher((TeacherSource(source=folder),), CHEST, config, distillation.teacher_precision)
