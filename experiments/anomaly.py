"""Anomaly models on three studies: teacher against distilled student, per scorer, length, engine and precision.

    python experiments/anomaly.py studies OUT --data FOLDER
    python experiments/anomaly.py students OUT --weights FILE [--study NAME]
    python experiments/anomaly.py modules OUT --weights FILE [--study NAME]
    python experiments/anomaly.py bundles OUT --weights FILE [--study NAME]
    python experiments/anomaly.py judge OUT [--study NAME]
    python experiments/anomaly.py controls OUT [--study NAME]
    python experiments/anomaly.py tables OUT

``FOLDER`` holds ``polyps``, ``lung-histology`` and ``chest-xray-pneumonia``; ``FILE`` is ImageNet's weights of
``tf_efficientnet_lite0``. ``studies`` writes a table a study; ``students`` one encoder folder a study; ``modules`` fits
scorers and scores the test cases in PyTorch; ``bundles`` exports and quantizes; ``judge`` evaluates every variant;
``controls`` asks how well border, brightness and JPEG size alone tell the same cases; ``tables`` prints all as
Markdown. What is there is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from anomaly_studies import SOURCES, write_studies
from medfm_compress import steps
from medfm_compress.bench.stats.auroc import area_interval, clustered_areas
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.networks.model import load_model
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.data.normal_labels import is_normal
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.export.module_outputs import module_outputs
from medfm_compress.onnx_model import CaseSource
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.step_settings import EmbedStep, ExportStep

TEACHER, STUDENT, SIDE_PX = "tf_efficientnet_lite0", "mobilenetv3_small_100", 128
LENGTHS = (16, 32, 64)
SCORERS = ("knn", "mahalanobis", "patches")


def train_student(name: str, out: Path, weights: Path) -> None:
    """The encoder folder of one study."""
    source, folder = SOURCES[name], student_of(name, out)
    if source.student or (folder / "encoder.json").exists():
        return
    step = EmbedStep(
        student=STUDENT,
        training=TrainingConfig(
            epochs=source.epochs,
            learning_rate=2e-3,
            patience=0,
            modality=source.modality,  # type: ignore[arg-type]
        ),
        embedding=EmbeddingDistillation(length=LENGTHS),
    )
    teacher = EncoderSource(encoder=TEACHER, weights=str(weights), image_size=SIDE_PX, colour="rgb")
    steps.embed(out / f"{name}.csv", source.normal, (teacher,), step, tell, folder)


def student_of(name: str, out: Path) -> Path:
    """The encoder folder that serves a study."""
    return out / f"{SOURCES[name].student or name}-student"


class Fit(NamedTuple):
    """One model: whose encoder, which scorer, of how many numbers."""

    encoder: str
    scorer: str
    length: int
    storage: str = "float16"

    @property
    def name(self) -> str:
        """Of its files."""
        return "-".join([self.encoder, self.scorer, str(self.length), *(["int8"] if self.storage == "int8" else [])])


FITS = (
    *(Fit("student", scorer, length) for scorer in SCORERS for length in LENGTHS),
    *(Fit("teacher", scorer, length) for scorer in SCORERS for length in LENGTHS if length != 32),
    Fit("student", "patches", 64, "int8"),
)


def fit(name: str, one: Fit, out: Path, weights: Path) -> Path:
    """The model folder."""
    folder = out / name / one.name
    if (folder / "model.json").exists():
        return folder
    if one.encoder == "teacher":
        source = EncoderSource(encoder=TEACHER, weights=str(weights), image_size=SIDE_PX, colour="rgb")
    else:
        source = EncoderSource(encoder=str(student_of(name, out)))
    (folder / "training").mkdir(parents=True, exist_ok=True)
    if not (folder / "training" / "cache").exists():  # prepared images are the same for all
        (folder / "training" / "cache").symlink_to(out / f"{name}-cache", target_is_directory=True)
    options = AnomalyFit(scorer=one.scorer, length=one.length, storage=one.storage)  # type: ignore[arg-type]
    steps.fit_anomaly(out / f"{name}.csv", SOURCES[name].normal, source, options, quietly, folder)
    return folder


def say(*words: object) -> None:
    """A line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def tell(line: object) -> None:
    """Progress."""
    say(line)


def quietly(line: object) -> None:
    """Progress that nobody reads."""


