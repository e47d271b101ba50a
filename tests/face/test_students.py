"""``medfm-compress distill --student``: by name, by folder, scaled, by latency; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("onnxruntime")
pytest.importorskip("typer")

from medfm_compress.__main__ import main  # noqa: E402
from medfm_compress.bench.measure.latency import Plan  # noqa: E402
from medfm_compress.bench.types.measurement import Measurement  # noqa: E402
from medfm_compress.compress.latency.latency_goal import parse_goal  # noqa: E402
from medfm_compress.compress.latency.network_latency import LatencyCache, LatencyRequest, NetworkLatency  # noqa: E402
from medfm_compress.compress.networks.build import build_model  # noqa: E402
from medfm_compress.compress.networks.model import load_model, save_model  # noqa: E402
from medfm_compress.compress.students.auto_select import RECORD, SHORTLIST  # noqa: E402
from medfm_compress.runtime.task import Task  # noqa: E402

QUICK = ("--epochs", 1, "--views", 1, "--device", "cpu", "--precision", "fp32", "--teacher-precision", "fp32")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ViT that knows the discs' labels."""
    torch.manual_seed(0)
    task = Task(kind="binary", labels=("0", "1"))
    model = build_model("test_vit", task, size_px=48, colour="grey")
    return save_model(model, tmp_path_factory.mktemp("students") / "teacher")


class Ran(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def distil(discs_path: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run ``distill`` into ``tmp_path / "out"`` with a student and more options."""

    def run(student: str, *more: object) -> Ran:
        words = ("distill", teacher, "--study", discs_path, "--student", student, "--out", tmp_path / "out")
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in (*words, *QUICK, *more)])
        return Ran(ended.value.code, *capsys.readouterr())

    return run


def test_a_misspelt_name_suggests_the_nearest(distil) -> None:
    ran = distil("resnet18z")
    assert ran.code == 2
    assert "resnet18z" in ran.err
    assert "resnet18," in ran.err


def test_a_student_of_other_labels_is_refused(distil, tmp_path: Path) -> None:
    task = Task(kind="binary", labels=("normal", "opacity"))
    other = save_model(build_model("test_resnet", task, size_px=48, colour="grey"), tmp_path / "other")
    ran = distil(str(other))
    assert ran.code == 2
    assert "normal, opacity" in ran.err
    assert "0, 1" in ran.err


@pytest.mark.parametrize(
    ("student", "more", "expected"),
    [
        ("auto", (), "--max-latency 10ms"),
        ("auto", ("--max-latency", "soon"), "give a number"),
        ("auto", ("--max-latency", "10ms", "--target", "tpu"), "openvino:cpu or onnxruntime:cpu"),
        ("test_resnet", ("--max-latency", "10ms"), "--student auto"),
        ("test_resnet", ("--target", "onnxruntime:cpu"), "--student auto"),
        ("scaled:width=2", (), "at most 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    distil, tmp_path: Path, student: str, more: tuple[str, ...], expected: str
) -> None:
    ran = distil(student, *more)
    assert ran.code == 2
    assert expected in ran.err
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_model_folder_of_another_size_contradicts_image_size(distil, tmp_path: Path) -> None:
    task = Task(kind="binary", labels=("0", "1"))
    other = save_model(build_model("test_resnet", task, size_px=64, colour="grey"), tmp_path / "other")
    ran = distil(str(other), "--image-size", 48)
    assert ran.code == 2
    assert "leave --image-size out" in ran.err


def test_a_scaled_student_is_trained_and_says_what_it_is(distil, tmp_path: Path) -> None:
    ran = distil("scaled:width=0.5,depth=0.5")
    assert ran.code == 0, ran.err
    student = load_model(tmp_path / "out")
    assert student.architecture.arguments["embed_dim"] == 32
    assert student.provenance.steps[0].startswith("scaled copy of test_vit: width 0.5, depth 0.5: embed_dim 32")


def test_auto_prints_what_was_measured_before_it_trains(distil, teacher: Path, tmp_path: Path) -> None:
    """The measurements are on record, as after an interrupted call: the smallest fits, the next two do not."""
    out, spec = tmp_path / "out", load_model(teacher).spec
    goal = parse_goal(10, "onnxruntime:cpu:int8", 1)
    cache = LatencyCache(
        out / "training" / RECORD, LatencyRequest(Task(kind="binary", labels=("0", "1")), spec, goal, Plan())
    )
    for name, macs, took in zip(SHORTLIST, (2_000_000, 3_000_000, 9_000_000), (8.0, 30.0, 30.0), strict=False):
        samples = Measurement(name=name, target=str(goal.target), session_ms=(took, took))
        cache.put(NetworkLatency(name=name, macs=macs, parameters=570_000, estimate_ms=took, measurement=samples))
    options = ("--max-latency", "10ms", "--target", "onnxruntime:cpu:int8")
    ran = distil("auto", *options)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    chosen = next(number for number, line in enumerate(lines) if line.startswith(SHORTLIST[0]))
    assert lines[chosen].split()[1:5] == ["2", "0.6", "8.00", "8.00"]
    assert sum(line.split()[0] in SHORTLIST for line in lines if line) == len(SHORTLIST)
    assert chosen < next(number for number, line in enumerate(lines) if line.startswith("distilled"))
    student = load_model(out)
    assert student.architecture.name == SHORTLIST[0]
    assert "8 ms for one image on onnxruntime:cpu:int8:1, budget 10 ms" in student.provenance.steps[0]

    again = json.loads(distil("auto", *options, "--json", "--overwrite").out)
    assert again["choice"]["name"] == SHORTLIST[0]
    assert [entry["fits"] for entry in again["choice"]["candidates"]] == [True] + [False] * (len(SHORTLIST) - 1)
