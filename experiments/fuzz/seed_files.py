"""The files that are damaged: small synthetic ones made here, and, where there are any, small real ones.

Every list is in a fixed order, so that a mutant's number names the same mutant wherever the libraries are the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Seed = tuple[str, bytes]  # name, content
Options = dict[str, Any]  # of Pillow

_DCT: tuple[Options, ...] = ({"quality": 95}, {"quality": 60, "progressive": True}, {"subsampling": 2})
_JPEG: tuple[Options, ...] = ({"progressive": True}, {"quality": 30, "subsampling": 2}, {"restart_marker_blocks": 1})
_WAVELETS: dict[str, Options] = {"plain": {}, "tiles": {"tile_size": (8, 8)}, "layers": {"quality_layers": [20, 1]}}

_REAL_BYTES = 60_000
_EXPLICIT, _IMPLICIT, _BIG, _DEFLATED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
_BASELINE, _LOSSLESS_JPEG, _JPEG_LS, _J2K, _RLE = (
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"),
    "1.2.840.10008.1.2.5",
)
_SIDE = (40, 36)


def grey(kind: type[np.generic] = np.uint8, below: int = 256) -> NDArray[Any]:
    """Smooth and noisy ``[40, 36]``."""
    rows, columns = np.indices(_SIDE)
    noise = np.random.default_rng(0).integers(0, below // 8, _SIDE)
    return ((rows * 9 + columns * 5) * below // 600 + noise).clip(0, below - 1).astype(kind)


def colour() -> NDArray[np.uint8]:
    """``[40, 36, 3]``."""
    return np.stack([grey(), grey()[::-1], grey()[:, ::-1]], -1)


def dicom_seeds(shared: Path | None) -> list[Seed]:
    """All encodings, kinds of pixel and compressions, windows, tables and overlays; and small real files."""
    made = [(name, _written(ds)) for name, ds in (*_native(), *_compressed())]
    return made + _real(shared / "dicom" if shared else None)


def _native() -> Iterator[tuple[str, Any]]:
    for syntax in (_EXPLICIT, _IMPLICIT, _BIG, _DEFLATED):
        yield f"grey-{syntax}", _dataset(grey(), syntax)
    yield "grey-12", _dataset(grey(np.uint16, 4096), BitsStored=12, WindowCenter="1000\\2000", WindowWidth="500\\900")
    yield "grey-16-signed", _dataset(grey(np.int16, 4096) - 2048, RescaleSlope="0.5", RescaleIntercept="-1024")
    yield "grey-inverted", _dataset(grey(), PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=3)
    yield "rgb", _dataset(colour())
    yield "rgb-planes", _dataset(np.ascontiguousarray(np.moveaxis(colour(), -1, 0)), PlanarConfiguration=1)
    yield "ybr", _dataset(colour(), PhotometricInterpretation="YBR_FULL")
    palette = _dataset(grey(), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{name}PaletteColorLookupTableData", np.arange(256, dtype="<u2").tobytes())
    yield "palette", palette
    yield "tables", _with_tables(_dataset(grey(np.uint16, 4096), BitsStored=12))
    overlay = _dataset(grey())
    overlay.add_new(0x60000010, "US", _SIDE[0])
    overlay.add_new(0x60000011, "US", _SIDE[1])
    overlay.add_new(0x60000100, "US", 1)
    overlay.add_new(0x60000102, "US", 0)
    overlay.add_new(0x60003000, "OW", bytes(_SIDE[0] * _SIDE[1] // 8))
    yield "overlay", overlay


def _with_tables(ds: Any) -> Any:
    from pydicom import Dataset

    for name, bits in (("ModalityLUTSequence", 16), ("VOILUTSequence", 12)):
        item = Dataset()
        item.add_new(0x00283002, "US", [4096, 0, bits])
        item.add_new(0x00283006, "OW", np.arange(4096, dtype="<u2").tobytes())
        setattr(ds, name, [item])
    return ds


def _compressed() -> Iterator[tuple[str, Any]]:
    for number, options in enumerate(_DCT):
        yield f"jpeg-{number}", _encapsulated(colour() if number else grey(), _BASELINE, "JPEG", **options)
    yield "jpeg-lossless", _encapsulated(grey(), _LOSSLESS_JPEG, lossless_jpeg(grey()))
    for name, options in _WAVELETS.items():
        yield f"j2k-{name}", _encapsulated(grey(), _J2K, "JPEG2000", no_jp2=True, num_resolutions=2, **options)
    yield "j2k-colour", _encapsulated(colour(), _J2K, "JPEG2000", no_jp2=True, num_resolutions=2)
    yield "j2k-boxes", _encapsulated(grey(), _J2K, "JPEG2000", num_resolutions=2)
    import jpeg_ls

    yield "jpeg-ls", _encapsulated(grey(), _JPEG_LS, bytes(jpeg_ls.encode_array(grey())))
    rle = _dataset(grey(np.uint16, 65536))
    rle.compress(_RLE, encoding_plugin="pydicom", generate_instance_uid=False)
    yield "rle", rle


def _dataset(stored: NDArray[Any], syntax: str = _EXPLICIT, **attributes: Any) -> Any:
    import pydicom

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.Modality, ds.PatientName = "DX", "Nobody"
    ds.Rows, ds.Columns = _SIDE
    ds.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * stored.dtype.itemsize
    ds.BitsStored = attributes.pop("BitsStored", ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    if "WindowCenter" not in attributes:
        ds.WindowCenter, ds.WindowWidth = 2 ** (ds.BitsStored - 1), 2**ds.BitsStored
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(">" if syntax == _BIG else "<")).tobytes()
    ds["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    return ds


def _encapsulated(values: NDArray[Any], syntax: str, frame: bytes | str, **options: Any) -> Any:
    """With ``frame``, or with what Pillow makes in the format of that name."""
    from pydicom.encaps import encapsulate

    ds = _dataset(values)
    ds.file_meta.TransferSyntaxUID = syntax
    if values.ndim == 3:
        ds.PhotometricInterpretation = "RGB" if syntax == _J2K else "YBR_FULL_422"
    ds.PixelData = encapsulate([frame if isinstance(frame, bytes) else raster(values, frame, **options)])
    ds["PixelData"].is_undefined_length = True
    return ds


def _written(ds: Any) -> bytes:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _real(folder: Path | None) -> list[Seed]:
    if folder is None or not folder.is_dir():
        return []
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size <= _REAL_BYTES]
    return [(path.name, path.read_bytes()) for path in paths if path.suffix != ".csv"]


def lossless_jpeg(values: NDArray[Any]) -> bytes:
    """Process 14, selection value 1 (T.81, H), of uint8 ``[rows, columns]``; every category has a code of 5 bits."""
    left = values.astype(int)
    predicted = np.full(left.shape, 128)
    predicted[1:, 0], predicted[:, 1:] = left[:-1, 0], left[:, :-1]
    bits = []
    for difference in (left - predicted).ravel():
        category = int(abs(difference)).bit_length()
        rest = difference if difference >= 0 else difference + (1 << category) - 1
        bits.append(f"{category:05b}" + (f"{rest:0{category}b}" if category else ""))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = (side.to_bytes(2, "big") for side in values.shape)
    table = b"\xff\xc4\0\x24\0" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    header = b"\xff\xc3\0\x0b\x08" + rows + columns + b"\1\1\x11\0" + table + b"\xff\xda\0\x08\1\1\0\1\0\0"
    frame: bytes = b"\xff\xd8" + header + coded + b"\xff\xd9"
    return frame


def raster(values: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """``values`` in Pillow's format ``kind``."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def raster_seeds(shared: Path | None) -> list[Seed]:
    """PNG, JPEG, TIFF, BMP in their kinds, and JP2, GIF and WebP, which are refused; two real JPEGs."""
    images = {"grey": Image.fromarray(grey()), "rgb": Image.fromarray(colour())}
    seeds = [
        (f"{kind}-{name}", raster(image, kind))
        for name, image in images.items()
        for kind in ("PNG", "JPEG", "TIFF", "BMP")
    ]
    deep = Image.fromarray(grey(np.uint16, 65536))
    seeds += [("png-16", raster(deep, "PNG")), ("tiff-16", raster(deep, "TIFF")), ("jp2", raster(colour(), "JPEG2000"))]
    more = {
        "palette": images["rgb"].quantize(16),
        "alpha": images["rgb"].convert("RGBA"),
        "bits": images["grey"].convert("1"),
    }
    seeds += [(f"png-{name}", raster(image, "PNG")) for name, image in more.items()]
    for number, options in enumerate(_JPEG):
        seeds += [(f"jpeg-{name}-{number}", raster(image, "JPEG", **options)) for name, image in images.items()]
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd"):
        seeds += [
            (f"tiff-{name}-{compression}", raster(image, "TIFF", compression=compression))
            for name, image in images.items()
        ]
    seeds += [(f"tiff-{name}", raster(more["bits"], "TIFF", compression=name)) for name in ("group3", "group4")]
    seeds += [("tiff-cmyk", raster(images["rgb"].convert("CMYK"), "TIFF")), ("gif", raster(images["grey"], "GIF"))]
    turned = Image.Exif()
    turned[0x0112] = 6
    seeds.append(("jpeg-turned", raster(images["rgb"], "JPEG", exif=turned)))
    return seeds + _real_jpegs(shared)


def _real_jpegs(shared: Path | None) -> list[Seed]:
    folders = [shared / "chest-xray-pneumonia" / "val", shared / "skin-lesion" / "images"] if shared else []
    paths = [next(iter(sorted(folder.rglob("*.jp*g"))), None) for folder in folders]
    return [(path.name, path.read_bytes()) for path in paths if path is not None]
