"""From a file to a finding, stage by stage: p50 and p99 of each on one thread, of this tree and of others beside it.

    python experiments/file_to_finding.py RADIOGRAPH.jpeg --bundle DEMO.medfm [--beside TREE]

The picture is made 2,000 × 2,000 and 512 × 512 with 12 bits and noise of ±4, and written in every format that an
installed encoder writes; DCMTK's ``dcmcjpeg`` makes lossless JPEG. No encoder of HTJ2K is among the dependencies: give
files of it with ``--more``. Fresh processes of the trees take turns, so that a
machine that slows down slows them alike.

Stages: *read* the file's bytes; *decode* to stored values; *window*: the table of their presentation values (of a PNG
or JPEG that is part of decoding); *resize* (`prepare`), which looks the values of a DICOM image up; *normalise*;
*infer*; *decide* (probabilities and operating points). Infer and decide are the bundle's. *Around* is all but infer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAGES = ("read", "decode", "window", "resize", "normalise", "infer", "decide")
SIDES = (2000, 512)


def write_files(picture: Path, folder: Path) -> None:
    """Every format at both sizes."""
    from PIL import Image

    for side in SIDES:
        grey = Image.open(picture).convert("L").resize((side, side), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(1).normal(0, 4, (side, side))
        values = np.clip(np.asarray(grey) / 255 * 3900 + 60 + noise, 0, 4095).astype(np.uint16)
        Image.fromarray((values >> 4).astype(np.uint8)).save(folder / f"JPEG, {side}", "JPEG", quality=90)
        Image.fromarray((values >> 4).astype(np.uint8)).save(folder / f"PNG 8 bits, {side}", "PNG")
        Image.fromarray(values << 4).save(folder / f"PNG 16 bits, {side}", "PNG")
        _write_dicom(values, folder, side)


def _write_dicom(values: NDArray[np.uint16], folder: Path, side: int) -> None:
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    raw = folder / f"DICOM raw, {side}"
    _dataset(values).save_as(raw, enforce_file_format=True)
    for name, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless)):
        coded = _dataset(values)
        coded.compress(syntax)
        coded.save_as(folder / f"DICOM {name}, {side}", enforce_file_format=True)
    encoder = shutil.which("dcmcjpeg")
    if encoder:
        subprocess.run([encoder, raw, folder / f"DICOM JPEG lossless, {side}"], check=True)


def _dataset(values: NDArray[np.uint16]) -> Any:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "CR", "MONOCHROME2", 1
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = 2048, 4000, 1, 0
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def measure(folder: Path, bundle: Path, repeats: int) -> dict[str, list[list[float]]]:
    """Milliseconds of every stage, ``[repeats][stages]`` of each file, in this process."""
    from medfm_compress.runtime.activation import decisions, probabilities
    from medfm_compress.runtime.dicom import read_dicom
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.errors import ImageRefused
    from medfm_compress.runtime.images.size_limits import read_limited
    from medfm_compress.runtime.preprocess import normalise, prepare
    from medfm_compress.runtime.read_image import read_image

    engine = Engine(bundle, threads=1, unverified=True)
    spec, task = engine.manifest.image_spec, engine.task
    decoding: list[float] = []
    stored = read_dicom._stored

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = stored(*arguments)
        decoding.append(time.perf_counter() - start)
        return result

    read_dicom._stored = timed  # type: ignore[assignment]
    result: dict[str, list[list[float]]] = {}
    for path in sorted(folder.iterdir()):
        for attempt in range(repeats + 1):
            decoding.clear()
            marks = [time.perf_counter()]

            def mark(value: Any, marks: list[float] = marks) -> Any:
                marks.append(time.perf_counter())
                return value

            try:
                pixels = mark(read_image(mark(read_limited(path))))
            except ImageRefused:
                result[path.name] = []
                break
            tensor = mark(normalise(mark(prepare(pixels, spec))[None], spec))
            logits = mark(engine.logits(tensor))
            mark(decisions(probabilities(logits, task), task))
            read, opened, *rest = np.diff(marks).tolist()
            decode = sum(decoding) if decoding else opened
            if attempt:  # the first warms up
                times = [read, decode, opened - decode, *rest]
                result.setdefault(path.name, []).append([1e3 * seconds for seconds in times])
    return result


def table(taken: dict[str, list[NDArray[np.float64]]]) -> str:
    """Markdown: p50 of every stage, p50 and p99 of all around the network; ``{tree: [samples of a file]}``."""
    head = ["file", "tree", *STAGES, "around, p50", "p99"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    infer = STAGES.index("infer")
    for key, samples in taken.items():
        name, tree = key.split("\n")
        values = np.concatenate(samples)
        if not values.size:
            lines.append("| " + " | ".join([name, tree, *["refused"] * (len(head) - 2)]) + " |")
            continue
        around = values.sum(axis=1) - values[:, infer]
        cells = [f"{value:.2f}" for value in np.median(values, axis=0)]
        ends = [f"**{np.median(around):.1f}**", f"{np.quantile(around, 0.99):.1f}"]
        lines.append("| " + " | ".join([name, tree, *cells, *ends]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the files, let processes take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another tree of this project")
    parser.add_argument("--more", type=Path, action="append", default=[], help="a further file to measure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(arguments.picture, arguments.bundle, arguments.repeats)))
        return
    here = Path(__file__).resolve().parents[1]
    taken: dict[str, list[NDArray[np.float64]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(arguments.picture, folder)
        for path in arguments.more:
            shutil.copy(path, folder / path.name)
        for _ in range(arguments.rounds):
            for tree in (*arguments.beside, here):
                command = [sys.executable, __file__, name, "--bundle", arguments.bundle, "--child"]
                environment = os.environ | {"PYTHONPATH": str(tree / ".typing"), "OPENBLAS_NUM_THREADS": "1"}
                command += ["--repeats", str(arguments.repeats)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                for file, rows in json.loads(done.stdout).items():
                    label = "after" if tree == here else "before"
                    taken.setdefault(f"{file}\n{label}", []).append(np.array(rows))
    sys.stdout.write(table(dict(sorted(taken.items()))) + "\n")


if __name__ == "__main__":
    main()
