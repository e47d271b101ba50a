"""Recipes: strict, relative to their own folder, and the examples in the repository are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.pipeline import compress
from medfm_compress.recipe import load_recipe, missing_file
from medfm_compress.runtime.errors import InputError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GOOD = """\
name: job
policy: policy.yaml
teacher: {model: resnet18}
distill: {student: resnet10t}
"""


def test_a_minimal_recipe_has_sane_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    loaded = load_recipe(tmp_path / "r.yaml")
    assert loaded.recipe.quantize is not None
    assert loaded.recipe.policy == str(tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "prun: {}\n", "prun"),
        (GOOD.replace("resnet18}", "resnet18, training: {epoch: 3}}"), "epoch"),
        (GOOD.replace("resnet18}", "resnet18, folder: x}"), "give one of them"),
        (GOOD.replace("name: job", "name: ../job"), "letters, digits"),
        ("name: [", "not YAML"),
        ("- a\n- b\n", "recipe"),
    ],
)
def test_a_wrong_recipe_is_one_clear_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", sorted(p for p in EXAMPLES.glob("*.yaml") if "policy" not in p.name), ids=lambda p: p.name
)
def test_the_examples_are_valid(path: Path) -> None:
    loaded = load_recipe(path)
    load_policy(loaded.recipe.policy)


ANOMALY = """\
name: job
policy: policy.yaml
anomaly:
  normal: [normal]
  teachers: [{encoder: resnet18, weights: gone.pt}]
"""


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (GOOD.replace("resnet18}", "resnet18, weights: gone.safetensors}"), r"teacher\.weights"),
        (GOOD.replace("resnet18}", "resnet18, columns: gone.yaml}"), r"teacher\.columns"),
        (GOOD.replace("{model: resnet18}", "{folder: gone}"), r"teacher\.folder"),
        (GOOD.replace("resnet10t}", "resnet10t, more: [here.csv, gone]}"), r"distill\.more"),
        (GOOD.replace("teacher: {model: resnet18}", "teachers: [{source: here.csv, spec: gone}]"), "spec"),
        (GOOD.replace("teacher: {model: resnet18}", "teachers: [{source: ./gone}]"), r"teachers\[0\]\.source"),
        (GOOD.replace("teacher: {model: resnet18}", "teachers: [{source: 'outputs:gone'}]"), "source"),
        (GOOD.replace("resnet10t}", "../gone/student}"), r"distill\.student"),
        (ANOMALY.replace("resnet18, weights: gone.pt", "./gone"), r"anomaly\.teachers\[0\]\.encoder"),
        (GOOD + "bench: {external_models: ['here.csv#softmax', 'gone.onnx#softmax']}\n", r"bench\.external_models"),
        (GOOD + "bench: {baseline: gone.medfm}\n", r"bench\.baseline"),
        (ANOMALY, r"anomaly\.teachers\[0\]\.weights"),
    ],
)
def test_a_file_that_a_late_step_lacks_is_said_before_the_first(text: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "policy.yaml").write_bytes((EXAMPLES / "chest-xray-policy.yaml").read_bytes())
    (tmp_path / "here.csv").write_text("image,label\n")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=rf"{key}.*gone.*does not exist"):
        compress(load_recipe(tmp_path / "r.yaml"), tmp_path / "here.csv", out, print)
    assert not out.exists()


@pytest.mark.parametrize(
    "student", ["resnet10t", "timm:resnet10t", "smp:unet/tu-resnet18", "hf-hub:owner/name", "auto"]
)
def test_names_of_networks_and_files_that_are_there_are_not_missing(tmp_path: Path, student: str) -> None:
    folder = tmp_path / "run#2"
    folder.mkdir()
    for name in ("w.safetensors", "p.onnx", "old.medfm"):
        (folder / name).touch()
    text = GOOD.replace("resnet10t}", f"'{student}', weights: 'run#2/w.safetensors'}}")
    text += "bench: {external_models: ['run#2/p.onnx#softmax', 'run#2/old.medfm#int8'], baseline: 'run#2/old.medfm'}\n"
    (tmp_path / "r.yaml").write_text(text)
    assert not missing_file(load_recipe(tmp_path / "r.yaml").recipe)
