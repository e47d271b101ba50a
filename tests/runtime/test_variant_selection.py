"""Which variant may run, and the reason for each that may not."""

from __future__ import annotations

import msgspec
import pytest

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.cpu import Cpu, memory_bytes, missing_flags, read_cpu, usable_cores
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.protocol import Availability
from medfm_compress.runtime.variant_selection import (
    Machine,
    incompatibilities,
    incompatibility,
    verdict_incompatibility,
    version_satisfies,
)

CPU = Cpu(model="test CPU", flags=frozenset({"avx2", "avx_vnni"}))


def machine(version="1.25.0", ok=True, reason="", cpu=CPU):
    return Machine(cpu=cpu, availability=lambda *_: Availability(ok=ok, reason=reason, version=version))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"device": "cuda"}, ""),
        ({"device": "cuda", "precision": "int8"}, "is declared int8, a precision in which onnxruntime does not run"),
        ({"backend": "openvino", "device": "cuda"}, "needs device cuda, which openvino does not drive here"),
        ({"backend": "tensorrt"}, "needs device cpu, which tensorrt does not drive here; it drives cuda"),
        ({"instruction_set": ("avx2", "avx512_vnni|avx_vnni")}, ""),
        ({"instruction_set": ("amx_int8",)}, "needs CPU instructions amx_int8; which test CPU lacks"),
        ({"engine_versions": ">=1.23,<2"}, ""),
        ({"engine_versions": ">=1.30"}, "needs onnxruntime >=1.30; installed is 1.25.0"),
        ({"engine_versions": "newest"}, "version clause 'newest'"),
        ({"engine_versions": ">=" + "9" * 5000}, "version clause '>=999"),
        ({"precision": "int8-bf16"}, "is declared int8-bf16, a precision in which onnxruntime does not run"),
    ],
)
def test_a_machine_may_lack_something(tiny, changes, words):
    reason = incompatibility(msgspec.structs.replace(tiny.ORT, **changes), machine())
    assert words in reason and bool(words) == bool(reason)


def test_a_missing_engine_or_an_unreadable_cpu_is_said(tiny):
    assert incompatibility(tiny.ORT, machine(ok=False, reason="not here")) == "not here"
    needy = msgspec.structs.replace(tiny.ORT, instruction_set=("avx2",))
    assert "cannot be read" in incompatibility(needy, machine(cpu=Cpu(model="x", reason="cannot be read on Plan9")))


def test_only_a_passing_verdict_on_this_model_opens_the_way(tiny, tmp_path):
    for outcome, words in (
        ("pass", ""),
        ("fail", "is fail"),
        ("inconclusive", "is inconclusive"),
        (None, "no verdict"),
    ):
        path = tiny.bundle(tmp_path / f"{outcome}.medfm", outcome=outcome)
        reason = verdict_incompatibility(Bundle.open(path), tiny.ORT)
        assert words in reason and bool(words) == bool(reason)


def test_engines_are_asked_only_when_a_variant_is_reached(tiny, tmp_path):
    bundle = Bundle.open(tiny.bundle(tmp_path / "a.medfm", (tiny.ORT, tiny.OV)))
    requested = []
    here = Machine(cpu=CPU, availability=lambda name, _: requested.append(name) or Availability(ok=True, version="9"))
    assert next(incompatibilities(bundle, here, None, False)) == (tiny.ORT, "")
    assert requested == ["onnxruntime"]
    reasons = {variant.name: reason for variant, reason in incompatibilities(bundle, here, "openvino", False)}
    assert reasons == {tiny.ORT.name: "runs on onnxruntime; asked for is openvino", tiny.OV.name: ""}


@pytest.mark.parametrize(
    ("version", "specifier", "met"),
    [
        ("1.9", ">=1.10", False),
        ("1.10.0", ">=1.10", True),
        ("1.10", "==1.10.0", True),
        ("2026.4.1-22982-abc", ">=2025.0,<2027", True),
        ("2.0.0", ">=1.23,<2", False),
        ("1.5", "!=1.5", False),
        ("1.5", ">1.5", False),
        ("1.4", "<=1.5", True),
        ("anything", "", True),
    ],
)
def test_versions(version, specifier, met):
    assert version_satisfies(version, specifier) is met
    packaging = pytest.importorskip("packaging.specifiers")
    if version[0].isdigit() and "-" not in version:
        assert packaging.SpecifierSet(specifier).contains(version) is met


@pytest.mark.parametrize("clause", ["~=1.0", "1.0", ">=", ">=1.*"])
def test_a_clause_it_does_not_know_is_refused(clause):
    with pytest.raises(InputError, match="version clause"):
        version_satisfies("1.0", clause)


def test_the_cpu_is_read_from_linux(tmp_path):
    intel = tmp_path / "intel"
    intel.write_text("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu AVX2 avx512_vnni\n\nprocessor\t: 1\n")
    assert read_cpu(intel) == Cpu(model="Some CPU", flags=frozenset({"fpu", "avx2", "avx512_vnni"}))
    arm = tmp_path / "arm"
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert "asimddp" in read_cpu(arm).flags
    assert "cannot be read" in read_cpu(tmp_path / "absent").reason
    (tmp_path / "odd").write_text("isa : rv64\n")
    assert "names no instruction sets" in read_cpu(tmp_path / "odd").reason


def test_either_of_two_flags_will_do():
    assert missing_flags(("a|avx2", "b|c", "avx2"), CPU) == ("b|c",)


def test_cores_and_memory(tmp_path):
    on = tmp_path / "active"
    on.write_text("1\n")
    both = usable_cores(tmp_path / "absent")
    assert usable_cores(on) == max(1, both // 2)
    assert memory_bytes() > 2**28
