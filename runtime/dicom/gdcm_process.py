"""GDCM in a process of its own.

GDCM decodes lossless JPEG, which no other decoder with a permissive licence does. On some damaged frames it ends its
process; on others its copy of libjpeg makes pixels up and says so on standard error alone, where a process with several
threads cannot listen. In a process of its own either is an error that is raised here.

A request and its reply are a line of JSON, then the frame or the pixels.

Lossy JPEG of 12 bits (process 4, T.81 table 1) is GDCM's alone too. pydicom asks no decoder for it, so GDCM is called
here; it tries its decoder of 8 bits first, whose one line about the precision is expected, and no other.
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
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.codestream import jpeg_header

if TYPE_CHECKING:
    from pydicom import Dataset

EXTENDED = "1.2.840.10008.1.2.4.51"
DEEP_BITS = 12
_OF_THE_FIRST_TRY = b"Unsupported JPEG data precision 12"
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
    attributes = {keyword: ds[keyword].value for keyword in _PIXEL_KEYWORDS if keyword in ds}
    frame: bytes = ds.PixelData
    request = _Request(syntax=str(ds.file_meta.TransferSyntaxUID), attributes=attributes, frame_bytes=len(frame))
    if not is_apart():
        return _decode(request, frame)
    reply, pixels = _PROCESS.ask(request, frame)
    if reply.error:
        raise DecoderFailed(reply.error)
    return np.frombuffer(pixels, np.dtype(reply.dtype)).reshape(reply.shape)


def is_apart() -> bool:
    """Whether GDCM gets a process of its own, in which it is heard where it says that a frame is damaged.

    Where this is a Python interpreter that can be started once more, and no program that embeds one.
    """
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
    warnings.simplefilter("ignore")
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as words, contextlib.suppress(BrokenPipeError):
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        while line := requests.readline():
            request = msgspec.json.decode(line, type=_Request)
            _answer(request, requests.read(request.frame_bytes), words, replies)
            replies.flush()


def _answer(request: _Request, frame: bytes, words: IO[bytes], replies: IO[bytes]) -> None:
    words.seek(0)  # the descriptors 1 and 2 write where this one stands
    words.truncate(0)
    try:
        values = np.ascontiguousarray(_decode(request, frame))
    except Exception as exc:  # noqa: BLE001 - a decoder raises what it likes at a damaged frame
        reply = _Reply(error=type(exc).__name__)
    else:
        complains = _is_complaint(words, is_deep=_is_deep_jpeg(request, frame))
        reply = _Reply(error="damaged") if complains else _Reply(dtype=values.dtype.str, shape=values.shape)
    replies.write(msgspec.json.encode(reply) + b"\n")
    if not reply.error:
        replies.write(values.data if values.size else b"")


def _is_complaint(words: IO[bytes], *, is_deep: bool) -> bool:
    words.seek(0)
    lines = words.read(1_000).splitlines()
    return any(line.strip() and not (is_deep and line.strip() == _OF_THE_FIRST_TRY) for line in lines)


def _is_deep_jpeg(request: _Request, pixel_data: bytes) -> bool:
    from pydicom.encaps import get_frame

    header = jpeg_header(get_frame(pixel_data, 0, number_of_frames=1)) if request.syntax == EXTENDED else None
    return header is not None and header.is_dct and header.precision == DEEP_BITS


def _decode(request: _Request, pixel_data: bytes) -> NDArray[Any]:
    import pydicom
    from pydicom.pixels import pixel_array

    if _is_deep_jpeg(request, pixel_data):
        return _decode_deep_jpeg(request.attributes, pixel_data)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = request.syntax
    for keyword, value in request.attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixel_data
    ds["PixelData"].is_undefined_length = True
    values: NDArray[Any] = pixel_array(ds, decoding_plugin="gdcm", correct_unused_bits=False)
    return values


def _decode_deep_jpeg(attributes: dict[str, int | str], pixel_data: bytes) -> NDArray[np.uint16]:
    """Grey ``[rows, columns]`` of the one frame, in 16-bit words; the precision is that of the frame itself.

    Raises:
        ValueError: signed or colour, for which a DCT process of 12 bits leaves more than one reading.
    """
    import gdcm
    from pydicom.encaps import get_frame

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(get_frame(pixel_data, 0, number_of_frames=1))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    rows, columns = int(attributes["Rows"]), int(attributes["Columns"])
    if attributes["SamplesPerPixel"] != 1 or attributes["PixelRepresentation"] != 0:
        raise ValueError("12-bit JPEG of signed or colour pixels")
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(attributes["PhotometricInterpretation"]))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(EXTENDED)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, DEEP_BITS, DEEP_BITS - 1, 0))
    words = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM's char* comes as text
    return np.frombuffer(words, "<u2").reshape(rows, columns)
