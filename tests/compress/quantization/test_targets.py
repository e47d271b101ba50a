"""What a target asks for, and of which machine it can be asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from medfm_compress import steps
from medfm_compress.bench.types import target
from medfm_compress.compress.quantization import targets
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.export.build import make_variant
from medfm_compress.onnx_model import CaseSource
from medfm_compress.pipeline import compress
from medfm_compress.recipe import load_recipe
from medfm_compress.runtime.errors import InputError


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr(target, "usable_cpus", lambda: 2)


def test_quantize_takes_engines_and_threads_from_its_targets():
    """From a recipe's as well as from the command's."""
    options = targets.for_engines(QuantizeOptions(targets=("openvino:cpu:int8:2", "onnxruntime:cpu")))
    assert (options.targets, options.threads) == (("openvino:cpu", "onnxruntime:cpu"), 2)
    with pytest.raises(InputError, match="the clock finds which precision ships on a CPU; give openvino:cpu"):
        targets.for_engines(QuantizeOptions(targets=("openvino:cpu:bf16",)))
    gpu = targets.for_engines(QuantizeOptions(targets=("tensorrt:cuda:fp16", "tensorrt:cuda:int8:1")))
    assert gpu.targets == ("tensorrt:cuda:fp16", "tensorrt:cuda:int8") and gpu.threads == 1


def test_a_target_of_tensorrt_alone_is_its_gpu():
    assert targets.for_engines(QuantizeOptions(targets=("tensorrt",))).targets == ("tensorrt:cuda",)


def test_of_a_bundle_that_was_quantized_before_each_engine_is_a_target_once():
    """Its other forms of FP32 are no networks of their own, and one is in a format that nobody quantizes."""
    plain = make_variant("onnxruntime", "fp32")
    fused = (make_variant("onnxruntime", "fp32", qualifier=words) for words in ("fused", "fused-avx512"))
    manifest = SimpleNamespace(variants=(*fused, make_variant("onnxruntime", "int8"), plain))
    bundle = SimpleNamespace(manifest=manifest, path=Path("b.medfm"))
    assert targets.variants_of(bundle, ("onnxruntime:cpu",)) == targets.variants_of(bundle, ()) == (plain,)


@pytest.mark.parametrize("other", ["onnxruntime:cuda", "onnxruntime:cuda:fp16", "torch:cpu:fp32"])
def test_what_no_graph_is_made_for_is_refused_with_what_there_is(other):
    with pytest.raises(InputError, match="it must be openvino:cpu or onnxruntime:cpu or tensorrt:cuda"):
        targets.for_engines(QuantizeOptions(targets=(other,)))


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(threads=2),
        QuantizeOptions(targets=("openvino:cpu:int8:2",)),
    ],
)
def test_as_many_threads_as_cpus_are_taken(options):
    targets.for_engines(options)


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(threads=3),
        QuantizeOptions(targets=("openvino:cpu:int8:3",)),
        QuantizeOptions(targets=("onnxruntime:cpu:int8:3", "tensorrt:cuda")),
        QuantizeOptions(targets=("tensorrt:cuda:fp16:3",)),
        QuantizeOptions(targets=("tensorrt:cuda",), threads=3),
    ],
)
def test_more_threads_than_cpus_are_refused_before_a_model_is_read(options, tmp_path):
    message = "3 threads, and this process may use 2 CPUs.* ask for 2 at most"
    with pytest.raises(InputError, match=message):
        targets.for_engines(options)
    (tmp_path / "study.csv").write_text("image,split,label\n")
    with pytest.raises(InputError, match=message):
        cases = CaseSource(tmp_path / "study.csv")
        steps.quantize(cases, tmp_path / "absent.medfm", options, print, tmp_path / "q.medfm")


def test_a_recipe_that_asks_for_them_is_refused_before_it_trains(tmp_path):
    (tmp_path / "policy.yaml").write_text("non_inferiority: [{metric: auroc, margin: 0.1}]\n")
    recipe = "name: r\npolicy: policy.yaml\nteacher: {model: resnet10t}\ndistill: {student: test_resnet}\n"
    (tmp_path / "recipe.yaml").write_text(recipe + "quantize: {targets: ['openvino:cpu:int8:3']}\n")
    (tmp_path / "study.csv").write_text("image,split,label\n")
    loaded = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="3 threads, and this process may use 2 CPUs"):
        compress(loaded, tmp_path / "study.csv", tmp_path / "out", print)
    assert not (Path(tmp_path) / "out").exists()
