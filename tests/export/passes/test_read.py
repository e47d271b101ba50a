"""What `read_graph` takes and what it refuses, with a way out in the message."""

import onnx
import pytest

from medfm_compress.export.passes.read import NEWEST_OPSET, OLDEST_OPSET, read_graph
from medfm_compress.runtime.errors import ModelError

SIGNATURE = "(float[1,3,8,8] x) => (float[1,3,8,8] y)"


@pytest.fixture
def model(graphs):
    return onnx.load_model_from_string(graphs.build(SIGNATURE, "z = Mul(x, w) y = Relu(z)", w=graphs.normal(3, 1, 1)))


def test_a_graph_is_read_with_the_shapes_of_its_values(model):
    read = read_graph(model.SerializeToString())
    assert [tuple(node.outputs[0].shape) for node in read.graph] == [(1, 3, 8, 8)] * 2


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, NEWEST_OPSET + 1, 999])
def test_an_opset_outside_the_range_is_refused(model, opset):
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset}; allowed are 13 to 23.*opset_version=20"):
        read_graph(model.SerializeToString())


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSET])
def test_both_ends_of_the_range_are_read(graphs, opset):
    content = graphs.build(SIGNATURE, "z = Relu(x) y = Sigmoid(z)", opset=opset)
    assert graphs.ops(read_graph(content)) == ["Relu", "Sigmoid"]


def test_weights_in_another_file_are_refused(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match=r"'w' lies in 'weights\.bin'.*save_as_external_data=False"):
        read_graph(model.SerializeToString())


@pytest.mark.parametrize(("axis", "shown"), [(2, r"\[1, 3, H, 8\]"), (3, r"\[1, 3, 8, H\]"), (1, r"\[1, H, 8, 8\]")])
def test_a_free_size_is_refused_and_a_free_batch_is_not(model, axis, shown):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert read_graph(model.SerializeToString())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "H"
    with pytest.raises(ModelError, match=f"input 'x' has shape {shown}.*without dynamic axes"):
        read_graph(model.SerializeToString())


def test_an_input_without_a_shape_is_refused(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="height and width must be numbers"):
        read_graph(model.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x07"])
def test_other_bytes_are_refused(content):
    with pytest.raises(ModelError, match="ONNX"):
        read_graph(content)
