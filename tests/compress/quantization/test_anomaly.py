"""INT8 of an anomaly model: the scorer stays in float, and every case must agree in score and decision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from medfm_compress.compress.anomaly.fit import fit_anomaly_model
from medfm_compress.compress.anomaly.open_encoder import open_encoder
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, save_model
from medfm_compress.compress.pruning.kinds import check_prunable
from medfm_compress.compress.quantization.build_candidate import GraphBuilder
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.fidelity import fidelity
from medfm_compress.compress.quantization.kinds.table import judge_of
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.data.normal_labels import normal_cases
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.export.module_outputs import module_outputs
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import OperatingPoint, Task

POINT = OperatingPoint(
    label="abnormal",
    threshold=0.75,  # between the two greatest of the scores below
    rule="false-alarm-rate<=0.2",
    sensitivity=0.0,
    specificity=0.9,
    positives=0,
    negatives=12,
)


@pytest.fixture(scope="module")
def study(anomaly_folder: Path) -> Study:
    return open_study(anomaly_folder, normal=("normal",))


@pytest.fixture(scope="module")
def model(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    classifier = build_model("resnet10t", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="grey")
    folder = save_model(classifier, tmp_path_factory.mktemp("classifier"))
    opened = open_encoder(EncoderSource(encoder=str(folder)), study)
    options = AnomalyFit(scorer="patches", length=16, memory_rows=200, storage="int8")
    return fit_anomaly_model(study, opened, options, tmp_path_factory.mktemp("model"), lambda _: None)


def validation(study: Study) -> ValidationSet:
    cases = study.split("val")
    task = Task(kind="anomaly", labels=("abnormal",), normal=("normal",), operating_points=(POINT,))
    return ValidationSet(study, cases, np.zeros((len(cases), 1, 1, 1), np.float32), task)


def test_the_encoder_is_quantized_and_the_scorer_is_not(study: Study, model: Model) -> None:
    exported = export_onnx(model.module, model.spec, model.task).content
    train = network_inputs(study, normal_cases(study, "train")[:8], model.spec)
    builder = GraphBuilder(exported, calibrate(exported, [train], threads=1), train, model.task)
    val = network_inputs(study, study.split("val"), model.spec)
    expected = module_outputs(model.module)(val)["logits"]
    for method in (Method(), Method(weight_bits=8)):
        (content,) = builder.build("onnxruntime", method)
        graph = onnx.load_model_from_string(content).graph
        makers = {output: node for node in graph.node for output in node.output}
        convolved = [node for node in graph.node if node.op_type == "Conv"]
        dequantized = [
            n for n in convolved if makers.get(n.input[1]) and makers[n.input[1]].op_type == "DequantizeLinear"
        ]
        assert len(dequantized) >= len(convolved) - 1
        scorer = [node for node in graph.node if any(entry.value == "scorer" for entry in node.metadata_props)]
        read = {makers[name].op_type for node in scorer for name in node.input if name in makers}
        assert {node.op_type for node in scorer} >= {"MatMul", "TopK"}
        assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in scorer}
        assert "Transpose" in read, "the memory is stored once"
        assert {(200, 16): onnx.TensorProto.INT8}.items() <= {
            tuple(constant.dims): constant.data_type for constant in graph.initializer
        }.items()
        session = open_session_from_bytes("onnxruntime", [content], 1, "int8")
        logits = np.concatenate([session.run({"image": val[i : i + 1]})["logits"] for i in range(len(val))])
        assert relative_logit_error(logits, expected, model.task) < 0.5


def test_every_case_must_agree_in_score_and_decision(study: Study) -> None:
    judge, judged = judge_of(Task(kind="anomaly", labels=("abnormal",), normal=("normal",))), validation(study)
    scores = np.linspace(-1, 1.2, 12).astype(np.float32)[:, None]
    assert fidelity(scores, scores, judged).changed_decisions == 0
    shifted = scores + 0.1  # its own threshold moves along
    assert fidelity(shifted, scores, judged).changed_decisions == 0
    assert not judge.remarks(shifted, scores, judged)
    swapped = scores.copy()
    swapped[[10, 11]] = scores[[11, 10]]
    assert fidelity(swapped, scores, judged).changed_decisions == pytest.approx(2 / 12)
    words = judge.remarks(swapped, scores, judged)
    assert f"case 12 ({judged.cases[11].image}): 1 where the reference says 1.2, decided otherwise" in words
    off = scores.copy()
    off[3] += 0.4
    assert f"case 4 ({judged.cases[3].image})" in judge.remarks(off, scores, judged)
    broken = scores.copy()
    broken[0] = np.nan
    assert fidelity(broken, scores, judged).changed_decisions == 1


def test_its_limits_are_of_anomalies(study: Study) -> None:
    judge, options = judge_of(Task(kind="anomaly", labels=("abnormal",), normal=("normal",))), QuantizeOptions()
    assert judge.error_limit(options) == options.score_error_limit > options.error_limit
    assert judge.decision_limit(options, validation(study)) == 0
    assert judge.wanted_cases(options) > options.validation_samples
    assert judge.chooses_thresholds


def test_it_is_not_pruned(model: Model) -> None:
    with pytest.raises(ModelError, match="prune the model that the encoder is made of"):
        check_prunable(model)
