"""The ORT format: the same outputs, bound to what it was made on, with the portable form behind it."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from medfm_compress.export.build import make_variant, open_export
from medfm_compress.export.ort_format import cpu_class, minor_range, optimise, optimise_export, optimised_variant
from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.cpu import Cpu
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.sessions.operators import is_ort_format, read_operators
from medfm_compress.runtime.sessions.protocol import Availability
from medfm_compress.runtime.variant_selection import Machine, incompatibility

SMALL = Cpu(model="Haswell", flags=frozenset({"avx", "avx2"}))
LARGE = Cpu(model="Skylake server", flags=SMALL.flags | {"avx512f"})
ARM = Cpu(model="Cortex", flags=frozenset({"asimd"}))
UNREAD = Cpu(model="x", reason="cannot be read")


def portable(tiny, precision="fp32"):
    model = tiny.network() if precision == "fp32" else tiny.quantized_network()
    return open_export(make_variant("onnxruntime", precision), (model,))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_computes_the_same_from_optimised_operators(tiny, precision):
    plain = portable(tiny, precision)
    optimised = optimise_export(plain, tiny.SPEC)
    assert optimised.reason == "" and is_ort_format(optimised.export.contents[0])
    image = {"image": make_goldens(tiny.SPEC, 1, seed=5)}
    np.testing.assert_allclose(
        optimised.export.session.run(image)["logits"], plain.session.run(image)["logits"], rtol=1e-5, atol=1e-6
    )
    before, after = (read_operators(export.contents[0]).kinds for export in (plain, optimised.export))
    assert "Relu" in before and "Relu" not in after  # fused into its convolution


def test_the_session_needs_none_of_the_files_bytes(tiny, tmp_path):
    """The C library overwrites freed memory here, so a session that still read the file would compute garbage."""
    paths = []
    for precision in ("fp32", "int8"):
        plain = portable(tiny, precision)
        paths.append(tmp_path / f"{precision}.ort")
        paths[-1].write_bytes(optimise(plain.contents[0]))
        image = make_goldens(tiny.SPEC, 1)
        np.save(tmp_path / f"{precision}.npy", plain.session.run({"image": image})["logits"])
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, pathlib, numpy as np\n"
        "from medfm_compress.runtime.sessions.onnxruntime import open_session\n"
        "folder = pathlib.Path(sys.argv[1]); image = np.load(folder / 'image.npy')\n"
        "for precision in ('fp32', 'int8'):\n"
        "    for _ in range(5):\n"
        "        session = open_session(str(folder / f'{precision}.ort'), 1, precision)\n"
        "        found = session.run({'image': image})['logits']\n"
        "        np.testing.assert_allclose(found, np.load(folder / f'{precision}.npy'), rtol=1e-5, atol=1e-6)\n"
    )
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True, timeout=60)


def wide_network():
    """A convolution of 32 channels, which ONNX Runtime lays out in blocks."""
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(0).normal(size=(32, 32, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "W"], ["y"])],
        "wide",
        [onnx.helper.make_tensor_value_info("image", 1, [1, 32, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 32, 6, 6])],
        [onnx.numpy_helper.from_array(weights, "W")],
    )
    opsets = [onnx.helper.make_opsetid("", 19)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def classes_it_may_run_on(portable, content, made_on):
    variant = optimised_variant(portable, content, cpu_class(made_on), "1.32.0")
    there = (
        Machine(cpu=cpu, availability=lambda *_: Availability(ok=True, version="1.32.5"))
        for cpu in (SMALL, LARGE, ARM, UNREAD)
    )
    return [machine.cpu.model for machine in there if not incompatibility(variant, machine)]


def test_blocked_layouts_are_bound_to_the_class_of_cpu(tiny):
    content = optimise(wide_network())
    if "com.microsoft.nchwc" not in read_operators(content).domains:
        pytest.skip("ONNX Runtime lays out no blocks on this CPU")
    for cpu in (SMALL, LARGE, ARM):
        assert classes_it_may_run_on(tiny.ORT, content, cpu) == [cpu.model]


def test_without_blocks_only_the_architecture_binds(tiny):
    content = optimise(tiny.fragile_network())  # no convolution
    assert classes_it_may_run_on(tiny.ORT, content, LARGE) == [SMALL.model, LARGE.model]
    assert classes_it_may_run_on(tiny.ORT, content, ARM) == [ARM.model]
    assert cpu_class(UNREAD) is None


def test_it_is_named_by_the_class_and_bound_to_the_minor_version(tiny):
    kind = cpu_class(LARGE)
    variant = optimised_variant(tiny.ORT, optimise(tiny.network()), kind, "1.32.0")
    assert variant.name == "onnxruntime-cpu-fp32-avx512" and variant.files == (f"models/{variant.name}.ort",)
    for version, runs in (("1.32.9", True), ("1.33.0", False), ("1.31.4", False)):
        here = Machine(cpu=LARGE, availability=lambda *_, v=version: Availability(ok=True, version=v))
        assert (incompatibility(variant, here) == "") is runs


def test_an_int8_variant_keeps_its_own_needs(tiny):
    variant = optimise_export(portable(tiny, "int8"), tiny.SPEC).export.variant
    assert variant.instruction_set[0] == make_variant("onnxruntime", "int8").instruction_set[0]
    assert variant.precision == "int8" and variant.golden_tolerance == 0.1


def test_the_engine_takes_the_portable_form_where_the_optimised_one_does_not_fit(tiny, tmp_path, monkeypatch):
    plain = portable(tiny)
    fast = optimise_export(plain, tiny.SPEC).export
    path = tmp_path / "a.medfm"
    files = {}
    for export in (fast, plain):
        files |= {**export.files, **_goldens(tiny, export)}
    tiny.write(path, (fast.variant, plain.variant), files)
    bundle = Bundle.open(path)
    sizes = [bundle.variant_bytes(export.variant) for export in (fast, plain)]
    assert sizes == [len(export.contents[0]) for export in (fast, plain)] and path.stat().st_size > sum(sizes)
    with Engine(path, threads=1, unverified=True) as engine:
        assert engine.variant == fast.variant
        quick = engine.predict(tiny.image()).probabilities
    other = msgspec.structs.replace(fast.variant, engine_versions=">=1.5,<1.6")
    rewrite_bundle(path, path, variants=(other, plain.variant))
    with Engine(path, threads=1, unverified=True) as engine:
        assert engine.variant == plain.variant
        assert engine.predict(tiny.image()).probabilities == pytest.approx(quick, abs=1e-6)


def _goldens(tiny, export):
    from medfm_compress.runtime.golden_cases import golden_files, run_goldens

    inputs = make_goldens(tiny.SPEC, 2)
    return golden_files(inputs, {export.variant.name: run_goldens(export.session, inputs)}, tiny.SPEC)


def test_what_it_does_not_apply_to_and_what_it_refuses(tiny):
    openvino = open_export(make_variant("openvino", "fp32"), (tiny.network(),))
    assert optimise_export(openvino, tiny.SPEC).export is None
    unknown = optimise_export(portable(tiny), tiny.SPEC, UNREAD)
    assert unknown.export is None and "not known" in unknown.reason
    with pytest.raises(BundleRefused, match="cannot optimise"):
        optimise(b"garbage")


def test_a_file_that_computes_something_else_is_not_taken(tiny, monkeypatch):
    other = optimise(tiny.network(seed=1))
    monkeypatch.setattr("medfm_compress.export.ort_format.optimise", lambda _: other)
    optimised = optimise_export(portable(tiny), tiny.SPEC)
    assert optimised.export is None and "something else" in optimised.reason


@pytest.mark.parametrize(("version", "range_"), [("1.32.0", ">=1.32,<1.33"), ("1.23.2.dev1", ">=1.23,<1.24")])
def test_minor_versions(version, range_):
    assert minor_range(version) == range_
