"""A finished step is repeated when anything that decides its output changed, wherever that lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from medfm_compress import __version__, pipeline, step_cache, steps
from medfm_compress.artefacts import BundleFile, ModelFolder, NamedInput, ReportFolder, StudyTable, TeacherInput
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.recipe import LoadedRecipe, load_recipe
from medfm_compress.runtime.errors import InputError
from medfm_compress.step_cache import StepCache

RECIPE = """\
name: job
study: discs.npz
policy: policy.yaml
teacher: {folder: given}
distill: {student: resnet10t, weights: start.safetensors, more: [more.npz]}
"""
STEPS = ("study", "teacher", "distill", "export", "quantize", "bench")


def model_folder(folder: Path, weights: str) -> Path:
    (folder / "training").mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


@pytest.fixture
def job(tmp_path: Path, discs_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Runs the recipe with steps that only write; returns which of them were made."""
    for name in ("discs.npz", "more.npz"):
        (tmp_path / name).write_bytes(discs_path.read_bytes())
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "policy.yaml").write_text("non_inferiority: [{metric: auroc, margin: 0.1}]\n")
    (tmp_path / "start.safetensors").write_text("start")
    model_folder(tmp_path / "given", "teacher")

    def writing(name: str, write: Callable[[Path], object]) -> None:
        monkeypatch.setattr(steps, name, lambda *arguments: write(arguments[-1]))

    def table(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("image,split,label,patient\n")

    def report(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / "report.json").write_text("{}")

    monkeypatch.setattr(StudyTable, "fingerprint", property(lambda self: NamedInput(str(self.path)).fingerprint))
    writing("prepare_study", table)
    writing("prepare_teacher", lambda path: model_folder(path, (tmp_path / "given" / "model.safetensors").read_text()))
    writing("distill", lambda path: model_folder(path, "student"))
    writing("export", lambda path: path.write_text("exported"))
    writing("quantize", lambda path: path.write_text("quantized"))
    writing("bench", report)
    monkeypatch.setattr(steps, "check_rule", lambda *_: None)
    monkeypatch.setattr(pipeline.Job, "judged", lambda self, report, bundle, policy: None)

    def run(overwrite: bool = True) -> list[str]:
        lines: list[str] = []
        recipe = load_recipe(tmp_path / "recipe.yaml")
        pipeline.compress(recipe, None, tmp_path / "out", lines.append, overwrite=overwrite)
        return [line.removesuffix(" …") for line in lines if line.endswith(" …")]

    return run


def test_nothing_changed_and_nothing_is_repeated(job: Callable[[], list[str]]) -> None:
    assert tuple(job()) == STEPS
    assert job() == []


@pytest.mark.parametrize(
    ("replaced", "first"),
    [
        ("discs.npz", "study"),
        ("given/model.safetensors", "teacher"),
        ("start.safetensors", "distill"),
        ("more.npz", "distill"),
        ("out/student/model.safetensors", "distill"),
        ("out/exported.medfm", "export"),
        ("out/report/report.json", "bench"),
    ],
)
def test_a_file_that_is_replaced_behind_its_path_counts(
    job: Callable[[], list[str]], tmp_path: Path, replaced: str, first: str
) -> None:
    """What was trained on the old one must not be benched as if it were of the new one."""
    job()
    (tmp_path / replaced).write_bytes((tmp_path / replaced).read_bytes() + b" ")
    assert job()[0] == first
    assert job() == []


def test_what_training_leaves_to_go_on_with_is_not_the_model(job: Callable[[], list[str]], tmp_path: Path) -> None:
    job()
    (tmp_path / "given" / "training" / "checkpoint.pt").write_text("half way")
    assert job() == []


def test_where_logs_go_decides_nothing(job: Callable[[], list[str]], tmp_path: Path) -> None:
    job()
    text = RECIPE.replace("{student: resnet10t,", "{student: resnet10t, training: {tensorboard: logs, epochs: 30},")
    (tmp_path / "recipe.yaml").write_text(text + "bench: {cache: images}\n")
    assert "bench" not in (again := job()) and "teacher" not in again


def test_nothing_that_is_there_is_replaced_unasked(job: Callable[..., list[str]], tmp_path: Path) -> None:
    assert tuple(job(overwrite=False)) == STEPS
    assert job(overwrite=False) == []
    (tmp_path / "out" / "report" / "report.json").unlink()  # as where an interrupt came
    (tmp_path / "out" / "student" / "model.json").unlink()
    assert job(overwrite=False)[0] == "distill"
    (tmp_path / "recipe.yaml").write_text(RECIPE + "export: {rule: 'sensitivity>=0.9'}\n")
    before = (tmp_path / "out" / "exported.medfm").read_bytes()
    with pytest.raises(InputError) as info:
        job(overwrite=False)
    assert str(info.value).endswith(
        "exported.medfm is there and was made by other settings (export.rule); name another folder with --out, or "
        "replace it with --overwrite"
    )
    assert (tmp_path / "out" / "exported.medfm").read_bytes() == before
    assert job(overwrite=True)[0] == "export"


def test_a_refusal_says_what_changed(
    job: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        with pytest.raises(InputError) as info:
            job(overwrite=False)
        return str(info.value).partition("; name another")[0].partition("out/")[2]

    def recipe(text: str) -> None:
        (tmp_path / "recipe.yaml").write_text(text)

    job()
    recipe(RECIPE + "# a remark\n")
    assert refused() == "exported.medfm is there and was made by other settings (the recipe's file)"
    recipe(RECIPE.replace("resnet10t", "resnet14t") + "split: {seed: 3}\n")
    assert refused() == "study.csv is there and was made by other settings (split)"
    recipe(RECIPE.replace("resnet10t", "resnet14t"))
    (tmp_path / "start.safetensors").write_text("another")
    changed = "other settings (distill.student) and other inputs (start.safetensors)"
    assert refused() == f"student is there and was made by {changed}"
    recipe(RECIPE)
    assert refused() == "student is there and was made by other inputs (start.safetensors)"
    monkeypatch.setattr(step_cache, "__version__", "99.0")
    assert refused() == f"study.csv is there and was made by another version ({__version__})"
    monkeypatch.undo()


def test_what_was_changed_behind_its_step_is_said_to_be(job: Callable[..., list[str]], tmp_path: Path) -> None:
    job()
    (tmp_path / "out" / "quantized.medfm").write_text("tampered")
    with pytest.raises(InputError, match=r"quantized.medfm is there and is not what its step left there; name another"):
        job(overwrite=False)


def test_a_record_of_an_earlier_version_still_counts(job: Callable[..., list[str]], tmp_path: Path) -> None:
    job()
    for path in (tmp_path / "out" / "steps").iterdir():
        record = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "ingredients"}
        path.write_text(json.dumps(record))
    assert job(overwrite=False) == []
    (tmp_path / "recipe.yaml").write_text(RECIPE + "export: {rule: 'sensitivity>=0.9'}\n")
    with pytest.raises(InputError, match="was made by other settings, inputs or another version; name another"):
        job(overwrite=False)


def test_records_name_no_image_and_no_patient(job: Callable[..., list[str]], tmp_path: Path) -> None:
    job()
    for path in (tmp_path / "out" / "steps").iterdir():
        kept = json.loads(path.read_bytes())["ingredients"]
        assert set(kept) == {"settings", "inputs", "version"}
        assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in kept["inputs"].values())


