"""No engine sees a model that keeps a tensor elsewhere, wherever in the model the tensor stands."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.sessions import onnxruntime as ort_backend
from medfm_compress.runtime.sessions import openvino as ov_backend
from medfm_compress.runtime.sessions import table
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

BOTH = [pytest.param(ort_backend, id="onnxruntime"), pytest.param(ov_backend, id="openvino")]
PIXELS = 32 * 32


@pytest.fixture(autouse=True)
def _engines():
    for backend in ("onnxruntime", "openvino"):
        if not table.is_available(backend).ok:
            pytest.skip(f"{backend} is not installed")


def weights(location, name="w"):
    """Weights ``[1024, 2]``; with a ``location`` their values are in the file there."""
    tensor = numpy_helper.from_array(np.ones((PIXELS, 2), np.float32), name)
    if location is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(PIXELS * 8))):
            tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(location):
    values = weights(location)
    values.dims[:] = [2 * PIXELS]
    tensor = onnx.SparseTensorProto(dims=[PIXELS, 2])
    tensor.values.CopyFrom(values)
    tensor.indices.CopyFrom(numpy_helper.from_array(np.arange(2 * PIXELS, dtype=np.int64), "w_indices"))
    return tensor


def constant(location):
    return helper.make_node("Constant", [], ["w"], value=weights(location))


def model(nodes, *, initializers=(), sparse_initializers=(), functions=(), training=()):
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["f"]),
            *nodes,
            helper.make_node("MatMul", ["f", "w"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", 1, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("logits", 1, [1, 2])],
        list(initializers),
        sparse_initializer=list(sparse_initializers),
    )
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid("local", 1)] * bool(functions)
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)
    made.training_info.extend(training)
    return made.SerializeToString()


def function(nodes, **options):
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_function("local", "F", [], ["w"], nodes, opsets, **options)


def initializer(location):
    return model([], initializers=[weights(location)])


def sparse_initializer(location):
    return model([], sparse_initializers=[sparse(location)])


def constant_node(location):
    return model([constant(location)])


def sparse_constant_node(location):
    return model([helper.make_node("Constant", [], ["w"], sparse_value=sparse(location))])


def function_body(location):
    return model([helper.make_node("F", [], ["w"], domain="local")], functions=[function([constant(location)])])


def function_attribute(location):
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", ref_attr_name="default", type=onnx.AttributeProto.TENSOR)
    made = function([node], attribute_protos=[helper.make_attribute("default", weights(location))])
    return model([helper.make_node("F", [], ["w"], domain="local")], functions=[made])


def nested_graph(location):
    branch = helper.make_graph([constant(location)], "b", [], [helper.make_tensor_value_info("w", 1, [PIXELS, 2])])
    condition = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)
    return model([node], initializers=[condition])


def training_info(location):
    info = onnx.TrainingInfoProto()
    info.initialization.CopyFrom(helper.make_graph([], "t", [], [], [weights(location)]))
    return model([], initializers=[weights(None)], training=[info])


PLACES = [
    initializer,
    sparse_initializer,
    constant_node,
    sparse_constant_node,
    function_body,
    function_attribute,
    nested_graph,
    training_info,
]
every_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)


@pytest.mark.parametrize("backend", BOTH)
@every_place
def test_weights_elsewhere_are_refused_before_the_engine_sees_the_model(tmp_path, monkeypatch, backend, place):
    (tmp_path / "secret.bin").write_bytes(np.full(2 * PIXELS, 7, np.float32).tobytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    backend.is_available()  # may use the engine itself
    monkeypatch.setattr(ort_backend.import_onnxruntime(), "InferenceSession", None)
    monkeypatch.setattr(ov_backend.import_openvino().Core, "read_model", None)
    for location in ("secret.bin", str(tmp_path / "secret.bin"), "here/../secret.bin", "", "*/_ORT_MEM_ADDR_/*"):
        with pytest.raises(BundleRefused, match="keeps weights in another file"):
            backend.from_bytes([place(location)], 1)


@every_place
def test_one_sign_of_the_two_is_enough(place):
    whole = place("x")
    for only in ("data_location", "external_data"):
        parsed = onnx.load_from_string(whole)
        _clear(parsed, {"data_location": "external_data", "external_data": "data_location"}[only])
        assert read_operators(parsed.SerializeToString()).external, only


def _clear(message, name):
    """Clear the field ``name`` of every tensor inside ``message``."""
    if isinstance(message, onnx.TensorProto):
        message.ClearField(name)
        return
    for field, value in message.ListFields():
        if field.message_type:
            for item in value if hasattr(value, "__len__") else [value]:
                _clear(item, name)


@every_place
def test_weights_inside_are_not(place):
    assert not read_operators(place(None)).external
    assert ort_backend.from_bytes([constant_node(None)], 1).output_names == ("logits",)
    assert ov_backend.from_bytes([constant_node(None)], 1).output_names == ("logits",)


def test_openvino_takes_two_files_as_an_ir_only(tiny):
    with pytest.raises(BundleRefused, match="not an IR's XML"):
        ov_backend.from_bytes([initializer("secret.bin"), b""], 1)
    with pytest.raises(BundleRefused, match="cannot load the model"):
        ov_backend.from_bytes([b"<?xml version='1.0'?><net version='11'/>"], 1)


def varint(number, length=0):
    groups = []
    while number or not groups or len(groups) < length:
        groups.append(number & 0x7F)
        number >>= 7
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(tag, content):
    return tag + varint(len(content)) + content


def test_spellings_that_other_readers_take_for_a_tensor_are_refused_or_found():
    """An engine's reader cuts a field's tag to 32 bits and an enumeration's value to 32 bits; ours must not differ."""
    location = varint(14 << 3) + varint(1 + (1 << 32))
    tensor = field(varint(5 << 3 | 2), location)
    assert read_operators(field(varint(7 << 3 | 2), tensor)).external
    padded = field(varint(7 << 3 | 2, length=5), field(varint(5 << 3 | 2, length=3), location))
    assert read_operators(padded).external
    for tag in (varint(7 << 3 | 2 | 1 << 32), varint(7 << 3 | 2, length=6), varint(2), varint(7 << 3)):
        with pytest.raises(ValueError, match="not a whole ONNX"):
            read_operators(field(tag, tensor))


