"""What quantization-aware distillation gains over post-training quantization; whether engines compute it.

python experiments/distillation_qat.py STUDENT TEACHER STUDY WORK [EPOCHS] [LEARNING_RATE] [CASES]

STUDENT and TEACHER are model folders, STUDENT trained in float. It is distilled further twice, for the same epochs:
once in float (so that training longer is no advantage) and once with INT8 values. Both are exported and quantized for
each engine on CASES training cases; on validation cases, with 7-bit weights where the CPU has no VNNI:

- ``to_start``, ``to_teacher``, ``to_own``: relative logit error against the float student that training started from,
  the teacher, and the student's own float weights;
- ``auroc``: mean over findings;
- ``to_trained``: relative logit error of the engine against the network that was trained (with INT8 values in PyTorch).

WORK/qat.json has the figures. Test cases are not read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.qat.prepare import with_ranges
from medfm_compress.compress.qat.ranges_file import load_ranges
from medfm_compress.compress.quantization.build_candidate import DYNAMIC, GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.fidelity import case_logits
from medfm_compress.compress.quantization.methods import TRAINED, Method
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import labelled_cases, load_images
from medfm_compress.compress.training.job import gather
from medfm_compress.compress.training.validation_score import logits_of, mean_auroc
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.trained_ranges import attach_ranges
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.manifest import Backend
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly
from medfm_compress.runtime.sessions.table import open_session_from_bytes

Logits = NDArray[np.float32]
BACKENDS: tuple[Backend, ...] = ("openvino", "onnxruntime")
POST_TRAINING = ("minmax", "mse")
DEFAULTS = ("3", "1e-4", "128")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One network on the validation cases.

    Attributes:
        student: ``start``, ``float`` (distilled on) or ``qat``.
        runs: ``torch``, ``torch-int8-values``, or backend and method.
        to_start: relative logit error against the float student that training started from.
        to_teacher: against the teacher.
        to_own: against the student's own float weights in PyTorch.
        to_trained: against the network as it was trained with INT8 values; None where it was not.
        auroc: mean over findings.
    """

    student: str
    runs: str
    to_start: float
    to_teacher: float
    to_own: float
    auroc: float
    to_trained: float | None = None


class Bench:
    """The validation cases, and what everything is held against."""

    def __init__(self, study: Study, start: Model, teacher: Model, cases: int, cache: Path) -> None:
        self.start, self.reduced = start, not multiplies_exactly(read_cpu())
        val = labelled_cases(study, "val")
        self.targets = study.targets(val)
        self.images = load_images([(study, val)], start.spec, cache, say)
        train = load_images([(study, labelled_cases(study, "train"))], start.spec, cache, say)
        order = np.random.default_rng(0).permutation(len(train))[:cases]
        self.calibration = normalised(gather(train, np.sort(order)), start.spec)
        self.inputs = normalised(gather(self.images, np.arange(len(val))), start.spec)
        self.wanted = logits_of(start.module, self.images, start.spec).numpy()
        theirs = load_images([(study, val)], teacher.spec, cache, say)
        self.teacher = logits_of(teacher.module, theirs, teacher.spec).numpy()

    def row(self, student: str, runs: str, logits: Logits, own: Logits, trained: Logits | None = None) -> Row:
        """What logits ``[n, labels]`` are worth."""
        task = self.start.task
        return Row(
            student=student,
            runs=runs,
            to_start=relative_logit_error(logits, self.wanted, task),
            to_teacher=relative_logit_error(logits, self.teacher, task),
            to_own=relative_logit_error(logits, own, task),
            to_trained=None if trained is None else relative_logit_error(logits, trained, task),
            auroc=mean_auroc(torch.from_numpy(logits), self.targets, task),
        )

    def rows(self, name: str, model: Model, folder: Path) -> list[Row]:
        """Of a network in PyTorch and in both engines by every method."""
        own = logits_of(model.module, self.images, model.spec).numpy()
        found = [self.row(name, "torch", own, own)]
        ranges = load_ranges(folder)
        trained: dict[bool, Logits] = {}
        for reduced in {False, self.reduced} if ranges else ():
            network = with_ranges(model.module, torch.from_numpy(self.inputs[:1]), ranges, reduced=reduced)
            trained[reduced] = logits_of(network, self.images, model.spec).numpy()
            found.append(self.row(name, f"torch-int8-values{seven(reduced)}", trained[reduced], own))
        content = export_onnx(model.module, model.spec, model.task).content
        if ranges:
            attached = attach_ranges(content, model.module, ranges)
            say(attached.line)
            content = attached.content
        content = portable(content)
        builder = GraphBuilder(content, calibrate(content, [self.calibration]), self.calibration[:32])
        for backend in BACKENDS:
            for method in self.methods(builder, backend, bool(ranges)):
                files = builder.build(backend, method)
                logits = case_logits(open_session_from_bytes(backend, files, 1, "int8"), self.inputs)
                found.append(self.row(name, f"{backend} {method}", logits, own, trained.get(method.reduced)))
                say(str(found[-1]))
        return found

    def methods(self, builder: GraphBuilder, backend: Backend, trained: bool) -> list[Method]:
        """Estimators by placements; 8-bit weights too where the engine is exact with them."""
        estimators = (*((TRAINED,) if trained else ()), *POST_TRAINING)
        widths = {self.reduced, False} if backend == "onnxruntime" else {self.reduced}
        return [
            Method(estimator=estimator, placement=placement, reduced=reduced)
            for placement in builder.placements(backend)
            if placement != DYNAMIC
            for estimator in estimators
            for reduced in sorted(widths)
        ]


def say(text: str) -> None:
    """Progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def seven(reduced: bool) -> str:
    """How a row says that weights have 7 bits."""
    return "-7-bit" if reduced else ""


def normalised(images: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.float32]:
    """Network inputs ``[n, C, H, W]`` of prepared images in [0, 1]."""
    shape = (1, -1, 1, 1)
    result: NDArray[np.float32] = (images - np.reshape(spec.mean, shape)) / np.reshape(spec.std, shape)
    return result.astype(np.float32)


def main(student: str, teacher: str, study_path: str, work: str, *numbers: str) -> None:
    """Distil twice, quantize, measure, write ``WORK/qat.json``."""
    epochs, rate, cases = (*numbers, *DEFAULTS[len(numbers) :])
    folder, study, known = Path(work), open_study(Path(study_path)), load_model(teacher)
    config = TrainingConfig(epochs=int(epochs), learning_rate=float(rate), patience=0, precision="fp32", ema=0.98)
    bench = Bench(study, load_model(student), known, int(cases), folder / "cache")
    rows = bench.rows("start", bench.start, Path(student))
    for name, qat in (("float", False), ("qat", True)):
        out = folder / name
        options = Distillation(qat=qat, views=2)
        model = distill((study,), ModuleTeacher(known), load_model(student), config, out, say, options)
        rows += bench.rows(name, model, out)
    result: dict[str, Any] = {"cpu": read_cpu().model, "epochs": int(epochs), "rate": float(rate), "rows": rows}
    write_atomically(folder / "qat.json", msgspec.json.format(msgspec.json.encode(result), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
