"""Every file of a folder of DICOM images: what is read of it, by which rule, and how far from independent decoders.

python experiments/dicom_conformance.py FOLDER docs/dicom-conformance.md   # needs DCMTK's command line tools

The peers are DCMTK (``dcmdjpeg``, ``dcmdjpls``, ``dcmdrle``, ``dcmconv``) and, for JPEG 2000, GDCM called directly.
They decode the stored values; DCMTK's ``dcm2pnm`` makes presentation values of them, through its own windows, tables,
palettes and colour conversion. Neither knows of this project, and what is compared is what a network would see.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.read_image import read_frames, read_image

TOOLS = ("dcm2pnm", "dcmdjpeg", "dcmdjpls", "dcmdrle", "dcmconv")
ALL = DicomRules(frame="all", frame_aggregation="each")
RULES = {"any": DicomRules(), "all frames": ALL}
_UNCOMPRESS = {
    "1.2.840.10008.1.2.4.5": "dcmdjpeg",
    "1.2.840.10008.1.2.4.7": "dcmdjpeg",
    "1.2.840.10008.1.2.4.8": "dcmdjpls",
    "1.2.840.10008.1.2.5": "dcmdrle",
}
_DCM2PNM = "dcm2pnm"
_GDCM = "1.2.840.10008.1.2.4.9"
_NATIVE = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
NONE = "none here"


class Row(NamedTuple):
    """One file.

    Attributes:
        file: below the folder.
        syntax: transfer syntax.
        photometric: Photometric Interpretation.
        bits: stored / allocated, with the sign.
        frames: number of them.
        rule: the rule that let it in, or ``refused: `` and why.
        peer: who decoded it independently, empty where it is refused.
        difference: the largest, in steps of ``white``; empty where there is no peer.
        white: the greatest presentation value.
    """

    file: str
    syntax: str
    photometric: str
    bits: str
    frames: str
    rule: str
    peer: str = ""
    difference: str = ""
    white: str = ""


def rows(folder: Path, scratch: Path) -> Iterator[Row]:
    """One for each file that ``inventory.csv`` names."""
    with (folder / "inventory.csv").open(newline="", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names:
        yield row_of(folder, name, scratch)


def row_of(folder: Path, name: str, scratch: Path) -> Row:
    """Read one file by the first rule that lets it in, and compare."""
    facts = (name, *_facts(folder / name))
    reason = ""
    for rule, rules in RULES.items():
        try:
            frames = [read_image(folder / name)] if rule == "any" else read_frames(folder / name, rules)
            return Row(*facts, rule, *_compared(folder / name, frames, scratch))
        except ImageRefused as refused:
            reason = str(refused).partition(": ")[2]
    return Row(*facts, f"refused: {reason}")


def _compared(path: Path, frames: Iterable[Pixels], scratch: Path) -> tuple[str, str, str]:
    """Peer, the largest difference of any frame, and white."""
    native = scratch / "native.dcm"
    peer, largest, white = "", -1, 0
    decoder = ""
    for number, pixels in enumerate(frames, 1):
        decoder = decoder or _uncompressed(path, native)
        white = int(pixels.high)
        peer, theirs, kept = _peer(native, decoder, pixels.is_colour, white, number)
        if theirs is None:
            return peer, "", str(white)
        largest = max(largest, int(np.abs(pixels.values.astype(np.int64) - theirs)[kept].max()))
    return peer, str(largest), str(white)


_NAMES = {"1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression"}  # newer than some of pydicom's dictionaries


def _facts(path: Path) -> tuple[str, str, str, str]:
    from pydicom import dcmread

    ds = dcmread(path, force=True, stop_before_pixels=True)
    syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    sign = {0: "unsigned", 1: "signed"}.get(ds.get("PixelRepresentation", -1), "")
    bits = f"{ds.get('BitsStored', '?')}/{ds.get('BitsAllocated', '?')} {sign}".strip()
    frames = ds.get_item("NumberOfFrames")
    count = "1" if frames is None else str(getattr(frames.value, "decode", lambda: frames.value)()).strip()
    return (
        _NAMES.get(str(syntax), syntax.name) if syntax else "none",
        str(ds.get("PhotometricInterpretation", "")) or "none",
        bits if "BitsAllocated" in ds else "none",
        count,
    )


def _peer(
    native: Path, decoder: str, is_colour: bool, white: int, number: int
) -> tuple[str, NDArray[np.int64] | None, NDArray[np.bool_] | None]:
    """Who decodes frame ``number``, its presentation values in steps of ``white``, and which pixels are no padding."""
    from pydicom import dcmread

    if not decoder:
        return NONE, None, None
    ds = _with_frame(dcmread(native, force=True), number)
    values: NDArray[np.int64] | None
    if (slope := ds.get("RescaleSlope")) is not None and slope != int(slope):
        values, shower = _by_pydicom(ds), "pydicom"  # dcm2pnm rounds modality values to whole numbers before the window
    elif ds.PhotometricInterpretation.startswith("YBR_FULL"):
        values, shower = _by_formula(ds), "formula"  # dcm2pnm's tables are up to 2 of 255 beside it
    else:
        values, shower = _by_dcm2pnm(ds, native, number, is_colour=is_colour, white=white), "dcm2pnm"
    if values is None and ds.PhotometricInterpretation == "PALETTE COLOR":  # segmented
        values, shower = _palette_by_pydicom(ds), "pydicom"
    if values is None and ds.PhotometricInterpretation == "RGB" and ds.BitsAllocated == 32:
        stored = np.frombuffer(ds.PixelData, "<u4")[: ds.Rows * ds.Columns * 3].reshape(ds.Rows, ds.Columns, 3)
        values, shower = np.rint(stored / (2**32 - 1) * white).astype(np.int64), "its bytes"
    if values is None:
        return f"{decoder}; dcm2pnm refuses it", None, None
    kept = np.ones(values.shape[:2], bool)
    if not is_colour and "PixelPaddingValue" in ds:  # dcm2pnm does not mask it
        kept = ds.pixel_array != ds.PixelPaddingValue
    return f"{decoder}, {shower}", values, kept


def _with_frame(ds: Any, number: int) -> Any:
    """The data set with the pixels of one frame, of whole bytes; itself where there is one."""
    frames = int(ds.get("NumberOfFrames") or 1)
    if frames > 1:
        samples = 2 if ds.PhotometricInterpretation == "YBR_FULL_422" else ds.get("SamplesPerPixel", 1)
        size = ds.Rows * ds.Columns * samples * ds.BitsAllocated // 8
        ds.PixelData = ds.PixelData[(number - 1) * size : number * size]
        ds.NumberOfFrames = 1
    return ds


def _by_dcm2pnm(ds: Any, native: Path, number: int, *, is_colour: bool, white: int) -> NDArray[np.int64] | None:
    picture = native.with_name("picture")
    picture.unlink(missing_ok=True)
    # A PNG of 16 bits in colour is one that Pillow reads as 8 bits; DCMTK's PPM is plain text.
    kind = "+opw" if is_colour and white > 255 else "+on2" if white > 255 else "+on"
    options = [kind, "-O", "+F", str(number), *_window(ds)]
    done = subprocess.run([_DCM2PNM, "-q", *options, native, picture], capture_output=True, check=False)
    if done.returncode or not picture.is_file():
        return None
    return _ppm(picture) if kind == "+opw" else _png(picture)


def _by_pydicom(ds: Any) -> NDArray[np.int64]:
    """Grey with a window, in float64 throughout (PS3.3 C.11.1.1.2: what a rescale gives need be no whole number)."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    least, greatest = (ds.RescaleSlope * (low + end) + ds.RescaleIntercept for end in (0, 2**ds.BitsStored - 1))
    values: NDArray[np.int64] = np.rint((shown - least) / (greatest - least) * 65_535).astype(np.int64)
    return 65_535 - values if ds.PhotometricInterpretation == "MONOCHROME1" else values


