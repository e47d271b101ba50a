"""Planted faults: the altered layer is the first that parts, and what was altered is named; equal ones do not part."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from medfm_compress.export.difference.explain import explain_difference
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.export.ort_format import optimise
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.golden_cases import make_goldens

networks = importlib.import_module("altered_networks")
BASE = networks.network()
OTHER_WEIGHT = networks.with_constant(BASE, "block.conv.weight_quantized", lambda w: w // 2)


def explained(tmp_path, a, b, **options):
    path = networks.write(tmp_path / "x.medfm", a, b)
    bundle = Bundle.open(path)
    return explain_difference(bundle, ("a", "b"), make_goldens(bundle.manifest.image_spec, 2, seed=5), **options)


def onnxruntime(content):
    return "onnxruntime", (content,)


ALTERED = {
    "zero point off by one": (
        networks.with_constant(BASE, "v_zero_back", lambda zero: zero + 1),
        "v",
        "zero point of DequantizeLinear v_DQ is 121 in B and 120 in A",
    ),
    "zero point of the quantization": (
        networks.with_constant(BASE, "v_zero", lambda zero: zero - 1),
        "v",
        "zero point of QuantizeLinear v_Q is 119 in B and 120 in A",
    ),
    "zero point of the sum": (networks.with_constant(BASE, "s_zero", lambda zero: zero + 120), "s", "zero point of"),
    "scale of the weight doubled": (
        networks.with_constant(BASE, "block.conv.weight_scale", lambda scale: scale * 2),
        "c",
        "scale of DequantizeLinear weight_DQ is 0.004 in B and 0.002 in A",
    ),
    "weight": (OTHER_WEIGHT, "c", "values of DequantizeLinear weight_DQ"),
    "bias": (networks.with_constant(BASE, "block.conv.bias", lambda b: b + 1), "c", "bias of Conv conv"),
    "coordinates of the resize": (
        networks.with_attribute(BASE, "resize", "coordinate_transformation_mode", "asymmetric"),
        "u",
        "coordinate_transformation_mode of Resize resize is asymmetric in B and half_pixel in A",
    ),
    "mode of the resize": (
        networks.with_attribute(BASE, "resize", "mode", "nearest"),
        "u",
        "mode of Resize resize is nearest in B and linear in A",
    ),
    "epsilon": (
        networks.with_attribute(BASE, "norm", "epsilon", 0.01),
        "n",
        "epsilon of LayerNormalization norm is 0.01 in B and 1e-05 in A",
    ),
    "sum not rounded": (networks.without_rounding(BASE, "s"), "s", "s is rounded in A only, to steps of 0.2"),
    "classifier": (networks.with_constant(BASE, "fc.weight", lambda w: w + 0.1), "logits", "constant 1 of MatMul fc"),
}


@pytest.mark.parametrize("altered", ALTERED)
def test_an_altered_layer_is_the_only_one_that_parts_and_its_cause_is_named(altered, tmp_path):
    content, value, cause = ALTERED[altered]
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(content))
    assert [layer.value for layer in difference.parted] == [value]
    (layer,) = difference.parted
    assert layer.cause.text.startswith(cause)
    assert layer.cause.where == "file"
    assert layer.error >= 0.99 * layer.created > layer.floor
    assert difference.output_error > 0


def test_which_variant_is_the_reference_changes_nothing_but_the_words(tmp_path):
    difference = explained(tmp_path, onnxruntime(networks.without_rounding(BASE, "s")), onnxruntime(BASE))
    assert [layer.value for layer in difference.parted] == ["s"]
    assert difference.parted[0].cause.text.startswith("s is rounded in B only")


@pytest.mark.parametrize("order", [1, -1])
def test_a_rounded_image_is_a_value_too(order, tmp_path):
    image = networks.with_rounded_image(BASE)
    wide = networks.with_constant(image, "image_scale", lambda scale: scale * 3)
    in_openvino = explained(tmp_path, onnxruntime(image), ("openvino", tuple(to_openvino_ir(image))))
    assert not in_openvino.layers[0].parts  # what is behind may: ONNX Runtime rounds float weights where bytes come in
    difference = explained(tmp_path, *[onnxruntime(image), onnxruntime(wide)][::order])
    assert [layer.value for layer in difference.parted] == ["image"]
    assert difference.parted[0].cause.text.startswith("scale of QuantizeLinear image_Q")
    difference = explained(tmp_path, *[onnxruntime(image), onnxruntime(BASE)][::order])
    assert difference.parted[0].value == "image"
    assert difference.parted[0].cause.text.startswith("image is rounded in")


def test_two_alterations_are_both_found_in_order(tmp_path):
    twice = networks.with_attribute(OTHER_WEIGHT, "norm", "epsilon", 0.01)
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(twice))
    assert [layer.value for layer in difference.parted] == ["c", "n"]
    assert ["values of" in layer.cause.text or "epsilon" in layer.cause.text for layer in difference.parted] == [
        True
    ] * 2


def test_two_alterations_of_one_layer_are_named_together(tmp_path):
    twice = networks.with_attribute(BASE, "resize", "coordinate_transformation_mode", "asymmetric")
    twice = networks.with_attribute(twice, "resize", "mode", "nearest")
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(twice))
    assert [layer.value for layer in difference.parted] == ["u"]
    assert difference.parted[0].cause.text == "2 constants and attributes differ, and only together explain it"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_equal_files_do_not_part_in_one_engine(backend, tmp_path):
    difference = explained(tmp_path, (backend, (BASE,)), (backend, (BASE,)))
    assert difference.parted == ()
    assert difference.output_error == difference.noise == 0
    assert {layer.value for layer in difference.layers} >= {"v", "c", "r", "u", "n", "s", "p", "logits"}


def test_one_file_in_two_engines_parts_at_most_by_rounding(tmp_path):
    difference = explained(tmp_path, onnxruntime(BASE), ("openvino", tuple(to_openvino_ir(BASE))))
    assert difference.parted == ()
    assert difference.noise < 0.02
    assert not any(layer.fused for layer in difference.layers)
    assert difference.matched_by == "name"
    assert all(exposure.change <= 1e-3 for exposure in difference.exposure)


def test_layers_have_the_names_of_the_source_network(tmp_path):
    difference = explained(tmp_path, onnxruntime(BASE), ("openvino", tuple(to_openvino_ir(BASE))))
    named = {layer.value: layer.layer for layer in difference.layers}
    assert named["v"] == "stem"
    assert named["c"] == "block.conv"
    assert named["r"] == "behind block.conv"
    assert named["logits"] == "fc"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("what", ["weight", "bias", "both"])
def test_another_constant_in_the_other_engine_is_named(what, order, tmp_path):
    bias = networks.with_constant(OTHER_WEIGHT if what == "both" else BASE, "block.conv.bias", lambda b: b + 1)
    content = OTHER_WEIGHT if what == "weight" else bias
    sides = [onnxruntime(BASE), ("openvino", tuple(to_openvino_ir(content)))][::order]
    difference = explained(tmp_path, *sides)
    assert difference.parted[0].value == "c"
    names = {"weight": "the weight of Conv differs by", "bias": "the bias of Conv differs by", "both": "2 weights and"}
    assert difference.parted[0].cause.text.startswith(names[what])
    assert difference.parted[0].cause.where == "file"


def test_a_rounding_that_one_engine_has_alone_is_named(tmp_path):
    other = tuple(to_openvino_ir(networks.without_rounding(BASE, "s")))
    difference = explained(tmp_path, onnxruntime(BASE), ("openvino", other))
    assert [layer.value for layer in difference.parted] == ["s"]
    assert difference.parted[0].cause.text.startswith("s is rounded in A only")


@pytest.mark.parametrize("order", [1, -1])
def test_another_attribute_in_the_other_engine_lies_in_the_files(order, tmp_path):
    other = networks.with_attribute(BASE, "resize", "coordinate_transformation_mode", "asymmetric")
    sides = [onnxruntime(BASE), ("openvino", tuple(to_openvino_ir(other)))][::order]
    difference = explained(tmp_path, *sides)
    assert [layer.value for layer in difference.parted] == ["u"]
    assert (difference.parted[0].cause.text, difference.parted[0].cause.where) == ("not known", "file")
    assert difference.parted[0].cause.tried


def test_files_without_common_names_are_matched_by_place(tmp_path):
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(networks.renamed(OTHER_WEIGHT)))
    assert difference.matched_by == "place"
    assert [layer.value for layer in difference.parted] == ["c"]


def test_a_file_that_was_optimised_before_is_looked_into(tmp_path):
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(optimise(OTHER_WEIGHT)))
    assert difference.parted
    assert all(layer.value in ("c", "r") for layer in difference.parted[:1])


def test_saturation_and_steps_are_counted_of_rounded_values_only(tmp_path):
    clipped = networks.with_constant(BASE, "v_scale", lambda scale: scale / 50)
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(clipped))
    layers = {layer.value: layer for layer in difference.layers}
    ours, theirs = layers["v"].saturated
    assert ours < 0.01
    assert theirs > 0.5
    assert layers["v"].steps > 1
    assert layers["c"].saturated == (None, None)
    assert layers["c"].steps is None


def test_the_cause_is_looked_for_in_the_first_layers_and_the_largest(tmp_path):
    content = networks.with_attribute(BASE, "norm", "epsilon", 0.01)
    content = networks.with_attribute(content, "resize", "mode", "nearest")
    content = networks.with_constant(content, "fc.weight", lambda w: -w)
    difference = explained(tmp_path, onnxruntime(BASE), onnxruntime(content), first=1)
    assert {layer.value: layer.cause is not None for layer in difference.parted} == {
        "u": True,
        "n": False,
        "logits": True,
    }


def test_layers_that_create_next_to_nothing_are_counted_and_not_explained(tmp_path):
    slight = networks.with_constant(BASE, "block.conv.bias", lambda b: b * np.float32(1.0003))
    difference = explained(
        tmp_path, onnxruntime(BASE), onnxruntime(networks.with_constant(slight, "fc.weight", np.negative))
    )
    assert {layer.value: layer.cause is not None for layer in difference.parted} == {"c": False, "logits": True}


def test_a_variant_is_not_held_against_itself(tmp_path):
    bundle = Bundle.open(networks.write(tmp_path / "x.medfm", onnxruntime(BASE), onnxruntime(BASE)))
    with pytest.raises(InputError, match="both variants are a"):
        explain_difference(bundle, ("a", "a"), np.zeros(bundle.manifest.image_spec.shape, np.float32))


def test_networks_that_have_nothing_in_common_are_refused(tmp_path, tiny):
    path = networks.write(tmp_path / "x.medfm", onnxruntime(networks.renamed(BASE)), onnxruntime(tiny.network()))
    bundle = Bundle.open(path)
    with pytest.raises(InputError, match="share no names of values"):
        explain_difference(bundle, ("a", "b"), make_goldens(bundle.manifest.image_spec, 1))


def test_a_network_without_an_input_is_refused(tmp_path, tiny):
    empty = b'<?xml version="1.0"?><net name="x" version="11"><layers/></net>'
    given = Bundle.open(networks.write(tmp_path / "x.medfm", onnxruntime(tiny.network()), onnxruntime(tiny.network())))
    names = ("a0.bin", "goldens/inputs.npy", "goldens/a.npy", "goldens/b.npy")
    members = {name: given.read(name) for name in names}
    variants = (given.variant("a"), networks.variant("b", "openvino", ("b.xml", "b.bin"), "fp32"))
    path = tmp_path / "y.medfm"
    tiny.write(path, variants, members | {"b.xml": empty, "b.bin": b""})
    with pytest.raises(BundleRefused, match="variant b has no input, or no output; export it again"):
        explain_difference(Bundle.open(path), ("a", "b"), make_goldens(given.manifest.image_spec, 1))
