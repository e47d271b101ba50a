"""Kill a process with SIGKILL at random instants while it installs, activates and rolls back, again and again.

    python experiments/device_kill.py runs/demo/demo.medfm --rounds 500 --out docs/results/device-kill.json

In every round a fresh process opens the active bundle of one folder, predicts, says so, and then changes the device
until it is killed. Before the next round the parent reads every byte of the active bundle. A round fails where the
device does not start, or starts with a bundle that was never accepted. All releases are copies of one passed bundle.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np

from medfm_compress.runtime import ActiveEngine, Bundle, DeviceFolder
from medfm_compress.runtime.bundle.bundle import write_bundle
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.device.state import DeviceState

OPTIONS = DeviceOptions(backend="onnxruntime", threads=1, trial=1)
READY = "R"
CHANGES = {"i": "install", "a": "activate", "c": "report", "b": "rollback"}
LONGEST_S = {"i": 0.03, "a": 0.06, "c": 0.02, "b": 0.02}
"""From which the instant of the kill is drawn, evenly: about what each takes."""
IMAGE = np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)


def main() -> int:
    """Run the rounds; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments.bundle, Path(folder), arguments.rounds, arguments.seed)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    sys.stdout.write(text)
    return 1 if result["failures"] else 0


def run(bundle: Path, folder: Path, rounds: int, seed: int) -> dict[str, object]:
    """Rounds of kill and start; what was interrupted, and what failed."""
    paths = [write_release(bundle, folder / f"{release}.medfm", release) for release in (1, 2, 3)]
    device = DeviceFolder(folder / "device", options=OPTIONS)
    for path in paths[:2]:
        device.install(path)
        device.activate()
        device.report(refused=False)
    draw = random.Random(seed)  # noqa: S311
    failures: list[str] = []
    interrupted, trials, before = Counter[str](), 0, device.state
    for number in range(rounds):
        said = one_round(device, paths, draw)
        state = device.state
        failures += [f"round {number}: {problem}" for problem in problems(device, said, before, state)]
        interrupted[CHANGES.get(said[-1:], "between two")] += 1
        trials += state.trial is not None
        if state.minimum_release > before.minimum_release:  # it was committed: the next one on trial must be new
            paths[2] = write_release(bundle, paths[2], state.minimum_release + 1)
        before = state
    return {
        "rounds": rounds,
        "failures": failures,
        "killed_during": dict(sorted(interrupted.items())),
        "killed_on_trial": trials,
        "releases_committed": before.minimum_release,
        "changes_made": before.number,
        "left_over_files": len(set(os.listdir(device.bundles)) - before.files),  # noqa: PTH208
    }


def problems(device: DeviceFolder, said: str, before: DeviceState, state: DeviceState) -> list[str]:
    """What must never be after a kill."""
    active = state.active
    if not said.startswith(READY) or "failed" in said:
        return [f"the device did not start, or a change failed: {said[-300:]}"]
    if active is None:
        return ["nothing is active"]
    found = []
    if Bundle.open(device.path_of(active)).model_digest != active.model_digest:
        found.append("the active file is another bundle")
    if state.trial is None and active.manifest_sha256 not in state.accepted:
        found.append("what is active was never accepted")
    if state.minimum_release < before.minimum_release or state.number < before.number:
        found.append("the state went back")
    return found


def one_round(device: DeviceFolder, paths: list[Path], draw: random.Random) -> str:
    """What the child said before it was killed, at a random instant of a random change."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        work(device, paths, writer)
    os.close(writer)
    target, said = draw.choice(list(CHANGES)), ""
    while target not in said:
        piece = os.read(reader, 1)
        if not piece:
            break
        said += piece.decode()
    time.sleep(draw.uniform(0, LONGEST_S[target]))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(reader, 1 << 16):
        said += piece.decode()
    os.close(reader)
    return said


def work(device: DeviceFolder, paths: list[Path], writer: int) -> None:
    """Change the device until the end; never returns."""
    try:
        with ActiveEngine(device) as engine:
            engine.predict(IMAGE)
        os.write(writer, READY.encode())
        while True:
            for change in ("i", "a", "c", "i", "a", "b", "b"):
                os.write(writer, change.encode())
                make(change, device, paths)
                os.write(writer, b".")
    except BaseException as exc:  # noqa: BLE001 -- the parent has to hear of it
        os.write(writer, f"failed: {exc!r}".encode())
    os._exit(1)


def make(change: str, device: DeviceFolder, paths: list[Path]) -> None:
    """One change: a new release, whose first image is refused, and one of those that were committed, in turn."""
    state = device.state
    if change == "i":
        known = state.active is not None and state.active.release not in (1, 2)
        device.install(paths[2] if not known and state.trial is None else paths[state.number % 2])
    elif change == "a" and state.candidate is not None:
        device.activate()
    elif change == "c":
        device.report(refused=True)
    elif change == "b" and state.previous is not None:
        device.roll_back()


def write_release(source: Path, target: Path, release: int) -> Path:
    """A copy of a bundle as another release; its verdicts hold."""
    bundle = Bundle.open(source)
    files = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
    write_bundle(target, msgspec.structs.replace(bundle.manifest, release=release), files)
    return target


if __name__ == "__main__":
    sys.exit(main())
