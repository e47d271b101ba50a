"""A CPU without VNNI: OpenVINO saturates with 8-bit weights there, so what could be judged is not what would ship."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import tiny_study
from played_clocks import FEW, play_clocks

from medfm_compress.bench import models
from medfm_compress.compress.quantization import targets
from medfm_compress.compress.quantization.methods import Lookup, Standing
from medfm_compress.compress.quantization.nncf_candidates import nncf_candidates
from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.quantize_bundle import Quantized, quantize_bundle
from medfm_compress.export.build import BundleDraft, build_bundle, make_variant
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.cpu import Cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.instruction_sets import lacking

AVX2 = Cpu(model="An older CPU", flags=frozenset({"avx2"}))
AVX512 = Cpu(model="A less old one", flags=frozenset({"avx2", "avx512bw"}))
VNNI = Cpu(model="A CPU", flags=frozenset({"avx2", "avx512bw", "avx512_vnni"}))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(tiny_study.make_module(48), draft, tmp_path / "fp32.medfm", study=tiny_study.make_study())
    return tmp_path / "fp32.medfm"


def quantized_on(cpu: Cpu, source: Path, monkeypatch: pytest.MonkeyPatch) -> Quantized:
    play_clocks(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(targets, "multiplies_exactly", lambda cpu: "avx512_vnni" in cpu.flags)
    monkeypatch.setattr(targets, "read_cpu", lambda: cpu)
    options = msgspec.structs.replace(FEW, targets=("openvino:cpu",), time_budget_s=30.0, nncf=False)
    return quantize_bundle(source, tiny_study.make_study(), source.with_name("q.medfm"), options)


@pytest.mark.parametrize(("cpu", "asked"), [(AVX2, ()), (AVX512, ("avx512bw",))])
def test_every_candidate_of_openvino_has_weights_of_7_bits(
    source: Path, monkeypatch: pytest.MonkeyPatch, cpu: Cpu, asked: tuple[str, ...]
) -> None:
    quantized = quantized_on(cpu, source, monkeypatch)
    tried = [candidate.method for candidate in quantized.candidates if candidate.method.startswith("int8-")]
    ran = [name for name in tried if name not in ("int8-of-8-bit-weights", "int8-quantization-aware-training")]
    ran = [name for name in ran if any(c.method == name and c.is_judged for c in quantized.candidates)]
    assert len(ran) > 3 and all(name.endswith("7-bit-weights") for name in ran)
    (why,) = [candidate.reason for candidate in quantized.candidates if candidate.method == "int8-of-8-bit-weights"]
    assert "no VNNI" in why
    (variant,) = [v for v in Bundle.open(source.with_name("q.medfm")).manifest.variants if v.precision == "int8"]
    assert (variant.name, variant.instruction_set) == ("openvino-cpu-int8-reduced", asked)


def test_nncf_is_asked_for_them_as_well() -> None:
    lookup = Lookup(
        standing=lambda: Standing(best=None, within_limits=False),
        most_harmful=lambda method: (),
        smooths=lambda: False,
        nncf=NncfSettings,
        reduced=True,
    )
    first = next(iter(nncf_candidates(lookup, ("fp32",))))
    assert str(first).endswith("7-bit-weights")


def test_a_variant_of_8_bit_weights_is_judged_where_it_can_run_alone(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a verdict, and thresholds, would be of what no device computes."""
    quantized_on(VNNI, source, monkeypatch)
    bundle = Bundle.open(source.with_name("q.medfm"))
    full = [v.name for v in bundle.manifest.variants if any("vnni" in need for need in v.instruction_set)]
    assert full == ["openvino-cpu-int8"]
    monkeypatch.setattr(models, "read_cpu", lambda: VNNI)
    assert models.unavailable_variants(bundle) == {}
    monkeypatch.setattr(models, "read_cpu", lambda: AVX2)
    reasons = models.unavailable_variants(bundle)
    assert list(reasons) == full and "vnni" in reasons["openvino-cpu-int8"]
    assert "something else" in reasons["openvino-cpu-int8"]
    plain = msgspec.structs.replace(
        bundle.manifest, variants=tuple(v for v in bundle.manifest.variants if v.name in full)
    )
    monkeypatch.setattr(models, "chosen_variants", lambda bundle, targets: plain.variants)
    with pytest.raises(InputError, match="no variant can be measured here: openvino-cpu-int8: this CPU lacks"):
        models.unavailable_variants(bundle)


def test_onnx_runtime_multiplies_exactly_everywhere() -> None:
    own = make_variant("onnxruntime", "int8")
    assert lacking("onnxruntime", own.instruction_set, AVX2) == ()
    assert lacking("openvino", make_variant("openvino", "int8").instruction_set, AVX2)
    assert lacking("openvino", make_variant("openvino", "bf16").instruction_set, VNNI)
    assert lacking("openvino", make_variant("openvino", "int8").instruction_set, VNNI) == ()
