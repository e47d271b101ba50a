"""Our own candidates for one network: what the candidate search chooses for each target, and the same for batch 8.

python int8_cpu_ours.py WORK TIME_BUDGET_S MOST_ERROR,… BATCH,… THREADS,…

MOST_ERROR is a limit of the relative logit error, usually 0.03. Batch 8 is quantized by the method that was chosen at
batch 1, with statistics of its own graph: its values need not have the same names. Everybody gets the cases that
calibrate; the search judges by the logits of the first validation cases, and errors are measured on all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from int8_cpu_network import judges_of, load_network

if TYPE_CHECKING:
    from medfm_compress.bench.types.measurement import Measurement
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.candidate_search import Group
    from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits
    from medfm_compress.compress.quantization.final_timing import Timer
    from medfm_compress.compress.quantization.methods import DoesNotApply
    from medfm_compress.runtime.bundle.manifest import Backend

BATCH = 8
MOST_ERROR = 0.03
TARGETS: tuple[Backend, ...] = ("onnxruntime", "openvino")


def product_graph(plain: Path) -> bytes:
    """A plain graph as `export` writes it: optimised, and through the portable passes."""
    import onnx
    from onnxscript import optimizer

    from medfm_compress.compress.quantization.build_candidate import serialise
    from medfm_compress.export.passes.pipeline import simplify
    from medfm_compress.export.passes.read import read_graph

    model = read_graph(optimizer.optimize(onnx.load(plain)).SerializeToString())
    simplify(model)
    return serialise(model)


def group_of(backend: Backend, graph: bytes, threads: int) -> Group:
    """The target's FP32 and what else its CPU runs floats in."""
    from medfm_compress.compress.quantization.targets import make_group
    from medfm_compress.export.build import make_variant

    return make_group(make_variant(backend, "fp32"), form_of(backend, graph), threads)


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


class Plan(NamedTuple):
    """What is searched for."""

    budget_s: float
    most_errors: tuple[float, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]


def choose(work: Path, plan: Plan) -> None:
    """Search on every target within every limit, and keep what is chosen; batch 8 as it was chosen for one thread."""
    from medfm_compress.compress.quantization.budget import Budget
    from medfm_compress.compress.quantization.build_candidate import SAMPLE, GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.compress.quantization.candidate_search import search_candidates
    from medfm_compress.compress.quantization.candidate_trial import Limits
    from medfm_compress.compress.quantization.final_choice import choose_variants
    from medfm_compress.runtime.cpu import usable_cores

    validation = judges_of(work)
    graph = product_graph(work / "plain-b1.onnx")
    images = np.load(work / "calibration.npz")["image"]
    start = time.perf_counter()
    statistics = calibrate(graph, batches(images, 1), threads=usable_cores())
    calibration_s = time.perf_counter() - start
    builder = GraphBuilder(graph, statistics, images[:SAMPLE], load_network(work).task)
    batched = _larger(work, images) if BATCH in plan.batches else None
    for threads, most_error, backend in product(plan.threads, plan.most_errors, TARGETS):
        budget = Budget(plan.budget_s)
        limits = Limits(error=most_error, accuracy_drop=0.02, rounds=40, threads=threads, budget=budget, nncf=True)
        start = time.perf_counter()
        searched = search_candidates(group_of(backend, graph, threads), builder, validation, limits, _print_line)
        (tried,) = choose_variants([searched], lambda *_: (), timer_of(work, limits, plan.budget_s), limits)
        about = {"calibration_s": round(calibration_s, 1), "ladder_s": round(time.perf_counter() - start, 1)}
        name = f"{stem(most_error)}-{backend}{f'-t{threads}' if threads > 1 else ''}"
        keep(work, name, tried, batched if threads == 1 else None, about)


def timer_of(work: Path, limits: Limits, budget_s: float) -> Timer:
    """Fresh processes on inputs of the network's shape."""
    from medfm_compress.compress.quantization.final_timing import final_plan, time_in_fresh_processes

    network = load_network(work)

    def timer(trials: Sequence[CandidateTrial]) -> Sequence[Measurement]:
        plan = final_plan(trials, limits.rounds, limits.threads, budget_s)
        return time_in_fresh_processes(trials, network.spec, network.task, plan)

    return timer


def _larger(work: Path, images: NDArray[np.float32]) -> tuple[bytes, GraphBuilder]:
    """The graph of batch 8, and what builds its candidates."""
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.runtime.cpu import usable_cores

    graph = product_graph(work / f"plain-b{BATCH}.onnx")
    statistics = calibrate(graph, batches(images, BATCH), threads=usable_cores())
    return graph, GraphBuilder(graph, statistics, images[:BATCH], load_network(work).task)


def stem(most_error: float) -> str:
    """Begins the file names, with the limit where it is not the usual one."""
    return "plain" if most_error == MOST_ERROR else f"error-{most_error:g}"


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
    folder = work / "ours"
    folder.mkdir(exist_ok=True)
    files = {"1": _write(folder, f"{name}-b1", best.export.contents)}
    if batched is not None:
        files[str(BATCH)] = _write(folder, f"{name}-b{BATCH}", _for_batch(best, *batched))
    about |= {"method": best.name, "precision": best.variant.precision, "files": files}
    about["tried"] = [_line(entry) for entry in tried]
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))


def _for_batch(best: CandidateTrial, graph: bytes, builder: GraphBuilder) -> tuple[bytes, ...]:
    """The graph of another batch as what was chosen."""
    backend = best.variant.backend
    if best.method is not None:
        return builder.build(backend, best.method)
    return (fused(graph),) if best.name == "fp32-fused" else form_of(backend, graph)


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
    figures = {"p50_ms": entry.p50_ms, "speedup": entry.speedup}
    if entry.ran:  # without, its error is not known
        figures["error"] = entry.error
    return {"name": entry.name, "reason": entry.reason} | {key: round(value, 5) for key, value in figures.items()}


def _print_line(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    where, seconds, *lists = sys.argv[1:]
    errors, sizes, counts = (word.split(",") for word in lists)
    asked = Plan(float(seconds), tuple(map(float, errors)), tuple(map(int, sizes)), tuple(map(int, counts)))
    choose(Path(where), asked)
