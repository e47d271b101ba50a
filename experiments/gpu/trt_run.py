"""Build, qualify and time TensorRT engines of the networks that `graphs` wrote, most telling ones first.

    python trt_run.py GRAPHS ENGINES OUT.json --seconds 300

Each finished engine is a row of OUT.json, written at once: what the time does not suffice for is missing, not lost. An
engine that TensorRT refuses is a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

VIT, RESNET, DENSENET = "vit_small_patch16_224", "resnet50", "densenet121"
TINY = ("vit_tiny_patch16_224", "resnet10t")
PLAN = (
    (VIT, "fp32", 1), (VIT, "fp16", 1), (VIT, "int8", 1), (VIT, "fp16-islands", 1),
    (RESNET, "fp32", 1), (RESNET, "fp16", 1), (RESNET, "int8", 1),
    (f"{VIT}-stressed", "fp16", 1), (f"{VIT}-stressed", "fp16-islands", 1), (f"{VIT}-stressed", "int8", 1),
    (f"{VIT}-stressed", "int8-smooth", 1),
    (VIT, "fp16", 32), (VIT, "int8", 32), (RESNET, "fp16", 32), (RESNET, "int8", 32),
    (VIT, "rebuilt", 1), (RESNET, "rebuilt", 1),
    (DENSENET, "fp32", 1), (DENSENET, "fp16", 1), (DENSENET, "int8", 1),
    (VIT, "int8-smooth", 1), (RESNET, "int8-smooth", 1), (DENSENET, "int8-smooth", 1),
    (VIT, "fp32", 32), (RESNET, "fp32", 32), (VIT, "tf32", 1), (RESNET, "tf32", 1),
    (DENSENET, "fp16", 32), (DENSENET, "int8", 32), (DENSENET, "fp32", 32),
)  # fmt: skip
CALLS = 200
REBUILT = "fp16"


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """‖z_q − z‖_F / ‖z − z̄‖_F, each case's mean logit taken off first, z̄ the mean of each output."""
    z, q = (x.astype(np.float64) - x.mean(1, keepdims=True) for x in (reference, logits))
    return float(np.linalg.norm(q - z) / np.linalg.norm(z - z.mean(0)))


def summary(samples: list[float]) -> dict[str, float]:
    """Median, quartiles and 99th percentile, ms."""
    names, quantiles = ("p50", "p25", "p75", "p99"), (50, 25, 75, 99)
    return {name: round(float(np.percentile(samples, q)), 4) for name, q in zip(names, quantiles, strict=False)}


def times(engine: Any, images: np.ndarray) -> dict[str, Any]:
    """Wall, device and graph-replay time, ms a call; a graph that cannot be captured is its reason."""
    wall, device = engine.wall_ms(images, CALLS), engine.device_ms(len(images), CALLS)
    measured: dict[str, Any] = {"wall_ms": summary(wall), "device_ms": summary(device)}
    try:
        measured["graph_ms"] = summary(engine.graph_ms(len(images), CALLS))
    except RuntimeError as exc:
        measured["graph_ms"] = str(exc)
    return measured


