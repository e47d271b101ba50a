"""Three compressions of one dermoscopy teacher: where INT8, a pruned and a distilled student look, and do they hit it?

    python experiments/explained_compressions.py OUT --weights FILE --study FOLDER [--cases N]

``FILE`` and ``FOLDER`` as of ``explanations.py``. The teacher is quantized, pruned to half of its products (with a
recovery of 10 epochs) and distilled into a ResNet-10-T (12 epochs from random weights), by the steps that the commands
are made of. Maps of each bundle are compared with the teacher's by ``explain --method device``, on ``N`` test cases,
half of them melanomas: medians by the interval that the gate takes, pointing on the drawn melanomas by the report's.
AUROC is of the same cases. What is in OUT already is kept, so that a run goes on where it was ended;
``compressions.json`` is written last.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec.structs import replace

from explanations import SPEC, TASK, network, split
from medfm_compress import steps
from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.evaluate.evaluate import number_clusters
from medfm_compress.bench.evaluate.map_accuracy import compare_pointing
from medfm_compress.bench.gate.explanation_checks import median_agreement
from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.explain.explain import explain
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import CARD, Model, save_model
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.compress.quantization.targets import for_engines
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.study import Study
from medfm_compress.data.table import write_table
from medfm_compress.export.cases import network_inputs, sample_cases
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.step_settings import DistillStep, ExportStep

PRUNED_EPOCHS, DISTILLED_EPOCHS = 10, 12
INT8_ERROR = 0.15  # this network's INT8 is far from FP32 with few layers in float: what is asked here is where it looks
POLICY = Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.05),))


def compressions(options: argparse.Namespace) -> None:
    """INT8, pruned and distilled: the maps of each against the teacher's and the masks, on cases drawn by `explain`."""
    out, whole = options.out, split(options.study)
    kept = list(whole.split("test"))
    for name in ("train", "val"):
        kept += sample_cases(whole, name, options.trial, 0) if options.trial else whole.split(name)
    study = replace(whole, cases=tuple(kept))
    write_table(study, out / "study.csv")
    architecture = Architecture(name="tf_efficientnet_lite0", arguments={"num_classes": 2})
    teacher = Model("lite0-skin-lesion", network(options.weights), SPEC, TASK, architecture)
    for name in ("teacher", "pruned", "distilled"):
        folder = out / name
        if not (folder / CARD).is_file():
            _train(name, teacher, out, options)
        if not (out / f"{name}.medfm").is_file():
            step = ExportStep(heat_map=True, false_refusal_rate=0)
            steps.export(folder, out / "study.csv", step, name, "", print, out / f"{name}.medfm")
    if not (out / "int8.medfm").is_file():
        quick = QuantizeOptions(
            targets=("openvino:cpu:int8:1",), samples=96, validation_samples=64, rounds=5, nncf=False, optimised=False,
            time_budget_s=options.budget, error_limit=INT8_ERROR,
        )  # fmt: skip
        quantize_bundle(out / "teacher.medfm", study, out / "int8.medfm", for_engines(quick), print)
    table = {name: _agreements(name, teacher, study, options) for name in ("teacher", "int8", "pruned", "distilled")}
    (out / "compressions.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))
    sys.stdout.write((out / "compressions.json").read_text())


def _train(name: str, teacher: Model, out: Path, options: argparse.Namespace) -> None:
    """Write the model folder ``name``."""
    epochs = options.epochs or (PRUNED_EPOCHS if name == "pruned" else DISTILLED_EPOCHS)
    distillation = Distillation(views=min(6, epochs))
    source = (TeacherSource(source=str(out / "teacher")),)
    if name == "teacher":
        save_model(teacher, out / name)
    elif name == "pruned":
        training = TrainingConfig(epochs=epochs, learning_rate=5e-4, modality="dermoscopy")
        prune = PruneOptions(max_macs=0.5, target="", training=training, distillation=distillation)
        steps.prune(out / "study.csv", source, out / "teacher", prune, print, out / name)
    else:
        training = TrainingConfig(epochs=epochs, learning_rate=2e-3, modality="dermoscopy")
        step = DistillStep(student="resnet10t", training=training, distillation=distillation)
        steps.distill(out / "study.csv", source, step, print, out / name)


def _agreements(name: str, teacher: Model, study: Study, options: argparse.Namespace) -> dict[str, Any]:
    """Of every variant of ``name``.medfm, and of random weights."""
    explaining = ExplainOptions(method="device", cases=options.cases)
    path = options.out / f"{name}.medfm"
    rows = explain(path, teacher, study, options.out / f"explained-{name}", explaining, progress=print).agreements
    clusters = number_clusters(tuple(case.cluster for case in study.split("test")))
    cases = [study.split("test")[position] for position in rows[0].cases]
    images = network_inputs(study, cases, SPEC)[:, None]
    positive = np.array([case.target[0] for case in cases])
    bundle, told = Bundle.open(path), {}
    for row in rows:
        told[row.variant] = _figures(row, clusters.tolist())
        variant = next((v for v in bundle.manifest.variants if v.name == row.variant), None)
        if variant is not None:
            session = open_variant(bundle, variant, 1)
            logits = np.concatenate([session.run({"image": image})["logits"] for image in images])
            told[row.variant]["auroc"] = round(auroc((logits[:, 1] - logits[:, 0]).astype(np.float64), positive), 4)
    return told


def _figures(row: ExplanationAgreement, clusters: list[int]) -> dict[str, Any]:
    """What is said of one agreement: medians by the gate's own interval, the pointing game by the report's."""
    told: dict[str, Any] = {"method": row.method, "cases": len(row.cases)}
    for what, values in (("rank", row.rank_correlation), ("overlap", row.overlap)):
        found = median_agreement(row, values, clusters, POLICY.alpha)
        told[what] = None if found is None else _rounded(found)
        told[f"{what} 5th percentile"] = round(float(np.quantile(values, 0.05)), 4)
    compared = compare_pointing(row, clusters, POLICY)
    if compared is not None:
        told["drawn cases"] = compared[1].values.shape[1]
        for what in ("teacher", "bundle", "difference"):
            told[f"pointing {what}"] = _rounded(getattr(compared[0], what))
    return told


def _rounded(interval: Interval) -> tuple[float, float, float]:
    return round(interval.estimate, 4), round(interval.low, 4), round(interval.high, 4)


def main() -> None:
    """Make what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument(
        "--cases", type=int, default=376, help="Test cases, half of them melanomas; all 188 by default."
    )
    parser.add_argument("--epochs", type=int, default=0, help="Of both trainings; 0 takes their own, 10 and 12.")
    parser.add_argument("--trial", type=int, default=0, help="Cases of train and of val, for a trial; 0 takes all.")
    parser.add_argument("--budget", type=float, default=180, help="Seconds of the search for INT8.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    compressions(options)


if __name__ == "__main__":
    main()
