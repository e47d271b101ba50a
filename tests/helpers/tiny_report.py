"""Small reports as bench writes them, of simulated models, for the tests of whatever reads a report."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, save_report
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance

VARIANT = "onnxruntime-cpu-fp32"
POLICY = "non_inferiority: [{metric: auroc, margin: 0.05}]\nbudget: {p50_ms: 20}\nresamples: 1000\n"
MACHINE = Machine(
    cpu_model="",
    cpu_flags=(),
    logical_cpus=1,
    allowed_cpus=1,
    governor="",
    memory_bytes=0,
    system="",
    python="",
    libraries={},
)


def evaluation(name: str, cases: int = 300, noise: float = 0.0, shift: float = 0.0) -> Evaluation:
    """One finding; ``noise`` scatters the logits, ``shift`` lowers those of the positives. Column ``sex``: F and M."""
    random = np.random.default_rng(0)
    truth = (np.arange(cases) % 2)[:, None]
    logits = random.normal(size=truth.shape) + 2 * truth - 1 - shift * truth
    logits = logits + noise * np.random.default_rng(1).normal(size=truth.shape)
    scores = 1 / (1 + np.exp(-logits))
    return Evaluation(
        name=name,
        images=tuple(f"{n}.png" for n in range(cases)),
        logits=np.hstack([-logits, logits]) / 2,
        scores=scores,
        truth=truth,
        decisions=(scores >= 0.5).astype(np.int64),
        clusters=tuple(f"p{n}" for n in range(cases)),
        findings=("opacity",),
        subgroups={"sex": tuple("FM"[n // 2 % 2] for n in range(cases)), "site": ("",) * cases},
    )


def write_report(
    tiny: ModuleType, folder: Path, name: str = "report.json", cases: int = 300, **changes: float
) -> Report:
    """Write ``folder/name``, of ``folder/b.medfm`` under ``folder/policy.yaml``; ``changes`` worsen the variant."""
    policy = load_policy(folder / "policy.yaml")
    lie = Interval(estimate=0.0, low=0.0, high=0.0)
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="tiny",
        model_digest=Bundle.open(folder / "b.medfm").model_digest,
        study_fingerprint="f" * 64,
        split="test",
        policy=policy.policy,
        policy_sha256=policy.sha256,
        task=tiny.TASK,
        teacher_name="resnet18",
        evaluations=tuple(
            EvaluationTable.from_evaluation(entry)
            for entry in (evaluation("teacher", cases), evaluation(VARIANT, cases, **changes))
        ),
        measurements=(Measurement(name=VARIANT, target="onnxruntime:cpu:fp32:1", session_ms=(10.0,) * 120),),
        # What the report claims is not believed: the gate computes it again.
        comparisons=(
            Comparison(
                metric="auroc",
                finding="opacity",
                variant=VARIANT,
                teacher=lie,
                bundle=lie,
                difference=lie,
                margin=0.05,
                p_worse=1.0,
            ),
        ),
        machine=MACHINE,
        provenance=Provenance(),
        created="2026-01-01T00:00:00Z",
    )
    save_report(report, folder / name)
    return report


def change_report(folder: Path, name: str = "report.json", **changes: object) -> None:
    """Replace fields of the report at ``folder/name``."""
    report = msgspec.json.decode((folder / name).read_bytes(), type=Report)
    save_report(msgspec.structs.replace(report, **changes), folder / name)
