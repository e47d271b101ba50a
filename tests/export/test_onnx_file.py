"""An ONNX file from anywhere: weights beside it, what it says of itself, and why it is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import tiny_onnx
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.export.onnx_file import read_facts, read_onnx_file, refuse_unfit
from medfm_compress.runtime.errors import InputError, ModelError


def beside(path: Path, location: str) -> Path:
    """The tiny model with its weights in a file of this name."""
    model = tiny_onnx.make()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_file_beside_it_come_along(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(tiny_onnx.make(), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    read = onnx.load_model_from_string(read_onnx_file(path))
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in tiny_onnx.make().graph.initializer}
    for tensor in read.graph.initializer:
        assert (numpy_helper.to_array(tensor) == expected[tensor.name]).all()


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/w.bin", "..", ""])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    path = beside(tmp_path / "net.onnx", location)
    (tmp_path.parent / "w.bin").write_bytes(b"0" * 4096)
    with pytest.raises(ModelError, match="only a file of its own folder"):
        read_onnx_file(path)


def test_weights_behind_a_link_are_refused(tmp_path: Path) -> None:
    path = beside(tmp_path / "net.onnx", "link.bin")
    (tmp_path / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="only a file of its own folder"):
        read_onnx_file(path)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights in gone\.bin, which is not in its folder"):
        read_onnx_file(beside(tmp_path / "net.onnx", "gone.bin"))


def test_weights_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(tiny_onnx.make(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:10])
    with pytest.raises(ModelError, match="cannot be read from the file beside it"):
        read_onnx_file(path)


@pytest.mark.parametrize("content", [b"", b"no onnx at all", b"\x80\x02]q\x00."])
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_facts(read_onnx_file(path))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(tiny_onnx.make().SerializeToString().replace(b"Relu", b"Re\xffu"))
    with pytest.raises(InputError):
        read_facts(read_onnx_file(path))


def test_a_file_says_what_it_is() -> None:
    model = tiny_onnx.make(ending=("Softmax",))
    helper.set_model_props(model, {"labels": '["a", "b", "c"]'})
    facts = read_facts(model.SerializeToString())
    assert [str(port) for port in facts.inputs] == ["'x' float32 [n, 3, 16, 16]"]
    assert (facts.opset, facts.producer, facts.precision) == (17, "hand", "fp32")
    assert facts.metadata == {"labels": '["a", "b", "c"]'}
    refuse_unfit("net", facts)
    half = read_facts(tiny_onnx.make(dtype=TensorProto.FLOAT16).SerializeToString())
    assert half.precision == "fp16"
    refuse_unfit("net", half)


def quantized_first() -> onnx.ModelProto:
    """A network whose first layer alone reads bytes."""
    scale = [
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(tiny_onnx.np.float32(0.1))),
        helper.make_node("Constant", [], ["o"], value=numpy_helper.from_array(tiny_onnx.np.uint8(128))),
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["d"]),
    ]
    return tiny_onnx.make(before=scale, first="d")


def with_ports(*, inputs: int = 1, outputs: int = 1) -> onnx.ModelProto:
    model = tiny_onnx.make()
    for number in range(1, inputs):
        model.graph.input.append(helper.make_tensor_value_info(f"more{number}", TensorProto.FLOAT, [1]))
    if outputs > 1:
        model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 8]))
    return model


def with_input(kind: int, shape: list[object]) -> onnx.ModelProto:
    model = tiny_onnx.make()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))
    return model


def with_domain() -> onnx.ModelProto:
    model = tiny_onnx.make()
    model.graph.node[1].domain = "my.own"
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            quantized_first(),
            r"quantized already \(DequantizeLinear, QuantizeLinear\).* bench BUNDLE --against net.onnx",
        ),
        (with_ports(inputs=2), r"2 inputs \('x' float32 \[n, 3, 16, 16\], 'more1'"),
        (with_ports(outputs=2), r"2 outputs \('z0' .* 'f' float32 \[n, 8\]\)"),
        (with_input(TensorProto.UINT8, [1, 3, 16, 16]), "uint8 .* stored pixels"),
        (with_input(TensorProto.INT64, [1, 3, 16, 16]), "must be float32 or float16"),
        (with_input(TensorProto.FLOAT, [1, 128]), "four sides"),
        (with_input(TensorProto.FLOAT, [1, 1, 8, 8, 8]), "four sides"),
        (tiny_onnx.make(dtype=TensorProto.DOUBLE), "float64"),
        (with_domain(), "domain my.own"),
        (tiny_onnx.make(opset=5), "has opset 5; allowed are 7 to 23"),
        (tiny_onnx.make(opset=99), "has opset 99"),
    ],
)
def test_what_cannot_be_taken_over_says_why(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        refuse_unfit("net", read_facts(model.SerializeToString()))
