"""Parity of both of torch's exporters over the families of networks, at batch 1 and of a dynamic batch, in each engine.

    python experiments/export_parity.py measure docs/results/export-parity.json     # goes on where it was stopped
    python experiments/export_parity.py table docs/results/export-parity.json

Batch 1 is what `export` writes, after its portable passes. It ships no dynamic batch, see
docs/decisions/static-batch-one.md: those files are the exporter's own, and run on one and on three images. A figure is
the largest difference of a logit from PyTorch, relative to the largest logit; a failure is told in the exporter's or
the engine's words.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medfm_compress.export import onnx_export
from medfm_compress.export.quiet_exporter import quiet_exporter
from pruning_families import FAMILIES, Family

EXPORTERS = ("dynamo", "torchscript")
ENGINES = ("onnxruntime", "openvino")
BATCHES = ("1", "dynamic")


def exported(module: nn.Module, example: torch.Tensor, exporter: str, batch: str) -> bytes:
    """An ONNX file of ``module``."""
    with quiet_exporter(), torch.no_grad():
        if batch == "1":
            trace = onnx_export._dynamo if exporter == "dynamo" else onnx_export._torchscript
            model = onnx_export.simplified(trace(module, (example,), ["image"]))
        else:
            model = _dynamic(module, example.repeat(2, 1, 1, 1), exporter)
    content: bytes = model.SerializeToString()
    return content


def _dynamic(module: nn.Module, example: torch.Tensor, exporter: str) -> Any:
    import onnx

    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "opset_version": onnx_export.OPSET}
    if exporter == "dynamo":
        shapes = ({0: torch.export.Dim("batch")},)
        program: Any = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        return program.model_proto
    buffer: Any = io.BytesIO()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(module, (example,), buffer, dynamo=False, dynamic_axes=axes, **names)
    return onnx.load_model_from_string(buffer.getvalue())


def run(engine: str, content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits in float32."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
        return result
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(content, b""), "CPU", settings)
    return np.asarray(compiled([images])[0])


def rows_of(family: Family) -> Iterator[dict[str, Any]]:
    """One row an exporter, batch and engine."""
    module = family.build().module.eval()
    images = family.images(3)
    with torch.no_grad():
        expected = module(images).numpy()
    for exporter in EXPORTERS:
        for batch in BATCHES:
            row = {"family": family.name, "network": family.network, "exporter": exporter, "batch": batch}
            try:
                content = exported(module, images[:1], exporter, batch)
            except Exception as exc:  # noqa: BLE001  (the table shows it)
                yield from ({**row, "engine": engine, "failure": _words(exc)} for engine in ENGINES)
                continue
            for engine in ENGINES:
                yield {**row, "engine": engine, **_parity(engine, content, images.numpy(), expected, batch)}


def _parity(
    engine: str, content: bytes, images: NDArray[np.float32], expected: NDArray[np.float32], batch: str
) -> dict[str, Any]:
    try:
        answers = [run(engine, content, images[:1])]
        if batch == "dynamic":
            answers.append(run(engine, content, images))
    except Exception as exc:  # noqa: BLE001  (the table shows it)
        return {"failure": _words(exc)}
    differences = [float(np.abs(answer - expected[: len(answer)]).max()) for answer in answers]
    return {"parity": max(differences) / float(np.abs(expected).max())}


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"


def measure(path: Path) -> None:
    """Add the rows of every family that the file lacks."""
    rows = json.loads(path.read_text()) if path.exists() else []
    finished = {row["family"] for row in rows}
    for family in FAMILIES:
        if family.name not in finished:
            rows.extend(rows_of(family))
            path.write_text(json.dumps(rows, indent=0, ensure_ascii=False) + "\n")
            sys.stderr.write(f"{family.name}\n")


def table(path: Path) -> str:
    """Markdown: a row a family, a column an exporter, batch and engine; failures below."""
    rows = json.loads(path.read_text())
    columns = [(exporter, batch, engine) for exporter in EXPORTERS for batch in BATCHES for engine in ENGINES]
    heads = [f"{exporter}, batch {batch}, {engine}" for exporter, batch, engine in columns]
    lines = ["| family | network | " + " | ".join(heads) + " |", "|---" * (len(columns) + 2) + "|"]
    failures: list[str] = []
    for name in dict.fromkeys(row["family"] for row in rows):
        mine = {(row["exporter"], row["batch"], row["engine"]): row for row in rows if row["family"] == name}
        cells = []
        for key in columns:
            failure = mine[key].get("failure")
            if failure and failure not in failures:
                failures.append(failure)
            cells.append(f"fails ({failures.index(failure) + 1})" if failure else f"{mine[key]['parity']:.0e}")
        lines.append(f"| {name} | `{next(iter(mine.values()))['network']}` | " + " | ".join(cells) + " |")
    notes = [f"{number}. {failure.replace('|', '/')}" for number, failure in enumerate(failures, 1)]
    return "\n".join([*lines, "", *notes, ""])


def main() -> None:
    """Measure or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("measure", "table"))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "measure":
        measure(arguments.file)
    else:
        sys.stdout.write(table(arguments.file))


if __name__ == "__main__":
    main()
