"""Run mutants of every kind of file that the product reads through its commands, and keep those that it does not bear.

    python fuzz.py OUT [--seed 1] [--share 1.0] [--minutes M] [--kinds dicom,raster] [--only dicom:12345]

A mutant must end with an exit code that the design allows for its command, at most one line of its own on standard
error, no file left behind, within `LIMIT_S` seconds and `LIMIT_MB`. Everything else is a finding and stands in
OUT/findings.jsonl with the mutant in OUT/findings. What is counted stands in OUT/counts.jsonl; run again, it goes on
where it was. ``--only`` writes one mutant and runs it once more; ``--share 0.01`` runs a hundredth of each kind.
MEDFM_SHARED may name a folder of real images, of which small ones become seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kinds import KINDS, Place, mutant, prepare

LIMIT_S, LIMIT_MB = 20.0, 3000
_PROCESS_EVERY = 2500  # mutants of which one also goes through a process of its own; the first of each kind does
_BATCHES_A_WORKER = 200  # then it is restarted, so that its memory is that of few mutants


class Worker:
    """The process of `worker`, started again whenever it died or was ended."""

    def __init__(self, place: Place, seed: int) -> None:
        self._arguments = [sys.executable, str(Path(__file__).with_name("worker.py")), str(place.work), str(seed)]
        self._arguments += [str(place.shared)] if place.shared else []
        self._process: subprocess.Popen[str] | None = None
        self._batches = 0

    def ask(self, kind: str, numbers: list[int]) -> dict[str, Any]:
        """What the command answered; where no answer came, why."""
        if self._batches >= _BATCHES_A_WORKER:
            self.end()
        process = self._process or self._start()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._batches += 1
        try:
            process.stdin.write(json.dumps({"kind": kind, "numbers": numbers}) + "\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                is_ready = selector.select(LIMIT_S + (60 if self._batches == 1 else 0))  # the first one imports
            line = process.stdout.readline() if is_ready else ""
        except BrokenPipeError:
            is_ready, line = [None], ""  # type: ignore[list-item]
        if line:
            return dict(json.loads(line))
        problem = f"no end within {LIMIT_S:g} s"
        if is_ready:
            problem = f"the process ended with {process.wait()}"
        self.end()
        return {"codes": [], "problem": problem, "words": "", "ms": 1000 * LIMIT_S, "peak_mb": 0}

    def _start(self) -> subprocess.Popen[str]:
        self._batches = 0
        self._process = subprocess.Popen(self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process

    def end(self) -> None:
        """End the process; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()
            self._process.wait()
        self._process, self._batches = None, 0


class Fuzz:
    """A run: its folder, seed and worker."""

    def __init__(self, out: Path, seed: int, shared: Path | None) -> None:
        self.out, self.seed = out, seed
        self.place = Place(out / "work", shared)
        prepare(self.place)
        self.worker = Worker(self.place, seed)

    def batch(self, kind: str, numbers: list[int]) -> None:
        """Run these mutants, one by one where something is wrong with them together; write what comes out."""
        started = time.perf_counter()
        reply = self.worker.ask(kind, numbers)
        replies = [reply]
        if self._wrong(reply) and len(numbers) > 1:
            self.worker.end()
            replies = []
            for number in numbers:
                replies.append(self.worker.ask(kind, [number]))
                self._note(kind, number, replies[-1])
        elif len(numbers) == 1:
            self._note(kind, numbers[0], reply)
        codes = [str(code) for entry in replies for code in entry["codes"] or ["none"]]
        self._append(
            "counts",
            {
                "kind": kind,
                "first": numbers[0],
                "count": len(numbers),
                "codes": {code: codes.count(code) for code in sorted(set(codes))},
                "seconds": round(time.perf_counter() - started, 3),
                "peak_mb": max(entry["peak_mb"] for entry in replies),
                "slowest_ms": max(entry["ms"] for entry in replies) if len(replies) == len(numbers) else None,
            },
        )

    def _wrong(self, reply: dict[str, Any]) -> str:
        too_much = f"{reply['peak_mb']} MB at most" if reply["peak_mb"] > LIMIT_MB else ""
        too_long = f"{reply['ms'] / 1000:.1f} s" if reply["ms"] > 1000 * LIMIT_S / 2 else ""
        return str(reply["problem"] or too_much or too_long)

    def _note(self, kind: str, number: int, reply: dict[str, Any]) -> None:
        problem = self._wrong(reply)
        if not problem:
            return
        self.worker.end()  # so that its memory counts for this mutant alone
        folder = self.out / "findings"
        folder.mkdir(exist_ok=True)
        content = self.mutant(kind, number)
        (folder / f"{kind}-{number}").write_bytes(content)
        about = {"kind": kind, "number": number, "seed": self.seed, "problem": problem, "words": reply["words"][-600:]}
        self._append("findings", about)
        _say(f"{kind}:{number}: {problem}: {reply['words'][-200:]!r}")

    def mutant(self, kind: str, number: int) -> bytes:
        """The bytes of one mutant."""
        return mutant(kind, number, self.seed, KINDS[kind].seeds(self.place))

    def compare(self, kind: str, number: int) -> None:
        """Run one mutant in the worker and through the command in a process of its own: both must end alike."""
        reply = self.worker.ask(kind, [number])
        path = self.place.work / KINDS[kind].file(number)
        path.write_bytes(self.mutant(kind, number))
        command = [sys.executable, "-m", "medfm_compress", *KINDS[kind].arguments(self.place, number, [path])]
        process = subprocess.run(command, capture_output=True, text=True, cwd=self.place.work, check=False)
        for name in (KINDS[kind].file(number), *KINDS[kind].outputs):
            (self.place.work / name).unlink(missing_ok=True)
        codes = reply["codes"] or ["none"]
        same = process.returncode == codes[0] and (process.stderr == reply["words"] or not process.stderr)
        self._append("processes", {"kind": kind, "number": number, "code": process.returncode, "same": same})
        if not same:
            self._append(
                "findings",
                {
                    "kind": kind,
                    "number": number,
                    "seed": self.seed,
                    "problem": f"a process ends with {process.returncode}, the worker with {codes}",
                    "words": process.stderr[-600:],
                },
            )

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        with (self.out / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def batches(kind: str, count: int, done: set[int]) -> Iterator[list[int]]:
    """Numbers of the mutants that are left, as many together as one command reads."""
    together = KINDS[kind].together
    for first in range(0, count, together):
        if first not in done:
            yield list(range(first, min(first + together, count)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a file of JSON lines; none where there is no file. A line that was cut short is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    shared = os.environ.get("MEDFM_SHARED")
    fuzz = Fuzz(out, options.seed, Path(shared, "data").resolve() if shared else None)
    if options.only:
        kind, _, number = options.only.partition(":")
        (out / f"{kind}-{number}").write_bytes(fuzz.mutant(kind, int(number)))
        _say(json.dumps(fuzz.worker.ask(kind, [int(number)]), indent=1))
        return
    end = time.monotonic() + 60 * options.minutes
    done = read_lines(out / "counts.jsonl")
    for kind in options.kinds.split(","):
        firsts = {entry["first"] for entry in done if entry["kind"] == kind}
        for numbers in batches(kind, round(KINDS[kind].mutants * options.share), firsts):
            if time.monotonic() > end:
                _say(f"{kind}: stopped after {options.minutes:g} minutes")
                return
            if numbers[0] % _PROCESS_EVERY == 0:
                fuzz.compare(kind, numbers[0])
            fuzz.batch(kind, numbers)
        _say(f"{kind}: done")


if __name__ == "__main__":
    main()
