"""Have the peers of `experiments/peers` quantize a network, each in its own environment, and note what it cost.

python int8_cpu_peers.py PEER FORM WORK MODEL_FOLDER PYTHON BATCH      one artefact, for one network

An artefact's ``.json`` holds seconds, peak resident memory and, where it failed, the reason. A peer that needs more
memory or time than the limits is ended, which is a result as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from int8_cpu_compared import PEER_FORMS, PEERS

SCRIPTS = {
    "ort-static": "ort_static.py",
    "ort-dynamic": "ort_dynamic.py",
    "nncf-onnxruntime": "nncf_default.py",
    "nncf-openvino": "nncf_default.py",
    "optimum-static": "optimum_static.py",
    "modelopt": "modelopt_onnx.py",
    "torchao": "torchao_pt2e.py",
}
HUNGRY = ("modelopt", "torchao")  # their histograms want every activation in memory, or minutes: they get few cases
LIMIT_S = float(os.environ.get("INT8_PEER_SECONDS", "900"))
LIMIT_MB = float(os.environ.get("INT8_PEER_MB", "8000"))
_POLL_S = 0.1


def quantize(peer: str, source: Path, calibration: Path, out: Path, python: str, batch: int) -> dict[str, object]:
    """Let a peer write ``out``; what that cost, and why not where it did not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [python, str(PEERS / SCRIPTS[peer]), str(source), str(calibration), str(out)]
    about = {"peer": peer} | watched([*command, str(batch)] if peer == "torchao" else command, out.with_suffix(".log"))
    if not about["reason"] and not out.is_file():
        about["reason"] = "it wrote nothing"
    out.with_suffix(".json").write_text(json.dumps(about))
    return about


def watched(command: list[str], log: Path) -> dict[str, object]:
    """Run a command; its seconds, its peak resident memory in MB, and the last line it said where it failed."""
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        reason, peak_mb = _watch(process, start)
    seconds = time.perf_counter() - start
    if not reason and process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else f"exit code {process.returncode}"
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


def artefact(peer: str, form: str, work: Path, batch: int) -> Path:
    """Where a peer's model is kept."""
    return work / "peers" / f"{peer}-{form}-b{batch}{PEER_FORMS[peer][1]}"


def main(peer: str, form: str, work: str, model: str, python: str, batch: str) -> None:
    """Make one artefact of one network, unless it was tried before."""
    folder, size = Path(work), int(batch)
    out = artefact(peer, form, folder, size)
    if out.with_suffix(".json").is_file():
        return
    source = Path(model) if peer == "torchao" else folder / f"{form}-b{size}.onnx"
    few = size > 1 or peer in HUNGRY
    calibration = folder / ("calibration-few.npz" if few else "calibration.npz")
    about = quantize(peer, source, calibration, out, python, size)
    sys.stdout.write(f"{folder.name} {peer} {form} batch {size}: {about['reason'] or 'done'}, {about['seconds']} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
