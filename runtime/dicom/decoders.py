"""pydicom's decoder plugins: imported where a failure is blamed on the installation, and tried one after the other."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.codestream import jpeg_header
from medfm_compress.runtime.dicom.gdcm_process import DEEP_BITS, EXTENDED, decode_apart, is_apart
from medfm_compress.runtime.errors import ImageRefused, MissingDependency
from medfm_compress.runtime.images.quiet_decoders import quiet

if TYPE_CHECKING:
    from pydicom import Dataset

SECOND_DECODER = "second-decoder"
_PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
# GDCM is the least sturdy. So it never gets a frame that another refused, and is left to what it alone can read:
# lossless JPEG, and anything else where no other decoder is installed.
_LAST_RESORT = "gdcm"


def import_decoders() -> None:
    """Import pydicom and every decoder that it finds, before any file is read.

    pydicom passes over a plugin that is not installed; one that is installed and broken raises what it likes.

    Raises:
        MissingDependency: one of them cannot be imported.
    """
    reason = _import_failure()
    if reason:
        raise MissingDependency(
            f"the DICOM decoders cannot be imported ({reason}), which is no fault of the image; reinstall the one it "
            "names: pip install --force-reinstall pydicom pylibjpeg-openjpeg pyjpegls python-gdcm"
        )


@cache
def _import_failure() -> str:
    """What the first import raised; empty where it went well. A second try would fail with other, misleading words."""
    try:
        with quiet():
            import pydicom.pixels  # noqa: F401
    except Exception as exc:  # noqa: BLE001 - a broken extension module may raise anything
        return f"{type(exc).__name__}: {' '.join(str(exc).split())[:120]}"
    return ""


def decode_frame(
    ds: Dataset, plugins: tuple[str, ...], layout: Layout, name: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Decode the one frame by the first decoder that can.

    Args:
        ds: the attributes of the Image Pixel Module and the pixels, with a ``file_meta``.
        plugins: from :func:`plugins_for`, tried in this order.
        layout: of the stored pixels.
        name: what to call the file in an error.

    Returns:
        ``[rows, columns]`` or ``[rows, columns, 3]`` in RGB, unused high bits as they are; and ``second-decoder``
        where an earlier one raised.

    Raises:
        ImageRefused: all of them raised.
    """
    from pydicom.pixels import pixel_array

    for attempt, plugin in enumerate(plugins):
        try:
            if plugin == _LAST_RESORT:
                values = decode_apart(ds)
            else:
                values = pixel_array(ds, decoding_plugin=plugin, correct_unused_bits=False)
        except Exception:  # a decoder raises what it likes at a damaged frame; the next one may read it
            if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
                raise
            continue
        return values, (SECOND_DECODER,) if attempt else ()
    syntax = ds.file_meta.TransferSyntaxUID.name
    raise ImageRefused(
        f"{name}: no installed decoder ({', '.join(plugins)}) reads these {syntax} pixels ({layout.bits_stored} bits), "
        "which are damaged, truncated or of an unsupported form; export the image uncompressed"
    )


def plugins_for(ds: Dataset, name: str) -> tuple[str, ...]:
    """Installed plugins, the sturdiest first; one empty name for native pixels, which need none.

    Raises:
        ImageRefused: there is no decoder for the transfer syntax, or none is installed.
    """
    from pydicom.pixels import get_decoder

    syntax = ds.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        known = syntax.name if syntax.name != str(syntax) else "an unknown one"
        raise ImageRefused(f"{name}: no decoder for its transfer syntax ({known}); export it uncompressed") from None
    if not syntax.is_encapsulated:
        return ("",)
    available = decoder.available_plugins
    if not available:
        raise ImageRefused(
            f"{name}: the decoder for {syntax.name} is not installed; "
            "pip install python-gdcm pylibjpeg-openjpeg pyjpegls"
        )
    known = [plugin for plugin in _PLUGINS if plugin in available]
    others = [plugin for plugin in available if plugin not in (*known, _LAST_RESORT)]
    return tuple(known + others) or available


def is_heard(plugins: tuple[str, ...]) -> bool:
    """Whether these decoders raise at whatever is missing from a lossless JPEG: GDCM alone does, in its own process."""
    return plugins == (_LAST_RESORT,) and is_apart()


def plugins_of_frame(ds: Dataset, frame: bytes, plugins: tuple[str, ...]) -> tuple[str, ...]:
    """``plugins``, but GDCM alone for lossy JPEG of 12 bits, which no other reads and which pydicom asks it not for."""
    if str(ds.file_meta.TransferSyntaxUID) != EXTENDED:
        return plugins
    header = jpeg_header(frame)
    is_deep = header is not None and header.precision == DEEP_BITS
    return (_LAST_RESORT,) if is_deep and find_spec("gdcm") else plugins