def test_a_bundle_of_that_name_that_the_job_did_not_make_stays(job: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.medfm").write_text("precious")
    with pytest.raises(InputError, match=r"job.medfm is there"):
        job(overwrite=False)
    assert not (tmp_path / "out" / "study.csv").exists()


def test_another_version_repeats_everything(job: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    job()
    monkeypatch.setattr(step_cache, "__version__", "99.0")
    assert tuple(job()) == STEPS


def test_a_damaged_record_is_no_reason_to_stop(job: Callable[[], list[str]], tmp_path: Path) -> None:
    job()
    (tmp_path / "out" / "steps" / "export.json").write_text("{")
    assert job() == ["export"]


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, lambda _: None)

    def fail(path: Path) -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        cache.step("export", BundleFile(tmp_path / "b.medfm"), [], None, fail)
    made = cache.step("export", BundleFile(tmp_path / "b.medfm"), [], None, lambda path: path.write_text("b"))
    assert made.fingerprint == BundleFile(tmp_path / "b.medfm").fingerprint


def test_a_name_that_is_no_path_counts_as_its_name(tmp_path: Path) -> None:
    first, second = (TeacherInput((TeacherSource(source=name),)) for name in ("timm:resnet18", "timm:resnet34"))
    assert first.fingerprint != second.fingerprint
    outputs = NamedInput(f"outputs:{model_folder(tmp_path / 'o', 'a')}")
    model_folder(tmp_path / "o", "b")
    assert outputs.fingerprint == ModelFolder(tmp_path / "o").fingerprint


def test_a_variant_of_a_bundle_is_as_old_as_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "b.medfm").write_text("one")
    before = NamedInput(f"{tmp_path / 'b.medfm'}#openvino-cpu-int8").fingerprint
    (tmp_path / "b.medfm").write_text("two")
    assert NamedInput(f"{tmp_path / 'b.medfm'}#openvino-cpu-int8").fingerprint != before


