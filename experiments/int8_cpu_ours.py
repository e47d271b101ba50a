"""Our own candidates for one network: what the candidate search chooses for each target, and the same for batch 8.

python int8_cpu_ours.py WORK STUDY.csv MODEL_FOLDER FORM TIME_BUDGET_S

FORM ``stress`` quantizes the graph with outlier channels (`compress.int8.outliers`). Batch 8 is quantized by the method
that was chosen at batch 1, with statistics of its own graph: its values need not have the same names. The cases that
calibrate and judge are those that everybody gets.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medfm_compress.bench.types.measurement import Measurement
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.candidate_search import Group
    from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits
    from medfm_compress.compress.quantization.fidelity import ValidationSet
    from medfm_compress.compress.quantization.final_timing import Timer
    from medfm_compress.compress.quantization.methods import DoesNotApply
    from medfm_compress.runtime.bundle.manifest import Backend

BATCH = 8
JUDGES = 64  # validation cases on which the candidate search judges; errors are measured on all
TARGETS: tuple[Backend, ...] = ("onnxruntime", "openvino")


def product_graph(plain: Path, *, stressed: bool = False) -> bytes:
    """A plain graph as `export` writes it: optimised, and through the portable passes."""
    import onnx
    from onnxscript import optimizer

    from medfm_compress.compress.quantization.build_candidate import serialise
    from medfm_compress.compress.quantization.outlier_stress import stress
    from medfm_compress.export.passes.pipeline import simplify
    from medfm_compress.export.passes.read import read_graph

    model = read_graph(optimizer.optimize(onnx.load(plain)).SerializeToString())
    simplify(model)
    return serialise(stress(model) if stressed else model)


def group_of(backend: Backend, graph: bytes) -> Group:
    """The target's FP32 and what else its CPU runs floats in."""
    from medfm_compress.compress.quantization.targets import make_group
    from medfm_compress.export.build import make_variant

    return make_group(make_variant(backend, "fp32"), form_of(backend, graph), 1)


def form_of(backend: Backend, graph: bytes) -> tuple[bytes, ...]:
    """The files of a float graph on ``backend``."""
    from medfm_compress.export.openvino_ir import to_openvino_ir

    return tuple(to_openvino_ir(graph)) if backend == "openvino" else (graph,)


def fused(graph: bytes) -> bytes:
    """A float graph with ONNX Runtime's own operators."""
    from medfm_compress.compress.quantization.build_candidate import serialise
    from medfm_compress.export.passes.pipeline import for_onnxruntime
    from medfm_compress.export.passes.read import read_graph

    return serialise(for_onnxruntime(read_graph(graph), quantized=False)[0])


