"""Which variant a CPU gets, with made-up CPUs and real bundles that are really opened."""

from __future__ import annotations

import logging

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.types.target import Target
from medfm_compress.runtime import Bundle, Engine
from medfm_compress.runtime import cpu as cpu_module
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.cpu import Cpu, missing_flags, read_cpu
from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.sessions.instruction_sets import (
    BF16,
    FULL_RANGE,
    U8S8,
    favours_symmetric,
    instructions,
    multiplies_exactly,
)
from medfm_compress.runtime.sessions.protocol import Availability
from medfm_compress.runtime.variant_selection import Machine, incompatibility

HASWELL = Cpu(model="Haswell", flags=frozenset({"sse4_2", "avx", "avx2", "fma"}))
SKYLAKE = Cpu(model="Skylake server", flags=HASWELL.flags | {"avx512f", "avx512bw", "avx512vl"})
ALDER_LAKE = Cpu(model="Alder Lake", flags=HASWELL.flags | {"avx_vnni"})
GENOA = Cpu(model="Genoa", flags=SKYLAKE.flags | {"avx512_vnni", "avx512_bf16"})
SAPPHIRE = Cpu(model="Sapphire Rapids", flags=GENOA.flags | {"amx_int8", "amx_bf16", "avx512_fp16", "avx_vnni"})
ORIN = Cpu(model="Cortex-A78AE", flags=frozenset({"fp", "asimd", "asimdhp", "asimddp"}))
UNKNOWN = Cpu(model="x", reason="cannot be read")


def variant(backend, precision, name="", needs=None):
    return Variant(
        name=name or f"{backend}-cpu-{precision}",
        files=("model.onnx",),
        backend=backend,
        device="cpu",
        precision=precision,
        instruction_set=instructions(backend, precision) if needs is None else needs,
        golden_tolerance=0.1,
    )


@pytest.mark.parametrize(
    ("cpu", "runs"),
    [
        (HASWELL, {"fp32"}),
        (SKYLAKE, {"fp32"}),
        (ALDER_LAKE, {"fp32", "int8"}),
        (GENOA, {"fp32", "bf16", "int8", "int8-bf16"}),
        (SAPPHIRE, {"fp32", "bf16", "fp16", "int8", "int8-bf16"}),
        (ORIN, {"fp32", "fp16", "int8"}),
        (UNKNOWN, {"fp32"}),
    ],
)
def test_what_openvino_may_run_on_a_cpu(cpu, runs):
    here = Machine(cpu=cpu, availability=lambda *_: Availability(ok=True, version="2026.0"))
    weights_alone = {"int8-weights", "int4-weights"}  # of a float network
    assert {
        p for p in FULL_RANGE["openvino"] if not incompatibility(variant("openvino", p), here)
    } == runs | weights_alone


def test_only_vnni_and_arm_multiply_exactly():
    assert [multiplies_exactly(c) for c in (HASWELL, SKYLAKE, UNKNOWN)] == [False] * 3
    assert all(map(multiplies_exactly, (ALDER_LAKE, GENOA, SAPPHIRE, ORIN)))


def test_only_openvino_with_amx_favours_symmetric_activations():
    cpus = (HASWELL, SKYLAKE, ALDER_LAKE, GENOA, SAPPHIRE, ORIN, UNKNOWN)
    assert [favours_symmetric("openvino", cpu) for cpu in cpus] == [cpu is SAPPHIRE for cpu in cpus]
    assert not any(favours_symmetric("onnxruntime", cpu) for cpu in cpus)


def test_a_reduced_range_needs_no_vnni_and_keeps_its_other_needs():
    assert instructions("openvino", "int8", reduced=True) == instructions("onnxruntime", "int8", reduced=True) == ()
    assert instructions("openvino", "int8-bf16", reduced=True) == BF16
    assert instructions("openvino", "int8-bf16") == U8S8 + BF16
    assert instructions("onnxruntime", "int4") == ()


def test_an_absence_can_be_asked_for():
    assert missing_flags(("avx2", "!avx512f"), HASWELL) == ()
    assert missing_flags(("!avx512f",), SKYLAKE) == missing_flags(("!avx512f",), UNKNOWN) == ("!avx512f",)
    here = Machine(cpu=SKYLAKE, availability=lambda *_: Availability(ok=True, version="1.30"))
    laid_out = variant("onnxruntime", "int8", needs=("avx2", "!avx512f"))
    assert incompatibility(laid_out, here) == "is laid out for a CPU without avx512f, which Skylake server has"
    unread = msgspec.structs.replace(here, cpu=UNKNOWN)
    assert "avx2; cannot be read" in incompatibility(laid_out, unread)


