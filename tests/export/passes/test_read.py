"""What `read_graph` takes and what it refuses, with a way out in the message."""

import onnx
import pytest

from medfm_compress.bench.measure.output_maker import maker_of_output
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.export.ort_format import optimise
from medfm_compress.export.passes.read import NEWEST_OPSET, OLDEST_OPSET, parse_onnx, read_graph
from medfm_compress.runtime.errors import MedfmError, ModelError

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


def in_initializer(model, tensor):
    model.graph.initializer[0].CopyFrom(tensor)


def in_constant(model, tensor):
    tensor.name = ""
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=tensor))


def in_sparse_initializer(model, tensor):
    model.graph.sparse_initializer.add(dims=[3]).values.CopyFrom(tensor)


def in_branch(model, tensor):
    branch = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["b"], value=tensor)], "b", [], [])
    model.graph.node.insert(0, onnx.helper.make_node("If", ["w"], ["c"], then_branch=branch, else_branch=branch))


READERS = (read_graph, parse_onnx, to_openvino_ir, optimise, maker_of_output)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("place", [in_initializer, in_constant, in_sparse_initializer, in_branch])
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "{folder}/weights.bin", "link.bin", "/dev/zero"])
def test_weights_in_another_file_are_refused_wherever_they_stand(model, tmp_path, monkeypatch, reader, place, location):
    (tmp_path / "weights.bin").write_bytes(bytes(12))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights.bin").write_bytes(bytes(12))
    (tmp_path / "here" / "link.bin").symlink_to(tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path / "here")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3, 1, 1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.format(folder=tmp_path))
    place(model, tensor)
    with pytest.raises(MedfmError, match=r"keeps weights in another file.*save_as_external_data=False"):
        reader(model.SerializeToString())


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
