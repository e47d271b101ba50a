"""The process in which NNCF runs: reads a job's folder, writes files and a reply into it. See `nncf_job`.

Run as ``python -m medfm_compress.compress.quantization.nncf_worker FOLDER``.
"""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np

from medfm_compress.bench.measure.worker import die_with_parent
from medfm_compress.compress.quantization.nncf_job import GRAPH, INPUTS, JOB, REPLY, NncfJob, NncfReply
from medfm_compress.runtime.errors import in_one_line
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime
from medfm_compress.runtime.sessions.openvino import import_openvino, is_available

# NNCF's telemetry is OpenVINO's package, without which NNCF takes a stub; PyTorch is 400 MB and four seconds unused.
_HIDDEN = ("openvino_telemetry", "torch")


def hide_unwanted() -> None:
    """Make what NNCF must not import impossible to import in this process."""
    for name in _HIDDEN:
        sys.modules[name] = None  # type: ignore[assignment]


def quantize(folder: Path) -> tuple[bytes, ...]:
    """Do the job in ``folder``; raises whatever NNCF raises."""
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=NncfJob)
    content = (folder / GRAPH).read_bytes()
    inputs = np.load(folder / INPUTS, allow_pickle=False)
    import_onnxruntime()  # both of them before NNCF does, which would not switch their telemetry off
    if is_available().ok:
        import_openvino()
    if job.weight_bits:
        from medfm_compress.compress.quantization.nncf_weights import compress_weights

        return compress_weights(content, inputs, job)
    from medfm_compress.compress.quantization.nncf_post_training import post_training_quantize

    return post_training_quantize(content, inputs, job)


def main(folder: Path) -> None:
    """Answer one job."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    hide_unwanted()
    warnings.simplefilter("ignore")
    try:
        contents = quantize(folder)
    except Exception as exc:  # noqa: BLE001 - NNCF, OpenVINO and ONNX Runtime raise what they like
        reply = NncfReply(error=in_one_line(exc))
    else:
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)
        reply = NncfReply(files=len(contents))
    (folder / REPLY).write_bytes(msgspec.json.encode(reply))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
