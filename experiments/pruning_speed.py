"""How much of the MACs removed becomes time saved: original and pruned networks, FP32 and INT8, timed in turns.

python experiments/pruning_speed.py OUT.json [--target-backend openvino] [--macs 0.5] [--rounds 10] [--px 224]
    [--only vit_small_patch16_224]...

Weights are untrained, since latency does not depend on them; so widths are chosen without cases: ``uniform`` takes the
same fraction of every group, ``clock`` shares the loss out by magnitude and by what the target's own clock says that it
saves. One thread, batch 1. For each network: PyTorch eager, the engine in FP32 and INT8, each before and after pruning,
every model in a fresh process. Efficiency is (speed-up) x (fraction of MACs kept), with the interval over rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.compress.latency.latency_goal import parse_goal
from medfm_compress.compress.latency.network_latency import engine_files
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.prune import Pruned, prune
from medfm_compress.compress.pruning.target_latency import TargetLatency
from medfm_compress.compress.pruning.width_search import PruningData
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.sessions.table import BACKENDS
from medfm_compress.runtime.task import Task
from medfm_compress.teacher_baselines import folder_session

NETWORKS = ("vit_small_patch16_224", "resnet50", "densenet121", "coatnet_nano_rw_224")
TASK = Task(kind="binary", labels=("absent", "present"))


def print_line(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def pruned_by(model: Model, way: str, asked: argparse.Namespace, precision: str) -> Pruned:
    """``model`` at half its MACs, or by the clock at as many times its speed."""
    int8 = precision == "int8"
    if way == "uniform":
        return prune(model, PruningGoal(macs=asked.macs, allocation="uniform", int8=int8))
    target = parse_goal(1.0, f"{asked.backend}:cpu:{precision}", 1)
    target_latency = TargetLatency(model, target, print_line)
    goal = PruningGoal(speedup=1 / asked.macs, allocation="global", int8=int8)
    return prune(model, goal, PruningData(target_latency=target_latency, progress=print_line))


def under_test(name: str, model: Model, precision: str, asked: argparse.Namespace, folder: Path) -> ModelUnderTest:
    """``model`` as ``eager`` PyTorch, or as the engine's files in ``precision``."""
    folder = folder / name.replace(" ", "-")
    folder.mkdir(parents=True)
    if precision == "eager":
        return ModelUnderTest(
            name=name, session=folder_session(save_model(model, folder), 1), spec=model.spec, task=TASK
        )
    goal = parse_goal(1.0, f"{asked.backend}:cpu:{precision}", 1)
    suffixes = (".xml", ".bin") if asked.backend == "openvino" else (".onnx",)
    paths = [folder / f"model{suffix}" for suffix in suffixes]
    for path, content in zip(paths, engine_files(model, goal), strict=True):
        path.write_bytes(content)
    arguments = {"model": str(paths[0]), "threads": 1, "precision": precision}
    session = SessionRef(opener=f"{BACKENDS[asked.backend]}:open_session", arguments=arguments)
    return ModelUnderTest(
        name=name, session=session, spec=model.spec, task=TASK, size_bytes=sum(p.stat().st_size for p in paths)
    )


def single(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network."""
    torch.manual_seed(0)
    model = build_model(name, TASK, size_px=asked.px, colour="grey")
    kept: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="medfm-speed-") as scratch:
        models = [under_test("eager", model, "eager", asked, Path(scratch))]
        for precision in ("fp32", "int8"):
            models.append(under_test(precision, model, precision, asked, Path(scratch)))
            for way in asked.ways.split(","):
                start = time.perf_counter()
                small = pruned_by(model, way, asked, precision)
                label = f"{precision} {way}"
                kept[label] = small.macs_after / small.macs_before
                print_line(f"{name} {label}: {kept[label]:.3f} of the MACs, {time.perf_counter() - start:.0f} s")
                models.append(under_test(label, small.model, precision, asked, Path(scratch)))
        plan = Plan(rounds=asked.rounds, threads=1, min_calls=3, turn_ms=150)
        result = {entry.name: entry for entry in measure(models, plan)}
    rows: dict[str, Any] = {}
    for label, entry in result.items():
        row: dict[str, Any] = {"p50_ms": round(entry.quantile_ms(0.5), 3), "bytes": entry.size_bytes}
        if label in kept:
            row["macs_kept"] = round(kept[label], 4)
            for against in (label.split(" ", maxsplit=1)[0], "eager"):
                gain = speedup(result[against], entry)
                row[f"speedup over {against}"] = [round(value, 3) for value in (gain.estimate, gain.low, gain.high)]
            row["efficiency"] = round(row[f"speedup over {label.split(' ', maxsplit=1)[0]}"][0] * kept[label], 3)
        rows[label] = row
    return rows


def main() -> None:
    """Measure what OUT.json does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--ways", default="uniform,clock")
    parser.add_argument("--only", action="append", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    result["machine"] = msgspec.to_builtins(describe_machine())
    for name in asked.only or NETWORKS:
        if name not in result:
            result[name] = single(name, asked)
            write_atomically(asked.out, json.dumps(result, indent=1).encode())


if __name__ == "__main__":
    main()
