"""Age and sex beside a dermoscopy image: image alone against image and columns, teacher against INT8 student.

    python experiments/multimodal.py OUT --study FOLDER --weights FILE [--size PX] [--seeds N] [--only ARM …]

``FOLDER`` is the dermoscopy study with age and sex, of which 1,000 test images are cut out of train; ``FILE`` is
ImageNet weights of timm's tf_efficientnet_lite0. Every arm of `ARMS` is a teacher with or without columns and a student
with or without them; each is trained, exported and quantized in a folder of its own below ``OUT``, and what has ended
is kept. ``OUT/results.json`` receives the logits' AUROC on the test images with paired intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import msgspec

from medfm_compress import steps
from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.model import CARD, load_model
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_dataset
from medfm_compress.compress.training.validation_score import logits_of
from medfm_compress.data.column_proposal import propose_columns
from medfm_compress.data.open import open_study
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.table import write_table
from medfm_compress.export.cases import case_inputs
from medfm_compress.onnx_model import CaseSource
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.golden_cases import run_goldens
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.strict_json import encode
from medfm_compress.step_settings import DistillStep, ExportStep, FinetuneStep

TEACHER, STUDENT = "tf_efficientnet_lite0", "resnet10t"
_POLICY = Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.03),))
_SPLIT = SplitPlan(val=0.07, test=0.465, keep_test=False, seed=0)


class Arm(NamedTuple):
    """A teacher and its student: whether each is given the columns, and how they join."""

    teacher: bool
    student: bool
    fusion: FusionMethod = "concatenation"


ARMS = {
    "image": Arm(teacher=False, student=False),
    "columns": Arm(teacher=True, student=True),
    "film": Arm(teacher=True, student=True, fusion="film"),
    "columns for the teacher": Arm(teacher=True, student=False),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One network on the test images, and how far it is from another one.

    Attributes:
        network: arm and what it is, e.g. ``columns: student int8``.
        seed: of the training.
        auroc: with its interval.
        against: the network that it is compared with; empty for none.
        difference: of AUROC to that one, paired, with its interval.
    """

    network: str
    seed: int
    auroc: tuple[float, float, float]
    against: str = ""
    difference: tuple[float, float, float] = (0.0, 0.0, 0.0)


def prepare(options: argparse.Namespace) -> tuple[Path, Path]:
    """The study's table with its test split, and the file of columns that is proposed for it."""
    table, columns = options.out / "study.csv", options.out / "columns.yaml"
    if not columns.is_file():
        study = split_study(open_study(options.study), _SPLIT).study
        write_table(study, table)
        write_atomically(columns, propose_columns(study).text.encode())
    return table, columns


def train(arm: Arm, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """The arm's teacher and student as model folders, and the student's bundles; what is there is kept."""
    table, columns = prepare(options)
    teacher = options.out / f"teacher-{arm.fusion if arm.teacher else 'image'}-{seed}"
    name, fusion = str(columns), arm.fusion
    if not (teacher / CARD).is_file():
        tuned = FinetuneStep(
            model=TEACHER,
            weights=str(options.weights),
            image_size=options.size,
            training=TrainingConfig(
                epochs=-(-options.epochs // 2), patience=0, seed=seed, modality="dermoscopy", device="cpu"
            ),
        )
        tuned = msgspec.structs.replace(tuned, columns=name, fusion=fusion) if arm.teacher else tuned
        steps.finetune(table, tuned, print_line, teacher)
    if not (folder / "student" / CARD).is_file():
        training = TrainingConfig(
            epochs=options.epochs, learning_rate=2e-3, patience=0, seed=seed, modality="dermoscopy", device="cpu"
        )
        labelled = Distillation(views=2, unlabelled=False)  # images without labels have neither age nor sex
        distilled = DistillStep(student=STUDENT, training=training, distillation=labelled)
        distilled = msgspec.structs.replace(distilled, columns=name, fusion=fusion) if arm.student else distilled
        steps.distill(table, (TeacherSource(source=str(teacher)),), distilled, print_line, folder / "student")
    bundle = folder / "student.medfm"
    if not bundle.is_file():
        exported = ExportStep(false_refusal_rate=0.0)
        steps.export(folder / "student", table, exported, "student", "", print_line, bundle)
    if not (folder / "int8.medfm").is_file():
        search = QuantizeOptions(targets=("openvino:cpu", "onnxruntime:cpu"), time_budget_s=30.0, keep_fp32=True)
        steps.quantize(CaseSource(table), bundle, search, print_line, folder / "int8.medfm")


def tables_of(arm: Arm, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Evaluation]:
    """The arm's networks on the test images: teacher and student in PyTorch, each INT8 variant of the bundle."""
    study = open_study(prepare(options)[0])
    cases = tuple(case for case in study.split("test") if case.target)
    teacher = options.out / f"teacher-{arm.fusion if arm.teacher else 'image'}-{seed}"
    tables = {}
    for name, place in (("teacher", teacher), ("student", folder / "student")):
        model = load_model(place)
        test = load_dataset(study, "test", model.spec, options.out / "cache", no_progress, model.columns)
        logits = logits_of(model.module, test.images, model.spec, columns=test.columns).numpy()
        tables[name] = tabulate(logits, study, cases, model.task, name=name)
    bundle = Bundle.open(folder / "int8.medfm")
    inputs = case_inputs(study, cases, bundle.manifest.image_spec, bundle.manifest.told)
    for variant in bundle.manifest.variants:
        if variant.precision.startswith("int8"):
            logits = run_goldens(open_variant(bundle, variant, 1), inputs)
            tables[variant.name] = tabulate(logits, study, cases, bundle.manifest.task, name=variant.name)
    return tables


def compared(name: str, tables: dict[str, Evaluation], other: str, seed: int) -> Row:
    """``name`` against ``other``, both of ``tables``, by the AUROC of melanoma."""
    areas = [c for c in compare(tables[other], tables[name], _POLICY) if c.metric == "auroc" and not c.subgroup]
    area = areas[-1]
    ends = [(i.estimate, i.low, i.high) for i in (area.bundle, area.difference)]
    return Row(network=name, seed=seed, auroc=ends[0], against=other, difference=ends[1])


def rows_of(tables: dict[str, Evaluation], seed: int) -> list[Row]:
    """Every INT8 variant and student against its arm's teacher; every teacher and student against that of the image."""
    rows = []
    for name in tables:
        arm, _, what = name.partition(": ")
        if what != "teacher":
            rows.append(compared(name, tables, f"{arm}: teacher", seed))
        if arm != "image" and f"image: {what}" in tables:
            rows.append(compared(name, tables, f"image: {what}", seed))
    return rows


def print_line(event: object) -> None:
    """Progress as lines."""
    print(event, flush=True)  # noqa: T201


def main() -> None:
    """Train what is lacking, then write all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6, help="of a student; a teacher has half")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(ARMS))
    options = parser.parse_args()
    rows: list[Row] = []
    for seed in range(options.seeds):
        tables: dict[str, Evaluation] = {}
        for name in options.only:
            folder = options.out / f"{name.replace(' ', '-')}-{seed}"
            train(ARMS[name], seed, folder, options)
            made = tables_of(ARMS[name], seed, folder, options)
            tables |= {f"{name}: {what}": table for what, table in made.items()}
        rows += rows_of(tables, seed)
    write_atomically(options.out / "results.json", encode(rows))
    for row in rows:
        print_line(f"{row.seed}  {row.network:45} {row.auroc[0]:.3f}  − {row.against:25} {row.difference}")


if __name__ == "__main__":
    main()
