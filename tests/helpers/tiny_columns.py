"""A tiny network that takes age, sex and view beside the image, and bundles around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.bundle.bundle import rewrite_bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Tensor, Variant
from medfm_compress.runtime.columns import CategoricalColumn, Column, NumericColumn
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from tests.helpers import tiny_bundle

AGE = NumericColumn(
    name="age", unit="years", minimum=0, maximum=110, mean=50, standard_deviation=20, dicom="PatientAge"
)
SEX = CategoricalColumn(
    name="sex",
    categories=("female", "male"),
    missing="category",
    dicom="PatientSex",
    codes={"F": "female", "M": "male"},
)
VIEW = CategoricalColumn(name="view", categories=("AP", "PA"), missing="impute", imputed="PA", dicom="ViewPosition")
COLUMNS: tuple[Column, ...] = (AGE, SEX, VIEW)


def network(columns: Sequence[Column] = COLUMNS, labels: int = 2, seed: int = 0) -> bytes:
    """ONNX of a small CNN, inputs ``image`` [1, 1, 32, 32] and one a column, output ``logits`` [1, labels]."""
    onnx = pytest.importorskip("onnx", reason="the tiny networks are written with onnx")
    from onnx import helper, numpy_helper

    random = np.random.default_rng(seed)
    width = 8 + sum(column.width for column in columns)
    weights = {"W": random.normal(size=(8, 1, 3, 3)), "F": random.normal(size=(width, labels))}
    nodes = [
        helper.make_node("Conv", ["image", "W"], ["c"], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Concat", ["f", *(column.name for column in columns)], ["fused"], axis=1),
        helper.make_node("MatMul", ["fused", "F"], ["logits"]),
    ]
    inputs = [("image", tiny_bundle.SPEC.shape), *((column.name, (1, column.width)) for column in columns)]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("logits", 1, [1, labels])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 19)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def draft(
    variants: tuple[Variant, ...], columns: tuple[Column, ...] = COLUMNS, spec: ImageSpec = tiny_bundle.SPEC
) -> Manifest:
    """A manifest as its maker hands it to `write_bundle`."""
    plain = tiny_bundle.draft(variants, spec=spec)
    inputs = tuple(Tensor(name=column.name, role="column", shape=(1, column.width)) for column in columns)
    return replace(plain, inputs=(*plain.inputs, *inputs), columns=columns)


def bundle(
    path: Path,
    variants: tuple[Variant, ...] = (tiny_bundle.ORT,),
    *,
    columns: tuple[Column, ...] = COLUMNS,
    model: bytes | None = None,
    spec: ImageSpec = tiny_bundle.SPEC,
) -> Path:
    """Write a bundle to ``path`` with a passing verdict on every variant."""
    content = model or network(columns)
    inputs = goldens.make_golden_inputs(tiny_bundle.SPEC, columns, count=3)
    logits = {}
    for variant in variants:
        session = open_session_from_bytes(variant.backend, [content], 1, variant.precision)
        logits[variant.name] = goldens.run_goldens(session, inputs)
    files = {variants[0].files[0]: content} | goldens.golden_files(inputs, logits, tiny_bundle.SPEC)
    write_bundle(path, draft(variants, columns, spec), files)
    rewrite_bundle(path, path, verdicts=[tiny_bundle.verdict(path, variant.name, "pass") for variant in variants])
    return path