def batches(images: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    """``size`` cases at a time; those left over are left out."""
    for start in range(0, len(images) - size + 1, size):
        yield images[start : start + size]


def judges_of(work: Path, study_path: Path, folder: Path) -> ValidationSet:
    """The validation cases."""
    from medfm_compress.compress.networks.model import load_model_card
    from medfm_compress.compress.quantization.fidelity import ValidationSet
    from medfm_compress.data.open import open_study
    from medfm_compress.export.cases import sample_cases

    study, inputs = open_study(study_path), np.load(work / "validation.npy")
    task = load_model_card(folder).task
    cases = sample_cases(study, "val", len(inputs), 0)
    return ValidationSet(study=study, cases=cases[:JUDGES], inputs=inputs[:JUDGES], task=task)


def choose(work: Path, folder: Path, validation: ValidationSet, form: str, budget_s: float) -> None:
    """Climb the candidate search on every target and keep what it chooses."""
    from medfm_compress.compress.quantization.budget import Budget
    from medfm_compress.compress.quantization.build_candidate import SAMPLE, GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.compress.quantization.candidate_search import search_candidates
    from medfm_compress.compress.quantization.candidate_trial import Limits
    from medfm_compress.compress.quantization.final_choice import choose_variants

    stressed = form == "stress"
    graph = product_graph(work / "plain-b1.onnx", stressed=stressed)
    images = np.load(work / "calibration.npz")["image"]
    start = time.perf_counter()
    statistics = calibrate(graph, batches(images, 1), threads=2)
    calibration_s = time.perf_counter() - start
    builder = GraphBuilder(graph, statistics, images[:SAMPLE])
    batched = None if stressed else _larger(work, images)
    for backend in TARGETS:
        limits = Limits(error=0.03, auroc_drop=0.02, rounds=40, threads=1, budget=Budget(budget_s))
        start = time.perf_counter()
        searched = search_candidates(group_of(backend, graph), builder, validation, limits, _print_line)
        (tried,) = choose_variants([searched], lambda *_: (), timer_of(folder, limits, budget_s), limits)
        about = {"calibration_s": round(calibration_s, 1), "ladder_s": round(time.perf_counter() - start, 1)}
        keep(work, f"{form}-{backend}", tried, batched, about)


def timer_of(folder: Path, limits: Limits, budget_s: float) -> Timer:
    """Fresh processes on inputs as the model in ``folder`` takes them."""
    from medfm_compress.compress.networks.model import load_model_card
    from medfm_compress.compress.quantization.final_timing import final_plan, time_in_fresh_processes

    card = load_model_card(folder)

    def timer(trials: Sequence[CandidateTrial]) -> Sequence[Measurement]:
        plan = final_plan(trials, limits.rounds, limits.threads, budget_s)
        return time_in_fresh_processes(trials, card.spec, card.task, plan)

    return timer


def _larger(work: Path, images: NDArray[np.float32]) -> tuple[bytes, GraphBuilder]:
    """The graph of batch 8, and what builds its candidates."""
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate

    graph = product_graph(work / f"plain-b{BATCH}.onnx")
    return graph, GraphBuilder(graph, calibrate(graph, batches(images, BATCH), threads=2), images[:BATCH])


def keep(
    work: Path,
    name: str,
    tried: tuple[CandidateTrial | DoesNotApply, ...],
    batched: tuple[bytes, GraphBuilder] | None,
    about: dict[str, Any],
) -> None:
    """Write the files of what the search chose, of FP32 where it chose nothing, and a ``.json`` of all it tried."""
    from medfm_compress.compress.quantization.candidate_trial import CandidateTrial

    trials = [entry for entry in tried if isinstance(entry, CandidateTrial)]
    best = next((trial for trial in trials if trial.kept), trials[0])
    if best.export is None:
        raise RuntimeError(f"{best.name} was chosen and is not open")
    folder, backend = work / "ours", best.variant.backend
    folder.mkdir(exist_ok=True)
    files = {"1": _write(folder, f"{name}-b1", best.export.contents)}
    if batched is not None:
        graph, builder = batched
        if best.method is not None:
            contents = builder.build(backend, best.method)
        else:
            contents = (fused(graph),) if best.name == "fp32-fused" else form_of(backend, graph)
        files[str(BATCH)] = _write(folder, f"{name}-b{BATCH}", contents)
    about |= {"method": best.name, "precision": best.variant.precision, "files": files}
    about["tried"] = [_line(entry) for entry in tried]
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))


def _write(folder: Path, name: str, contents: tuple[bytes, ...]) -> list[str]:
    suffixes = (".xml", ".bin") if len(contents) == 2 else (".onnx",)
    files = [f"{name}{suffix}" for suffix in suffixes]
    for file, content in zip(files, contents, strict=True):
        (folder / file).write_bytes(content)
    return files


def _line(entry: CandidateTrial | DoesNotApply) -> dict[str, Any]:
    from medfm_compress.compress.quantization.candidate_trial import CandidateTrial

    if not isinstance(entry, CandidateTrial):
        return {"name": entry.candidate, "reason": entry.reason}
    figures = {"p50_ms": entry.p50_ms, "speedup": entry.speedup, "error": entry.error}
    return {"name": entry.name, "reason": entry.reason} | {key: round(value, 5) for key, value in figures.items()}


def _print_line(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    where, study_csv, folder, requested, seconds = sys.argv[1:]
    choose(Path(where), Path(folder), judges_of(Path(where), Path(study_csv), Path(folder)), requested, float(seconds))