def _by_formula(ds: Any) -> NDArray[np.int64]:
    """YBR_FULL and YBR_FULL_422 of 8 bits by PS3.3 C.7.6.3.1.2, in float64."""
    stored = np.frombuffer(ds.PixelData, np.uint8).astype(np.float64)
    if ds.PhotometricInterpretation == "YBR_FULL":
        ybr = stored.reshape(ds.Rows, ds.Columns, 3)
    else:
        pairs = stored.reshape(ds.Rows, ds.Columns // 2, 4)  # Y1 Y2 Cb Cr
        ybr = np.stack([pairs[..., [0, 2, 3]], pairs[..., [1, 2, 3]]], axis=2).reshape(ds.Rows, ds.Columns, 3)
    to_ybr = [[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5000], [0.5000, -0.4187, -0.0813]]
    rgb = (ybr - [0, 128, 128]) @ np.linalg.inv(to_ybr).T
    return np.clip(np.rint(rgb), 0, 255).astype(np.int64)


def _palette_by_pydicom(ds: Any) -> NDArray[np.int64]:
    from pydicom.pixels import apply_color_lut

    coloured: NDArray[np.int64] = apply_color_lut(ds.pixel_array, ds).astype(np.int64)
    return coloured


def _png(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def _ppm(path: Path) -> NDArray[np.int64]:
    words = [line.partition("#")[0] for line in path.read_text().splitlines()]
    kind, columns, rows, _white, *values = " ".join(words).split()
    if kind != "P3":
        raise ValueError(f"dcm2pnm wrote {kind}")
    return np.array(values, np.int64).reshape(int(rows), int(columns), 3)


def _window(ds: Any) -> list[str]:
    """The file's own first one; else one over the whole range, which dcm2pnm by itself only shifts to 16 bits."""
    if not ds.PhotometricInterpretation.startswith("MONOCHROME"):
        return ["-W"]
    if ds.get("VOILUTSequence"):
        return ["+Wl", "1"]
    if ds.get("WindowCenter") is not None:
        return ["+Wi", "1"]
    low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    low, high = (low + at for at in (0, 2**ds.BitsStored - 1))
    if ds.get("ModalityLUTSequence"):
        low, high = 0, 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif ds.get("RescaleSlope") is not None:
        low, high = (float(ds.RescaleSlope) * end + float(ds.RescaleIntercept) for end in (low, high))
    return ["+Ww", f"{(low + high + 1) / 2}", f"{high - low + 1}"]


def _uncompressed(path: Path, native: Path) -> str:
    """Write the file with native pixels; who did it, or nothing where none of the peers can."""
    from pydicom import dcmread

    native.unlink(missing_ok=True)
    meta = dcmread(path, force=True, stop_before_pixels=True).file_meta
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax.startswith(_GDCM):
        return "GDCM" if _by_gdcm(path, native) else ""
    tool = next((tool for start, tool in _UNCOMPRESS.items() if syntax.startswith(start)), "")
    tool = tool or ("dcmconv" if not syntax or (syntax.startswith(_NATIVE) and ".4." not in syntax) else "")
    if not tool:
        return ""
    options = ["+te"] if tool == "dcmconv" else []
    done = subprocess.run([tool, "-q", *options, path, native], capture_output=True, check=False)
    if done.returncode == 0 and native.is_file():
        return tool
    return "GDCM" if _by_gdcm(path, native) else ""


def _by_gdcm(path: Path, native: Path) -> bool:
    """Stored values as GDCM itself gives them, in a file that is otherwise as it was."""
    import gdcm
    from pydicom import dcmread

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return False
    image = reader.GetImage()
    words = (image.GetBuffer() or "").encode("utf-8", "surrogateescape")
    if not words:
        return False
    ds = dcmread(path)
    ds.PixelData = words
    ds["PixelData"].is_undefined_length = False
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    ds.file_meta.TransferSyntaxUID = _EXPLICIT
    if ds.SamplesPerPixel == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = str(image.GetPhotometricInterpretation()).strip(), 0
        if ds.PhotometricInterpretation in ("YBR_RCT", "YBR_ICT"):  # GDCM has undone these
            ds.PhotometricInterpretation = "RGB"
    ds.save_as(native)
    return True


def page(table: list[Row]) -> str:
    """The page with the table."""
    compared = [row for row in table if row.difference]
    accepted = [row for row in table if not row.rule.startswith("refused")]
    count = (
        f"Of {len(table)} files {len(accepted)} are read, {len(compared)} of them compared: "
        f"{sum(row.difference == '0' for row in compared)} equal, {sum(row.difference == '1' for row in compared)} "
        f"with a largest difference of 1, {sum(int(row.difference) > 1 for row in compared)} with more."
    )
    lines = [_INTRODUCTION, count, "", f"| {' | '.join(Row._fields)} |", "|" + "---|" * len(Row._fields)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table]
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# DICOM conformance, file by file

Made by `experiments/dicom_conformance.py` from 115 public test files of pydicom, pylibjpeg, highdicom and
torchxrayvision; a test makes the table again and compares. The rules stand in [dicom-images.md](dicom-images.md).

- **rule**: `any` is a model that declares nothing, `all frames` one that answers for each of several frames.
- **peer**: who decoded the stored values (DCMTK's `dcmdjpeg`, `dcmdjpls`, `dcmdrle`, `dcmconv`; GDCM called directly
  for JPEG 2000), and who made presentation values of them: `dcm2pnm` of DCMTK; `pydicom` for rescale slopes that are no
  whole number, where dcm2pnm rounds modality values before the window (PS3.3 C.11.1.1.2 does not), and for segmented
  palettes, which it refuses; `formula` for YBR_FULL, where its tables are up to 2 of 255 beside C.7.6.3.1.2.
- **difference**: the largest over all frames, pixels and channels, in steps of **white**; pixels of padding are left
  out. Where a window gives 16 bits, 1 is the rounding of its last step.
- HTJ2K and JPEG-LS of 7 bits are read by none of these peers.
"""


def main(folder: str, out: str) -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(out).write_text(page(list(rows(Path(folder), Path(scratch)))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
