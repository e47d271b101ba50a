"""Tiny networks and bundles around them, for the tests of every room that needs one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Provenance, StoredVerdict, Tensor, Variant
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import OperatingPoint, Task

SPEC = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.5,), std=(0.25,))
POINT = OperatingPoint(
    label="opacity", threshold=0.5, rule="youden", sensitivity=0.9, specificity=0.8, positives=40, negatives=60
)
TASK = Task(kind="binary", labels=("normal", "opacity"), operating_points=(POINT,))
ORT = Variant(name="onnxruntime-cpu-fp32", files=("model.onnx",), backend="onnxruntime", device="cpu", precision="fp32")
OV = Variant(name="openvino-cpu-fp32", files=("model.onnx",), backend="openvino", device="cpu", precision="fp32")


def network(labels: int = 2, seed: int = 0) -> bytes:
    """ONNX of a small float CNN, input ``image`` [1, 1, 32, 32], output ``logits`` [1, labels]."""
    random = np.random.default_rng(seed)
    weights = {"W": random.normal(size=(8, 1, 3, 3)), "F": random.normal(size=(8, labels))}
    nodes = [("Conv", "image W", "c"), ("Relu", "c", "r"), *_HEAD]
    return _serialised(nodes, {name: value.astype(np.float32) for name, value in weights.items()}, labels)


def quantized_network() -> bytes:
    """ONNX of a small CNN whose convolution runs in 8 bits."""
    random = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "V": random.normal(size=(16, 1, 1, 1)).astype(np.float32),
        "W": random.integers(-100, 100, (16, 16, 3, 3)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "F": random.normal(size=(16, 2)).astype(np.float32),
    }
    nodes = [
        ("Conv", "image V", "v"),
        ("QuantizeLinear", "v s z", "q"),
        ("DequantizeLinear", "q s z", "d"),
        ("DequantizeLinear", "W ws wz", "w"),
        ("Conv", "d w", "c"),
        ("Relu", "c", "r"),
        *_HEAD,
    ]
    return _serialised(nodes, constants, 2)


def fragile_network() -> bytes:
    """ONNX whose logits are NaN for a dark image and finite for the goldens."""
    constants = {"b": np.float32(1.5), "F": np.ones((1, 2), np.float32)}
    nodes = [("Add", "image b", "a"), ("GlobalAveragePool", "a", "m"), ("Log", "m", "l"), *_flat("l")]
    return _serialised(nodes, constants, 2)


def draft(variants: tuple[Variant, ...] = (OV, ORT), task: Task = TASK, spec: ImageSpec = SPEC) -> Manifest:
    """A manifest as its maker hands it to `write_bundle`."""
    return Manifest(
        schema_version=0,
        name="tiny",
        task=task,
        image_spec=spec,
        inputs=(Tensor(name="image", role="image", shape=spec.shape),),
        outputs=(Tensor(name="logits", role="logits", shape=(1, len(task.labels))),),
        variants=variants,
        members=(),
        provenance=Provenance(teacher="resnet18", teacher_licence="Apache-2.0", date="2026-01-01T00:00:00Z"),
        intended_use="tests only",
        model_digest="",
    )


def contents(variants: tuple[Variant, ...] = (OV, ORT), model: bytes | None = None) -> dict[str, bytes]:
    """Members: the model file and the goldens of every variant, really computed."""
    model = model or network()
    inputs = goldens.make_goldens(SPEC, count=2)
    logits = {}
    for variant in variants:
        session = open_session_from_bytes(variant.backend, [model], 1, variant.precision)
        logits[variant.name] = goldens.run_goldens(session, inputs)
    return {variants[0].files[0]: model} | goldens.golden_files(inputs, logits, SPEC)


def bundle(
    path: Path,
    variants: tuple[Variant, ...] = (ORT,),
    *,
    outcome: str | None = "pass",
    model: bytes | None = None,
    task: Task = TASK,
    calibration_fingerprint: str = "",
    spec: ImageSpec = SPEC,
) -> Path:
    """Write a bundle to ``path``; with an ``outcome`` every variant has a verdict that cites it."""
    manifest = draft(variants, task, spec)
    provenance = replace(manifest.provenance, calibration_fingerprint=calibration_fingerprint)
    write_bundle(path, replace(manifest, provenance=provenance), contents(variants, model))
    if outcome:
        rewrite_bundle(path, path, verdicts=[verdict(path, variant.name, outcome) for variant in variants])
    return path


def write(path: Path, variants: tuple[Variant, ...], files: dict[str, bytes]) -> None:
    """Write a bundle of these variants and members, without verdicts."""
    write_bundle(path, draft(variants), files)


def verdict(path: Path, variant: str, outcome: str) -> StoredVerdict:
    """A verdict on ``variant`` of the bundle at ``path`` as it stands."""
    return StoredVerdict(
        variant=variant,
        outcome=outcome,  # type: ignore[arg-type]
        model_digest=Bundle.open(path).model_digest,
        policy_sha256="0" * 64,
        report_sha256="1" * 64,
        date="2026-01-01T00:00:00Z",
    )


def image(seed: int = 0) -> np.ndarray:
    """A grey test image, uint8 [48, 40]."""
    return np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)


def _flat(pooled: str) -> list[tuple[str, str, str]]:
    return [("Flatten", pooled, "f"), ("MatMul", "f F", "logits")]


_HEAD = [("GlobalAveragePool", "r", "p"), *_flat("p")]


def _serialised(nodes: list[tuple[str, str, str]], constants: dict[str, np.generic], labels: int) -> bytes:
    pytest.importorskip("onnx", reason="the tiny networks are written with onnx")
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node(kind, inputs.split(), [output], **({"auto_pad": "SAME_UPPER"} if kind == "Conv" else {}))
            for kind, inputs, output in nodes
        ],
        "tiny",
        [helper.make_tensor_value_info("image", 1, SPEC.shape)],
        [helper.make_tensor_value_info("logits", 1, [1, labels])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 19)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
