"""Time the engines that `trt_run` kept in turns: all precisions of a network and batch meet the same clocks and heat.

    python trt_turns.py ENGINES CASES.npy OUT.json --seconds 60

A round asks each engine in turn for `CALLS` calls (A B C, A B C, …). A row holds the median over all calls, and the
lowest and highest median of a round, which say how far a difference may be chance. Figures of different processes
(PyTorch, ONNX Runtime) are not in turns with these.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from trt_run import summary

ROUNDS, CALLS = 10, 40


def groups(folder: Path) -> dict[tuple[str, int], dict[str, Path]]:
    """(network, batch) → precision → file, where there is more than one to compare."""
    found: dict[tuple[str, int], dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.glob("*.plan")):
        network, precision, batch = path.name.removesuffix(".plan").rsplit(".", 2)
        found[network, int(batch)][precision] = path
    return {key: files for key, files in found.items() if len(files) > 1}


def spread(rounds: list[list[float]]) -> dict[str, float]:
    """Quantiles over all calls, and the range of the rounds' medians, ms."""
    medians = [float(np.median(samples)) for samples in rounds]
    across = {"lowest_round": round(min(medians), 4), "highest_round": round(max(medians), 4)}
    return {**summary([sample for samples in rounds for sample in samples]), **across}


def compare(files: dict[str, Path], images: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """Precision → device and wall time, ms a call, in turns."""
    import trt_engine as engines

    opened = {name: engines.Engine(path.read_bytes(), len(images), images.shape[1:]) for name, path in files.items()}
    rounds: dict[str, dict[str, list[list[float]]]] = {name: {"device_ms": [], "wall_ms": []} for name in opened}
    for engine in opened.values():
        engine.wall_ms(images, CALLS)
    for _ in range(ROUNDS):
        for name, engine in opened.items():
            rounds[name]["device_ms"].append(engine.device_ms(len(images), CALLS))
            rounds[name]["wall_ms"].append(engine.wall_ms(images, CALLS))
    for engine in opened.values():
        engine.close()
    return {name: {kind: spread(samples) for kind, samples in kinds.items()} for name, kinds in rounds.items()}


def main() -> None:
    """A row for each network and batch; one that fails is a row with the reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    request = parser.parse_args()
    rows: list[dict[str, Any]] = []
    images, end = np.load(request.cases), time.monotonic() + request.seconds
    for (network, batch), files in groups(request.engines).items():
        if time.monotonic() > end:
            break
        row: dict[str, Any] = {"network": network, "batch": batch}
        try:
            row["precisions"] = compare(files, images[:batch])
        except Exception as exc:  # noqa: BLE001 - one comparison's failure is a result, the others go on
            row["failure"] = f"{type(exc).__name__}: {exc}"[:500]
        rows.append(row)
        sys.stdout.write(json.dumps(row)[:800] + "\n")
        request.out.write_text(json.dumps({"rows": rows}, indent=1))
    if not rows:
        sys.stdout.write("no two engines of one network and batch to compare\n")


if __name__ == "__main__":
    main()
