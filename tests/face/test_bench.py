"""``medfm-compress bench`` from a model folder and a bundle to a report."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
typer = pytest.importorskip("typer")

from full_report import make_multiclass_report  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from medfm_compress.bench.gate.gate import judge  # noqa: E402
from medfm_compress.bench.types.verdict import Verdict  # noqa: E402
from medfm_compress.cli.bench import bench, print_report  # noqa: E402
from medfm_compress.cli.explain import explain  # noqa: E402
from medfm_compress.cli.prune import prune  # noqa: E402
from medfm_compress.compress.networks.model import (  # noqa: E402
    Architecture,
    Model,
    create_module,
    load_model,
    save_model,
)
from medfm_compress.compress.teachers.source import spec_to_write  # noqa: E402
from medfm_compress.export.onnx_export import export_onnx  # noqa: E402
from medfm_compress.runtime.errors import InputError, ModelError  # noqa: E402
from medfm_compress.runtime.sessions import cuda_driver  # noqa: E402

app = typer.Typer()
app.command()(bench)
POLICY = "non_inferiority:\n  - {metric: auroc, margin: 0.05}\nmin_positives: 5\nmin_negatives: 5\nmin_clusters: 5\n"


@pytest.fixture
def inputs(tiny: ModuleType, tmp_path: Path) -> dict[str, Path]:
    """A teacher, a bundle, a study and a policy."""
    image = pytest.importorskip("PIL.Image")
    architecture = Architecture(name="test_resnet", arguments={"num_classes": 2, "in_chans": 1})
    torch.manual_seed(0)
    model = Model(
        name="tiny-teacher",
        module=create_module(architecture),
        spec=tiny.SPEC,
        task=tiny.TASK,
        architecture=architecture,
    )
    save_model(model, tmp_path / "teacher")
    (tmp_path / "study").mkdir()
    rows = [["image", "split", "label", "patient"]]
    for number in range(24):
        image.fromarray(tiny.image(number)).save(tmp_path / "study" / f"{number}.png")
        rows.append([f"{number}.png", "test", ("normal", "opacity")[number % 2], f"p{number}"])
    with (tmp_path / "study" / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return {
        "bundle": tiny.bundle(tmp_path / "tiny.medfm"),
        "teacher": tmp_path / "teacher",
        "study": tmp_path / "study",
        "policy": tmp_path / "policy.yaml",
        "out": tmp_path / "out",
    }


def arguments(inputs: dict[str, Path], **changes: str) -> list[str]:
    options = {f"--{name}": str(path) for name, path in inputs.items() if name != "bundle"} | changes
    return [str(inputs["bundle"]), *(part for pair in options.items() for part in pair)]


QUICK = ("--json", "--turn", "2ms", "--min-calls", "2", "--max-calls", "3", "--warm-up", "200ms")


def test_bench_writes_a_report_and_prints_json(inputs) -> None:
    result = CliRunner().invoke(
        app,
        [
            *arguments(inputs, **{"--rounds": "2", "--target": "torch:cpu"}),
            "--target",
            "onnxruntime:cpu",
            *QUICK,
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    lines = json.loads(result.stdout)
    rows = {row["name"]: row for row in lines["measurements"]}
    assert list(rows) == ["teacher", "onnxruntime-cpu-fp32", "teacher in ONNX Runtime"]
    assert rows["teacher"]["target"] == "torch:cpu:fp32:1"
    assert rows["onnxruntime-cpu-fp32"]["speedup"]["estimate"] > 1
    assert rows["teacher"]["peak_rss_bytes"] > rows["onnxruntime-cpu-fp32"]["peak_rss_bytes"]
    assert lines["verdict"]["outcome"] in ("pass", "fail", "inconclusive")
    assert "tiny-teacher" in Path(lines["html"]).read_text()
    assert len((inputs["out"] / "test-evaluations.jsonl").read_text().splitlines()) == 1
    assert np.isfinite([row["p99_ms"] for row in rows.values()]).all()


def test_policy_is_read_before_anything_else(inputs) -> None:
    inputs["policy"].write_text("non_inferiority: []\n")
    with pytest.raises(InputError, match="at least one"):
        CliRunner().invoke(app, arguments(inputs), catch_exceptions=False)
    assert not inputs["out"].exists()


def test_teacher_that_is_none(inputs) -> None:
    with pytest.raises(ModelError, match="is no teacher; a teacher is a model folder"):
        CliRunner().invoke(app, arguments(inputs, **{"--teacher": str(inputs["study"])}), catch_exceptions=False)


def test_a_device_that_is_named_and_missing_is_refused_before_any_work(inputs, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, "libno_such_driver.so")
    for target, reason in (
        ("torch:cuda:fp16", "CUDA"),
        ("torch-compile:cuda", "CUDA"),
        ("onnxruntime:cuda", "CUDAExecutionProvider"),
        ("tensorrt:cuda:fp16", "pip install tensorrt|no CUDA driver is loaded"),
    ):
        with pytest.raises(InputError, match=f"target '{target}' cannot be measured here: .*({reason})"):
            CliRunner().invoke(app, arguments(inputs, **{"--target": target}), catch_exceptions=False)
    with pytest.raises(InputError, match="openvino does not run on 'cuda'"):
        CliRunner().invoke(app, arguments(inputs, **{"--target": "openvino:cuda"}), catch_exceptions=False)
    assert not inputs["out"].exists()


def test_rows_of_the_teacher_in_another_precision_and_batches(inputs) -> None:
    rows = ("--rounds", "2", "--target", "torch:cpu:bf16", "--target", "onnxruntime:cpu", "--batch-sweep", *QUICK)
    result = CliRunner().invoke(app, [*arguments(inputs), *rows], catch_exceptions=False)
    assert result.exit_code == 0
    measured = {row["name"]: row for row in json.loads(result.stdout)["measurements"]}
    assert measured["teacher in PyTorch, BF16"]["target"] == "torch:cpu:bf16:1"
    assert [row["batch"] for row in measured["teacher"]["batches"]] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["images_per_s"] > 0 for row in measured["teacher"]["batches"])
    batches = measured["onnxruntime-cpu-fp32"]["batches"]
    assert batches[0]["p50_ms"] > 0
    assert batches[1:] == [{"batch": 2, "reason": "its batch is fixed at 1"}]
    assert "its batch is fixed at 1" in (inputs["out"] / "report.html").read_text()


def onnx_teacher(inputs: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """The teacher as an ONNX file, and the JSON of its spec."""
    model = load_model(inputs["teacher"])
    (folder / "teacher.onnx").write_bytes(export_onnx(model.module, model.spec, model.task).content)
    (folder / "spec.json").write_text(spec_to_write(model.spec))
    return folder / "teacher.onnx", folder / "spec.json"


def test_an_onnx_teacher_is_benched_with_what_its_file_does_not_say(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a file to fill in is written where the command runs
    teacher, spec = onnx_teacher(inputs, tmp_path)
    inputs["teacher"] = teacher
    words = [*arguments(inputs, **{"--rounds": "2", "--target": "torch:cpu"}), *QUICK]
    refused = CliRunner().invoke(app, [*words, "--teacher-outputs", "logits"])
    assert isinstance(refused.exception, InputError) and "--teacher-spec" in str(refused.exception)
    result = CliRunner().invoke(
        app,
        [*words, "--teacher-spec", str(spec), "--teacher-outputs", "logits", "--teacher-labels", "normal,opacity"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["measurements"][0]["target"].startswith("onnxruntime:cpu")
    wrong = CliRunner().invoke(app, [*words, "--overwrite", "--teacher-outputs", "chances"])
    assert "it must be logits, softmax or sigmoid" in str(wrong.exception)


def test_prune_and_explain_say_what_an_onnx_teacher_needs(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # likewise
    teacher, spec = onnx_teacher(inputs, tmp_path)
    both = typer.Typer()
    both.command()(prune)
    both.command()(explain)
    words = ["--study", str(inputs["study"]), "--teacher", str(teacher)]
    explained = CliRunner().invoke(both, ["explain", str(inputs["bundle"]), *words, "--out", str(tmp_path / "e")])
    assert "is an ONNX teacher, which cannot be explained" in str(explained.exception)
    assert not (tmp_path / "e").exists()
    pruned = [
        "prune",
        str(inputs["teacher"]),
        *words,
        "--max-macs",
        "0.5",
        "--target",
        "",
        "--out",
        str(tmp_path / "p"),
    ]
    assert "--teacher-spec" in str(CliRunner().invoke(both, pruned).exception)
    pruned += ["--teacher-spec", str(spec), "--teacher-outputs", "softmax"]  # it is opened, and found to give logits
    assert "--teacher-outputs softmax cannot be so" in str(CliRunner().invoke(both, pruned).exception)


def test_what_was_not_judged_is_said_beside_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_multiclass_report(3)
    words = (report, judge(report), Path("out"), Path("policy.yaml"), Path("b.medfm"))
    print_report(*words)
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("  not judged") for line in lines)
    assert any(line.startswith("Accuracy all labels together (") for line in lines)
    notes = ("not judged: auroc of a, site=B: 3 patients; 30 are needed", "not judged: auroc of b, site=B: no case")
    verdict = Verdict(outcome="pass", variants=(), policy_sha256="", model_digest="", notes=("another", *notes))
    print_report(report, verdict, *words[2:])
    said = capsys.readouterr().out
    assert "  every requirement that was judged holds on these cases" in said
    assert "; the command below records it in the bundle\n" in said and "\njudge it with: medfm-compress gate " in said
    print_report(report, verdict, *words[2:], recorded=True)
    recorded = capsys.readouterr().out
    assert ", and the bundle records it\n" in recorded and "\njudge it again with: medfm-compress gate " in recorded
    both = "auroc of a, site=B: 3 patients; 30 are needed; auroc of b, site=B: no case"
    assert f"\n  not judged: {both}\n" in said and "another" not in said
