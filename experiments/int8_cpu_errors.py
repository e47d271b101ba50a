"""Relative logit errors of all compared on validation cases, against ONNX Runtime's FP32 of the same graph.

python int8_cpu_errors.py QUESTION.json OUT.json
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from int8_cpu_agreement import Agreement, agreement
from int8_cpu_compared import ComparedModel, opened

REFERENCE = "onnxruntime-fp32"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whose errors, on which cases ``.npy`` ``[n, C, H, W]``; ``reference`` keeps the FP32 logits between runs."""

    compared: list[ComparedModel]
    inputs: str
    image: str
    reference: str
    kind: str
    agreement: Agreement


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """ComparedModel → relative logit error, and agreement (`int8_cpu_agreement`); why others have none.

    ``spread`` is how much the reference's logits vary over cases: the mean of their deviations.
    """

    errors: dict[str, float]
    agreement: dict[str, float]
    spread: float
    cases: int
    failed: dict[str, str]


def errors(request: Question) -> Errors:
    """Run every compared_model on every case, one compared_model open at a time."""
    from medfm_compress.runtime.golden_cases import relative_logit_error
    from medfm_compress.runtime.task import Task

    result, agreements, failed, requested = {}, {}, {}, None
    for compared_model in sorted(request.compared, key=lambda entry: entry.name != REFERENCE):
        logits, reason = _logits(compared_model, request)
        if logits is None:
            failed[compared_model.name] = reason
            continue
        if compared_model.name == REFERENCE:
            np.save(request.reference, logits)
        requested = np.load(request.reference)
        task = Task(kind=request.kind, labels=("no", "yes"))  # type: ignore[arg-type]
        agreements[compared_model.name] = agreement(request.agreement, logits, requested)
        result[compared_model.name] = float(relative_logit_error(logits, requested, task))
    requested = np.load(request.reference)
    spread = round(float(np.std(requested, axis=0).mean()), 5)
    return Errors(errors=result, agreement=agreements, spread=spread, cases=len(requested), failed=failed)


def _logits(compared_model: ComparedModel, request: Question) -> tuple[NDArray[np.float32] | None, str]:
    """Logits ``[n, labels]``, or None and why."""
    with (
        tempfile.TemporaryDirectory() as folder,
        opened([compared_model], 1, Path(request.image)) as (running, failed),
    ):
        for entry in running.values():
            return entry.logits(Path(request.inputs), Path(folder) / "logits.npy"), ""
    return None, failed[compared_model.name]


if __name__ == "__main__":
    arguments = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Question)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(errors(arguments)))
