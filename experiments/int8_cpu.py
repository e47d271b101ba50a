"""Measure INT8 on a CPU against everything else: docs/results/int8-cpu.md, one network after another.

python experiments/int8_cpu.py MODELS --work FOLDER --environments FOLDER

MODELS holds what `int8_cpu_models.sh` and `real_weights` made, ENVIRONMENTS what `peers/setup.sh` made. Stages, each of
them skipped where its result is there already (``--again STAGE`` repeats it):

    prepare  plain FP32 graphs, calibration and validation inputs
    peers    every peer's artefact, and what it cost
    ours     the candidate search's choice for each target, within an error of 0.03 and within one of 0.08
    errors   relative logit errors on validation cases
    timing   1 and 2 threads, batch 1 and 8, everybody in turns; and how quiet the machine was meanwhile
    tables   docs/results/int8-cpu/*.json to Markdown
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from int8_cpu_compared import FLOATS, LIMITS, OURS, PEERS, TORCH, TWO_THREADS, ComparedModel, compared_models
from int8_cpu_network import is_network, load_network
from int8_cpu_ours import MOST_ERROR
from int8_cpu_tables import write_tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "results" / "int8-cpu"
MODELS = (
    "resnet18", "resnet50", "densenet121", "mobilenetv3_large_100", "efficientnetv2_rw_t", "regnety_032",
    "convnext_tiny", "deit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
    "tiny_vit_11m_224", "mobilevitv2_100", "efficientformer_l1", "coatnet_nano_rw_224", "minilm", "ppocr_det",
    "ppocr_rec", "lite0",
)  # fmt: skip
STAGES = ("prepare", "peers", "ours", "errors", "timing", "tables")
CELLS = ((1, 1), (2, 1), (1, 8), (2, 8))
"""Threads and batch."""
SLOW = 1.5  # a peer so many times slower than FP32 at batch 1 is not timed at batch 8


class Harness:
    """One run's arguments, and where things are."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.models = Path(arguments.models).resolve()
        self.study = self.models / "study.csv"
        self.results = Path(arguments.results).resolve()
        self.pythons = pythons(Path(arguments.environments).resolve() if arguments.environments else None)

    def wants(self, stage: str, result: Path) -> bool:
        """Whether a stage is due: asked for, and without a result or to be repeated."""
        if stage not in self.arguments.stages:
            return False
        return stage in self.arguments.again or not result.exists()

    @property
    def batches(self) -> tuple[int, ...]:
        """That are to be timed, and 1, of which errors are."""
        return tuple(sorted({1, *(batch for _, batch in self.arguments.cells)}))

    def work(self, name: str) -> Path:
        """Folder of a network's artefacts."""
        return Path(self.arguments.work).resolve() / name

    def measure(self, name: str) -> None:
        """All stages of one network."""
        work, folder = self.work(name), self.models / name
        work.mkdir(parents=True, exist_ok=True)
        print_line(f"{name}:")
        if "prepare" in self.arguments.stages:
            counts = (str(self.arguments.calibration), str(self.arguments.validation))
            script("int8_cpu_prepare.py", folder, self.study, work, *counts)
        if "peers" in self.arguments.stages:
            self._peers(work)
        self._ours(work)
        if "errors" in self.arguments.stages:
            self._errors(work)
        if "timing" in self.arguments.stages:
            for threads, batch in self.arguments.cells:
                self._time(work, threads, batch)
        self._record(work, name)

    def _ours(self, work: Path) -> None:
        """One search after another on each count of threads that is timed and not searched for yet."""
        for threads in sorted({threads for threads, _ in self.arguments.cells}):
            ending = TWO_THREADS if threads > 1 else ""
            due = [
                limit.removeprefix("-") or str(MOST_ERROR)
                for limit, begin in LIMITS.items()
                if self.wants("ours", work / "ours" / f"{begin}-openvino{ending}.json")
            ]
            if due:
                batches = ",".join(map(str, self.batches))
                script("int8_cpu_ours.py", work, self.arguments.time_budget, ",".join(due), batches, threads)

    def _peers(self, work: Path) -> None:
        for batch in self.batches:
            for name in self.arguments.peers:
                peer = PEERS[name]
                if not peer.artefact and not (batch > 1 and peer.single) and self.pythons.get(name):
                    script("int8_cpu_peers.py", name, work, self.pythons[name], batch)

    def _errors(self, work: Path) -> None:
        """Errors of whoever's files changed since the last time."""
        path = work / "errors.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"errors": {}, "stamps": {}}
        everybody = compared_models(work, self.pythons, 1)
        stamps = {entry.name: stamp(entry) for entry in everybody}
        due = [
            entry for entry in everybody if not entry.reason and known["stamps"].get(entry.name) != stamps[entry.name]
        ]
        if due:
            request = {
                "compared": due,
                "inputs": str(work / "validation.npy"),
                "image": str(work / "image-b1.npy"),
                "reference": str(work / "reference.npy"),
                "kind": load_network(work).kind,
                "agreement": load_network(work).agreement,
            }
            found = ask("int8_cpu_errors.py", request, work)
            for figure in ("errors", "agreement"):
                known[figure] = {**known.get(figure, {}), **found.pop(figure)}
            known |= found | {"stamps": known["stamps"] | {entry.name: stamps[entry.name] for entry in due}}
            path.write_text(json.dumps(known))

    def _time(self, work: Path, threads: int, batch: int) -> None:
        out = work / f"cell-{threads}x{batch}.json"
        if not self.wants("timing", out):
            return
        print_line(f"  {threads} threads, batch {batch}")
        everybody = compared_models(work, self.pythons, batch)
        floats = {name: "timed at batch 1 only" for name, backend, _ in FLOATS if backend == TORCH}
        absent = self._slow(work) | floats if batch > 1 else {}
        if threads == 1:
            absent |= {name: "chosen for two threads" for name in OURS if name.endswith(TWO_THREADS)}
        if (threads, batch) != (1, 1):
            absent["torchao"] = "compiled for one thread and batch 1 only"
        cell = {
            "compared": [msgspec.structs.replace(c, reason=c.reason or absent.get(c.name, "")) for c in everybody],
            "threads": threads,
            "image": str(work / f"image-b{batch}.npy"),
            "budget_s": self.arguments.budget,
            "processes": self.arguments.processes,
        }
        out.write_text(json.dumps(ask("int8_cpu_timing.py", cell, work)))

    def _slow(self, work: Path) -> dict[str, str]:
        """Who need not be timed at batch 8, and why."""
        path = work / "cell-1x1.json"
        samples = json.loads(path.read_text())["samples"] if path.is_file() else {}
        middle = {name: sorted(values)[len(values) // 2] for name, values in samples.items() if name in PEERS}
        limit = SLOW * sorted(samples["onnxruntime-fp32"])[len(samples["onnxruntime-fp32"]) // 2] if samples else 0.0
        return {name: "slower than FP32 at batch 1" for name, ms in middle.items() if ms > limit}

    def _record(self, work: Path, name: str) -> None:
        """Everything known of a network, as the JSON that the tables are made of."""
        from medfm_compress.bench.measure.machine import describe_machine

        network = load_network(work)
        record: dict[str, Any] = {"model": name, "weights": network.weights, "calibration": self.arguments.calibration}
        record["shape"] = network.shape
        record["machine"] = msgspec.to_builtins(describe_machine())
        record["cells"] = {
            f"{threads}x{batch}": json.loads((work / f"cell-{threads}x{batch}.json").read_text())
            for threads, batch in CELLS
            if (work / f"cell-{threads}x{batch}.json").is_file()
        }
        path = work / "errors.json"
        record["errors"] = json.loads(path.read_text()) if path.is_file() else {"errors": {}, "failed": {}}
        record["errors"].pop("stamps", None)
        record["peers"] = {path.stem: json.loads(path.read_text()) for path in sorted((work / "peers").glob("*.json"))}
        made = {path.stem: json.loads(path.read_text()) for path in sorted((work / "ours").glob("*.json"))}
        record["ours"] = {name: {k: v for k, v in about.items() if k != "files"} for name, about in made.items()}
        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


def pythons(environments: Path | None) -> dict[str, str]:
    """Interpreter of each peer; this one where ONNX Runtime and NNCF have no environment."""
    found = {}
    for name, peer in PEERS.items():
        own = environments / peer.environment / "bin" / "python" if environments else None
        if own is not None and own.is_file():
            found[name] = str(own)
        elif peer.environment in ("onnxruntime", "nncf"):
            found[name] = sys.executable
    return found


def stamp(compared_model: ComparedModel) -> list[float]:
    """Changes when one of its files does."""
    return [Path(file).stat().st_mtime for file in compared_model.files if Path(file).exists()]


def script(name: str, *words: object) -> None:
    """Run one of the scripts beside this one in a process of its own; a failure is told and survived."""
    done = subprocess.run([sys.executable, str(HERE / name), *map(str, words)], check=False)
    if done.returncode:
        print_line(f"  {name} {' '.join(map(str, words[-3:]))} failed with {done.returncode}")


def ask(name: str, request: dict[str, Any], work: Path) -> dict[str, Any]:
    """Run a script that answers a question in JSON."""
    asked, answer = work / "question.json", work / "answer.json"
    asked.write_bytes(msgspec.json.encode(request))
    answer.unlink(missing_ok=True)
    subprocess.run([sys.executable, str(HERE / name), str(asked), str(answer)], check=True)
    told: dict[str, Any] = json.loads(answer.read_text())
    return told


def print_line(line: str) -> None:
    """One line of progress, with the time."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", help="folder of int8_cpu_models.sh and real_weights.py")
    parser.add_argument("--work", required=True, help="folder for artefacts")
    parser.add_argument("--environments", default="", help="folder of experiments/peers/setup.sh")
    parser.add_argument("--results", default=str(RESULTS))
    parser.add_argument("--names", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--stages", type=lambda text: text.split(","), default=list(STAGES))
    parser.add_argument("--again", type=lambda text: text.split(","), default=[], help="stages to repeat")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS), help="that quantize")
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--validation", type=int, default=128)
    parser.add_argument(
        "--time-budget", type=float, default=60.0, help="seconds of the candidate search for each target"
    )
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of timing for each cell, roughly")
    parser.add_argument("--processes", type=int, default=2, help="of each model in a cell, one after another")
    parser.add_argument("--cells", type=_cells, default=CELLS, help="threads x batch, e.g. 1x1,2x1,1x8,2x8")
    parser.add_argument("--quick", action="store_true", help="one thread, batch 1, a few rounds")
    arguments = parser.parse_args(words)
    arguments.cells = CELLS[:1] if arguments.quick else arguments.cells
    if arguments.quick:
        arguments.budget, arguments.time_budget = 4.0, min(arguments.time_budget, 20.0)
    return arguments


def _cells(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (part.split("x") for part in text.split(","))
    return tuple((int(threads), int(batch)) for threads, batch in pairs)


def main() -> None:
    """Measure every network that is there."""
    harness = Harness(parse())
    for name in harness.arguments.names:
        if is_network(harness.models / name):
            harness.measure(name)
        else:
            print_line(f"{name}: not there, left out")
    if "tables" in harness.arguments.stages:
        write_tables(harness.results)


if __name__ == "__main__":
    main()