def saturating_bundle(tiny, path):
    """int8 of the full range, beside one of a reduced range and fp32, as the candidate search would ship them."""
    full = variant("onnxruntime", "int8")
    reduced = msgspec.structs.replace(
        variant("onnxruntime", "int8", "onnxruntime-cpu-int8-reduced", ()), files=("reduced.onnx",)
    )
    plain = msgspec.structs.replace(variant("onnxruntime", "fp32"), files=("fp32.onnx",))
    models = {full: tiny.quantized_network(), reduced: tiny.quantized_network(), plain: tiny.network()}
    files = {}
    for each, model in models.items():
        files |= {**tiny.contents((each,), model), each.files[0]: model}
    tiny.write(path, tuple(models), files)
    return path


@pytest.mark.parametrize(
    ("cpu", "chosen", "message"),
    [
        (GENOA, "onnxruntime-cpu-int8", ""),
        (ORIN, "onnxruntime-cpu-int8", ""),
        (HASWELL, "onnxruntime-cpu-int8-reduced", "onnxruntime-cpu-int8: needs CPU instructions avx512_vnni|avx_vnni"),
        (SKYLAKE, "onnxruntime-cpu-int8-reduced", "which Skylake server lacks"),
        (UNKNOWN, "onnxruntime-cpu-int8-reduced", "cannot be read"),
    ],
)
def test_the_engine_takes_the_reduced_range_where_the_full_one_saturates(
    tiny, tmp_path, monkeypatch, caplog, cpu, chosen, message
):
    path = saturating_bundle(tiny, tmp_path / "a.medfm")
    monkeypatch.setattr("medfm_compress.runtime.opening.read_cpu", lambda: cpu)
    with caplog.at_level(logging.INFO, "medfm_compress.runtime"), Engine(path, threads=1, unverified=True) as engine:
        assert engine.variant.name == engine.predict(tiny.image()).variant == chosen
    assert message in caplog.text


def test_without_vnni_onnxruntime_is_told_to_multiply_exactly(tiny, monkeypatch):
    from medfm_compress.runtime.sessions import onnxruntime as backend

    results = []
    image = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)
    for cpu, entry in ((GENOA, None), (HASWELL, "1"), (UNKNOWN, "1")):
        monkeypatch.setattr(backend, "read_cpu", lambda cpu=cpu: cpu)
        options = backend.session_options(backend.import_onnxruntime(), 1)
        if entry is None:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry("session.x64quantprecision")
        else:
            assert options.get_session_config_entry("session.x64quantprecision") == entry
        session = backend.from_bytes([tiny.quantized_network()], 1, "int8")
        results.append(session.run({"image": image})["logits"])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_variants_of_one_file_differ_in_precision_alone(tiny, tmp_path):
    if missing_flags(BF16, read_cpu()):
        pytest.skip("this CPU has no bf16")
    variants = tuple(variant("openvino", precision) for precision in ("bf16", "fp32"))
    path = tiny.bundle(tmp_path / "a.medfm", variants)
    bundle = Bundle.open(path)
    members = [member.path for member in bundle.manifest.members]
    assert members.count("model.onnx") == 1 and bundle.manifest.schema_version == 1
    assert {bundle.variant_bytes(each) for each in variants} == {len(tiny.network())}
    with Engine(bundle, threads=1) as engine:
        assert (engine.variant, engine.info.precision) == (variants[0], "bf16")
        bf16 = engine.predict(tiny.image()).probabilities["opacity"]
    with Engine(path, threads=1, unverified=True, backend="openvino") as engine:
        assert engine.info.precision == "bf16"
    alone = tiny.bundle(tmp_path / "b.medfm", variants[1:])
    with Engine(alone, threads=1) as engine:
        fp32 = engine.predict(tiny.image()).probabilities["opacity"]
    assert bf16 != fp32 and bf16 == pytest.approx(fp32, abs=0.02)


def test_the_float_part_of_int8_may_run_in_bf16(tiny, tmp_path):
    if missing_flags(instructions("openvino", "int8-bf16"), read_cpu()):
        pytest.skip("this CPU has no VNNI or no bf16")
    variants = tuple(variant("openvino", precision) for precision in ("int8-bf16", "int8"))
    path = tiny.bundle(tmp_path / "a.medfm", variants, model=tiny.quantized_network())
    assert Bundle.open(path).manifest.schema_version == 3
    with Engine(path, threads=1) as engine:
        assert engine.info.precision == "int8-bf16" and engine.variant.target == "openvino:cpu:int8-bf16"
    with pytest.raises(BundleRefused, match="declared int8-bf16, yet openvino runs no integer"):
        from medfm_compress.runtime.sessions.openvino import from_bytes

        from_bytes([tiny.network()], 1, "int8-bf16")


def test_a_target_may_be_of_any_precision():
    for precision in FULL_RANGE["openvino"]:
        assert Target.parse(f"openvino:cpu:{precision}:2").precision == precision


def test_flags_are_read_in_lower_case(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags: AVX512_VNNI\n")
    assert multiplies_exactly(cpu_module.read_cpu(tmp_path / "cpuinfo"))
