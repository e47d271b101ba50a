"""How often is an unlike image told, and how often a usual one refused? Writes docs/results/typicality.md.

    python experiments/typicality.py MODEL.onnx --like BUNDLE --study STUDY --data "$MEDFM_SHARED/data" --out PAGE

``MODEL.onnx`` is the FP32 graph of ``BUNDLE``, of which preprocessing and task are taken; statistics are fitted on the
study's training cases and compared with its validation cases, as ``export`` does. Then the study's test cases are held
against other sets, and against themselves inverted, turned, darkened, with noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.data.open import open_study
from medfm_compress.export.build import make_variant, open_export
from medfm_compress.export.passes.features_output import FEATURES, features_output
from medfm_compress.export.passes.read import read_graph
from medfm_compress.export.typicality import fit_typicality, validation_scores
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import preprocess
from medfm_compress.runtime.read_image import read_image
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.typicality import TypicalityModel, describe_pixels, strangest

Tensor = NDArray[np.float32]
SETS = ("chest-xray-pneumonia", "lung-histology", "skin-lesion", "polyps", "nuclei", "dicom")
RATES = (0.01, 0.02, 0.05)
CASES = 100
SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ""}


class Row(NamedTuple):
    """One set of images against the usual ones."""

    name: str
    images: int
    by_features: float
    by_pixels: float
    together: float
    refused: tuple[float, ...]


def tensors_of(files: Sequence[Path], spec: ImageSpec) -> list[Tensor]:
    """Those of ``files`` that can be read, prepared."""
    tensors = []
    for file in files:
        try:
            tensors.append(preprocess(read_image(file, spec.dicom), spec))
        except MedfmError:
            continue
    return tensors


def some_files(folder: Path) -> list[Path]:
    """At most `CASES` images below ``folder``, drawn with a fixed seed; masks are left out."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.lower() in SUFFIXES]
    files = [p for p in files if "mask" not in str(p.relative_to(folder)).lower()]
    order = np.random.default_rng(0).permutation(len(files))[:CASES]
    return [files[i] for i in order]


def changes(spec: ImageSpec) -> dict[str, Callable[[Tensor], Tensor]]:
    """Altered copies of usual images, in the prepared image's own units of [0, 1]."""
    mean: Tensor = np.asarray(spec.mean, np.float32).reshape(1, -1, 1, 1)
    std: Tensor = np.asarray(spec.std, np.float32).reshape(1, -1, 1, 1)
    noise = np.random.default_rng(0)

    def on_levels(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: ((np.clip(change(x * std + mean), 0, 1) - mean) / std).astype(np.float32)

    def noisy(sigma: float) -> Callable[[Tensor], Tensor]:
        return on_levels(lambda x: x + noise.normal(0, sigma, (1, 1, *x.shape[2:])).astype(np.float32))

    return {
        "inverted": on_levels(lambda x: np.float32(1) - x),
        "half as bright": on_levels(lambda x: x * np.float32(0.5)),
        "gamma 1.5": on_levels(lambda x: x ** np.float32(1.5)),
        "noise, σ = 0.02": noisy(0.02),
        "noise, σ = 0.05": noisy(0.05),
        "turned by 90°": lambda x: np.ascontiguousarray(np.rot90(x, 1, (2, 3))),
        "upside down": lambda x: np.ascontiguousarray(x[:, :, ::-1]),
        "left for right": lambda x: np.ascontiguousarray(x[..., ::-1]),
    }


def parts_of(tensors: Sequence[Tensor], session: Session, model: TypicalityModel) -> NDArray[np.float64]:
    """Strangeness by features and by pixels, ``[n, 2]``."""
    features = [session.run({session.input_names[0]: x})[FEATURES] for x in tensors]
    return model.parts(np.concatenate(features), np.concatenate([describe_pixels(x) for x in tensors]))


def auroc_of(usual: NDArray[np.float64], unlike: NDArray[np.float64]) -> float:
    """How well strangeness ranks ``unlike`` above ``usual``."""
    truth = np.repeat([0, 1], [len(usual), len(unlike)])
    return float(auroc(np.concatenate([usual, unlike]), truth))


def row_of(name: str, parts: NDArray[np.float64], usual: NDArray[np.float64], scores: NDArray[np.float64]) -> Row:
    """The set's figures."""
    p = [(1 + np.count_nonzero(scores >= s)) / (len(scores) + 1) for s in strangest(parts)]
    return Row(
        name,
        len(parts),
        auroc_of(usual[:, 0], parts[:, 0]),
        auroc_of(usual[:, 1], parts[:, 1]),
        auroc_of(strangest(usual), strangest(parts)),
        tuple(float(np.mean(np.asarray(p) <= rate)) for rate in RATES),
    )


def added_ms(tensor: Tensor, session: Session, model: TypicalityModel, rounds: int = 200) -> tuple[float, float]:
    """Median ms of the network, and of what typicality adds to it outside, in turns."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        features = session.run({session.input_names[0]: tensor})[FEATURES]
        middle = time.perf_counter()
        model.parts(features, describe_pixels(tensor))
        times.append((middle - start, time.perf_counter() - middle))
    network, own = np.median(np.asarray(times), axis=0) * 1e3
    return float(network), float(own)


def main() -> None:
    """Measure and write one section of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec, study = Bundle.open(arguments.like).manifest.image_spec, open_study(arguments.study)
    graph = read_graph(arguments.model.read_bytes())
    if not features_output(graph):
        raise SystemExit("the network's classifier does not read one row of features")
    session = open_export(make_variant("onnxruntime", "fp32"), (ir.to_proto(graph).SerializeToString(),)).session
    model = fit_typicality(session, study, spec)
    scores = validation_scores(model, session, study, spec).astype(np.float64)
    test = tensors_of([study.root / case.image for case in study.split("test")][:CASES], spec)
    usual = parts_of(test, session, model)
    rows = [row_of("own test cases", usual, usual, scores)]
    for name in SETS:
        if (tensors := tensors_of(some_files(arguments.data / name), spec)) and name not in str(study.root):
            rows.append(row_of(name, parts_of(tensors, session, model), usual, scores))
    for name, change in changes(spec).items():
        rows.append(row_of(name, parts_of([change(x) for x in test], session, model), usual, scores))
    write_atomically(
        arguments.out,
        page(arguments.model.stem, study.root.name, rows, len(scores), added_ms(test[0], session, model)).encode(),
    )


def page(model: str, study: str, rows: Sequence[Row], validation: int, times: tuple[float, float]) -> str:
    """One section in Markdown."""
    network, own = times
    lines = [
        f"## {model} on {study}",
        "",
        f"{validation} validation cases; the network takes {network:.2f} ms here (FP32, one thread), typicality "
        f"{own:.3f} ms.",
        "",
        "| images | n | AUROC by features | by pixels | together | "
        + " | ".join(f"refused at {r:g}" for r in RATES)
        + " |",
        "|---" * (5 + len(RATES)) + "|",
    ]
    for row in rows:
        aurocs = "– | – | –" if row is rows[0] else f"{row.by_features:.3f} | {row.by_pixels:.3f} | {row.together:.3f}"
        shares = " | ".join(f"{share:.0%}" for share in row.refused)
        lines.append(f"| {row.name} | {row.images} | {aurocs} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
