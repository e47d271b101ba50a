"""Accuracy after recovery at equal measured latency: which way of sharing the loss out over layers wins.

python experiments/pruning_recovery.py WORK --study STUDY --model FOLDER [--speedup 3] [--target openvino:cpu:fp32]
    [--epochs 1] [--seeds 3] [--arms measured,evolution,uniform,magnitude] [--teacher FOLDER] [--modality radiograph]

Every arm prunes FOLDER to the same latency on the target, as it is measured, and recovers for the same epochs with the
same teacher's answers, once a seed. Arms:

- measured: Taylor importance, measured damage, knapsack over latency, token width and depth too, repair;
- evolution: likewise, with the other search;
- no-repair: measured, without repair;
- global: Taylor importance added up over all layers, knapsack over latency;
- uniform: Taylor importance, the same fraction everywhere;
- magnitude: the same fraction everywhere by magnitude, nothing repaired; what general libraries do by default.

WORK/results.json has a row a run: AUROC on validation and test cases, latency, MACs, seconds. Runs that are there are
not repeated. Every look at the test split is written to WORK/test-evaluations.jsonl.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.stats.auroc import clustered_areas
from medfm_compress.bench.stats.auroc_difference import area_difference
from medfm_compress.bench.stats.metrics import Sample
from medfm_compress.bench.stats.patient_effects import paired_effects
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.latency.latency_goal import parse_goal
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.pruning import record as records
from medfm_compress.compress.pruning.iterative import PruningRun, prune_and_recover
from medfm_compress.compress.pruning.options import PruneOptions
from medfm_compress.compress.pruning.record import RECORD, PruningRecord
from medfm_compress.compress.pruning.target_latency import TargetLatency
from medfm_compress.compress.students.build_student import build_student
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_dataset
from medfm_compress.compress.training.validation_score import logits_of, mean_auroc
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime.atomic_write import write_atomically

ARMS: dict[str, dict[str, Any]] = {
    "measured": {"allocation": "measured"},
    "evolution": {"allocation": "measured", "search": "evolution"},
    "no-repair": {"allocation": "measured", "repair": False},
    "widths-only": {"allocation": "measured", "embedding": False, "depth": False},
    "global": {"allocation": "global"},
    "uniform": {"allocation": "uniform"},
    "magnitude": {"allocation": "uniform", "importance": "magnitude", "repair": False},
}


def print_line(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


class Bench:
    """Where everything lies, and what all runs share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.asked, self.work = arguments, Path(arguments.work)
        self.study: Study = open_study(Path(arguments.study))
        self.model = load_model(arguments.model)
        self.teacher = load_model(arguments.teacher) if arguments.teacher else self.model
        self.results = self.work / "results.json"
        self.splits = {
            split: load_dataset(self.study, split, self.model.spec, self.work / "cache", print_line)
            for split in ("val", "test")
        }

    def rows(self) -> dict[str, Any]:
        """What is known of all runs."""
        return json.loads(self.results.read_text()) if self.results.is_file() else {}

    def put(self, name: str, row: dict[str, Any]) -> None:
        """Keep a run's figures."""
        write_atomically(self.results, json.dumps({**self.rows(), name: row}, indent=1).encode())
        print_line(f"{name}: {row}")

    def score(self, model: Model, name: str) -> dict[str, float]:
        """AUROC on validation and test cases; the latter is logged."""
        with (self.work / "test-evaluations.jsonl").open("a") as log:
            log.write(json.dumps({"run": name, "weights": model.weights_sha256()}) + "\n")
        return {
            split: round(mean_auroc(logits_of(model.module, single.images, model.spec), single.targets, model.task), 4)
            for split, single in self.splits.items()
        }

    def training(self, seed: int, epochs: int) -> TrainingConfig:
        """How it recovers."""
        return TrainingConfig(
            epochs=epochs,
            learning_rate=self.asked.learning_rate,
            modality=self.asked.modality,
            precision="fp32",
            device="cpu",
            seed=seed,
        )

    def recovered(self, start: Model, out: Path, seed: int, epochs: int) -> Model:
        """``start`` after distillation; all runs share the teacher's answers and the prepared images."""
        for name in ("teacher-outputs", "cache"):
            link = out / "training" / name
            (self.work / name).mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((self.work / name).resolve(), target_is_directory=True)
        plan = Distillation(views=2)
        teacher = ModuleTeacher(self.teacher)
        return distill((self.study,), teacher, start, self.training(seed, epochs), out, print_line, plan)


