"""The preprocessing graph against Python, on real images and DICOM files.

    python experiments/preprocess_graph.py data --out docs/results/preprocess-graph.json
    python experiments/preprocess_graph.py table docs/results/preprocess-graph.json

For every image: the largest and the median absolute difference between ``preprocess.onnx`` in ONNX Runtime and
`runtime.preprocess`, in units of the intensity range, for every filter, resize mode and form of the resize. ``data`` is
a folder of studies (each with a ``cases.csv``) and of a folder ``dicom``. A DICOM file's pixels go in as the runtime
decodes them (its P-values, or RGB); a grey one without lookup tables also as stored values with its attributes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.open import open_study
from medfm_compress.export.self_contained.dicom_values import VOI_FUNCTIONS
from medfm_compress.export.self_contained.options import PixelKind, ResizeForm
from medfm_compress.export.self_contained.preprocessing import GraphForm, preprocessing_model
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import read_image

Inputs = dict[str, NDArray[Any]]

FILTERS = ("nearest", "bilinear", "bicubic")
MODES: dict[str, dict[str, Any]] = {
    "stretch": {"resize": "stretch"},
    "shortest, crop 0.875": {"resize": "shortest", "crop_fraction": 0.875},
    "shortest, 192×256": {"resize": "shortest", "height_px": 192, "width_px": 256},
    "longest": {"resize": "longest"},
    "longest, crop 0.9": {"resize": "longest", "crop_fraction": 0.9},
}
FORMS: tuple[ResizeForm, ...] = ("resize", "matmul")
IMAGES = 500
_UNIT_MOMENTS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Graphs:
    """Sessions of preprocessing graphs, each opened once."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Any] = {}

    def run(self, spec: ImageSpec, kind: PixelKind, form: ResizeForm, inputs: Inputs) -> NDArray[np.float32]:
        """What the graph of ``spec`` gives."""
        import onnxruntime

        key = (repr(spec), f"{kind} {form}")
        if key not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            content = preprocessing_model(spec, GraphForm(pixels=kind, resize=form))
            self._sessions[key] = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        session = self._sessions[key]
        names = {value.name for value in session.get_inputs()}
        result: NDArray[np.float32] = session.run(None, {name: inputs[name] for name in names})[0]
        return result


def spec_of(mode: str, name: str) -> ImageSpec:
    """An RGB spec of 224 px whose output is in units of the intensity range."""
    settings = {"height_px": 224, "width_px": 224, "colour": "rgb", "min_side_px": 1, **_UNIT_MOMENTS, **MODES[mode]}
    return ImageSpec(filter=name, **settings)  # type: ignore[arg-type]


def study_pixels(folder: Path, count: int) -> Iterator[Pixels]:
    """Of ``count`` images, evenly spread over the study's table."""
    study = open_study(folder)
    for index in np.linspace(0, len(study.cases) - 1, count).astype(int):
        yield study.source.read(study.cases[int(index)].image)


def kind_and_inputs(pixels: Pixels) -> tuple[PixelKind, Inputs]:
    """What a host that has decoded an image passes."""
    values = pixels.values if pixels.is_colour else pixels.values[..., None]
    if values.dtype == np.uint8 and pixels.high == 255:
        return "uint8", {"pixels": values}
    return "uint16", {"pixels": values.astype(np.uint16), "white": np.array([pixels.high], np.float32)}


