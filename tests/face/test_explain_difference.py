"""``explain-difference``: what it prints, and what it refuses in one sentence."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from medfm_compress.cli.app import build_app
from medfm_compress.runtime.bundle.bundle import rewrite_bundle
from medfm_compress.runtime.errors import BundleRefused, InputError, StudyError

networks = importlib.import_module("altered_networks")
BASE = networks.network()
OTHER = networks.with_attribute(BASE, "norm", "epsilon", 0.01)


def invoke(*arguments):
    return CliRunner().invoke(build_app(), ["explain-difference", *map(str, arguments)])


@pytest.fixture
def path(tmp_path):
    return networks.write(tmp_path / "x.medfm", ("onnxruntime", (BASE,)), ("onnxruntime", (OTHER,)))


def arguments(path, study, a="a", b="b"):
    return (path, "--variant", a, "--variant", b, "--study", study)


def test_it_names_layer_operator_and_cause(path, discs_path):
    result = invoke(*arguments(path, discs_path))
    assert result.exit_code == 0, result.output
    for words in ("block.norm", "LayerNormalization", "epsilon of LayerNormalization norm is 0.01 in B", "to the bit"):
        assert words in result.stdout
    assert "1 of 9 layers part" in result.stdout


def test_its_json_holds_every_layer(path, discs_path):
    document = json.loads(invoke(*arguments(path, discs_path), "--cases", "2", "--json").stdout)
    assert document["parted"] == ["n"]
    assert document["difference"]["cases"] == 2
    assert {layer["value"] for layer in document["difference"]["layers"]} >= {"v", "c", "n", "s", "logits"}
    assert 0 <= document["noise"] < 1e-3


def test_it_says_that_equal_variants_do_not_part(tmp_path, discs_path):
    path = networks.write(tmp_path / "same.medfm", ("onnxruntime", (BASE,)), ("onnxruntime", (BASE,)))
    result = invoke(*arguments(path, discs_path))
    assert result.exit_code == 0
    assert "no layer parts" in result.stdout
    assert "the others create at most 0," in result.stdout


def test_an_unknown_variant_is_refused_with_the_names_there_are(path, discs_path):
    error = invoke(*arguments(path, discs_path, b="c")).exception
    assert isinstance(error, InputError)
    assert "no variant 'c'; it has a, b" in str(error)


@pytest.mark.parametrize("names", [("a",), ("a", "b", "a")])
def test_two_variants_are_needed(names, path, discs_path):
    options = [part for name in names for part in ("--variant", name)]
    error = invoke(path, "--study", discs_path, *options).exception
    assert isinstance(error, InputError)
    assert "give it twice, the reference first" in str(error)


def test_a_variant_is_not_held_against_itself(path, discs_path):
    assert "both variants are a" in str(invoke(*arguments(path, discs_path, b="a")).exception)


def test_a_split_without_images_is_refused(path, discs_path):
    error = invoke(*arguments(path, discs_path), "--split", "elsewhere").exception
    assert isinstance(error, StudyError)
    assert "no case in split 'elsewhere'" in str(error)


def test_a_study_without_images_is_refused(path, tmp_path):
    (tmp_path / "empty").mkdir()
    assert isinstance(invoke(*arguments(path, tmp_path / "empty")).exception, StudyError)


@pytest.mark.parametrize("content", [b"garbage", BASE[:900]], ids=["garbage", "cut"])
def test_a_variant_that_does_not_open_is_refused(content, path, discs_path):
    rewrite_bundle(path, path, files={"b0.bin": content})
    error = invoke(*arguments(path, discs_path)).exception
    assert isinstance(error, BundleRefused)
    assert "cannot load the model" in str(error)


def test_it_needs_nothing_but_the_engine(path, discs_path):
    lacking = ("torch", "onnx", "onnx_ir", "timm", "nncf", "openvino")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); from medfm_compress.__main__ import main; main()"
    command = [sys.executable, "-c", code, "explain-difference", *map(str, arguments(path, discs_path)), "--quiet"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "epsilon of LayerNormalization norm is 0.01 in B" in finished.stdout