def cut(bench: Bench, arm: str) -> tuple[Model, PruningRecord]:
    """The model of one arm, not recovered; kept for all seeds."""
    arguments, out = bench.asked, bench.work / f"cut-{arm}"
    known = records.load(out / RECORD, PruningRecord)
    if known is not None:
        return load_model(out), known
    options = PruneOptions(
        min_speedup=arguments.speedup, target=arguments.target, training=bench.training(0, 0), **ARMS[arm]
    )
    start = time.perf_counter()
    record = prune_and_recover(
        PruningRun(bench.study, ModuleTeacher(bench.teacher), options, out, print_line), bench.model
    )
    model = load_model(out)
    bench.put(
        f"{arm}/cut",
        {
            **counts(record),
            **bench.score(model, f"{arm}/cut"),
            "seconds": round(time.perf_counter() - start, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        },
    )
    return model, record


def counts(record: PruningRecord) -> dict[str, Any]:
    """Sizes and times of a cut model against the original."""
    last = record.steps[-1]
    return {
        "macs": round(record.macs_after / record.macs_before, 4),
        "parameters": round(record.parameters_after / record.parameters_before, 4),
        "predicted_ms": round(last.predicted, 4),
        "measured_ms": round(last.measured, 4),
        "p50_ms": [round(entry.quantile_ms(0.5), 4) for entry in record.measurements],
        "speedup": round(record.speedup.estimate, 3) if record.speedup else 0.0,
        "blocks_dropped": sum(group.kind == "block" and group.after == 0 for group in last.groups),
    }


def main() -> None:
    """Do what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--study", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--teacher", default="")
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--target", default="openvino:cpu:fp32")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--modality", default="radiograph")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default="measured,uniform,magnitude")
    parser.add_argument("--student", default="", help="also distil this one from scratch, e.g. a timm name")
    parser.add_argument("--student-epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments)
    if "original" not in bench.rows():
        bench.put("original", bench.score(bench.model, "original"))
    for seed in range(arguments.seeds):
        for arm in arguments.arms.split(","):
            name = f"{arm}/seed-{seed}"
            model, record = cut(bench, arm)
            if name not in bench.rows():
                start = time.perf_counter()
                done = bench.recovered(model, bench.work / name.replace("/", "-"), seed, arguments.epochs)
                seconds = round(time.perf_counter() - start, 1)
                bench.put(name, {**counts(record), **bench.score(done, name), "seconds": seconds})
        name = f"{arguments.student}/seed-{seed}"
        if arguments.student and name not in bench.rows():
            torch.manual_seed(seed)
            start = time.perf_counter()
            student = build_student(arguments.student, bench.model.task, bench.model.spec, None, bench.model, None)
            done = bench.recovered(student, bench.work / name.replace("/", "-"), seed, arguments.student_epochs)
            seconds = round(time.perf_counter() - start, 1)
            bench.put(name, {**timed(bench, done), **bench.score(done, name), "seconds": seconds})
    if "together" not in bench.rows():
        bench.put("together", together(bench))
    if "margins" not in bench.rows():
        bench.put("margins", margins(bench))


def margins(bench: Bench) -> dict[str, Any]:
    """Test AUROC of each recovered model minus the original, paired and clustered by patient, with a 95 % interval."""
    cases = [case for case in bench.study.split("test") if case.target]
    names = {name: number for number, name in enumerate(sorted({case.cluster for case in cases}))}
    clusters = np.array([names[case.cluster] for case in cases])
    test, task = bench.splits["test"], bench.model.task

    def importance_scores(model: Model) -> Any:
        return torch.softmax(logits_of(model.module, test.images, model.spec).double(), 1)[:, 1].numpy()

    whole, truth = importance_scores(bench.model), test.targets[:, 0]
    rows = {}
    for name in bench.rows():
        folder = bench.work / name.replace("/", "-")
        if "/seed-" in name and (folder / "model.json").is_file() and task.kind == "binary":
            scores = np.stack([whole, importance_scores(load_model(folder))])
            effects = paired_effects(Sample(scores, (scores > 0.5).astype(np.int64), truth, clusters), "auroc")
            result = area_difference(clustered_areas(scores, truth, clusters), effects, 0.95)
            rows[name] = [round(value, 4) for value in (result.estimate, result.low, result.high)]
    return rows


def together(bench: Bench) -> dict[str, Any]:
    """All models of the comparison timed in turns with each other, so that their latencies are of one moment."""
    modules = {"original": bench.model.module}
    for arm in bench.asked.arms.split(","):
        modules[arm] = load_model(bench.work / f"cut-{arm}").module
    if bench.asked.student:
        modules[bench.asked.student] = load_model(bench.work / f"{bench.asked.student}-seed-0").module
    target_latency = TargetLatency(bench.model, parse_goal(1.0, bench.asked.target, 1), print_line)
    result = target_latency.compare(modules, Plan(rounds=20, threads=1))
    return {
        entry.name: {
            "p50_ms": round(entry.quantile_ms(0.5), 4),
            "speedup": [round(value, 3) for value in (gain.estimate, gain.low, gain.high)],
        }
        for entry in result
        for gain in [speedup(result[0], entry)]
    }


def timed(bench: Bench, student: Model) -> dict[str, Any]:
    """Time of a student against the original, as `counts` has it."""
    target_latency = TargetLatency(bench.model, parse_goal(1.0, bench.asked.target, 1), print_line)
    result = target_latency.compare(
        {"original": bench.model.module, "student": student.module}, Plan(rounds=10, threads=1)
    )
    before, after = (round(entry.quantile_ms(0.5), 4) for entry in result)
    example = torch.zeros(bench.model.spec.shape)
    macs = count_macs(student.module, example).total / count_macs(bench.model.module, example).total
    return {"macs": round(macs, 4), "p50_ms": [before, after], "speedup": round(before / after, 3)}


if __name__ == "__main__":
    main()