def scores_of_modules(name: str, out: Path, weights: Path) -> None:
    """AUROC of every fit by PyTorch, with the kinds of abnormality; ``NAME-modules.json``."""
    path = out / f"{name}-modules.json"
    rows = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    study = open_study(out / f"{name}.csv", normal=SOURCES[name].normal)
    inputs, seen = None, None
    for one in FITS:
        if one.name in rows or (one.encoder == "student" and not (student_of(name, out) / "encoder.json").exists()):
            continue
        model = load_model(fit(name, one, out, weights))
        if inputs is None or seen != model.spec:
            inputs, seen = network_inputs(study, study.split("test"), model.spec), model.spec
        scores = module_outputs(model.module)(inputs)["logits"][:, 0]
        rows[one.name] = {"fit": one, "auroc": intervals(study, scores)}
        say(name, one.name, rows[one.name]["auroc"]["all"])
        path.write_bytes(msgspec.json.encode(rows))


def intervals(study: Study, scores: NDArray[np.floating]) -> dict[str, tuple[float, float, float]]:
    """AUROC with its 95 % interval over patients (DeLong): of all abnormal test cases, and of each label."""
    cases = study.split("test")
    kinds = sorted({c.subgroups["label"] for c in cases if not is_normal(c)})
    groups = {"all": kinds, **({kind: [kind] for kind in kinds} if len(kinds) > 1 else {})}
    result = {}
    for group, labels in groups.items():
        kept = np.array([is_normal(c) or c.subgroups["label"] in labels for c in cases])
        truth = np.array([int(not is_normal(c)) for c in cases])[kept]
        clusters = [c.cluster for c, keep in zip(cases, kept, strict=True) if keep]
        result[group] = interval(np.asarray(scores, float)[kept], truth, clusters)
    return result


def interval(
    scores: NDArray[np.floating], truth: NDArray[np.integer], clusters: Sequence[str]
) -> tuple[float, float, float]:
    """AUROC, and the ends of its 95 % interval."""
    _, numbers = np.unique(np.array(clusters), return_inverse=True)
    areas = clustered_areas(np.asarray(scores, float)[None], truth.astype(np.int64), numbers.astype(np.int64))
    area = area_interval(areas, 0, 0.95)
    return round(area.estimate, 4), round(area.low, 4), round(area.high, 4)


BUNDLED = (
    Fit("teacher", "patches", 64),
    *(Fit("student", "patches", length) for length in LENGTHS),
    Fit("student", "patches", 64, "int8"),
    Fit("student", "knn", 64),
    Fit("student", "mahalanobis", 64),
)
QUANTIZED = (Fit("student", "patches", 64), Fit("student", "knn", 64))


def make_bundles(name: str, out: Path, weights: Path) -> None:
    """FP32 and INT8 bundles of the fits that are compared by engine."""
    table = out / f"{name}.csv"
    for one in BUNDLED:
        folder = fit(name, one, out, weights)
        plain, small = (out / name / f"{one.name}{ending}.medfm" for ending in ("", "-int8"))
        if not plain.exists():
            steps.export(folder, table, ExportStep(rule="false-alarm-rate<=0.05"), "", "", quietly, plain)
        if one in QUANTIZED and not small.exists():
            say(name, small.name)
            options = QuantizeOptions(time_budget_s=15, rounds=9, nncf=False, keep_fp32=True)
            steps.quantize(CaseSource(table), plain, options, tell, small)


def judge_bundles(name: str, out: Path) -> None:
    """AUROC, false alarms and bytes of every variant of every bundle; ``NAME-bundles.json``."""
    study = open_study(out / f"{name}.csv", normal=SOURCES[name].normal)
    cases, rows = study.split("test"), []
    for path in sorted((out / name).glob("*.medfm")):
        bundle = Bundle.open(path)
        inputs = network_inputs(study, cases, bundle.manifest.image_spec)
        sizes = {member.path: member.bytes for member in bundle.manifest.members}
        for variant in bundle.manifest.variants:
            try:
                session = open_variant(bundle, variant, 1)
            except MedfmError as exc:
                say(path.name, variant.name, exc)
                continue
            logits = np.concatenate([session.run({"image": inputs[i : i + 1]})["logits"] for i in range(len(inputs))])
            task = bundle.manifest.task_of(variant)
            called = decisions(probabilities(logits, task), task)[:, 0]
            alarms = called[[is_normal(case) for case in cases]]
            rows.append(
                {
                    "bundle": path.stem,
                    "variant": variant.name,
                    "bytes": sum(sizes[file] for file in variant.files),
                    "auroc": intervals(study, logits[:, 0]),
                    "false_alarms": [int(alarms.sum()), len(alarms)],
                    "found": [int(called.sum() - alarms.sum()), len(cases) - len(alarms)],
                }
            )
            say(name, path.stem, variant.name, rows[-1]["auroc"]["all"])  # type: ignore[index]
    (out / f"{name}-bundles.json").write_bytes(msgspec.json.encode(rows))


