"""``inspect``: what a bundle holds, and whether it computes the same here."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import scored_bundle as scored
import typer
from typer.testing import CliRunner

from medfm_compress.cli.inspect import inspect
from medfm_compress.runtime.bundle.arrays import to_npy
from medfm_compress.runtime.bundle.bundle import NEAREST_CASES, rewrite_bundle
from medfm_compress.runtime.errors import BundleRefused


def invoke(*arguments):
    app = typer.Typer()
    app.command()(inspect)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def path(tiny, tmp_path):
    return tiny.bundle(tmp_path / "tiny.medfm", (tiny.OV, tiny.ORT))


def test_it_shows_what_the_bundle_is(path):
    result = invoke(path)
    assert result.exit_code == 0
    for words in ("binary: normal, opacity", "32×32 px grey", "tests only", "Apache-2.0", "opacity >= 0.5", "can run"):
        assert words in result.stdout


def test_it_shows_the_thresholds_of_a_variant_that_has_its_own(tiny, tmp_path):
    point = msgspec.structs.replace(tiny.POINT, threshold=0.25, sensitivity=0.97)
    own = msgspec.structs.replace(tiny.ORT, temperature=2.0, operating_points=(point,))
    path = tiny.bundle(tmp_path / "own.medfm", (tiny.OV, own), outcome=None)
    shown = invoke(path).stdout
    assert "called at:       opacity >= 0.5" in shown
    assert "onnxruntime-cpu-fp32: temperature 2" in shown
    assert "onnxruntime-cpu-fp32: called at opacity >= 0.25 (youden; sensitivity 0.970" in shown
    assert "openvino-cpu-fp32: temperature" not in shown
    theirs, its = json.loads(invoke(path, "--json").stdout)["variants"]
    assert (theirs["temperature"], its["temperature"]) == (1.0, 2.0)
    assert [row["operating_points"][0]["threshold"] for row in (theirs, its)] == [0.5, 0.25]


def test_it_verifies_every_variant(path):
    result = invoke(path, "--verify", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [row["verification"] for row in document["variants"]] == ["agrees", "agrees"]
    assert all(row["golden_error"] < 1e-3 and row["verdict"] == "pass" for row in document["variants"])
    assert document["bytes"] == path.stat().st_size
    assert document["manifest"]["name"] == "tiny"


def test_a_variant_that_computes_something_else_is_exit_code_4(tiny, path):
    rewrite_bundle(path, path, files={"model.onnx": tiny.network(seed=1)})
    result = invoke(path, "--verify")
    assert result.exit_code == 4
    assert result.stdout.count("computes something else on this machine") == 2
    assert "none" in result.stdout  # the verdicts cite the model as it was


def test_a_variant_that_cannot_run_here_has_its_reason(tiny, path):
    alien = msgspec.structs.replace(tiny.OV, instruction_set=("warp_drive",))
    rewrite_bundle(path, path, variants=(alien, tiny.ORT))
    result = invoke(path, "--verify")
    assert result.exit_code == 0
    assert "needs CPU instructions warp_drive" in result.stdout and "agrees" in result.stdout
    rewrite_bundle(path, path, variants=(alien,))
    assert invoke(path, "--verify").exit_code == 4
    assert invoke(path).exit_code == 0


@pytest.mark.parametrize(
    ("cases", "said"),
    [(np.zeros((64, 32), np.int8), "must hold uint8"), (np.zeros((64, 31), np.uint8), "holds no SHA-256")],
)
def test_nearest_cases_that_no_engine_opens_with_do_not_agree(tmp_path, cases, said):
    path = scored.bundle(tmp_path / "scored.medfm")
    assert invoke(path, "--verify").exit_code == 0
    rewrite_bundle(path, path, files={NEAREST_CASES: to_npy(cases)})
    result = invoke(path, "--verify")
    assert result.exit_code == 4 and "disagrees" in result.stdout and said in result.stdout


def test_a_damaged_bundle_is_refused(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert isinstance(invoke(path).exception, BundleRefused)
