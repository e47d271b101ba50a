"""One process that runs commands of the product in itself, many one after the other, and says how each ended.

    python worker.py WORK SEED [SHARED]      requests on standard input, replies on standard output, a line of JSON each

A command runs through the function that the installed script runs, with its error handling, up to the exit code. Its
standard output and standard error are files at the level of descriptors, so that words of C libraries are seen too.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from kinds import KINDS, Kind, Place, mutant, prepare
from medfm_compress.cli import main as face
from medfm_compress.runtime.errors import EXIT_UNUSABLE

MOST_ADDRESS_BYTES = 12 << 30
_LONGEST_WORDS = 2000


class Outcome(dict[str, Any]):
    """Of one command: ``code``, ``out`` and ``err`` as text, ``ms``."""


def run_command(arguments: list[str]) -> Outcome:
    """Run the command line in this process; its exit code and what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _redirected(out, err):
        started = time.perf_counter()
        code = face.run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        ms = 1000 * (time.perf_counter() - started)
        return Outcome(code=code, out=_text(out), err=_text(err), ms=ms)


@contextlib.contextmanager
def _redirected(out: IO[bytes], err: IO[bytes]) -> Any:
    kept = os.dup(1), os.dup(2)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    with (
        open(1, "w", encoding="utf-8", closefd=False) as text,
        open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as words,
    ):
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(words):
                yield
        finally:
            text.flush()
            words.flush()
            _put_back(kept)


def _put_back(kept: tuple[int, int]) -> None:
    for number, descriptor in zip((1, 2), kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def answer(kind: Kind, place: Place, numbers: list[int], paths: list[Path]) -> dict[str, Any]:
    """Run the command of ``kind`` on the mutants at ``paths``; codes by mutant, and what is wrong with the whole."""
    before = _files(place.work)
    outcome = run_command(kind.arguments(place, numbers[0], paths))
    codes, problem = [outcome["code"]], complaint(outcome, kind)
    if kind.together > 1 and not problem:
        codes = [entry.get("exit_code", 0) for entry in json.loads(outcome["out"])]
        if len(codes) != len(paths) or any(code not in kind.exits for code in codes):
            problem = f"exit codes {sorted(set(codes))} for {len(paths)} images"
    left = _files(place.work) - before
    if left - set(kind.outputs) or (left and outcome["code"] == EXIT_UNUSABLE):
        problem = problem or f"exit code {outcome['code']} left {sorted(left)[:3]}"
    for name in left:
        (place.work / name).unlink(missing_ok=True)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    words = (outcome["err"] or (outcome["out"] if problem else ""))[:_LONGEST_WORDS]
    return {"codes": codes, "problem": problem, "words": words, "ms": round(outcome["ms"], 1), "peak_mb": peak_mb}


def complaint(outcome: Outcome, kind: Kind) -> str:
    """What no command may do, whatever the file."""
    code, err = outcome["code"], outcome["err"]
    if code not in kind.exits:
        return f"exit code {code}"
    if err and not (err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")):
        return "words on standard error"
    if code == 0 or (kind.together > 1 and not err):
        try:
            json.loads(outcome["out"])
        except ValueError:
            return "standard output is no JSON"
    return ""


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def main() -> None:
    """Answer the parent."""
    work, seed, shared = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_BYTES, MOST_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w")
    place = Place(work, shared)
    prepare(place)
    os.chdir(work)
    seeds = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, numbers = request["kind"], request["numbers"]
        kind = KINDS[name]
        if name not in seeds:
            seeds[name] = kind.seeds(place)
        paths = [work / kind.file(number) for number in numbers]
        for path, number in zip(paths, numbers, strict=True):
            path.write_bytes(mutant(name, number, seed, seeds[name]))
        reply = answer(kind, place, numbers, paths)
        for path in paths:
            path.unlink(missing_ok=True)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
