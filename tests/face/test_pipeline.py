"""The whole job on a study of discs: teacher, student, INT8, report, verdict, and a device without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medfm_compress.__main__ import main
from medfm_compress.pipeline import Finished, compress
from medfm_compress.recipe import load_recipe
from medfm_compress.runtime.bundle.bundle import Bundle

RECIPE = """\
name: discs
policy: policy.yaml
teacher:
  model: resnet10t
  image_size: 48
  training: {epochs: 2, batch_size: 12, learning_rate: 0.003, ema: 0.8, patience: 0, modality: none}
distill:
  student: test_resnet
  training: {epochs: 2, batch_size: 12, learning_rate: 0.003, ema: 0.8, patience: 0, modality: none}
  distillation: {views: 1}
quantize: {samples: 16, rounds: 5, time_budget_s: 0, error_limit: 0.5, nncf: false, reduced_range: false}
bench: {plan: {rounds: 10, turn_ms: 2, min_calls: 2, max_calls: 3, warm_up_s: 0.1}}
"""
POLICY = """\
non_inferiority: [{metric: auroc, margin: 0.1}]
min_positives: 100
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, discs_path: Path) -> tuple[Path, Path, Finished]:
    folder = tmp_path_factory.mktemp("job")
    study = discs_path
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "policy.yaml").write_text(POLICY)
    command = ["compress", str(folder / "recipe.yaml"), "--study", str(study), "--out", str(folder / "out"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 3, "too few cases"
    finished = compress(load_recipe(folder / "recipe.yaml"), study, folder / "out", lambda _: None)
    return folder, study, finished


def test_too_few_cases_are_inconclusive_and_never_a_pass(job: tuple[Path, Path, Finished]) -> None:
    _, _, finished = job
    assert finished.verdict.outcome == "inconclusive"
    assert "100" in " ".join(check.reason for check in finished.verdict.variants[0].checks)


def test_the_bundle_carries_the_verdict_and_its_origin(job: tuple[Path, Path, Finished]) -> None:
    _, _, finished = job
    manifest = Bundle.open(finished.bundle).manifest
    assert {verdict.outcome for verdict in manifest.verdicts} == {"inconclusive"}
    assert {verdict.model_digest for verdict in manifest.verdicts} == {manifest.model_digest}
    assert manifest.provenance.teacher.startswith("resnet10t@")
    assert manifest.task.operating_points
    assert (finished.report_folder / "report.html").stat().st_size > 10_000


def test_a_finished_step_is_not_repeated(job: tuple[Path, Path, Finished]) -> None:
    folder, study, finished = job
    lines: list[str] = []
    again = compress(load_recipe(folder / "recipe.yaml"), study, folder / "out", lines.append)
    assert [line for line in lines if line.endswith("done before")] == lines
    assert again.verdict == finished.verdict


def test_a_changed_step_is_repeated_with_all_after_it(job: tuple[Path, Path, Finished]) -> None:
    folder, study, _ = job
    (folder / "policy.yaml").write_text(POLICY.replace("100", "5"))
    lines: list[str] = []
    try:
        again = compress(load_recipe(folder / "recipe.yaml"), study, folder / "out", lines.append)
    finally:
        (folder / "policy.yaml").write_text(POLICY)
    assert "quantize: done before" in lines
    assert "bench …" in lines
    assert any("were evaluated 2 times" in note for note in again.verdict.notes), "as the command says it"
    log = (folder / "out" / "report" / "test-evaluations.jsonl").read_text().splitlines()
    hashes = [json.loads(line)["policy_sha256"] for line in log]
    assert len(hashes) == len(set(hashes)) == 2


def test_a_device_predicts_without_torch_and_not_without_a_verdict(job: tuple[Path, Path, Finished]) -> None:
    _, study, finished = job
    script = (
        "import sys, numpy as np\n"
        "from medfm_compress.runtime import Engine\n"
        f"image = np.load({str(study)!r})['test_images'][1]\n"
        f"print(Engine({str(finished.bundle)!r}, unverified=True).predict(image).probabilities)\n"
        "assert not {'torch', 'timm', 'nncf', 'typer', 'yaml'} & sys.modules.keys()\n"
        "try:\n"
        f"    Engine({str(finished.bundle)!r})\n"
        "except Exception as exc:\n"
        "    print(type(exc).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "BundleRefused" in done.stdout
