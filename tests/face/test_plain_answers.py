"""Odd input gets a plain answer: at once, in the words of the file, with an exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.cli.parse_units import parse_quantity
from medfm_compress.recipe import load_recipe
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError

RECIPE = "name: job\npolicy: p.yaml\nteacher: {folder: given}\ndistill: {student: resnet10t}\n"
INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
from medfm_compress.__main__ import main
main(["--version"])
"""
UNLOADED = """
import sys
from medfm_compress.__main__ import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(f"loaded: {[name for name in ('torch', 'timm') if name in sys.modules]}")
"""


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("text", ["ms", "s", "1e308s", "inf", "nans", "", "-", "1_0ms", "\uff11\uff10ms"])
def test_a_time_is_a_finite_number_with_its_unit(text: str) -> None:
    with pytest.raises(
        InputError, match=r"--max-latency is '.*'; give a (finite )?number with its unit: a time, e\.g\. 10ms"
    ) as at:
        parse_quantity(text, "--max-latency", "ms")
    assert repr(text) in str(at.value)


@pytest.mark.parametrize("words", [(), ("study",), ("policy",), ("recipe",)])
def test_no_command_is_answered_with_the_help(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, out, error = answer(capsys, *words)
    assert (code, error) == (0, "")
    assert "Usage: medfm-compress" in out


def test_an_interrupt_while_the_command_line_loads() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("finetune", "resnet18z", "--study", "none", "--out", "m"),
        ("pretrain", "resnet18z", "--study", "none", "--out", "m"),
        ("distill", "none", "--student", "resnet18z", "--study", "none", "--out", "m"),
        ("distill", "timm:resnet18z", "--student", "resnet10t", "--study", "none", "--out", "m"),
    ],
)
def test_a_misspelt_network_is_refused_before_anything_is_loaded(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNLOADED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "timm has no model 'resnet18z'; near it: resnet18" in done.stderr
    assert done.stderr.endswith("loaded: []")


def test_a_recipe_is_refused_for_a_misspelt_student_before_its_first_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("resnet10t", "resnet10z"))
    (tmp_path / "p.yaml").write_text("non_inferiority: [{metric: auroc, margin: 0.1}]\n")
    code, _, error = answer(capsys, "compress", tmp_path / "r.yaml", "--study", tmp_path, "--out", tmp_path / "o")
    assert code == 2 and "timm has no model 'resnet10z'" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("bench: {pairs: ten}", "bench.pairs is 'ten'; it must be a whole number, at least 10"),
        ("bench: {pairs: 3}", "bench.pairs is 3; it must be at least 10"),
        ("bench: {pairs: null}", "bench.pairs is null; it must be a whole number, at least 10"),
        ("bench: {scenarios: server}", "bench.scenarios is 'server'; it must be a list"),
        ("bench: {scenarios: [serve]}", "bench.scenarios[0] is 'serve'; it must be "),
        ("bench: fast", "bench is 'fast'; it must be a section with the keys plan, targets"),
        ("bench: {plan: {round: 3}}", "bench.plan has no key 'round'; its keys are rounds, turn_ms"),
        ("bensh: {}", "the file has no key 'bensh'; its keys are name, policy"),
        (
            "bensh: {}\nexport: {rules: youden, dicom_modalities: [DX]}\nbench: {pairs: 3}",
            "the file has no key 'bensh'; its keys are name, policy, pretrain, teacher, teachers, distill, "
            "anomaly, study, split, prune, export, quantize and bench; "
            "export has no key 'rules' or 'dicom_modalities'; its keys are rule, ",
        ),
        ("study: 5", "study is 5; it must be text"),
        ("quantize: {keep_fp32: 1}", "quantize.keep_fp32 is 1; it must be true or false"),
    ],
)
def test_a_recipe_is_corrected_in_its_own_words(tmp_path: Path, more: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{RECIPE}{more}\n")
    with pytest.raises(InputError) as refused:
        load_recipe(tmp_path / "r.yaml")
    assert message in str(refused.value)
    assert "Expected `" not in str(refused.value)


def test_a_missing_key_and_one_that_is_given_twice(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("{student: resnet10t}", "{}"))
    with pytest.raises(InputError, match="distill lacks the key 'student'"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(f"{RECIPE}name: again\n")
    with pytest.raises(InputError, match="key name is given twice, in lines 1 and 5"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("number", ["010", "1_0", "10_00", "1:30", "0x1F", "0b11", "1_0.5", "00"])
def test_a_number_that_yaml_reads_otherwise_than_people_do(tmp_path: Path, number: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{RECIPE}prune: {{max_macs: 0.5, round_to: {number}}}\n")
    with pytest.raises(InputError, match=f"{number} in line 5 is read in several ways"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(("written", "meant"), [("1e-3", 0.001), ("2.5E-04", 0.00025), (".5", 0.5), ("1", 1.0)])
def test_numbers_as_people_write_them(tmp_path: Path, written: str, meant: float) -> None:
    step = f"distill: {{student: resnet10t, training: {{learning_rate: {written}}}}}"
    (tmp_path / "r.yaml").write_text(RECIPE.replace("distill: {student: resnet10t}", step))
    recipe = load_recipe(tmp_path / "r.yaml").recipe
    assert recipe.distill is not None and recipe.distill.training.learning_rate == meant


@pytest.mark.parametrize("key", ["1", "no", "~", "2026-01-01", "1.5"])
def test_a_key_that_yaml_takes_for_no_text(tmp_path: Path, key: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{RECIPE}{key}: x\n")
    with pytest.raises(InputError, match=f"key {key} in line 5 is no text; write it in quotes"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(f"{RECIPE}'{key}': x\n")
    with pytest.raises(InputError, match=f"no key '{key}'"):
        load_recipe(tmp_path / "r.yaml")


def test_a_name_that_no_file_can_have(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    long = "n" * 300
    for words in (
        ("export", tmp_path, "--study", tmp_path, "--out", f"{long}.medfm"),
        ("finetune", "resnet10t", "--study", tmp_path, "--out", long),
        ("finetune", "resnet10t", "--study", long, "--out", tmp_path / "m"),
        ("inspect", long),
        ("gate", long, "--policy", long),
        ("policy", "init", long),
        ("study", "check", long),
        ("compress", long),
    ):
        code, _, error = answer(capsys, *words)
        assert code == 2 and "File name too long" in error, error
    write_atomically(tmp_path / ("n" * 250), b"x")  # as long as a name may be


@pytest.mark.parametrize("words", [("policy", "init", ""), ("recipe", "init", "")])
def test_an_empty_path_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, _, error = answer(capsys, *words)
    assert code == 2 and "OUT is empty" in error


def test_a_study_whose_file_names_are_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for label in ("a", "b"):
        folder = tmp_path / label
        folder.mkdir()
        Image.fromarray(np.full((40, 40), ord(label), np.uint8)).save(folder / "x.png")
        (folder / "x.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    code, out, error = answer(capsys, "study", "check", tmp_path, "--json")
    assert code in (0, 2), error
    if out:
        json.loads(out)
