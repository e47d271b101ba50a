"""What must be instant: help, version and refusals load no training library; and what a terminal sees."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medfm_compress.__main__ import main
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.cli.app import COMMANDS, GROUPS, spelled
from medfm_compress.cli.recipe_template import ANOMALY_STARTER, STARTER
from medfm_compress.cli.reference import PAGES
from medfm_compress.recipe import load_recipe

HEAVY = ("torch", "timm", "onnxruntime", "openvino", "onnx", "torchvision")
PROGRAM = f"""
import sys
from medfm_compress.__main__ import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write("loaded: " + ",".join(name for name in {HEAVY} if name in sys.modules) + "\\n")
"""
MODEL = ("--study", "s", "--out", "o")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        *[([spelled(command), "--help"], 0) for command in COMMANDS],
        (["study", "split", "-h"], 0),
        (["finetune", "resnet18", *MODEL, "--epochs", "-1"], 2),
        (["distill", "t", *MODEL, "--student", "s", "--teacher-precision", "fp64"], 2),
        (["prune", "m", *MODEL], 2),
        (["quantize", "b", *MODEL, "--samples", "1"], 2),
        (["bench", "b", *MODEL, "--teacher", "t"], 2),
    ],
)
def test_help_and_refusals_load_no_training_library(words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded: "
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["distill", "teacher"], "Missing option '--study'; see 'medfm-compress distill --help'"),
        (["study", "split", "x", "--nonsense"], "see 'medfm-compress study split --help'"),
        (["frobnicate"], "see 'medfm-compress --help'"),
    ],
)
def test_a_usage_error_names_the_help_of_its_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_an_interrupt_says_what_is_kept(tmp_path: Path) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    program = (
        "import sys, medfm_compress.data.open as module\n"
        "def wait(*a, **k):\n"
        "    sys.stderr.write('waiting\\n'); sys.stderr.flush()\n"
        "    import time; time.sleep(60)\n"
        "module.open_study = wait\n"
        "from medfm_compress.__main__ import main\n"
        f"main(['study', 'check', {str(tmp_path)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, previous)
    assert process.stderr is not None and process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "error: interrupted; what was finished is kept\n"


def _on_terminal(**environment: str) -> str:
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "medfm_compress", "gate", "--help"],
        stdout=follower,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        check=False,
    )
    os.close(follower)
    assert done.returncode == 0, done.stderr
    parts = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    return b"".join(parts).decode()


def test_help_has_colour_on_a_terminal_only() -> None:
    assert "\x1b[" in _on_terminal(NO_COLOR="")
    assert "\x1b[" not in _on_terminal(NO_COLOR="1")


def test_starters_are_valid_and_overwrite_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, name in (("policy", "policy.yaml"), ("recipe", "job.yaml")):
        with pytest.raises(SystemExit) as ended:
            main([verb, "init", str(tmp_path / name)])
        assert ended.value.code == 0
        with pytest.raises(SystemExit) as ended:
            main([verb, "init", str(tmp_path / name)])
        assert ended.value.code == 2
        assert "not overwritten" in capsys.readouterr().err
    assert load_policy(tmp_path / "policy.yaml").policy.non_inferiority
    assert load_recipe(tmp_path / "job.yaml").recipe.distill.student == "resnet10t"
    assert (tmp_path / "recipe.schema.json").read_text() == PAGES["recipe.schema.json"]()


def _switched_on(starter: str) -> str:
    return "\n".join(
        line.replace("#", "", 1) if line.lstrip().startswith("#") and line.lstrip()[1:2].strip() else line
        for line in starter.splitlines()
    )


def test_the_starter_with_every_line_switched_on_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(_switched_on(STARTER))
    recipe = load_recipe(tmp_path / "job.yaml").recipe
    assert recipe.prune is not None and recipe.prune.min_speedup == 1.5
    assert recipe.split is not None and recipe.split.drop_leaking


def test_the_starter_of_an_anomaly_model_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "init", str(tmp_path / "job.yaml"), "--anomaly"])
    assert ended.value.code == 0 and "normal labels, teachers and policy" in capsys.readouterr().out
    recipe = load_recipe(tmp_path / "job.yaml").recipe
    assert recipe.normal == ("benign",) and recipe.anomaly is not None
    (tmp_path / "job.yaml").write_text(_switched_on(ANOMALY_STARTER))
    switched = load_recipe(tmp_path / "job.yaml").recipe.anomaly
    assert switched is not None and switched.teachers[0].licence == "unknown"


def test_the_schema_has_the_ranges_and_texts_of_the_structs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recipe", "schema"])
    schema = json.loads(capsys.readouterr().out)
    epochs = schema["$defs"]["TrainingConfig"]["properties"]["epochs"]
    assert (epochs["minimum"], epochs["maximum"], epochs["default"]) == (0, 10_000, 12)
    assert epochs["description"].startswith("passes over the training cases")
    assert schema["$defs"]["PruneOptions"]["properties"]["max_macs"]["exclusiveMaximum"] == 1
    assert schema["additionalProperties"] is False


def test_the_shell_completes_choices() -> None:
    environment = {
        **os.environ,
        "_MEDFM_COMPRESS_COMPLETE": "complete_bash",
        "COMP_WORDS": "medfm-compress finetune resnet18 --label-loss c",
        "COMP_CWORD": "4",
    }
    command = [sys.executable, "-m", "medfm_compress"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cross-entropy", "class-balanced"]


def test_run_loads_its_own_command_alone() -> None:
    """What the others import would be most of a device's start."""
    others = [f"medfm_compress.cli.{name}" for name in (*COMMANDS, *GROUPS) if name != "run"]
    program = f"""
import sys
from medfm_compress.__main__ import main
try:
    main(["run", "--help"])
finally:
    sys.stderr.write("loaded: " + ",".join(name for name in {others} if name in sys.modules) + "\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "loaded: "
    assert "medfm-compress run" in done.stdout
