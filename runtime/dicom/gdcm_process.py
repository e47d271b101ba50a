"""GDCM in a process of its own.

GDCM decodes lossless JPEG, which no other decoder with a permissive licence does. On some damaged frames it ends its
process; on others its copy of libjpeg makes pixels up and says so on standard error alone, where a process with several
threads cannot listen. In a process of its own either is an error that is raised here.

A request and its reply are a line of JSON, then the frame or the pixels.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

_SECONDS = 120.0  # for one frame; the largest image takes a few
_PIXEL_KEYWORDS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    syntax: str
    attributes: dict[str, int | str]
    frame_bytes: int


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    error: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


class DecoderFailed(Exception):
    """GDCM raised, complained, took too long or ended its process."""


class _Process:
    """The one process, started when it is first needed and again when it has died; one thread at a time asks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0

    def ask(self, request: _Request, frame: bytes) -> tuple[_Reply, bytes]:
        """Raises `DecoderFailed` where no whole reply comes."""
        with self._lock:
            process = self._running()
            timer = threading.Timer(_SECONDS, process.kill)
            timer.start()
            try:
                return _exchange(process, request, frame)
            except (OSError, ValueError, msgspec.DecodeError) as exc:
                self.end()
                raise DecoderFailed("its process ended") from exc
            except BaseException:  # an interrupt: the reply would be taken for that of the next request
                self.end()
                raise
            finally:
                timer.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None or self._parent != os.getpid():
            atexit.unregister(self.end)
            atexit.register(self.end)
            self._process, self._parent = _start(), os.getpid()
        return self._process

    def end(self) -> None:
        """End the process, if there is one of ours; the next frame starts another."""
        process, self._process = self._process, None
        if process is None or self._parent != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()


_PROCESS = _Process()


def decode_apart(ds: Dataset) -> NDArray[Any]:
    """What ``pixel_array(ds, decoding_plugin="gdcm", correct_unused_bits=False)`` gives, decoded in another process.

    Args:
        ds: the Image Pixel Module, one encapsulated frame, and a ``file_meta`` with the transfer syntax.

    Raises:
        DecoderFailed: the frame cannot be decoded, or GDCM says of it that it is damaged.
    """
    if not _can_start():
        from pydicom.pixels import pixel_array

        values: NDArray[Any] = pixel_array(ds, decoding_plugin="gdcm", correct_unused_bits=False)
        return values
    attributes = {keyword: ds[keyword].value for keyword in _PIXEL_KEYWORDS if keyword in ds}
    frame: bytes = ds.PixelData
    request = _Request(syntax=str(ds.file_meta.TransferSyntaxUID), attributes=attributes, frame_bytes=len(frame))
    reply, pixels = _PROCESS.ask(request, frame)
    if reply.error:
        raise DecoderFailed(reply.error)
    return np.frombuffer(bytearray(pixels), np.dtype(reply.dtype)).reshape(reply.shape)


def _can_start() -> bool:
    """Whether this is a Python interpreter that can be started once more, and no program that embeds one."""
    return bool(sys.executable) and Path(sys.executable).stem.lower().startswith(("python", "pypy"))


def _start() -> subprocess.Popen[bytes]:
    # Not -m: it puts the folder where the user stands first, and a random.py there would be imported.
    paths = [path for path in sys.path if path]
    code = f"import sys; sys.path[:] = {paths!r}; from {__name__} import main; main()"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _exchange(process: subprocess.Popen[bytes], request: _Request, frame: bytes) -> tuple[_Reply, bytes]:
    if process.stdin is None or process.stdout is None:
        raise OSError("no pipes")
    process.stdin.write(msgspec.json.encode(request) + b"\n" + frame)
    process.stdin.flush()
    reply = msgspec.json.decode(process.stdout.readline(), type=_Reply)
    size = int(np.prod(reply.shape, dtype=np.int64)) * np.dtype(reply.dtype).itemsize if reply.dtype else 0
    pixels = process.stdout.read(size)
    if len(pixels) != size:
        raise OSError("a part of the pixels is missing")
    return reply, pixels


def main() -> None:
    """Answer the parent until it closes standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as words, contextlib.suppress(BrokenPipeError):
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        while line := requests.readline():
            request = msgspec.json.decode(line, type=_Request)
            _answer(request, requests.read(request.frame_bytes), words, replies)
            replies.flush()


def _answer(request: _Request, frame: bytes, words: IO[bytes], replies: IO[bytes]) -> None:
    words.truncate(0)
    try:
        values = np.ascontiguousarray(_decode(request, frame))
    except Exception as exc:  # noqa: BLE001 - a decoder raises what it likes at a damaged frame
        reply = _Reply(error=type(exc).__name__)
    else:
        complains = os.fstat(words.fileno()).st_size > 0
        reply = _Reply(error="damaged") if complains else _Reply(dtype=values.dtype.str, shape=values.shape)
    replies.write(msgspec.json.encode(reply) + b"\n")
    if not reply.error:
        replies.write(values.data if values.size else b"")


def _decode(request: _Request, pixel_data: bytes) -> NDArray[Any]:
    import warnings

    import pydicom
    from pydicom.pixels import pixel_array

    warnings.simplefilter("ignore")
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = request.syntax
    for keyword, value in request.attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixel_data
    ds["PixelData"].is_undefined_length = True
    values: NDArray[Any] = pixel_array(ds, decoding_plugin="gdcm", correct_unused_bits=False)
    return values
