"""The attack is the same one each time, and it sees what it is there to see."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
if not hasattr(os, "fork"):
    pytest.skip("needs a system with resource limits", allow_module_level=True)

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "fuzz"
sys.path.append(str(FOLDER))  # its modules find one another by name, as when they are run

import fuzz  # noqa: E402
import kinds  # noqa: E402
import worker  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = kinds.Place(tmp_path_factory.mktemp("fuzz") / "work", None)
    kinds.prepare(found)
    return found


@pytest.mark.parametrize("name", list(kinds.KINDS))
def test_a_number_names_one_mutant_and_few_mutants_are_the_seed(place, name):
    seeds = kinds.KINDS[name].seeds(place)
    again = kinds.KINDS[name].seeds(place)
    mutants = [kinds.mutant(name, number, 1, seeds) for number in range(40)]
    assert mutants == [kinds.mutant(name, number, 1, again) for number in range(40)]
    assert sum(mutant in {content for _, content in seeds} for mutant in mutants) < 20
    assert len(set(mutants)) > 20 and mutants[0] != kinds.mutant(name, 0, 2, seeds)


@pytest.mark.parametrize("name", ["raster", "dicom"])
def test_every_seed_of_an_image_ends_with_an_exit_code_that_is_allowed_and_most_are_read(place, name):
    kind = kinds.KINDS[name]
    paths = [place.work / f"seed{number}" for number in range(len(kind.seeds(place)))]
    for path, (_, content) in zip(paths, kind.seeds(place), strict=True):
        path.write_bytes(content)
    reply = worker.answer(kind, place, list(range(len(paths))), paths)
    assert not reply["problem"], reply
    assert reply["codes"].count(0) > len(paths) * 0.6
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (0, "[]", "", ""),
        (4, "[]", "", ""),
        (4, "", "error: refused\n", ""),
        (70, "", "error: internal error\n", "exit code 70"),
        (1, "[]", "", "exit code 1"),
        (0, "[]", "ZIPDecode: error\n", "standard error"),
        (4, "", "error: refused\nTraceback\n", "standard error"),
        (0, "no", "", "no JSON"),
        (0, "[]", "error: two\nerror: lines\n", "standard error"),
    ],
)
def test_what_no_command_may_do_is_seen(code, out, err, words):
    problem = worker.complaint(worker.Outcome(code=code, out=out, err=err, ms=1.0), kinds.KINDS["raster"])
    assert (words in problem) if words else not problem


def test_words_written_to_the_descriptor_and_files_left_behind_are_seen(place, monkeypatch):
    def loud(_):
        os.write(2, b"a library\n")
        (place.work / "left.partial").write_text("")
        return 0

    monkeypatch.setattr(worker.face, "run", loud)
    assert worker.run_command(["run"])["err"] == "a library\n"
    (place.work / "left.partial").unlink()
    monkeypatch.setattr(worker.face, "run", lambda _: (place.work / "left.partial").write_text("") or 0)
    kind = kinds.KINDS["study"]._replace(arguments=lambda *_: [])
    assert worker.answer(kind, place, [0], [place.work / "x"])["problem"]
    (place.work / "left.partial").unlink(missing_ok=True)


def test_a_process_that_ends_or_hangs_is_a_finding_and_the_next_mutant_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "LIMIT_S", 3.0)
    run = fuzz.Fuzz(tmp_path, 1, None)
    run.batch("study", [0])
    process = run.worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    run.batch("study", [1])
    run.batch("study", [2])
    assert run.worker._process is not None
    run.worker._process.send_signal(signal.SIGKILL)
    run.worker._process.wait()
    run.batch("study", [3])
    run.batch("study", [4])
    run.worker.end()
    problems = {entry["number"]: entry["problem"] for entry in fuzz.read_lines(tmp_path / "findings.jsonl")}
    assert problems == {1: "no end within 3 s", 3: "the process ended with -9"}
    assert (tmp_path / "findings" / "study-1").is_file()
    assert [entry["first"] for entry in fuzz.read_lines(tmp_path / "counts.jsonl")] == [0, 1, 2, 3, 4]


def test_a_run_goes_on_where_it_was(tmp_path):
    lines = tmp_path / "counts.jsonl"
    lines.write_text(json.dumps({"kind": "dicom", "first": 50}) + "\n" + '{"kind": "dic')
    done = {entry["first"] for entry in fuzz.read_lines(lines)}
    assert [numbers[0] for numbers in fuzz.batches("dicom", 200, done)] == [0, 100, 150]


@pytest.mark.parametrize("name", ["raster", "dicom", "study", "recipe"])
def test_the_damage_itself_never_fails(place, name):
    seeds = kinds.KINDS[name].seeds(place)
    for number in range(1000):
        assert isinstance(kinds.mutant(name, number, 3, seeds), bytes)
