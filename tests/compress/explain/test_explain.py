"""Agreement of attribution maps from a teacher and a bundle to a folder; whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("timm")

from medfm_compress.__main__ import main
from medfm_compress.bench.evaluate.attribution_agreement import load_explanations, overlap, rank_correlation
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.compress.explain.explain import _stretched, explain, on_grid, sample_positions
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import Model, create_module, load_model, save_model
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Case, Study
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.occlusion import OcclusionOptions
from medfm_compress.runtime.task import Task

COARSE = OcclusionOptions(patch=1 / 4, stride=1 / 4)
QUICK = ExplainOptions(cases=4, occlusion=COARSE)


@pytest.fixture(scope="module")
def teacher(tiny: ModuleType) -> Model:
    torch.manual_seed(0)
    architecture = Architecture(name="test_resnet", arguments={"num_classes": 2, "in_chans": 1})
    return Model("teacher", create_module(architecture), tiny.SPEC, tiny.TASK, architecture)


@pytest.fixture
def folder(teacher: Model, tmp_path: Path) -> Path:
    return save_model(teacher, tmp_path / "teacher")


@pytest.fixture(scope="module")
def bundle(teacher: Model, tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher itself, exported."""
    content = export_onnx(teacher.module, teacher.spec, teacher.task).content
    return tiny.bundle(tmp_path_factory.mktemp("bundle") / "same.medfm", model=content)


@pytest.fixture(scope="module")
def study_folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("study")
    rows = ["image,split,label,patient"]
    for number in range(12):
        Image.fromarray(tiny.image(number)).save(root / f"{number}.png")
        split = "unlabelled" if number % 3 == 2 else "test"
        rows.append(f"{number}.png,{split},{('normal', 'opacity', '')[number % 3]},p{number}")
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def study(study_folder: Path) -> Study:
    return open_study(study_folder)


def test_the_exported_teacher_agrees_with_itself_and_random_weights_do_not(
    bundle: Path, folder: Path, study: Study, tmp_path: Path
) -> None:
    lines: list[str] = []
    explained = explain(bundle, load_model(folder), study, tmp_path / "out", QUICK, progress=lines.append)
    same, floor = explained.agreements
    assert (same.variant, floor.variant) == ("onnxruntime-cpu-fp32", "randomised")
    assert same.method == floor.method == "occlusion / occlusion"
    assert same.finding == "opacity"
    assert min(same.rank_correlation) > 0.98
    assert min(same.overlap) > 0.98
    assert np.mean(floor.rank_correlation) < 0.7
    assert any(line.endswith(": 4 of 4") for line in lines)


