"""``gate`` from a bundle and a study: the bench first, then the verdict on its report."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
typer = pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from medfm_compress.bench.report import load_report  # noqa: E402
from medfm_compress.cli.gate import gate  # noqa: E402
from medfm_compress.compress.networks.architecture import Architecture  # noqa: E402
from medfm_compress.compress.networks.model import Model, create_module, save_model  # noqa: E402
from medfm_compress.runtime.bundle.bundle import Bundle  # noqa: E402
from medfm_compress.runtime.errors import MissingDependency  # noqa: E402

POLICY = "non_inferiority:\n  - {metric: auroc, margin: 0.05}\nmin_positives: 5\nmin_negatives: 5\nmin_clusters: 5\n"


@pytest.fixture
def arguments(tiny: ModuleType, tmp_path: Path) -> list[str]:
    """A teacher, a bundle, a study of 24 cases and a policy."""
    image = pytest.importorskip("PIL.Image")
    architecture = Architecture(name="test_resnet", arguments={"num_classes": 2, "in_chans": 1})
    torch.manual_seed(0)
    module = create_module(architecture)
    model = Model(name="tiny-teacher", module=module, spec=tiny.SPEC, task=tiny.TASK, architecture=architecture)
    save_model(model, tmp_path / "teacher")
    (tmp_path / "study").mkdir()
    rows = [["image", "split", "label", "patient"]]
    for number in range(24):
        image.fromarray(tiny.image(number)).save(tmp_path / "study" / f"{number}.png")
        rows.append([f"{number}.png", "test", ("normal", "opacity")[number % 2], f"p{number}"])
    with (tmp_path / "study" / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "policy.yaml").write_text(POLICY)
    tiny.bundle(tmp_path / "bundle.medfm", outcome=None)
    supplied = {name: tmp_path / name for name in ("teacher", "study", "out")}
    supplied |= {"bundle": tmp_path / "bundle.medfm", "policy": tmp_path / "policy.yaml"}
    return [part for name, path in supplied.items() for part in (f"--{name}", str(path))]


def invoke(*supplied: str) -> object:
    app = typer.Typer()
    app.command()(gate)
    return CliRunner().invoke(app, supplied)


def test_a_study_is_benched_and_its_report_judged(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--turn", "2ms", "--min-calls", "2", "--max-calls", "3", "--warm-up", "200ms")
    # The teacher's rows in other engines are the bench's own test.
    monkeypatch.setattr("medfm_compress.teacher_baselines.teacher_rows", lambda *supplied: ())
    result = invoke(*arguments, "--rounds", "2", *quick, "--json")
    outcome = {1: "fail", 3: "inconclusive"}[result.exit_code]  # an untrained network against an untrained network
    assert json.loads(result.stdout)["verdict"]["outcome"] == outcome
    report = load_report(tmp_path / "out" / "report.json")
    assert len(report.test_set_evaluations or (1,)) == 1 and (tmp_path / "out" / "report.html").is_file()
    stored = Bundle.open(tmp_path / "bundle.medfm").verdict("onnxruntime-cpu-fp32")
    assert stored is not None and stored.outcome == outcome

    # The report by itself, with the study as what it must be of, gives the same answer.
    policy, study = str(tmp_path / "policy.yaml"), str(tmp_path / "study")
    again = invoke(str(tmp_path / "out" / "report.json"), "--policy", policy, "--check-study", study)
    assert again.exit_code == result.exit_code, again.exception
    (tmp_path / "study" / "0.png").write_bytes((tmp_path / "study" / "1.png").read_bytes())
    changed = invoke(str(tmp_path / "out" / "report.json"), "--policy", policy, "--check-study", study)
    assert "other cases, labels, splits or images" in str(changed.exception)


def test_without_the_toolchain_it_names_what_to_install(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke(*arguments)
    assert isinstance(result.exception, MissingDependency)
    assert "pip install 'medfm-compress[toolchain]'" in str(result.exception)
    assert not (tmp_path / "out").exists()
