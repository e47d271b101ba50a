"""Validation cases are asked about once: what judged a variant also tells which images it finds unlike."""

from __future__ import annotations

import sys
from collections import Counter

import msgspec
import pytest
import tiny_study

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization import candidate_search
from medfm_compress.compress.quantization import companion_variants as companion
from medfm_compress.compress.quantization import quantize_bundle as quantizing
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.cases import network_inputs
from medfm_compress.export.ort_format import Optimised
from medfm_compress.export.typicality import rescored
from medfm_compress.runtime.bundle.bundle import Bundle, typicality_member
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.sessions.onnxruntime import OnnxRuntimeSession
from medfm_compress.runtime.sessions.table import open_variant

FEW = QuantizeOptions(
    targets=("onnxruntime:cpu",), samples=16, rounds=5, error_limit=10.0, auroc_limit=1.0, time_budget_s=0.0
)
CASES = 110


def make_study():
    return tiny_study.make_study(train=64, val=CASES)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "fp32.medfm"
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(tiny_study.make_module(48), draft, path, study=make_study())
    return path


@pytest.fixture(autouse=True)
def played_clocks(monkeypatch):
    """INT8 is twice as fast, whichever clock is asked."""

    def ms(precision):
        return 1.0 if precision == "int8" else 2.0

    def fresh(trials, *_):
        latencies = [ms(trial.variant.precision) for trial in trials]
        return [
            Measurement(name=str(number), target="played", session_ms=(value,) * 20, calls_per_round=2)
            for number, value in enumerate(latencies)
        ]

    monkeypatch.setattr(
        candidate_search, "session_ms", lambda sessions, *_: [[ms(s.info.precision)] * 5 for s in sessions]
    )
    monkeypatch.setattr(quantizing, "time_in_fresh_processes", fresh)
    monkeypatch.setattr(companion, "speedup_on", lambda *_: Interval(estimate=2.0, low=1.9, high=2.1))


@pytest.fixture
def asked(monkeypatch):
    """How often each session was asked about each validation case."""
    cases = make_study().split("val")
    numbers = {network_inputs(make_study(), [case], tiny_study.SPEC).tobytes(): case.image for case in cases}
    counts, run = Counter(), OnnxRuntimeSession.run

    def counted(self, inputs):
        image = numbers.get(next(iter(inputs.values())).tobytes())
        if image is not None:
            counts[id(self), self.info.precision, image] += 1
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", counted)
    return counts


def test_no_network_is_asked_twice_about_a_validation_case(source, tmp_path, asked):
    quantized = quantize_bundle(source, make_study(), tmp_path / "q.medfm", FEW)
    names = [variant.name for variant in quantized.manifest.variants if variant.backend == "onnxruntime"]
    assert len(names) == 3 and "onnxruntime-cpu-int8" in names  # with its optimised form and that of 7 bits
    assert set(asked.values()) == {1}
    per_network = Counter((network, precision) for network, precision, _ in asked)
    assert sorted(per_network.values()) == [CASES] * 3  # FP32, INT8 and 7 bits; the optimised form is INT8's twin
    bundle = Bundle.open(tmp_path / "q.medfm")
    for name in names:
        session = open_variant(bundle, bundle.variant(name), 1)
        assert bundle.read(typicality_member(name)) == rescored(bundle, session, make_study())


def test_an_optimised_form_that_is_no_twin_is_judged_itself(source, tmp_path, asked, monkeypatch):
    made = companion.optimise_export

    def other(*given, **named):
        return Optimised(export=made(*given, **named).export)

    monkeypatch.setattr(companion, "optimise_export", other)
    quantize_bundle(source, make_study(), tmp_path / "q.medfm", FEW)
    assert len({network for network, _, _ in asked}) == 4 and set(asked.values()) == {1}


def test_cases_that_judged_nobody_are_read_and_asked(source, tmp_path, asked):
    options = msgspec.structs.replace(FEW, validation_samples=40, rechoose=False)
    quantize_bundle(source, make_study(), tmp_path / "q.medfm", options)
    assert set(asked.values()) == {1}
    int8 = Counter(network for network, precision, _ in asked if precision == "int8")
    assert sorted(int8.values()) == [CASES - 40, CASES, CASES]  # the optimised form was judged as INT8 was


def test_a_bundle_without_statistics_gets_no_scores(tmp_path):
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    study = tiny_study.make_study()
    build_bundle(tiny_study.make_module(48), draft, tmp_path / "a.medfm", study=study)
    quantized = quantize_bundle(tmp_path / "a.medfm", study, tmp_path / "q.medfm", FEW)
    assert quantized.applied
    assert not [member for member in quantized.manifest.members if member.path.startswith("typicality/")]


@pytest.mark.parametrize("precision", ["fp16", "int8-fp16"])
def test_half_precision_knows_a_network_that_gives_its_features(source, tmp_path, monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    options = msgspec.structs.replace(FEW, targets=(f"tensorrt:cuda:{precision}",))
    quantized = quantize_bundle(source, make_study(), tmp_path / "q.medfm", options)
    name = f"tensorrt-cuda-{precision}"
    assert quantized.applied and name in {variant.name for variant in quantized.manifest.variants}
    assert Bundle.open(tmp_path / "q.medfm").read(typicality_member(name))
