"""What quantizing itself costs: seconds and peak memory of the product's command and of every peer, one network.

python experiments/int8_cpu_cost.py MODELS NAME --work FOLDER --environments FOLDER [--cases 300]

Every command runs alone in a fresh process, on all CPUs that this one may use, and reads as many calibration cases. The
result is ``docs/results/int8-cpu/cost-NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from int8_cpu import RESULTS, print_line, pythons
from int8_cpu_compared import PEERS
from int8_cpu_peers import quantize, watched

TARGETS = ("onnxruntime:cpu", "openvino:cpu")


def calibration(models: Path, name: str, cases: int, out: Path) -> Path:
    """Inputs for the peers, drawn as the command draws its own."""
    from medfm_compress.compress.networks.model import load_model_card
    from medfm_compress.data.open import open_study
    from medfm_compress.export.cases import network_inputs, sample_cases

    study, spec = open_study(models / "study.csv"), load_model_card(models / name).spec
    np.savez(out, image=network_inputs(study, sample_cases(study, "train", cases, 0), spec))
    return out


def ours(models: Path, name: str, target: str, cases: int, work: Path) -> dict[str, Any]:
    """The command with one placement: no candidate after the first, no companion."""
    words = ["quantize", models / f"{name}.medfm", "--study", models / "study.csv", "--out", work / "cost.medfm"]
    words += ["--target", target, "--samples", cases, "--time-budget", 0]
    command = [sys.executable, "-m", "medfm_compress", *map(str, words)]
    return watched(command, work / f"cost-{target.partition(':')[0]}.log")


def main() -> None:
    """Run every command once, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--results", type=Path, default=RESULTS)
    supplied = parser.parse_args()
    work = supplied.work.resolve() / supplied.name
    cases = calibration(supplied.models, supplied.name, supplied.cases, work / "calibration-cost.npz")
    costs: dict[str, Any] = {}
    for target in TARGETS:
        costs[f"ours-{target.partition(':')[0]}"] = ours(
            supplied.models.resolve(), supplied.name, target, supplied.cases, work
        )
    for peer, python in pythons(supplied.environments and supplied.environments.resolve()).items():
        if not PEERS[peer].artefact:
            source = supplied.models.resolve() / supplied.name if PEERS[peer].module else work / "plain-b1.onnx"
            out = work / "cost" / f"{peer}{PEERS[peer].suffix}"
            costs[peer] = quantize(peer, source, cases, out, python)
            print_line(f"{peer}: {costs[peer]}")
    supplied.results.mkdir(parents=True, exist_ok=True)
    about = {"model": supplied.name, "cases": supplied.cases, "costs": costs}
    (supplied.results / f"cost-{supplied.name}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