class Bench:
    """What all rows share."""

    def __init__(self, graphs: Path, engines: Path, out: Path, level: int) -> None:
        self.graphs, self.engines, self.out, self.level = graphs, engines, out, level
        engines.mkdir(parents=True, exist_ok=True)
        self.images = np.load(graphs / "cases.npy")
        self.cache = b""
        self.rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []

    def done(self, network: str, precision: str, batch: int) -> bool:
        """Whether an earlier call has this row."""
        return any((r["network"], r["precision"], r["batch"]) == (network, precision, batch) for r in self.rows)

    def row(self, network: str, precision: str, batch: int) -> dict[str, Any]:
        """Build and measure one engine; ``rebuilt`` builds `REBUILT` again and compares it with the kept one."""
        import trt_engine as engines

        start, reference = time.monotonic(), np.load(self.graphs / f"{network}.logits.npy")
        again = precision == "rebuilt"
        serialized, form, refusals = self.built(network, REBUILT if again else precision, batch, fresh=again)
        row: dict[str, Any] = {"form": form, "refusals": refusals, "build_s": round(time.monotonic() - start, 1)}
        before = engines.used_bytes()
        engine = engines.Engine(serialized, batch, self.images.shape[1:])
        logits = self.logits(engine, batch)
        row.update(
            engine_bytes=len(serialized), engine=engines.digest(serialized),
            relative_logit_error=relative_error(logits, reference),
            same_argmax=float((logits.argmax(1) == reference.argmax(1)).mean()),
            same_decisions=float(((logits > 0) == (reference > 0)).mean()), finite=bool(np.isfinite(logits).all()),
            **times(engine, self.images[:batch]), engine_memory_bytes=engines.used_bytes() - before,
        )  # fmt: skip
        engine.close()
        kept = self.engines / f"{network}.{REBUILT if again else precision}.{batch}.plan"
        if again and kept.exists():
            row["rebuild"] = self.compared(kept.read_bytes(), serialized, logits, batch)
        elif not again:
            kept.write_bytes(serialized)
        return row

    def logits(self, engine: Any, batch: int) -> np.ndarray:
        """Logits of all cases, ``batch`` at a time."""
        step = batch if len(self.images) % batch == 0 else 1
        return np.concatenate([engine.run(self.images[i : i + step]) for i in range(0, len(self.images), step)])

    def compared(self, kept: bytes, rebuilt: bytes, logits: np.ndarray, batch: int) -> dict[str, Any]:
        """How an engine that was built again differs from the one that was kept."""
        import trt_engine as engines

        engine = engines.Engine(kept, batch, self.images.shape[1:])
        before = self.logits(engine, batch)
        engine.close()
        error, largest = relative_error(logits, before), float(np.abs(logits - before).max())
        return {"equal_bytes": kept == rebuilt, "largest_difference": largest, "relative_logit_error": error}

    def built(self, network: str, precision: str, batch: int, *, fresh: bool) -> tuple[bytes, str, list[str]]:
        """The engine, the form of the graph that was taken, and why not those before it."""
        import trt_engine as engines

        forms = (precision, f"{precision}-float-weights") if precision.startswith("int8") else ("fp32",)
        refusals = []
        for form in forms:
            content = (self.graphs / f"{network}.{form}.onnx").read_bytes()
            cache = b"" if fresh else self.cache
            try:
                serialized, cache = engines.build(content, precision, batch, cache, self.level)
            except engines.BuildRefused as exc:
                refusals.append(f"{form}: {exc}")
                continue
            self.cache = self.cache if fresh else cache
            return serialized, form, refusals
        raise engines.BuildRefused("; ".join(refusals))

    def save(self, row: dict[str, Any]) -> None:
        """Write all rows so far."""
        self.rows.append(row)
        temporary = self.out.with_suffix(".tmp")
        temporary.write_text(json.dumps({"rows": self.rows}, indent=1))
        temporary.replace(self.out)


def main() -> None:
    """Every engine of the plan, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path)
    parser.add_argument("engines", type=Path, help="folder that keeps the engines")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--level", type=int, default=3, help="builder optimisation level, 0 to 5")
    parser.add_argument("--dry", action="store_true", help="the small networks, to see what is missing here")
    request = parser.parse_args()
    plan = PLAN if not request.dry else tuple((name, precision, 1) for name in TINY for precision in ("fp32", "int8"))
    bench, end = Bench(request.graphs, request.engines, request.out, request.level), time.monotonic() + request.seconds
    for network, precision, batch in plan:
        if time.monotonic() > end:
            break
        if bench.done(network, precision, batch) or not (request.graphs / f"{network}.logits.npy").exists():
            continue
        row: dict[str, Any] = {"network": network, "precision": precision, "batch": batch}
        try:
            row.update(bench.row(network, precision, batch))
        except Exception as exc:  # noqa: BLE001 - one engine's failure is a result, the others go on
            row["failure"] = f"{type(exc).__name__}: {exc}"[:500]
        bench.save(row)
        sys.stdout.write(json.dumps(row)[:600] + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
