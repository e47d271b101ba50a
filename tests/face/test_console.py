"""How commands print: plain tables where no terminal reads them, quiet and verbose progress; and shared targets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medfm_compress import steps
from medfm_compress.bench.types.target import split_targets
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.cli import console, progress_bar
from medfm_compress.cli.gate_summary import print_decision
from medfm_compress.cli.next_command import after_bench, after_distill
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Tick, counted
from medfm_compress.step_settings import FinetuneStep


def test_a_table_for_a_pipe_is_aligned_and_has_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["model", "p50 ms", "why"], [["a [bold]", "1.20", "x"], ["teacher", "10.20", "y: z"]], left=(0, 2))
    assert capsys.readouterr().out.splitlines() == [
        "model      p50 ms   why",
        "--------- -------- -----",
        "a [bold]     1.20   x",
        "teacher     10.20   y: z",
    ]


@pytest.mark.parametrize(("columns", "below"), [("40", True), ("120", False)])
def test_sentences_stand_below_their_rows_where_the_terminal_is_narrow(
    columns: str, below: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "is_plain", lambda: False)
    monkeypatch.setenv("COLUMNS", columns)
    rows = [["int8-static", "1.20", "kept as small-int8: faster than FP32"], ["fp32", "10.20", ""]]
    console.table(["model", "p50 ms", "outcome"], rows, left=(0, 2), sentences=True)
    lines = [line.split() for line in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()]
    kept = ["kept", "as", "small-int8:", "faster", "than", "FP32"]
    fast, slow, header = ["int8-static", "1.20"], ["fp32", "10.20"], ["model", "p50", "ms"]
    assert lines[0] == (header if below else [*header, "outcome"])
    assert lines[2:] == ([fast, kept, slow] if below else [fast + kept, slow])


@pytest.mark.parametrize(
    ("columns", "is_terminal", "longest"), [("60", True, 60), ("200", True, 110), ("60", False, 110)]
)
def test_a_verdict_is_broken_at_words_where_the_terminal_ends(
    columns: str,
    is_terminal: bool,
    longest: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(console.sys.stdout, "isatty", lambda: is_terminal)  # type: ignore[attr-defined]
    check = Check(
        name="auroc of pneumonia, floor of the teacher", outcome="fail", reason="at least 0.8 is excluded " * 9
    )
    judged = VariantVerdict(variant="v", outcome="fail", checks=(check,))
    verdict = Verdict(
        outcome="fail", notes=("noisy " * 40,), variants=(judged,), model_digest="0" * 64, policy_sha256="1"
    )
    print_decision(
        SimpleNamespace(
            verdict=verdict,
            report=SimpleNamespace(bundle_name="b"),
            earlier=None,  # type: ignore[arg-type]
            comparison=lambda variant, check: None,
            policy=SimpleNamespace(alpha=0.025),
        )
    )
    lines = capsys.readouterr().out.splitlines()
    assert longest - 12 <= max(map(len, lines)) <= longest
    assert " ".join(" ".join(lines).split()).count("at least 0.8 is excluded") == 9


def test_a_long_line_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["name"], [["word " * 100]])
    assert "word " * 99 in capsys.readouterr().out


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    with console.output(json=False, quiet=True, verbose=False):
        console.progress("epoch 1")
    assert capsys.readouterr().err == ""
    with console.output(json=False, quiet=False, verbose=True):
        console.progress("epoch 1")
    assert re.fullmatch(r" +\d+\.\d s  epoch 1\n", capsys.readouterr().err)
    console.progress("epoch 2")
    assert capsys.readouterr().err == "epoch 2\n"


def tick(work: str, done: int, left_s: float = 0.0) -> Tick:
    return Tick(work, done, 100, left_s)


def test_without_a_terminal_long_work_says_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    bar = progress_bar.ProgressBar()
    for done in range(1, 101):
        now[0] = 2.0 * done
        bar.show(tick("evaluate", done, 200 - now[0]), "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "evaluate: 10 of 100, 3 min left"
    assert lines[-2:] == ["evaluate: 90 of 100, 20 s left", "evaluate: 100 of 100"]
    assert len(lines) == 10
    for done in range(1, 101):  # no time passes: the last line alone
        bar.show(tick("time", done), "")
    assert capsys.readouterr().err.splitlines() == ["time: 100 of 100"]


def test_a_terminal_sees_a_bar_that_lines_replace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "_is_terminal", lambda: True)
    with console.output(json=False, quiet=False, verbose=False):
        console.progress(tick("evaluate", 25, 130))
        console.progress("warm up")
        console.progress(tick("evaluate", 50, 7500))
    error = capsys.readouterr().err
    assert "\r\x1b[K[#####...............] evaluate: 25 of 100, 2 min left\r\x1b[Kwarm up\n" in error
    assert error.endswith("2 h 05 min left\r\x1b[K"), "nothing of it stays"
    with console.output(json=True, quiet=True, verbose=False):
        console.progress(tick("evaluate", 25))
    assert capsys.readouterr().err == ""


def test_counted_work_tells_how_much_is_done() -> None:
    told: list[str] = []
    assert list(counted("abcde", "letters", 5, told.append)) == [*"abcde"]
    assert told[-1] == "letters: 5 of 5"
    list(counted(range(0, 5, 2), "cases", 5, told.append, 2))
    assert told[-1] == "cases: 5 of 5"
    assert list(counted([], "nothing", 0, told.append)) == []


def test_targets_share_their_threads() -> None:
    assert split_targets(()) == ((), None)
    assert split_targets(("openvino:cpu:int8:2", "onnxruntime:cpu")) == (("openvino:cpu:int8", "onnxruntime:cpu"), 2)
    with pytest.raises(InputError, match="name 1 and 2 threads"):
        split_targets(("openvino:cpu:int8:2", "onnxruntime:cpu:int8:1"))
    with pytest.raises(InputError, match="write backend:device:precision:threads"):
        split_targets(("tpu",))


def test_the_command_that_judges_can_be_pasted() -> None:
    command = after_bench(Path("my report/report.json"), Path("policy.yaml"), Path("small one.medfm"))
    assert command == ("medfm-compress gate 'my report/report.json' --policy policy.yaml --bundle 'small one.medfm'")


def test_the_next_command_names_what_is_not_there_yet(tmp_path: Path) -> None:
    model = tmp_path / "a model"
    (tmp_path / "a model.medfm").touch()
    assert after_distill(model, Path("-x")).endswith(f"export '{model}' --study ./-x --out '{model}-2.medfm'")


def test_a_file_where_a_model_folder_is_to_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(InputError, match="is a file; a model is a folder"):
        steps.finetune(tmp_path, FinetuneStep(model="resnet10t"), console.progress, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_what_a_library_warns_of_shows_with_verbose_alone() -> None:
    """Outside pytest, which turns warnings into errors: in a process as a user starts it."""
    program = (
        "import numpy as np; from medfm_compress.cli import console\n"
        "with console.output(json=False, quiet=False, verbose={}):\n"
        "    np.float64(1e300) * np.float64(1e300)\n"
    )
    for verbose in (False, True):
        command = [sys.executable, "-c", program.format(verbose)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("overflow" in done.stderr) == verbose, done.stderr


def test_no_name_adds_a_line_or_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "a\nPASS: evil\x1b[2K\r\x9b1A\u202eb  c\u2028é"
    shown = "a\\nPASS: evil\\x1b[2K\\r\\x9b1A\\u202eb  c\\u2028é"
    console.say(f"INCONCLUSIVE: {forged}")
    console.progress(forged)
    assert capsys.readouterr() == (f"INCONCLUSIVE: {shown}\n", f"{shown}\n")
    console.table(["name"], [[forged]])
    assert capsys.readouterr().out.splitlines()[2:] == [shown]
    console.emit_json({"name": forged + "\x7f\U000e0001"})
    written = capsys.readouterr().out
    assert json.loads(written) == {"name": forged + "\x7f\U000e0001"}
    assert all(char.isprintable() or char == "\n" for char in written)


def test_a_tick_of_a_forged_name_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress_bar.ProgressBar().show(tick("a\n\x1b[31m", 100), "")
    assert capsys.readouterr().err == "a\\n\\x1b[31m: 100 of 100\n"


def test_a_warning_of_a_forged_name_stays_one_line() -> None:
    """Outside pytest, which takes what is logged for itself."""
    program = (
        "import logging; from medfm_compress.cli import console\n"
        "with console.output(json=False, quiet=False, verbose={}):\n"
        "    logging.getLogger('x').warning('variant %s', 'a\\nPASS\\x1b[31m')\n"
    )
    for verbose, name in ((False, ""), (True, "x: ")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(verbose)], capture_output=True, text=True, check=True
        )
        assert done.stderr == f"{name}variant a\\nPASS\\x1b[31m\n"


def test_a_long_fact_is_broken_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = "fitted patches on 120 normal cases of a network, 64 numbers: " + "; ".join(f"fact {n}" for n in range(40))
    console.fact("step 3", step)
    assert capsys.readouterr().out == f"step 3:          {step}\n", "one line, for programs"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.fact("step 3", step)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 80
    assert [line[:17].strip() for line in lines] == ["step 3:", *[""] * (len(lines) - 1)]
    assert " ".join(line[17:] for line in lines) == step
    console.fact("model digest", "0" * 90)
    assert capsys.readouterr().out == f"model digest:    {'0' * 90}\n", "what is one word stays one"
