"""From a fitted model folder to a judged bundle: the teacher is a folder of the same form, images and places count."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

import striped_study  # noqa: E402
from PIL import Image  # noqa: E402

from medfm_compress import steps  # noqa: E402
from medfm_compress.bench.gate.policy_file import LoadedPolicy  # noqa: E402
from medfm_compress.bench.measure.latency import Plan  # noqa: E402
from medfm_compress.bench.types.policy import NonInferiority, Policy  # noqa: E402
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import save_model  # noqa: E402
from medfm_compress.compress.teachers.source import TeacherSource  # noqa: E402
from medfm_compress.runtime.engine import Engine  # noqa: E402
from medfm_compress.runtime.errors import MedfmError  # noqa: E402
from medfm_compress.runtime.progress import no_progress  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402
from medfm_compress.step_settings import BenchStep, ExportStep  # noqa: E402

STEP = BenchStep(
    plan=Plan(rounds=2, turn_ms=1, min_calls=2, max_calls=3, warm_up_s=0.1), targets=("onnxruntime:cpu", "torch:cpu")
)
POLICY = LoadedPolicy(
    Policy(
        non_inferiority=tuple(NonInferiority(metric=metric, margin=0.3) for metric in ("auroc", "pro")),
        min_positives=4,
        min_negatives=4,
        min_clusters=8,
        resamples=1000,
    ),
    "a" * 64,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Of stripes; a mask shows each square of noise."""
    folder = striped_study.write(tmp_path_factory.mktemp("striped"))
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["mask"] = ""
        if row["label"] == "lesion":
            number = int(row["image"].partition(".")[0])
            plain, altered = (
                striped_study.striped(number, abnormal=abnormal).astype(int) for abnormal in (False, True)
            )
            row["mask"] = f"{number}-mask.png"
            Image.fromarray((255 * (plain != altered)).astype(np.uint8)).save(folder / row["mask"])
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "split", "label", "mask"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def model(study, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = build_model("test_resnet", Task(kind="binary", labels=("no", "yes")), size_px=64, colour="grey")
    encoder = save_model(network, tmp_path_factory.mktemp("encoder"))
    return fitted(study, encoder, tmp_path_factory.mktemp("model") / "patches", ("normal",))


def fitted(study: Path, encoder: Path, out: Path, normal: tuple[str, ...]) -> Path:
    options = AnomalyFit(scorer="patches", length=8, memory_rows=200, neighbours=2)
    steps.fit_anomaly(study, normal, EncoderSource(encoder=str(encoder)), options, no_progress, out)
    return out


@pytest.fixture(scope="module")
def bundle(study, model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "a.medfm"
    steps.export(model, study, ExportStep(rule="false-alarm-rate<=0.1"), "", "", no_progress, path)
    return path


def test_a_fitted_model_is_benched_against_itself(study, model, bundle, tmp_path):
    teacher = (TeacherSource(source=str(model)),)
    report = steps.bench(study, teacher, bundle, POLICY, STEP, no_progress, tmp_path / "out")

    compared = {entry.metric: entry for entry in report.comparisons}
    assert {"auroc", "pixel_auroc", "pro"} <= set(compared)
    assert abs(compared["pro"].difference.estimate) < 1e-3 and compared["pro"].cases == 8
    assert compared["pixel_auroc"].bundle.estimate > 0.8
    assert report.teacher.case_metrics["pro"]  # PyTorch gives the map as well
    assert report.study_fingerprint and "Where images are abnormal" in (tmp_path / "out" / "report.html").read_text()


def test_the_device_finds_the_square(study, bundle):
    with Engine(bundle, unverified=True, threads=1) as engine:
        prediction = engine.predict(study / "46.png")
        normal = engine.predict(study / "40.png")
    assert prediction.probabilities["abnormal"] > normal.probabilities["abnormal"]
    mask = np.asarray(Image.open(study / "46-mask.png")) > 0
    assert prediction.anomaly_map is not None
    shown = prediction.anomaly_map.on_image()
    assert np.nanmean(shown[mask]) > np.nanmean(shown[~mask])  # NaN is what the network does not see
    assert len(prediction.nearest) >= 1


def test_a_teacher_of_other_normal_labels_is_refused(study, model, bundle, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    text = (study / "cases.csv").read_text().replace(",normal,", ",benign,")
    for file in study.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "cases.csv").write_text(text)
    with pytest.raises(MedfmError, match="normal"):
        steps.bench(folder, (TeacherSource(source=str(model)),), bundle, POLICY, STEP, no_progress, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
