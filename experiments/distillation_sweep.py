"""Train and judge the students of docs/results/distillation.md, one process a run; goes on where it stopped.

    python experiments/distillation_sweep.py WORK --studies FOLDER --teachers FOLDER [--core N] [--only PATTERN]...

A run's folder below ``WORK/runs`` receives ``log.txt``, the student's model folder and ``result.json``; runs that have
ended are skipped, and several runners (each on its own core) may share the list. A run whose teacher is not there yet,
or whose answers another runner is collecting, is left for later. Prepared images and the teacher's answers are kept
once for all runs in ``WORK/cache`` and ``WORK/answers``: named, or checked, by all they depend on.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from distillation_judge import Judged, judge
from distillation_plan import Run, planned
from medfm_compress.bench.gate.policy_file import load_policy
from medfm_compress.runtime.atomic_write import write_atomically

POLICY = Path(__file__).resolve().parents[1] / "examples" / "distillation-policy.yaml"
RESULT, FAILED, MODEL = "result.json", "failed.txt", "student"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is, and what a run may cost.

    Attributes:
        work: folder of all runs.
        studies: folder of the tables.
        teachers: folder of the teachers' model folders.
        policy: file.
        timeout_s: of one run.
        commands: what starts ``medfm-compress``.
    """

    work: Path
    studies: Path
    teachers: Path
    policy: Path = POLICY
    timeout_s: float = 900.0
    commands: tuple[str, ...] = (sys.executable, "-m", "medfm_compress")

    def folder(self, run: Run) -> Path:
        """Of one run."""
        return self.work / "runs" / run.name.replace(" ", "_")

    def study(self, run: Run) -> Path:
        """Table of one run."""
        return self.studies / f"{run.arm.study}.csv"

    def teacher(self, run: Run) -> Path:
        """Model folder of a run's teacher."""
        return self.teachers / run.pair.teacher


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One student.

    Attributes:
        run: what was asked.
        command: that trained it, with the folders' names in capitals.
        wall_s: of the training process.
        cpu_s: of the training process.
        macs: of the student and of its teacher, each at its own input.
        parameters: likewise.
        steps: what the model folder says was done.
        judged: one entry a split.
    """

    run: Run
    command: list[str]
    wall_s: float
    cpu_s: float
    macs: tuple[int, int]
    parameters: tuple[int, int]
    steps: tuple[str, ...]
    judged: list[Judged]


def sweep(place: Place, runs: list[Run]) -> int:
    """Work through ``runs`` until none is left that can be done; the number that were done here."""
    done = 0
    waiting = list(runs)
    while waiting:
        left = [run for run in waiting if not settled(place, run)]
        before = done
        waiting = []
        for run in left:
            state = attempt(place, run)
            done += state == "done"
            if state == "busy":
                waiting.append(run)
        if done == before and waiting:
            time.sleep(min(5.0, place.timeout_s))
    return done


def settled(place: Place, run: Run) -> bool:
    """Whether a run has ended, well or not."""
    return any((place.folder(run) / name).is_file() for name in (RESULT, FAILED))


def attempt(place: Place, run: Run) -> str:
    """Do one run; ``done``, ``failed``, ``busy`` (another runner has it, or its answers) or ``no teacher``."""
    if not (place.teacher(run) / "model.json").is_file():
        print_line(f"{run.name}: no teacher {place.teacher(run)}")
        return "no teacher"
    folder = place.folder(run)
    with locked(folder / "lock") as mine, locked(place.work / "teacher-outputs" / f"{answers_key(run)}.lock") as free:
        if not mine or not free:
            return "busy"
        if settled(place, run):
            return "elsewhere"
        return carry_out(place, run, folder)


def carry_out(place: Place, run: Run, folder: Path) -> str:
    """Train and judge; ``done`` or ``failed``."""
    command = run.arguments(str(place.study(run)), str(place.teacher(run)), str(folder / MODEL))
    wall_s, cpu_s = 0.0, 0.0
    if not (folder / MODEL / "model.json").is_file():
        link_caches(place, run, folder / MODEL / "training")
        print_line(f"{run.name}: {' '.join(command)}")
        reason, wall_s, cpu_s = trained(place, command, folder / "log.txt")
        if reason:
            write_atomically(folder / FAILED, reason.encode())
            print_line(f"{run.name}: failed: {reason}")
            return "failed"
        write_atomically(folder / "time.json", msgspec.json.encode((wall_s, cpu_s)))
    result = finished(place, run, folder)
    write_atomically(folder / RESULT, msgspec.json.encode(result))
    shutil.rmtree(folder / MODEL / "training", ignore_errors=True)
    for judged in result.judged:
        print_line(
            f"{run.name}: {judged.split} {judged.student.estimate:.4f}, teacher {judged.teacher.estimate:.4f}, "
            f"difference {judged.difference.estimate:+.4f} "
            f"[{judged.difference.low:+.4f}, {judged.difference.high:+.4f}], {judged.outcome}"
        )
    return "done"


def trained(place: Place, command: list[str], log: Path) -> tuple[str, float, float]:
    """Run ``medfm-compress``: why it failed (empty if not), wall and CPU seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("ab") as file:
        try:
            code = subprocess.run(
                [*started(place, command[0]), *command[command[0] == "labels" :]],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=place.timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    reason = (
        "" if code == 0 else f"exit code {code}: {last}" if code > 0 else f"no end in {place.timeout_s:g} s: {last}"
    )
    return reason, time.monotonic() - start, cpu_s


def started(place: Place, name: str) -> tuple[str, ...]:
    """What starts a command."""
    script = Path(__file__).with_name("distillation_labels.py")
    return (sys.executable, str(script)) if name == "labels" else place.commands


def finished(place: Place, run: Run, folder: Path) -> Result:
    """Judge the student that lies in ``folder``."""
    from medfm_compress.compress.networks.model import load_model

    models = [load_model(path) for path in (folder / MODEL, place.teacher(run))]
    timed = folder / "time.json"
    wall_s, cpu_s = msgspec.json.decode(timed.read_bytes()) if timed.is_file() else (0.0, 0.0)
    study = place.study(run)
    shown = run.arguments(f"STUDIES/{study.name}", f"TEACHERS/{run.pair.teacher}", "OUT")
    macs = [macs_of(model) for model in models]
    parameters = [sum(weight.numel() for weight in model.module.parameters()) for model in models]
    return Result(
        run=run,
        command=shown,
        wall_s=wall_s,
        cpu_s=cpu_s,
        macs=(macs[0], macs[1]),
        parameters=(parameters[0], parameters[1]),
        steps=models[0].provenance.steps,
        judged=judge(str(folder / MODEL), str(place.teacher(run)), str(study), load_policy(place.policy), place.work),
    )


def macs_of(model: Any) -> int:
    """Multiply–accumulates of one image."""
    import torch

    from medfm_compress.compress.networks.macs import count_macs

    return count_macs(model.module, torch.zeros(model.spec.shape)).total


def answers_key(run: Run) -> str:
    """Equal for runs that need the same answers; unlike ones never share a folder, the command checks the rest."""
    arm = run.arm
    if not arm.teacher:
        return run.name.replace("/", "-").replace(" ", "_")
    arguments = [option.partition("=")[0] for option in arm.options if "=" in option]
    features = sorted({"feature", "attention", "relational"} & set(arguments))
    if "--no-unlabelled" in arm.options:
        return "-".join([run.pair.teacher, arm.study, "labelled", f"{arm.views}-views", *features])
    # Hidden labels change nothing that the teacher is asked.
    return "-".join([run.pair.teacher, arm.study.partition("-")[0], f"{arm.views}-views", *features])


def link_caches(place: Place, run: Run, training: Path) -> None:
    """Let the run find the prepared images and the answers of earlier runs."""
    training.mkdir(parents=True, exist_ok=True)
    links = {"cache": place.work / "cache"}
    if run.arm.teacher:
        links["teacher-outputs"] = place.work / "teacher-outputs" / answers_key(run)
    for name, target in links.items():
        target.mkdir(parents=True, exist_ok=True)
        if not (training / name).exists():
            (training / name).symlink_to(target.resolve(), target_is_directory=True)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether the lock could be had; it ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def print_line(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def chosen(only: list[str], seeds: list[int]) -> list[Run]:
    """Runs whose name matches one of the patterns, such as ``lung/*/b/*``; none means all."""
    found = [run for run in planned() if not seeds or run.seed in seeds]
    return [run for run in found if not only or any(fnmatch.fnmatch(run.name, pattern) for pattern in only)]


def main() -> None:
    """Do what is left of the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--studies", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--only", action="append", default=[], help="pattern of runs, e.g. 'lung/*/b/*'; repeatable")
    parser.add_argument("--seed", action="append", default=[], type=int, help="repeatable; none means all")
    parser.add_argument("--core", type=int, default=-1, help="stay on this core")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds of one run")
    parser.add_argument("--again", action="store_true", help="try failed runs again")
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    arguments = parser.parse_args()
    place = Place(work=arguments.work, studies=arguments.studies, teachers=arguments.teachers, policy=arguments.policy,
                  timeout_s=arguments.timeout)  # fmt: skip
    runs = chosen(arguments.only, arguments.seed)
    if arguments.list:
        for run in runs:
            sys.stdout.write(f"{'ended' if settled(place, run) else 'to do':6} {run.name}\n")
        return
    for run in runs if arguments.again else ():
        (place.folder(run) / FAILED).unlink(missing_ok=True)
    if arguments.core >= 0:
        os.sched_setaffinity(0, {arguments.core})
    print_line(f"{sweep(place, runs)} runs done here")


if __name__ == "__main__":
    main()