def judge_controls(name: str, out: Path) -> None:
    """How well what has nothing to do with the abnormality tells the test cases; ``NAME-controls.json``."""
    study = open_study(out / f"{name}.csv", normal=SOURCES[name].normal)
    train = np.array([shortcuts(study, case) for case in study.split("train")])
    test = np.array([shortcuts(study, case) for case in study.split("test")])
    centre, scale = np.median(train, axis=0), train.std(axis=0) + 1e-9
    rows = {}
    for number, control in enumerate(CONTROLS):
        rows[control] = intervals(study, np.abs(test[:, number] - centre[number]) / scale[number])
    joined = (test - centre) / scale
    known = (train - centre) / scale
    nearest = np.sort(np.linalg.norm(joined[:, None] - known[None], axis=2), axis=1)[:, :5].mean(1)
    rows["all of them, 5 nearest neighbours"] = intervals(study, nearest)
    (out / f"{name}-controls.json").write_bytes(msgspec.json.encode(rows))
    for control, row in rows.items():
        say(name, control, row["all"])


CONTROLS = ("brightness of the border", "brightness", "contrast", "size of the file", "width of the image")


def shortcuts(study: Study, case: Case) -> list[float]:
    """Numbers of an image that no abnormality is seen in, as `CONTROLS` names them."""
    pixels = study.source.read(case.image).values.astype(float)
    grey = pixels.mean(axis=2) if pixels.ndim == 3 else pixels
    margin = max(1, min(grey.shape) // 16)
    border = np.concatenate([grey[:margin].ravel(), grey[-margin:].ravel(), grey[:, :margin].ravel()])
    stored = Path(study.root.parent, case.image).stat().st_size
    return [float(border.mean()), float(grey.mean()), float(grey.std()), stored / grey.size, float(grey.shape[1])]


def print_tables(out: Path) -> None:
    """Everything as Markdown."""
    for name in SOURCES:
        modules = msgspec.json.decode((out / f"{name}-modules.json").read_bytes())
        say(f"\n### {name}\n\n| encoder | scorer | numbers | AUROC |\n|---|---|---|---|")
        for row in modules.values():
            say(f"| {row['fit'][0]} | {row['fit'][1]} | {row['fit'][2]} | {in_words(row['auroc'])} |")
        for kind in ("bundles", "controls"):
            path = out / f"{name}-{kind}.json"
            rows = msgspec.json.decode(path.read_bytes()) if path.exists() else []
            say()
            if kind == "controls":
                say("| control | AUROC |\n|---|---|")
                for control, areas in dict(rows).items():
                    say(f"| {control} | {in_words(areas)} |")
                continue
            say("| bundle | variant | MB | AUROC | false alarms | found |\n|---|---|---|---|---|---|")
            for row in rows:
                alarms, found = (f"{a} of {b}" for a, b in (row["false_alarms"], row["found"]))
                megabytes = row["bytes"] / 1e6
                say(
                    f"| {row['bundle']} | {row['variant']} | {megabytes:.2f} | {in_words(row['auroc'])} | {alarms} | "
                    f"{found} |"
                )


def in_words(areas: dict[str, list[float]]) -> str:
    """AUROC with its interval, of all and of each kind."""
    parts = [f"{area:.3f} ({low:.3f} to {high:.3f})" for area, low, high in areas.values()]
    kinds = list(areas)[1:]
    more = "; ".join(f"{kind} {part}" for kind, part in zip(kinds, parts[1:], strict=True))
    return parts[0] + (f"; {more}" if more else "")


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("studies", "students", "modules", "bundles", "judge", "controls", "tables"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--study", choices=tuple(SOURCES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, weights = arguments.out, arguments.weights
    out.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        (out / f"{name}-cache").mkdir(exist_ok=True)
    if arguments.part == "studies":
        write_studies(arguments.data, out)
    elif arguments.part == "tables":
        print_tables(out)
    else:
        parts: dict[str, Callable[[str], None]] = {
            "students": lambda name: train_student(name, out, weights),
            "modules": lambda name: scores_of_modules(name, out, weights),
            "bundles": lambda name: make_bundles(name, out, weights),
            "judge": lambda name: judge_bundles(name, out),
            "controls": lambda name: judge_controls(name, out),
        }
        for name in [arguments.study] if arguments.study else list(SOURCES):
            parts[arguments.part](name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
