"""Have the peers of `experiments/peers` quantize a network, each in its own environment, and note what it cost.

python int8_cpu_peers.py PEER WORK PYTHON BATCH      one artefact, for one network

An artefact's ``.json`` holds seconds, peak resident memory and, where it failed, the reason. A peer that needs more
memory or time than the limits is ended, which is a result as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from int8_cpu_compared import PEERS, PEERS_FOLDER
from int8_cpu_network import load_network

LIMIT_S = float(os.environ.get("INT8_PEER_SECONDS", "900"))
LIMIT_MB = float(os.environ.get("INT8_PEER_MB", "8000"))
_POLL_S = 0.1


def quantize(peer: str, source: Path, calibration: Path, out: Path, python: str) -> dict[str, object]:
    """Let a peer write ``out``; what that cost, and why not where it did not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    about = PEERS[peer]
    words = [python, PEERS_FOLDER / about.script, source, calibration, out, *about.options]
    cost = {"peer": peer} | watched([str(word) for word in words], out.with_suffix(".log"))
    if not cost["reason"] and not out.is_file():
        cost["reason"] = "it wrote nothing"
    out.with_suffix(".json").write_text(json.dumps(cost))
    return cost


def watched(command: list[str], log: Path) -> dict[str, object]:
    """Run a command; its seconds, its peak resident memory in MB, and the last line it said where it failed."""
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        reason, peak_mb = _watch(process, start)
    seconds = time.perf_counter() - start
    if not reason and process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = re.sub(r"(/[\w.-]+){2,}", "…", lines[-1])[:200] if lines else f"exit code {process.returncode}"
    return {"seconds": round(seconds, 1), "peak_mb": round(peak_mb), "reason": reason}


def _watch(process: subprocess.Popen[bytes], start: float) -> tuple[str, float]:
    """Wait; the reason why it was ended, and the largest resident memory seen, in MB."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _peak_mb(process.pid))
        if peak > LIMIT_MB or time.perf_counter() - start > LIMIT_S:
            process.kill()
            process.wait()
            over = f"more than {LIMIT_MB:g} MB" if peak > LIMIT_MB else f"more than {LIMIT_S:g} s"
            return f"needs {over}", peak
        time.sleep(_POLL_S)
    return "", peak


def _peak_mb(pid: int) -> float:
    """The kernel's own high-water mark of a living process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main(peer: str, work: str, python: str, batch: str) -> None:
    """Make one artefact of one network, unless it was tried before."""
    folder, size, about = Path(work), int(batch), PEERS[peer]
    out = folder / "peers" / f"{peer}-b{size}{about.suffix}"
    if out.with_suffix(".json").is_file():
        return
    module = load_network(folder).module
    if about.module and not module:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps({"peer": peer, "reason": "there is no PyTorch module of it"}))
        return
    source = Path(module) if about.module else folder / f"plain-b{size}.onnx"
    calibration = folder / ("calibration-few.npz" if size > 1 or about.few else "calibration.npz")
    cost = quantize(peer, source, calibration, out, python)
    sys.stdout.write(f"{folder.name} {peer} batch {size}: {cost['reason'] or 'done'}, {cost['seconds']} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
