"""INT8 of a network with columns: calibrated with them, the layers that read them alone in float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.fusion.network import with_fusion
from medfm_compress.compress.quantization.build_candidate import GraphBuilder, portable
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.column_branch import column_branch
from medfm_compress.compress.quantization.fidelity import case_logits
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.columns import CategoricalColumn, NumericColumn
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.golden_columns import golden_columns
from medfm_compress.runtime.network_inputs import ImagesAndColumns, images_of, with_columns
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("healthy", "ill"))
COLUMNS = (
    NumericColumn(name="age", unit="years", minimum=0, maximum=120, mean=50, standard_deviation=20),
    CategoricalColumn(name="sex", categories=("F", "M"), missing="category"),
)


def exported(method: FusionMethod) -> bytes:
    torch.manual_seed(0)
    model = with_fusion(build_model("resnet10t", TASK, size_px=32, colour="grey"), COLUMNS, method, hidden=8)
    for parameter in model.module.fusion.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.2)
    return portable(export_onnx(model.module, model.spec, TASK, columns=COLUMNS).content)


def inputs(cases: int = 24) -> ImagesAndColumns:
    images = np.random.default_rng(0).standard_normal((cases, 1, 32, 32), dtype=np.float32)
    given = with_columns(images, golden_columns(COLUMNS, cases))
    assert isinstance(given, ImagesAndColumns)
    return given


@pytest.mark.parametrize("method", ["concatenation", "film"])
def test_int8_is_near_float_and_reads_columns_in_float(method: FusionMethod) -> None:
    graph, given = exported(method), inputs()
    statistics = calibrate(graph, [given])
    (content,) = GraphBuilder(graph, statistics, given, TASK).build("onnxruntime", Method())
    quantized = onnx.load_model_from_string(content)
    assert any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    kinds = {node.name: node.op_type for node in quantized.graph.node}
    of_columns = column_branch(read_graph(content))
    assert of_columns and not any("Linear" in kinds.get(name, "") for name in of_columns)
    files = ((graph, "fp32"), (content, "int8"))
    fp32, int8 = (open_session_from_bytes("onnxruntime", [file], 1, precision) for file, precision in files)
    assert relative_logit_error(case_logits(int8, given), case_logits(fp32, given), TASK) < 0.3


def test_calibration_needs_the_columns_and_names_one_that_is_not_finite() -> None:
    graph, given = exported("concatenation"), inputs(4)
    with pytest.raises(InputError, match="columns given"):
        calibrate(graph, [images_of(given)])
    given.columns["age"][2] = np.nan
    with pytest.raises(InputError, match="the column 'age' of calibration case 2"):
        calibrate(graph, [given])


def test_a_network_of_images_has_no_branch() -> None:
    model = build_model("resnet10t", TASK, size_px=32, colour="grey")
    content = export_onnx(model.module, model.spec, TASK).content
    assert column_branch(read_graph(content)) == ()