def test_every_part_of_a_folder_counts_that_is_no_model(tmp_path: Path) -> None:
    """Behind a link, and in a folder that only a model folder keeps for itself."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bundle" / "training").mkdir(parents=True)
    (tmp_path / "bundle" / "linked").symlink_to(tmp_path / "elsewhere")
    seen = set()
    for path in ("bundle/a", "bundle/training/a", "elsewhere/a"):
        (tmp_path / path).write_text("a")
        seen.add(NamedInput(str(tmp_path / "bundle")).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["quantized", "exported", "n" * 101])
def test_a_name_that_a_step_s_bundle_has_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("name: job", f"name: {name}"))
    with pytest.raises(InputError, match="name"):
        load_recipe(tmp_path / "r.yaml")


def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        _ = ModelFolder(tmp_path / "nowhere").fingerprint
    with pytest.raises(InputError, match="cannot read"):
        _ = ReportFolder(tmp_path).fingerprint


def test_paths_of_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.onnx").write_text("")
    text = """\
name: job
policy: policy.yaml
study: cases.csv
teachers: [{source: own.onnx}, {source: "timm:resnet18", weights: w.safetensors}, {source: "outputs:cached"}]
distill: {student: resnet10t, weights: start.safetensors, more: [more.csv]}
bench: {baseline: old.medfm, external_models: [other.onnx]}
"""
    (tmp_path / "sub" / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "sub" / "r.yaml").recipe
    here = tmp_path / "sub"
    assert [source.source for source in recipe.teachers] == [
        str(here / "own.onnx"),
        "timm:resnet18",
        f"outputs:{here / 'cached'}",
    ]
    assert recipe.teachers[1].weights == str(here / "w.safetensors")
    assert (recipe.distill.student, recipe.distill.weights) == ("resnet10t", str(here / "start.safetensors"))
    assert (recipe.distill.more, recipe.bench.baseline) == ((str(here / "more.csv"),), str(here / "old.medfm"))
    assert recipe.bench.external_models == (str(here / "other.onnx"),)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("name: again\n", "given twice"),
        ("teachers: [{source: a.onnx}]\n", "give one of them"),
        ("pretrain: {model: vit_tiny_patch16_224}\n", "neither a teacher nor the student"),
        ("pretrain: {model: resnet10t}\n", "leave its weights"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, section: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE + section)
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_the_backbone_is_what_the_network_of_its_name_starts_from(
    job: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[object] = []

    def distill(*arguments: object) -> None:
        settings.append(arguments[2])
        model_folder(Path(str(arguments[-1])), "student")

    monkeypatch.setattr(steps, "distill", distill)
    monkeypatch.setattr(steps, "pretrain", lambda *arguments: model_folder(arguments[-1], "backbone"))
    text = RECIPE.replace(", weights: start.safetensors", "") + "pretrain: {model: resnet10t}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    assert job()[:3] == ["study", "pretrain", "teacher"]
    assert msgspec.to_builtins(settings[0])["weights"] == str(tmp_path / "out" / "backbone")


def test_a_loaded_recipe_keeps_the_sha256_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    loaded = load_recipe(tmp_path / "r.yaml")
    assert loaded.having(loaded.recipe) == LoadedRecipe(loaded.recipe, loaded.sha256)