def compared(
    pixels: Pixels, graphs: Graphs, kind: PixelKind, inputs: Inputs, shown: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One row a filter, mode and form."""
    for mode in MODES:
        for name in FILTERS:
            spec = spec_of(mode, name)
            try:
                expected = preprocess(pixels, spec)
            except MedfmError as exc:
                shown(f"  refused by Python: {exc}")
                continue
            for form in FORMS:
                difference = np.abs(graphs.run(spec, kind, form, inputs) - expected)
                yield {
                    "mode": mode,
                    "filter": name,
                    "form": form,
                    "max": float(difference.max()),
                    "median": float(np.median(difference)),
                }


def dicom_inputs(path: Path) -> Inputs | None:
    """A grey file's stored values and attributes, as `dicom_values` takes them; None where a table takes part."""
    from pydicom import dcmread

    ds = dcmread(path, force=True)
    tables = [keyword for keyword in ("ModalityLUTSequence", "VOILUTSequence") if ds.get(keyword)]
    if tables or not str(ds.PhotometricInterpretation).startswith("MONOCHROME"):
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR")
    padding = ds.get("PixelPaddingValue")
    limit = ds.get("PixelPaddingRangeLimit", padding)
    first, last = (1, 0) if padding is None else sorted((int(padding), int(limit)))
    stored = _stored(ds)
    return {
        "pixels": stored.astype(np.int32)[..., None],
        "bits_stored": np.array([int(ds.BitsStored)], np.int64),
        "is_signed": np.array([ds.PixelRepresentation == 1]),
        "is_monochrome1": np.array([ds.PhotometricInterpretation == "MONOCHROME1"]),
        "rescale_slope": _number(ds, "RescaleSlope", 1.0),
        "rescale_intercept": _number(ds, "RescaleIntercept", 0.0),
        "window_center": _number(ds, "WindowCenter", 0.0),
        "window_width": _number(ds, "WindowWidth", 0.0),
        "voi_lut_function": np.array([VOI_FUNCTIONS.index(function)], np.int64),
        "padding_first": np.array([first], np.int64),
        "padding_last": np.array([last], np.int64),
    }


def _stored(ds: Any) -> NDArray[Any]:
    """Stored values by pydicom alone: the bits stored, with their sign; what a lossy decoder overshoots is clipped."""
    bits, signed = int(ds.BitsStored), ds.PixelRepresentation == 1
    values: NDArray[np.int64] = ds.pixel_array.astype(np.int64)
    half = 2 ** (bits - 1)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return np.clip(values, -half, half - 1) if signed else np.clip(values, 0, 2 * half - 1)
    used = values & (2 * half - 1)
    result: NDArray[np.int64] = np.where(used >= half, used - 2 * half, used) if signed else used
    return result


def _number(ds: Any, keyword: str, absent: float) -> NDArray[np.float64]:
    value = ds.get(keyword)
    if value is not None and hasattr(value, "__len__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    return np.array([absent if value in (None, "") else float(value)])


def measure(data: Path, out: Path, count: int) -> None:
    """Compare on every study below ``data`` and on every DICOM file that decodes; write the rows."""
    graphs, rows = Graphs(), []
    studies = sorted(path.parent for path in data.glob("*/cases.csv"))
    for folder in studies:
        for number, pixels in enumerate(study_pixels(folder, count // len(studies))):
            kind, inputs = kind_and_inputs(pixels)
            for row in compared(pixels, graphs, kind, inputs, print_line):
                rows.append({"set": folder.name, "image": number, "input": kind, **row})
        print_line(f"{folder.name}: done")
    rows += dicom_rows(data / "dicom", graphs)
    out.write_text(json.dumps(summarised(rows), indent=1, ensure_ascii=False) + "\n")


def dicom_rows(folder: Path, graphs: Graphs) -> list[dict[str, Any]]:
    """Rows of every DICOM file that decodes, in both ways in."""
    rows: list[dict[str, Any]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            pixels = read_image(path)
        except MedfmError:
            continue
        kind, inputs = kind_and_inputs(pixels)
        rows += [
            {"set": "dicom", "image": path.name, "input": kind, **row}
            for row in compared(pixels, graphs, kind, inputs, print_line)
        ]
        attributes = dicom_inputs(path) if not pixels.is_colour else None
        if attributes is None:
            print_line(f"{path.name}: colour or with a lookup table, so only decoded")
            continue
        rows += [
            {"set": "dicom, stored values", "image": path.name, "input": "dicom", **row}
            for row in compared(pixels, graphs, "dicom", attributes, print_line)
        ]
    return rows


def summarised(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Largest difference and median of medians by set, mode, filter and form; images counted."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["mode"], row["filter"], row["form"]), []).append(row)
    table = [
        {
            "set": key[0],
            "mode": key[1],
            "filter": key[2],
            "form": key[3],
            "images": len(group),
            "max": max(row["max"] for row in group),
            "median": float(np.median([row["median"] for row in group])),
            "worst": str(max(group, key=lambda row: float(row["max"]))["image"]),
        }
        for key, group in groups.items()
    ]
    return {"rows": table}


def tables(path: Path) -> str:
    """Markdown: largest and median difference by set, by filter and by mode."""
    rows = json.loads(path.read_text())["rows"]
    parts = []
    for key in ("set", "filter", "mode"):
        parts += [f"| {key} | images | resize: max | median | matmul: max | median |", "|---|---|---|---|---|---|"]
        for value in dict.fromkeys(row[key] for row in rows):
            mine = [row for row in rows if row[key] == value]
            images = sum({row["set"]: row["images"] for row in mine}.values())
            cells = [
                f"{pick(row for row in mine if row['form'] == form):.1e}"
                for form in FORMS
                for pick in (_largest, _middle)
            ]
            parts.append(f"| {value} | {images} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _largest(rows: Iterator[dict[str, Any]]) -> float:
    return max(float(row["max"]) for row in rows)


def _middle(rows: Iterator[dict[str, Any]]) -> float:
    return float(np.median([row["median"] for row in rows]))


def print_line(text: str) -> None:
    """One line to the terminal, at once."""
    sys.stderr.write(text + "\n")


def main() -> None:
    """Measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the data sets, or 'table' and a JSON file")
    parser.add_argument("rows", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("docs/results/preprocess-graph.json"))
    parser.add_argument("--images", type=int, default=IMAGES)
    arguments = parser.parse_args()
    if str(arguments.source) == "table":
        sys.stdout.write(tables(arguments.rows or arguments.out))
    else:
        measure(arguments.source, arguments.out, arguments.images)


if __name__ == "__main__":
    main()
