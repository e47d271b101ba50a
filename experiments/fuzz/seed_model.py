"""A small bundle, a study, a recipe, a policy and a report: what the commands of the fuzz are run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report, save_report
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Provenance, StoredVerdict, Tensor, Variant
from medfm_compress.runtime.golden_cases import golden_files, make_goldens, run_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import OperatingPoint, Task

SPEC = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
POINT = OperatingPoint(
    label="opacity", threshold=0.5, rule="youden", sensitivity=0.9, specificity=0.8, positives=40, negatives=60
)
TASK = Task(kind="binary", labels=("normal", "opacity"), operating_points=(POINT,))
VARIANT = "onnxruntime-cpu-fp32"
POLICY = """\
# What must hold.
non_inferiority:
  - metric: auroc
    margin: 0.05
  - {metric: brier, margin: 0.05, subgroup: sex}
subgroups:
  - column: sex
  - {column: age, cuts: [50, 70]}
budget: {p50_ms: 20, size_bytes: 5000000}
min_positives: 10
min_negatives: 10
min_clusters: 10
alpha: 0.025
resamples: 1000
seed: 0
"""


def network(wide: int = 8) -> bytes:
    """ONNX of a small CNN: ``image`` [1, 1, 32, 32] → ``logits`` [1, 2]."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {"W": random.normal(size=(wide, 1, 3, 3)), "F": random.normal(size=(wide, 2))}
    nodes = [
        helper.make_node("Conv", ["image", "W"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "F"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def write_model(path: Path) -> None:
    """A bundle of one variant, with a passing verdict."""
    model = network()
    variant = Variant(name=VARIANT, files=("model.onnx",), backend="onnxruntime", device="cpu", precision="fp32")
    inputs = make_goldens(SPEC, count=2)
    logits = {VARIANT: run_goldens(open_session_from_bytes("onnxruntime", [model], 1, "fp32"), inputs)}
    manifest = Manifest(
        schema_version=0,
        name="tiny",
        task=TASK,
        image_spec=SPEC,
        inputs=(Tensor(name="image", role="image", shape=SPEC.shape),),
        outputs=(Tensor(name="logits", role="logits", shape=(1, 2)),),
        variants=(variant,),
        members=(),
        provenance=Provenance(teacher="resnet18", teacher_licence="Apache-2.0", date="2026-01-01T00:00:00Z"),
        intended_use="tests only",
        model_digest="",
    )
    write_bundle(path, manifest, {"model.onnx": model} | golden_files(inputs, logits, SPEC))
    verdict = StoredVerdict(
        variant=VARIANT,
        outcome="pass",
        policy_sha256="0" * 64,
        report_sha256="0" * 64,
        model_digest=Bundle.open(path).model_digest,
        date="2026-01-01T00:00:00Z",
    )
    rewrite_bundle(path, path, verdicts=[verdict])


def write_study(folder: Path) -> None:
    """Twelve small images and a ``cases.csv`` with patients and groups."""
    folder.mkdir(exist_ok=True)
    lines = ["image,split,label,patient,sex,age"]
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
        split, label = ("train", "val", "test")[number // 4], ("normal", "opacity")[number % 2]
        lines.append(f"{number}.png,{split},{label},p{number},{'FM'[number % 2]},{40 + 3 * number}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")


def write_gate(folder: Path, bundle: Path) -> None:
    """``policy.yaml`` and a ``report.json`` under it, of simulated models."""
    (folder / "policy.yaml").write_text(POLICY)
    policy = load_policy(folder / "policy.yaml")
    measurement = Measurement(name=VARIANT, target="onnxruntime:cpu:fp32:1", session_ms=(10.0,) * 20)
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="tiny",
        model_digest=Bundle.open(bundle).model_digest,
        study_fingerprint="f" * 64,
        split="test",
        policy=policy.policy,
        policy_sha256=policy.sha256,
        task=TASK,
        teacher_name="resnet18",
        evaluations=tuple(EvaluationTable.from_evaluation(_evaluation(name)) for name in ("teacher", VARIANT)),
        measurements=(measurement,),
        comparisons=(),
        machine=describe_machine(),
        provenance=Provenance(),
        created="2026-01-01T00:00:00Z",
    )
    save_report(report, folder / "report.json")


def _evaluation(name: str, cases: int = 60) -> Evaluation:
    random = np.random.default_rng(len(name))
    truth = (np.arange(cases) % 2)[:, None]
    logits = np.random.default_rng(0).normal(size=truth.shape) + 2 * truth - 1 + 0.1 * random.normal(size=truth.shape)
    scores = 1 / (1 + np.exp(-logits))
    return Evaluation(
        name=name,
        images=tuple(f"{number}.png" for number in range(cases)),
        logits=np.hstack([-logits, logits]),
        scores=scores,
        truth=truth,
        decisions=(scores >= 0.5).astype(np.int64),
        clusters=tuple(f"p{number}" for number in range(cases)),
        findings=("opacity",),
        subgroups={
            "sex": tuple("FM"[number // 2 % 2] for number in range(cases)),
            "age": tuple(str(30 + number) for number in range(cases)),
        },
    )
