"""What the two engines' files are read as: pairs, types, parts; and causes in engines, told by their settings."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.export.difference.alignment import align
from medfm_compress.export.difference.causes import Side, find_cause
from medfm_compress.export.difference.explain import explain_difference
from medfm_compress.export.difference.exposed import ExposedNetwork
from medfm_compress.export.difference.graph import Change, Grid, Node, Pair, Part, Setting, Topology
from medfm_compress.export.difference.layers import measure
from medfm_compress.export.difference.onnx_network import OnnxNetwork
from medfm_compress.export.difference.openvino_network import OpenVinoNetwork
from medfm_compress.export.openvino_ir import serialise, to_openvino_ir
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.sessions.openvino import import_openvino

networks = importlib.import_module("altered_networks")
BASE = networks.network()
CASE = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)


def both(content):
    return OnnxNetwork(content, 1), OpenVinoNetwork(to_openvino_ir(content), 1, "int8")


@pytest.mark.parametrize("place", [0, 1], ids=["onnxruntime", "openvino"])
def test_pairs_have_the_grid_of_the_file(place):
    topology = both(BASE)[place].topology
    pair = topology.pairs[topology.names["v"]]
    assert pair.rounded == topology.names["v_dequantized"]
    assert pair.grid == pytest.approx((0.1, -12.0, 13.5), rel=1e-5)
    assert pair.written.same(pair.grid)


def test_a_quantization_that_openvino_keeps_whole_is_a_pair_too():
    opset = import_openvino().opset13
    image = opset.parameter([1, 1, 4, 4], np.float32)
    image.output(0).set_names({"image"})
    rounded = opset.fake_quantize(image, *(np.float32(end) for end in (-1, 1.55, -1, 1.55)), 256)
    result = opset.relu(rounded)
    result.output(0).set_names({"r"})
    files = serialise(import_openvino().Model([result], [image]))
    topology = OpenVinoNetwork(files, 1, "int8").topology
    assert topology.pairs[topology.inputs[0]].grid == pytest.approx((0.01, -1, 1.55), rel=1e-5)
    assert topology.grid(topology.inputs[0]) is not None


def test_exposed_values_are_those_that_readers_see():
    for network in both(BASE):
        topology = network.topology
        exposed = ExposedNetwork(network, CASE)
        (v,) = exposed.open([topology.names["v"]])({topology.inputs[0]: CASE})
        steps = v / np.float32(0.1)
        assert np.abs(steps - np.rint(steps)).max() < 1e-3
        assert exposed.exposure.runs >= 1


def test_a_part_alone_gives_what_the_network_gives():
    for network in both(BASE):
        topology = network.topology
        names = [topology.names[name] for name in ("v", "r")]
        v, r = ExposedNetwork(network, CASE).open(names)({topology.inputs[0]: CASE})
        part = topology.part(names[1], set(names))
        assert part.inputs == (names[0],)
        np.testing.assert_allclose(network.cut(part)({names[0]: v})[0], r, atol=1e-4)
        unrounded = network.cut(part, Change(unrounded=frozenset([names[0]])))
        np.testing.assert_allclose(unrounded({names[0]: v})[0], r, atol=1e-3)
        assert np.abs(unrounded({names[0]: v + 0.04})[0] - r).max() > 1e-3  # and no step swallows it


def serialised(nodes, constants):
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


def float_network(kind):
    """A convolution in ``kind`` between casts, and shapes that are computed."""
    random = np.random.default_rng(1)
    constants = {
        "conv.weight": (random.normal(size=(8, 1, 3, 3)) / 3).astype(kind),
        "fc.weight": random.normal(size=(8, 2)).astype(np.float32),
        "first": np.array([0], np.int64),
        "rest": np.array([-1], np.int64),
    }
    to = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["i"], to=to),
        helper.make_node("Conv", ["i", "conv.weight"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Cast", ["r"], ["o"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["o"], ["p"]),
        helper.make_node("Shape", ["p"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["sides"], axis=0),
        helper.make_node("Reshape", ["p", "sides"], ["f"]),
        helper.make_node("MatMul", ["f", "fc.weight"], ["logits"]),
    ]
    return serialised(nodes, constants)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_convolution_in_fp16_parts_from_one_in_fp32_and_computed_shapes_are_no_values(backend, tmp_path):
    contents = [float_network(kind) for kind in (np.float32, np.float16)]
    path = networks.write(tmp_path / "x.medfm", ("onnxruntime", (contents[0],)), (backend, (contents[1],)))
    difference = explain_difference(
        Bundle.open(path), ("a", "b"), make_goldens(Bundle.open(path).manifest.image_spec, 1)
    )
    assert {"shape", "batch", "sides"}.isdisjoint(layer.value for layer in difference.layers)
    assert all(layer.created is not None for layer in difference.layers)
    assert difference.parted
    assert {layer.value for layer in difference.parted} <= {"i", "c", "r", "o"}


class Stub:
    """A network of one part, whose value depends on its setting."""

    backend = "stub"

    def __init__(self, plain, cured=None):
        self.settings = (Setting("useless", "something else"), Setting("cure", "rough arithmetic"))
        self.topology = Topology((), (), (), {})
        self._plain, self._cured = plain, plain if cured is None else cured

    def cut(self, part, change=None, other=None):
        cured = change is not None and change.setting == "cure"
        return lambda values: [np.full((1, 4), self._cured if cured else self._plain, np.float32)]


@pytest.mark.parametrize("rough", ["a", "b"])
def test_the_setting_that_makes_a_difference_vanish_is_the_cause(rough):
    stubs = {"a": Stub(1.0), "b": Stub(1.0)} | {rough: Stub(1.25, cured=1.0)}
    part = Part((), "x", ())
    cause = find_cause(Side(stubs["a"], part, {}), Side(stubs["b"], part, {}), 1e-5)
    assert (cause.text, cause.where, cause.left) == ("rough arithmetic", "engine", 0.0)
    assert cause.tried["B: useless"] == pytest.approx(0.2 if rough == "a" else 0.25)


def test_a_difference_that_nothing_makes_vanish_has_no_known_cause():
    part = Part((), "x", ())
    cause = find_cause(Side(Stub(1.0), part, {}), Side(Stub(1.25), part, {}), 1e-5)
    assert cause.text == "not known"
    assert cause.left == pytest.approx(0.25)
    assert {"B: useless", "B: cure", "A: useless"} <= set(cause.tried)


class Fusing:
    """A network whose output changes by a hundredth when two particular values are exposed together."""

    topology = Topology((), ("image",), ("logits",), {})

    def expose(self, values):
        broken = {"x", "y"} <= set(values)
        results = [np.full((1, 2), 1.01 if broken else 1.0, np.float32)]
        return lambda inputs: results + [np.full((1,), ord(value), np.float32) for value in values]


@pytest.mark.parametrize("together", [True, False])
def test_fewer_values_are_exposed_at_a_time_where_exposing_changes_the_output(together):
    exposed = ExposedNetwork(Fusing(), CASE)
    names = ["x", "a", "y", "b"] if together else ["x", "a", "b"]
    values = exposed.open(names)({})
    assert [chr(int(value[0])) for value in values] == names
    assert exposed.exposure.change == 0
    assert exposed.exposure.runs == (2 if together else 1)


def test_saturation_does_not_count_the_zeros_of_a_relu():
    values = np.array([0, 0, 0, 2.55], np.float32)
    assert Grid(0.01, 0.0, 2.55).saturated(values) == 0.25
    assert Grid(0.01, -1.0, 1.55).saturated(np.array([-1, 0, 1.55, 1], np.float32)) == 0.5


class FusesAcross:
    """Doubles its input; ``extra`` is what the whole network adds, and no part of it alone."""

    backend = "stub"

    def __init__(self, extra=0.0):
        nodes = [Node("Double", "double", ("image",), ("x",)), Node("Flatten", "flatten", ("x",), ("logits",))]
        self.topology = Topology(nodes, ("image",), ("logits",), {name: name for name in ("image", "x", "logits")})
        self._extra = extra

    def expose(self, values):
        def run(inputs):
            x = inputs["image"] * 2 + np.float32(self._extra)
            known = {"image": inputs["image"], "x": x, "logits": x.reshape(1, -1)}
            return [known[name] for name in ("logits", *values)]

        return run

    def cut(self, part, change=None, other=None):
        if part.output == "x":
            return lambda values: [values["image"] * np.float32(2)]
        return lambda values: [values["x"].reshape(1, -1)]


@pytest.mark.parametrize(
    ("extra", "apart"), [((0, 0), (False, False)), ((1, 0), (True, False)), ((0, 1), (False, True))]
)
def test_what_an_engine_does_across_parts_is_noticed(extra, apart):
    a, b = (FusesAcross(value) for value in extra)
    points, _ = align(a.topology, b.topology)
    measured = list(measure(ExposedNetwork(a, CASE), ExposedNetwork(b, CASE), points, CASE))
    assert [figures.point.name for figures in measured] == ["x", "logits"]
    assert tuple(alone > figures.floor for figures in measured[:1] for alone in figures.alone) == apart
    assert measured[0].created == 0
    assert (measured[0].error > 0.1) == any(apart)


class FusesSum:
    """Doubles and adds 1; an engine that fuses the two adds 1.5 instead, and a part that holds both as well."""

    backend = "stub"

    def __init__(self, fuses):
        nodes = [
            Node("Conv", "c", ("image",), ("x",)),
            Node("Add", "a", ("x",), ("y",)),
            Node("Flatten", "f", ("y",), ("logits",)),
        ]
        self.topology = Topology(nodes, ("image",), ("logits",), {name: name for name in ("image", "x", "y", "logits")})
        self._added = np.float32(1.5 if fuses else 1)

    def expose(self, values):
        def run(inputs):
            x, y = 2 * inputs["image"], 2 * inputs["image"] + self._added
            known = {"image": inputs["image"], "x": x, "y": y, "logits": y.reshape(1, -1)}
            return [known[name] for name in ("logits", *values)]

        return run

    def cut(self, part, change=None, other=None):
        functions = {
            (0,): lambda values: 2 * values["image"],
            (1,): lambda values: values["x"] + np.float32(1),
            (0, 1): lambda values: 2 * values["image"] + self._added,
            (2,): lambda values: values["y"].reshape(1, -1),
        }
        return lambda values: [functions[part.nodes](values)]


@pytest.mark.parametrize("fuses", [(False, True), (True, False), (False, False)])
def test_a_sum_that_one_engine_fuses_is_run_with_what_it_is_fused_with(fuses):
    a, b = (FusesSum(value) for value in fuses)
    points, _ = align(a.topology, b.topology)
    figures = {m.point.name: m for m in measure(ExposedNetwork(a, CASE), ExposedNetwork(b, CASE), points, CASE)}
    assert figures["y"].wide == any(fuses)
    assert (figures["y"].created > 0.1) == any(fuses)
    assert not figures["x"].wide
    assert figures["x"].created == figures["logits"].created == 0


class RoundsTies:
    """Rounds its image to whole numbers, those in the middle up or down."""

    backend = "stub"
    settings = ()

    def __init__(self, up):
        nodes = [Node("Q", "q", ("image",), ("codes",)), Node("DQ", "d", ("codes",), ("rounded",))]
        self.topology = Topology(nodes, ("image",), ("rounded",), {"image": "image"})
        grid = Grid(1.0, -128.0, 127.0)
        self.topology.add_pair(Pair("image", "rounded", grid, grid), (0, 1))
        self._up = up

    def cut(self, part, change=None, other=None):
        def run(values):
            if change is not None and change.unrounded:
                return [values["image"] + np.float32(self._up)]  # not what explains it
            return [np.floor(values["image"] + 0.5) if self._up else np.ceil(values["image"] - 0.5)]

        return run


def test_values_in_the_middle_between_two_steps_are_a_cause():
    part = Part(("image",), "rounded", (0, 1))
    feed = {"image": np.arange(4, dtype=np.float32) + np.float32(0.5)}
    found = find_cause(Side(RoundsTies(True), part, feed), Side(RoundsTies(False), part, feed), 1e-5)
    assert found.text.startswith("inputs lie halfway between two steps")
    assert (found.where, found.left) == ("engine", 0.0)