def test_what_is_written_fits_the_report(bundle: Path, folder: Path, study: Study, tmp_path: Path) -> None:
    explained = explain(bundle, load_model(folder), study, tmp_path, QUICK)
    labelled = [case for case in study.cases if case.target]
    rows = load_explanations(
        tmp_path, model_digest=Bundle.open(bundle).model_digest, cases_sha256=table_of(labelled).cases_sha256
    )
    assert rows == explained.agreements
    assert sorted(labelled[position].target[0] for position in rows[0].cases) == [0, 0, 1, 1]
    with np.load(explained.folder / "maps.npz", allow_pickle=False) as arrays:
        images, first, second = arrays["images"], arrays["teacher"], arrays["variant"]
    assert images.shape == (8, 32, 32, 3) and images.dtype == np.uint8
    for maps in (first, second):
        assert maps.shape == (8, 32, 32) and maps.dtype == np.float32
        assert maps.min() >= 0 and maps.max() <= 1
    # The stored maps give the stored figures: row after row, case after case.
    figures = [value for row in rows for value in row.rank_correlation]
    assert [rank_correlation(*pair) for pair in zip(first, second, strict=True)] == pytest.approx(figures, abs=1e-3)
    figures = [value for row in rows for value in row.overlap]
    assert [overlap(*pair) for pair in zip(first, second, strict=True)] == pytest.approx(figures, abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explanations", "teacher"]


def test_stretched_maps_keep_their_ranks_and_their_sign() -> None:
    signed = np.array([[[-4, 0], [1, 2]], [[0, 0], [0, 0]]], np.float32)
    np.testing.assert_allclose(_stretched(signed), [[[0, 0.5], [0.625, 0.75]], [[0.5, 0.5], [0.5, 0.5]]])
    np.testing.assert_allclose(_stretched(signed + 5)[0], [[0, 4 / 6], [5 / 6, 1]])
    assert (_stretched(signed + 5)[1] == 0).all()


def test_networks_of_different_size_are_laid_on_the_teacher_s_grid(
    bundle: Path, teacher: Model, study: Study, tmp_path: Path
) -> None:
    import msgspec

    larger = dataclasses.replace(teacher, spec=msgspec.structs.replace(teacher.spec, height_px=48, width_px=48))
    explained = explain(bundle, load_model(save_model(larger, tmp_path / "t")), study, tmp_path / "out", QUICK)
    with np.load(explained.folder / "maps.npz", allow_pickle=False) as arrays:
        assert arrays["variant"].shape == (8, 48, 48)
        assert [len(np.unique(actual)) > 1 for actual in arrays["variant"]] == [True] * 8


def test_gradient_compares_the_model_folders(
    bundle: Path, folder: Path, teacher: Model, study: Study, tmp_path: Path
) -> None:
    pytest.importorskip("captum", reason="Grad-CAM is Captum's")
    named = rewrite_bundle(
        bundle, tmp_path / "named.medfm", provenance=Provenance(student=f"teacher@{teacher.weights_sha256()}")
    )
    assert named.provenance.student
    options = ExplainOptions(cases=4, method="gradient")
    explained = explain(
        tmp_path / "named.medfm", load_model(folder), study, tmp_path / "out", options, student_folder=folder
    )
    same = explained.agreements[0]
    assert same.method == "grad-cam / grad-cam"
    assert same.variant == "teacher (PyTorch)"
    assert same.rank_correlation == pytest.approx((1,) * 4)
    assert same.overlap == pytest.approx((1,) * 4)
    other = save_model(dataclasses.replace(teacher, name="other"), tmp_path / "other")
    with pytest.raises(InputError, match="was exported from"):
        explain(tmp_path / "named.medfm", load_model(folder), study, tmp_path / "out", options, student_folder=other)


def test_a_failure_leaves_the_older_maps_alone(
    bundle: Path, folder: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(bundle, load_model(folder), study, tmp_path / "out", QUICK)
    before = (tmp_path / "out" / "explanations" / "agreement.json").read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medfm_compress.compress.explain.explain.write_atomically", fail)
        with pytest.raises(KeyboardInterrupt):
            explain(bundle, load_model(folder), study, tmp_path / "out", QUICK)
    assert (tmp_path / "out" / "explanations" / "agreement.json").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explanations"]
    explain(bundle, load_model(folder), study, tmp_path / "out", ExplainOptions(cases=2, occlusion=COARSE))
    assert len(load_explanations(tmp_path / "out")[0].cases) == 2


def test_the_draw_is_stratified_seeded_and_prefers_other_patients() -> None:
    cases = [Case(image=str(number), split="test", target=(0,), patient=f"p{number // 2}") for number in range(40)]
    has = np.arange(40) < 10
    drawn = sample_positions(cases, has, 8, seed=0)
    assert list(drawn) == sorted(set(drawn)) and len(drawn) == 8
    assert has[list(drawn)].sum() == 4
    assert len({cases[position].patient for position in drawn}) == 8
    assert drawn == sample_positions(cases, has, 8, seed=0) != sample_positions(cases, has, 8, seed=1)
    assert has[list(sample_positions(cases, has, 30, seed=0))].sum() == 10
    assert has[list(sample_positions(cases, ~has, 30, seed=0))].sum() == 10
    assert sample_positions(cases, has, 100, seed=0) == tuple(range(40))
    assert len(sample_positions(cases, np.zeros(40, bool), 3, seed=0)) == 3


def test_resizing_keeps_a_map_where_it_was() -> None:
    actual = np.zeros((4, 4), np.float32)
    actual[0, 3] = 1
    larger = on_grid(actual, 32, 48)
    assert larger.shape == (32, 48)
    assert np.unravel_index(larger.argmax(), larger.shape)[0] < 8
    assert larger[:, :24].max() == 0


def test_what_cannot_be_compared_is_refused(
    bundle: Path, folder: Path, teacher: Model, study: Study, tiny: ModuleType, tmp_path: Path
) -> None:
    import msgspec

    def refused(message: str, at: Path = folder, on: Path = bundle, **options: object) -> None:
        with pytest.raises((InputError, StudyError), match=message):
            explain(on, load_model(at), study, tmp_path / "out", ExplainOptions(**options))
        assert not (tmp_path / "out").exists()

    refused("no finding 'cyst'; give --finding as one of opacity", finding="cyst")
    refused("no variant 'x'", variant="x")
    refused("no labelled case in split 'val'", split="val")
    refused("--student", method="gradient")
    refused("cases is 0", cases=0)
    refused("method is 'magic'", method="magic")
    refused("leave --variant out", method="gradient", variant="onnxruntime-cpu-fp32")
    cropped = dataclasses.replace(teacher, spec=msgspec.structs.replace(teacher.spec, crop_fraction=0.5))
    refused("different parts of an image", save_model(cropped, tmp_path / "cropped"))
    other = dataclasses.replace(teacher, task=Task(kind="binary", labels=("normal", "cyst")))
    refused("labels", save_model(other, tmp_path / "labels"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        explain(bundle, load_model(folder), study, tmp_path / "file", QUICK)
    with pytest.raises(InputError, match="goes with --method gradient"):
        explain(bundle, load_model(folder), study, tmp_path / "out", QUICK, student_folder=folder)


def refused_again(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


def test_the_command(
    bundle: Path, folder: Path, study_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--teacher": folder, "--study": study_folder, "--out": tmp_path / "o"}
    supplied = ["explain", str(bundle), *(str(part) for pair in options.items() for part in pair)]
    assert run(*supplied, "--cases", "2", "--json") == 0
    lines = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in lines["agreements"]] == ["onnxruntime-cpu-fp32", "randomised"]
    assert Path(lines["folder"], "maps.npz").is_file()
    pictures = sorted(Path(lines["folder"]).glob("*.png"))
    assert len(pictures) == len(lines["pictures"]) == 2 * 4, "input, teacher, variant and floor of each case"
    names = {path.name.partition("-")[2].partition("-")[2] for path in pictures}
    assert names == {"input.png", "teacher.png", "onnxruntime-cpu-fp32.png", "randomised.png"}
    with Image.open(pictures[0]) as first, Image.open(pictures[-1]) as last:
        assert first.size == last.size == (32, 32)
        assert first.tobytes() != last.tobytes()
    assert "error: " in refused_again(capsys, *supplied)
    supplied.append("--overwrite")
    assert run(*supplied, "--cases", "1") == 0
    shown = capsys.readouterr()
    assert "rank correlation" in shown.out and "occlusion: 1 of 1" in shown.err
    assert run(*supplied, "--finding", "cyst") == 2
    assert capsys.readouterr().err.count("error:") == 1


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def table_of(cases: list[Case]) -> EvaluationTable:
    """The report's table of these cases, for the hash over their names."""
    n = len(cases)
    return EvaluationTable.from_evaluation(
        Evaluation(
            name="teacher",
            images=tuple(case.image for case in cases),
            logits=np.zeros((n, 2)),
            scores=np.zeros((n, 1)),
            truth=np.zeros((n, 1), np.int64),
            decisions=np.zeros((n, 1), np.int64),
            clusters=tuple(case.cluster for case in cases),
            findings=("opacity",),
        )
    )
