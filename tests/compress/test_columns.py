"""Columns all the way: the finding depends on the age alone, which only a network that is told it can learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from medfm_compress import steps
from medfm_compress.cli.next_command import after_finetune
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_dataset
from medfm_compress.compress.training.validation_score import logits_of, mean_auroc
from medfm_compress.data.open import open_study
from medfm_compress.onnx_model import CaseSource
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.step_settings import DistillStep, ExportStep, FinetuneStep

NETWORK = "mobilenetv3_small_050"
COLUMNS = (
    "columns:\n"
    "- {kind: numeric, name: age, unit: years, minimum: 0, maximum: 120, missing: impute, dicom: PatientAge}\n"
    "- {kind: categorical, name: sex, categories: [F, M], missing: category, dicom: PatientSex}\n"
)


def training(epochs: int = 12) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs, batch_size=16, learning_rate=5e-3, ema=0.9, patience=0, modality="none", device="cpu"
    )


def silent(_: object) -> None:
    pass


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise; who is 50 or older is ill; the last two cases say neither age nor sex."""
    folder = tmp_path_factory.mktemp("study")
    random, lines = np.random.default_rng(0), ["image,split,label,age,sex"]
    for number in range(98):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / f"{number}.png")
        age, split = int(random.integers(20, 80)), ("train", "train", "val")[number % 3]
        told = f"{age},{'FM'[number % 2]}" if number < 96 else ","
        lines.append(f"{number}.png,{split if number < 96 else 'unlabelled'},{'ill' if age >= 50 else 'well'},{told}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "columns.yaml").write_text(COLUMNS)
    return folder


@pytest.fixture(scope="module")
def teacher(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "teacher"
    step = FinetuneStep(model=NETWORK, image_size=32, columns=str(study / "columns.yaml"), training=training())
    steps.finetune(study, step, silent, out)
    return out


def auroc_of(model: Model, study: Path) -> float:
    val = load_dataset(open_study(study), "val", model.spec, None, silent, model.columns)
    return mean_auroc(logits_of(model.module, val.images, model.spec, columns=val.columns), val.targets, model.task)


def test_a_network_learns_from_its_columns(teacher: Path, study: Path) -> None:
    model = load_model(teacher)
    assert [column.name for column in model.columns] == ["age", "sex"]
    assert auroc_of(model, study) > 0.95


@pytest.mark.parametrize("told", [True, False], ids=["with columns", "without"])
def test_a_student_with_or_without_columns(teacher: Path, study: Path, tmp_path: Path, told: bool) -> None:
    columns = {"columns": str(study / "columns.yaml"), "fusion": "film"} if told else {}
    step = DistillStep(
        student=NETWORK, training=training(12 if told else 1), distillation=Distillation(views=1), **columns
    )
    student = steps.distill(study, (TeacherSource(source=str(teacher)),), step, silent, tmp_path / "student")
    assert bool(student.columns) == told
    assert (auroc_of(student, study) > 0.9) == told
    store = OutputCache.open(tmp_path / "student" / "training" / "teacher-outputs")
    assert [column.name for column in store.card.told] == ["age", "sex"]


def test_kept_answers_are_of_the_values_that_they_were_given_on(teacher: Path, study: Path, tmp_path: Path) -> None:
    step = DistillStep(student=NETWORK, training=training(1), distillation=Distillation(views=1, unlabelled=False))
    steps.distill(study, (TeacherSource(source=str(teacher)),), step, silent, tmp_path / "student")
    store = OutputCache.open(tmp_path / "student" / "training" / "teacher-outputs")
    cases = open_study(study)
    same = (cases, tuple(case for case in cases.split("train") if case.target))
    store.check([same])
    older = tuple(msgspec.structs.replace(case, written={"age": "79"}) for case in same[1])
    with pytest.raises(StudyError, match="other cases"):
        store.check([(cases, older)])


def test_teachers_are_averaged_where_their_columns_agree(teacher: Path) -> None:
    model = load_model(teacher)
    plain = replace(model, columns=())  # only its card is looked at
    both = EnsembleTeacher([ModuleTeacher(model), ModuleTeacher(model)])
    assert both.card.told == model.columns
    other = msgspec.structs.replace(model.columns[0], maximum=99.0)  # type: ignore[arg-type]
    differing = ModuleTeacher(replace(model, columns=(other, model.columns[1])))
    with pytest.raises(ModelError, match="'age' differently"):
        EnsembleTeacher([ModuleTeacher(model), differing])
    assert plain.columns == ()


def test_training_for_int8_is_refused(teacher: Path, study: Path, tmp_path: Path) -> None:
    model = load_model(teacher)
    with pytest.raises(ModelError, match="knows images alone"):
        distill(
            (open_study(study),), ModuleTeacher(model), model, training(1), tmp_path, silent, Distillation(qat=True)
        )


def test_pruned_by_cases_with_columns_and_recovered(teacher: Path, study: Path, tmp_path: Path) -> None:
    options = PruneOptions(
        max_macs=0.8, target="", depth=False, training=training(8), distillation=Distillation(views=1, unlabelled=False)
    )
    record = steps.prune(study, (), teacher, options, silent, tmp_path / "pruned")
    assert record.macs_after < 0.85 * record.macs_before
    small = load_model(tmp_path / "pruned")
    assert [column.name for column in small.columns] == ["age", "sex"]
    assert auroc_of(small, study) > 0.9


def test_exported_and_quantized_with_columns_among_the_calibration(teacher: Path, study: Path, tmp_path: Path) -> None:
    steps.export(teacher, study, ExportStep(false_refusal_rate=0.0), "columns", "", silent, tmp_path / "a.medfm")
    options = QuantizeOptions(samples=16, targets=("onnxruntime:cpu",), time_budget_s=0.0, weights_only="int8")
    done = steps.quantize(CaseSource(study), tmp_path / "a.medfm", options, silent, tmp_path / "b.medfm")
    bundle = Bundle.open(tmp_path / "b.medfm")
    assert [tensor.role for tensor in bundle.manifest.inputs] == ["image", "column", "column"]
    assert [column.name for column in bundle.manifest.told] == ["age", "sex"]
    judged = [candidate for candidate in done.candidates if candidate.is_judged and not candidate.is_reference]
    assert judged and all(candidate.relative_logit_error < 0.1 for candidate in judged)


def test_targets_of_tensorrt_are_refused(teacher: Path, study: Path, tmp_path: Path) -> None:
    steps.export(teacher, study, ExportStep(false_refusal_rate=0.0), "columns", "", silent, tmp_path / "a.medfm")
    options = QuantizeOptions(samples=16, targets=("tensorrt:cuda:int8",))
    with pytest.raises(InputError, match="has the image alone"):
        steps.quantize(CaseSource(study), tmp_path / "a.medfm", options, silent, tmp_path / "b.medfm")


def test_a_kind_of_column_that_there_is_not_is_named(study: Path, tmp_path: Path) -> None:
    (tmp_path / "columns.yaml").write_text(COLUMNS.replace("numeric", "number"))
    step = FinetuneStep(model=NETWORK, image_size=32, columns=str(tmp_path / "columns.yaml"), training=training(1))
    with pytest.raises(InputError, match=r"columns\[0\].kind is 'number'; it must be numeric or categorical"):
        steps.finetune(study, step, silent, tmp_path / "out")
    assert not (tmp_path / "out" / "model.json").exists()


def test_the_next_command_tells_the_student_what_the_teacher_was_told(tmp_path: Path) -> None:
    told = after_finetune(tmp_path / "teacher", Path("study"), "dermoscopy", columns="my columns.yaml")
    assert "--columns 'my columns.yaml' --out" in told
    assert "--columns" not in after_finetune(tmp_path / "teacher", Path("study"), "dermoscopy")