def test_a_model_of_endless_depth_or_fields_is_refused(monkeypatch):
    graph = b""
    for _ in range(40):
        graph = field(varint(1 << 3 | 2), field(varint(5 << 3 | 2), field(varint(6 << 3 | 2), graph)))
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        read_operators(field(varint(7 << 3 | 2), graph))
    monkeypatch.setattr("medfm_compress.runtime.sessions.operators._MOST_FIELDS", 1000)
    with pytest.raises(ValueError, match="more than 1000 fields"):
        read_operators(b"\x08\x01" * 1001)


def ort_format(model, path):
    ort = ort_backend.import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(model, options)
    return path.read_bytes()


def table_child(data, table, slot):
    """Where the table or vector in ``slot`` of the flatbuffers table at ``table`` starts."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    at = table + struct.unpack_from("<H", data, entries + 4 + 2 * slot)[0]
    return at + struct.unpack_from("<I", data, at)[0]


@pytest.mark.parametrize("external", [False, True])
def test_an_ort_format_file_has_its_weights_inside_or_is_refused(tiny, tmp_path, external):
    """A tensor may be at an ``external_data_offset`` of whatever a reader is for, and there is no reader."""
    data = bytearray(ort_format(tiny.network(), tmp_path / "m.ort"))
    root = struct.unpack_from("<I", data, 0)[0]
    initializers = table_child(data, table_child(data, table_child(data, root, 1), 7), 0)
    tensor = initializers + 4 + struct.unpack_from("<I", data, initializers + 4)[0]
    entries = tensor - struct.unpack_from("<i", data, tensor)[0]
    _, inline, *offsets = struct.unpack_from("<7H", data, entries)
    offsets[4] = 0  # raw_data
    somewhere = next(offset for offset in (4, 8) if (tensor + offset) % 8 == 0)  # some 64-bit number
    data += bytes(-len(data) % 8)
    struct.pack_into("<i", data, tensor, tensor - len(data))
    data += struct.pack("<9H", 18, inline, *offsets, 0, somewhere if external else 0) + bytes(6)
    with pytest.raises(BundleRefused, match=r"cannot load the model.*(Missing raw data|reader was not provided)"):
        ort_backend.from_bytes([bytes(data)], 1)
    with pytest.raises(BundleRefused, match="ONNX Runtime's own format"):
        ov_backend.from_bytes([bytes(data)], 1)


def test_an_onnx_file_that_spells_the_ort_format_does_not_reach_openvino():
    """The walk would read its flatbuffers, which may be sound as well, and OpenVINO its protobuf."""
    spelled = onnx.load_from_string(initializer("secret.bin"))
    spelled.producer_name = "ORTM"
    assert is_ort_format(spelled.SerializeToString())
    with pytest.raises(BundleRefused, match="ONNX Runtime's own format"):
        ov_backend.from_bytes([spelled.SerializeToString()], 1)


def test_an_ir_refers_to_its_second_file_alone(tiny, tmp_path):
    openvino = ov_backend.import_openvino()
    (tmp_path / "m.onnx").write_bytes(tiny.network())
    openvino.save_model(openvino.Core().read_model(tmp_path / "m.onnx"), tmp_path / "m.xml", compress_to_fp16=False)
    xml, weights = (tmp_path / "m.xml").read_bytes(), (tmp_path / "m.bin").read_bytes()
    assert ov_backend.from_bytes([xml, weights], 1).output_names == ("logits",)
    for offset in (len(weights), 2**40, 2**63, 2**64 - 288, -8):
        changed = re.sub(rb'offset="\d+"', b'offset="%d"' % offset, xml, count=1)
        with pytest.raises(BundleRefused, match="cannot load the model"):
            ov_backend.from_bytes([changed, weights], 1)
    with pytest.raises(BundleRefused, match="cannot load the model"):
        ov_backend.from_bytes([xml, weights[:-1]], 1)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("domain", ["com.microsoft", "com.vendor"])
@pytest.mark.parametrize("backend", BOTH)
def test_a_compiled_model_is_refused_before_an_engine_sees_it(backend, domain, nested):
    node = helper.make_node("EPContext", [], ["w"], domain=domain, embed_mode=0, ep_cache_context="/etc/hostname")
    made = model([], functions=[function([node])]) if nested else model([node])
    with pytest.raises(BundleRefused, match="EPContext operator holds code that was compiled for one engine"):
        backend.from_bytes([made], 1, "fp32")
