"""Preprocessing, network and decisions in one ONNX model, with what a host has to know in its metadata.

pixels … ──▶ preprocessing ──▶ network ──▶ activation, temperature, thresholds ──▶ logits, probabilities, findings
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from medfm_compress.export.self_contained.builder import GraphBuilder
from medfm_compress.export.self_contained.decisions import add_decisions
from medfm_compress.export.self_contained.preprocessing import GraphForm, add_preprocessing
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from onnx import ModelProto

LOGITS, PROBABILITIES, FINDINGS = "logits", "probabilities", "findings"
NETWORK = "network/"
"""Begins every name of the network's own graph."""


def compose(network: bytes, spec: ImageSpec, task: Task, form: GraphForm) -> ModelProto:
    """One model of ``network`` (one image in, one row of logits out) with everything before and behind it.

    Raises:
        InputError: the network's opset lacks an operator that the preprocessing needs, or its constants are sparse.
    """
    import onnx
    from onnx import helper
    from onnx.compose import add_prefix

    inner = add_prefix(onnx.load_model_from_string(network), NETWORK)
    if inner.graph.sparse_initializer:
        raise InputError("the network has sparse constants, which are not carried over; export it with dense ones")
    opset = max((entry.version for entry in inner.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    graph = GraphBuilder()
    image = add_preprocessing(graph, spec, form, opset)
    logits = graph.embed(inner.graph, image)
    decided = add_decisions(graph, logits, task)
    findings = (1, len(task.findings))
    graph.output(decided.logits, LOGITS, np.float32, (1, len(task.labels)))
    graph.output(decided.probabilities, PROBABILITIES, np.float64, findings)
    graph.output(decided.findings, FINDINGS, np.bool_, findings)
    return helper.make_model(
        graph.graph("self_contained"),
        opset_imports=inner.opset_import,
        functions=inner.functions,
        ir_version=inner.ir_version,
        producer_name="medfm-compress",
    )


def metadata(bundle: Bundle, variant: Variant, form: GraphForm, parity: Mapping[str, object]) -> dict[str, str]:
    """What the file says of itself: each value is text or JSON.

    ``verdict`` is ``pass`` or ``none``; ``instruction_set`` names what a CPU must have for the right result.
    """
    manifest, task = bundle.manifest, bundle.manifest.task_of(variant)
    verdict = bundle.verdict(variant.name)
    values: dict[str, object] = {
        "name": manifest.name,
        "intended_use": manifest.intended_use,
        "model_digest": manifest.model_digest,
        "variant": variant.name,
        "verdict": verdict.outcome if verdict else "none",
        "instruction_set": list(variant.instruction_set),
        "teacher_licence": manifest.provenance.teacher_licence,
        "task": task.kind,
        "labels": list(task.labels),
        "findings": list(task.findings),
        "thresholds": {point.label: point.threshold for point in task.operating_points},
        "temperature": task.temperature,
        "pixels": form.pixels,
        "image_spec": msgspec.to_builtins(manifest.image_spec),
        "parity": dict(parity),
    }
    return {
        f"medfm.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }


def serialise(model: ModelProto, properties: Mapping[str, str]) -> bytes:
    """The checked model as bytes, with ``properties`` as its metadata.

    Raises:
        InputError: larger than the 2 GB that one ONNX file can have.
    """
    from onnx import checker, helper

    helper.set_model_props(model, dict(properties))
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except ValueError:
        raise InputError("the network is larger than the 2 GB of one ONNX file; export a smaller one") from None
    checker.check_model(content)
    return content
