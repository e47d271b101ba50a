"""Streaming calibration of small graphs, against the activations computed by numpy or asked of ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.range_estimators import ESTIMATORS, estimate_ranges
from medfm_compress.runtime.errors import InputError

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[{batch}, 3, 8, 8] image) => (float[{batch}, 4] logits)
<float[6, 3, 3, 3] w0, float[6] b0, int64[3] tokens = {{0, 6, -1}}, float[16] gain, float[16] shift, float[16, 4] w1,
 int64[1] first = {{1}}>
{{
  conv = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
  relu = Relu (conv)
  pool = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (relu)
  flat = Reshape (pool, tokens)
  norm = LayerNormalization <axis = -1> (flat, gain, shift)
  root = {root} (norm)
  product = MatMul (root, w1)
  logits = ReduceMean <keepdims = 0> (product, first)
}}
"""


def network(batch: str = "1", root: str = "Identity", scale: float = 1.0) -> bytes:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT.format(batch=batch, root=root))
    for name, shape in {"w0": (6, 3, 3, 3), "b0": (6,), "gain": (16,), "shift": (16,), "w1": (16, 4)}.items():
        values = (random.standard_normal(shape) * (scale if name == "w0" else 1)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}_{node.op_type}"
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def images(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def reference(content: bytes, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The activation ``name`` of each input, by ONNX's own reference evaluator, ``[n, ...]``."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_model_from_string(content)
    if name == "image":
        return inputs[:, None]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    run = ReferenceEvaluator(model)
    return np.stack([run.run([name], {"image": inputs[i : i + 1]})[0] for i in range(len(inputs))])


@pytest.mark.parametrize("name", ["relu", "pool", "root", "product"])
def test_statistics_are_those_of_the_activations(name: str) -> None:
    inputs = images(7)
    statistics = calibrate(network(), [inputs[:3], inputs[3:]])[name]
    values = reference(network(), name, inputs)
    flat = values.reshape(7, -1)
    assert statistics.low == pytest.approx(values.min(), abs=1e-5) and statistics.high == pytest.approx(
        values.max(), abs=1e-5
    )
    assert statistics.mean_low == pytest.approx(flat.min(axis=1).mean(), abs=1e-5)
    assert statistics.mean_high == pytest.approx(flat.max(axis=1).mean(), abs=1e-5)
    assert statistics.counts is not None and statistics.counts.sum() == values.size


@pytest.mark.parametrize(("name", "axis"), [("image", 2), ("root", -1)])
def test_channels_are_measured_where_a_weighted_layer_reads(name: str, axis: int) -> None:
    inputs = images(4)
    statistics = calibrate(network(), [inputs])[name]
    values = np.moveaxis(reference(network(), name, inputs), axis, 0)
    values = values.reshape(len(values), -1)
    np.testing.assert_allclose(statistics.channel_low, values.min(axis=1), atol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(statistics.channel_high, values.max(axis=1), atol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(statistics.channel_mean, values.mean(axis=1), atol=1e-5)  # type: ignore[arg-type]


def test_channels_are_not_measured_elsewhere() -> None:
    statistics = calibrate(network(), [images(2)])
    assert all(statistics[name].channel_mean is None for name in ("relu", "pool", "product"))


def test_the_image_itself_is_never_clipped() -> None:
    inputs = images(5)
    inputs[2, 0, 0, 0] = 9.0
    statistics = calibrate(network(), [inputs])
    for estimator in ESTIMATORS:
        assert estimate_ranges(statistics, estimator)["image"] == (inputs.min(), 9.0)
    assert statistics["image"].channel_mean is not None
    assert statistics["root"].counts is not None


def test_views_share_what_was_measured_once() -> None:
    """A placement may put its pair before or behind a reshape; channels are those of what the layer reads."""
    statistics = calibrate(network(root="Identity"), [images(3)])
    assert statistics["flat"].low == statistics["pool"].low and statistics["flat"].counts is statistics["pool"].counts
    assert statistics["norm"].high == statistics["root"].high
    assert statistics["root"].channel_mean is not None and statistics["norm"].channel_mean is not None


def test_weights_and_what_is_fused_are_left_out() -> None:
    """Every backend runs a layer and its ReLU as one, so nothing can be quantized between them."""
    statistics = set(calibrate(network(), [images(1)]))
    assert not {"w0", "b0", "w1", "gain", "tokens", "first", "conv"} & statistics


@pytest.mark.parametrize("batch", ["N", "2", "4"])
def test_batches_run_in_slices_of_the_graphs_own_size(batch: str) -> None:
    inputs = images(6)
    expected, statistics = calibrate(network(), [inputs]), calibrate(network(batch), [inputs[:5], inputs[5:]])
    for name in ("relu", "product"):
        assert statistics[name].low == pytest.approx(expected[name].low, abs=1e-5)
        assert statistics[name].high == pytest.approx(expected[name].high, abs=1e-5)


def test_few_inputs_are_drawn_ahead() -> None:
    drawn: list[int] = []

    def stream() -> Iterator[NDArray[np.float32]]:
        for i in range(120):
            drawn.append(i)
            yield images(1, i)

    choices: list[int] = []
    calibrate(network(), stream(), progress=lambda _: choices.append(len(drawn)))
    assert len(choices) == 2 and all(0 <= drawn - done < 6 for drawn, done in zip(choices, (50, 100), strict=True))


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = images(9)
    alone, shared = calibrate(network(), [inputs]), calibrate(network(), [inputs], threads=3)
    assert alone.keys() == shared.keys()
    for name, statistics in alone.items():
        for field in fields(statistics):
            assert np.array_equal(getattr(statistics, field.name), getattr(shared[name], field.name)), (name, field)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_one_constant_image_is_enough(level: float) -> None:
    statistics = calibrate(network(), [np.full((1, 3, 8, 8), level, np.float32)])
    for estimator in ESTIMATORS:
        assert all(bounds.low < bounds.high for bounds in estimate_ranges(statistics, estimator).values())


def test_an_activation_that_is_not_finite_is_named_with_its_node_and_case() -> None:
    inputs = images(5)
    content = network(root="Log")  # of negative numbers
    with pytest.raises(InputError, match=r"'root', made by Log 'node_5_Log'.*case 0"):
        calibrate(content, [inputs])
    inputs[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"input 'image' of calibration case 3 .*NaN or infinite"):
        calibrate(network(), [inputs])


def test_an_overflow_is_named_where_it_first_appears() -> None:
    with pytest.raises(InputError, match=r"'relu', made by Relu .*case 1"):
        calibrate(network(scale=1e20), [images(1), np.full((1, 3, 8, 8), 1e20, np.float32)])


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(InputError, match=r"no case"):
        calibrate(network(), [])
    with pytest.raises(InputError, match=r"shape \(3, 8, 8\); give batches"):
        calibrate(network(), images(2))
    with pytest.raises(InputError, match=r"does not take inputs \(1, 3, 9, 9\)"):
        calibrate(network(), [np.zeros((1, 3, 9, 9), np.float32)])
    with pytest.raises(InputError, match=r"not a self-contained ONNX model"):
        calibrate(b"not a model", [images(1)])


def test_unknown_opsets_and_weights_elsewhere_are_refused() -> None:
    model = onnx.load_model_from_string(network())
    model.opset_import[0].version = 99
    with pytest.raises(InputError, match=r"ONNX Runtime does not load it.*opset"):
        calibrate(model.SerializeToString(), [images(1)])
    model = onnx.load_model_from_string(network())
    weight = model.graph.initializer[-1]
    onnx.external_data_helper.set_external_data(weight, "weights.bin")
    weight.ClearField("raw_data")
    with pytest.raises(InputError, match=r"weights inside"):
        calibrate(model.SerializeToString(), [images(1)])


def test_it_needs_neither_torch_nor_nncf() -> None:
    program = (
        "import sys\nfrom medfm_compress.compress.quantization import calibrate, range_estimators\n"
        "assert not {'torch', 'nncf', 'onnxruntime', 'onnx_ir'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
