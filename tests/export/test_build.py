import resource

import msgspec
import numpy as np
import pytest
import tiny_study
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from torch import nn

from medfm_compress.bench.evaluate.evaluate import evaluate
from medfm_compress.export.build import BundleDraft, build_bundle, bundle_files, make_variant, open_export
from medfm_compress.export.kinds import check_rule
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.golden_cases import replay_goldens
from medfm_compress.runtime.sessions.instruction_sets import BF16, U8S8
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.task import Task


def draft(**changes):
    values = {
        "name": "tiny",
        "spec": tiny_study.SPEC,
        "task": tiny_study.TASK,
        "provenance": Provenance(teacher="tiny@0", teacher_licence="Apache-2.0", steps=("finetune: 1 epoch",)),
        "intended_use": "testing",
    }
    return BundleDraft(**{**values, **changes})


def test_a_bundle_opens_replays_and_says_where_it_came_from(tmp_path):
    study = tiny_study.make_study()
    build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm", study=study)
    bundle = Bundle.open(tmp_path / "a.medfm")
    assert [v.name for v in bundle.manifest.variants] == ["onnxruntime-cpu-fp32", "openvino-cpu-fp32"]
    for variant in bundle.manifest.variants:
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) < 1e-5
    steps = bundle.manifest.provenance.steps
    assert steps[0] == "finetune: 1 epoch" and sum("matches the module" in step for step in steps) == 2
    assert {"torch", "onnxruntime"} <= bundle.manifest.provenance.libraries.keys()


def test_operating_points_come_from_validation_cases_only(tmp_path):
    study = tiny_study.make_study()
    manifest = build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm", study=study)
    (point,) = manifest.task.operating_points
    assert (point.label, point.positives, point.negatives) == ("spot", 8, 8)
    assert set(study.source.read_images) == {case.image for case in study.split("val")}


class Bright(nn.Module):
    """Calls the spot by the brightest pixel, far too surely."""

    def forward(self, x):
        brightest = x.amax(dim=(1, 2, 3))
        return torch.stack([-brightest, brightest], dim=1) * 4 - torch.tensor([-9.2, 9.2])


def test_the_temperature_is_fitted_on_validation_cases_and_the_points_on_what_it_gives(tmp_path):
    study = tiny_study.make_study(val=120)
    manifest = build_bundle(Bright(), draft(), tmp_path / "a.medfm", study=study)
    cases, task = study.split("val"), manifest.task
    session = open_variant(Bundle.open(tmp_path / "a.medfm"), manifest.variants[0], 1)
    evaluation = evaluate(session, study, cases, tiny_study.SPEC, task, name="bundle")

    def loss(temperature):
        scores = probabilities(evaluation.logits, msgspec.structs.replace(task, temperature=temperature))
        return log_loss(evaluation.truth[:, 0], scores)

    surest = minimize_scalar(loss, bounds=(0.05, 20), method="bounded")
    assert task.temperature == pytest.approx(surest.x, rel=1e-3) and task.temperature > 1.2
    (point,) = task.operating_points
    assert point.sensitivity == pytest.approx(evaluation.decisions[evaluation.truth == 1].mean())
    (step,) = [step for step in manifest.provenance.steps if "temperature" in step]
    assert step.startswith(f"export: temperature {task.temperature:g} fitted on 120 validation cases: NLL ")
    assert set(study.source.read_images) == {case.image for case in cases}


def test_too_few_validation_cases_fit_no_temperature_and_it_is_said(tmp_path):
    manifest = build_bundle(Bright(), draft(), tmp_path / "a.medfm", study=tiny_study.make_study(val=48))
    assert manifest.task.temperature == 1 and manifest.task.operating_points
    assert any("temperature stays 1: 48 validation cases are too few" in step for step in manifest.provenance.steps)


def test_a_multiclass_task_gets_a_temperature_and_no_points(tmp_path):
    labels = ("normal", "spot", "haze")
    task = Task(kind="multiclass", labels=labels)
    for count, message in ((120, "temperature "), (0, "no labelled validation case")):
        study = msgspec.structs.replace(tiny_study.make_study(val=count), kind="multiclass", labels=labels)
        module = nn.Sequential(nn.Flatten(), nn.Linear(tiny_study.SIDE**2, 3))
        manifest = build_bundle(module, draft(task=task), tmp_path / "a.medfm", study=study)
        assert manifest.task.operating_points == ()
        assert any(message in step for step in manifest.provenance.steps)


@pytest.mark.parametrize("kind", ["multiclass", "segmentation"])
def test_a_rule_that_decides_nothing_is_refused(kind):
    check_rule(kind, "")
    check_rule(kind, "youden")
    check_rule("multilabel", "sensitivity>=0.95")
    with pytest.raises(InputError, match="has no operating points: what is most probable is called"):
        check_rule(kind, "sensitivity>=0.95")


def test_a_rule_for_labels_that_exclude_each_other_is_refused_before_any_work(tmp_path):
    labels = ("normal", "spot", "other")
    study = msgspec.structs.replace(tiny_study.make_study(), kind="multiclass", labels=labels)
    sketch = draft(task=Task(kind="multiclass", labels=labels))
    with pytest.raises(InputError, match="no operating points"):
        build_bundle(tiny_study.make_module(), sketch, tmp_path / "a.medfm", study=study, rule="specificity>=0.9")
    assert list(tmp_path.iterdir()) == []


def test_without_a_study_the_task_is_kept(tmp_path):
    manifest = build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm")
    assert manifest.task == tiny_study.TASK


def test_equal_arguments_give_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a", "b"):
        build_bundle(tiny_study.make_module(), draft(), tmp_path / name, study=tiny_study.make_study())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"2023-11-14T22:13:20Z" in (tmp_path / "a").read_bytes()


def test_labels_that_differ_are_refused_before_any_work(tmp_path):
    study = tiny_study.make_study(labels=("spot", "normal"))
    with pytest.raises(StudyError, match="use the study that the model was made for"):
        build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm", study=study)
    with pytest.raises(StudyError, match="operating points"):
        build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm", study=tiny_study.make_study(val=0))
    with pytest.raises(InputError, match="rule"):
        build_bundle(tiny_study.make_module(), draft(), tmp_path / "a", study=tiny_study.make_study(), rule="best")
    with pytest.raises(InputError, match="intended use is empty"):
        build_bundle(tiny_study.make_module(), draft(intended_use=" "), tmp_path / "a.medfm")
    assert list(tmp_path.iterdir()) == []


class Treacherous(nn.Module):
    """Computes something else while it is being exported."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(tiny_study.SIDE**2, 2)

    def forward(self, x):
        logits = self.head(x.flatten(1))
        return logits * torch.tensor([1.0, 2.0]) if torch.compiler.is_compiling() else logits


def test_failing_parity_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="nothing was written"):
        build_bundle(Treacherous(), draft(), tmp_path / "a.medfm")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_bundle_and_nothing_partial(tmp_path):
    path = tmp_path / "a.medfm"
    build_bundle(tiny_study.make_module(), draft(), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1, hard))  # the kernel refuses the last byte
    try:
        with pytest.raises(InputError, match="cannot write"):
            build_bundle(tiny_study.make_module(), draft(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm")
    assert list(tmp_path.iterdir()) == []


def test_goldens_are_synthetic_and_shared(tmp_path):
    build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm")
    bundle = Bundle.open(tmp_path / "a.medfm")
    members = {member.path for member in bundle.manifest.members}
    assert {"goldens/inputs.npy", "goldens/onnxruntime-cpu-fp32.npy", "goldens/openvino-cpu-fp32.npy"} <= members
    assert np.isfinite(np.frombuffer(bundle.read("goldens/onnxruntime-cpu-fp32.npy")[-32:], np.float32)).all()


def test_variants_of_one_backend_and_precision_have_names_of_their_own():
    plain = make_variant("onnxruntime", "int8")
    reduced = make_variant("onnxruntime", "int8", qualifier="reduced")
    assert plain.name == "onnxruntime-cpu-int8" and plain.instruction_set == U8S8
    assert reduced.name == "onnxruntime-cpu-int8-reduced" and reduced.instruction_set == ()
    assert make_variant("openvino", "int8", ("avx2",), qualifier="reduced").instruction_set == ("avx2",)
    assert not set(plain.files) & set(reduced.files)
    shared = make_variant("openvino", "bf16", files=make_variant("openvino", "fp32").files)
    assert shared.name == "openvino-cpu-bf16" and shared.instruction_set == BF16
    assert shared.files == ("models/openvino-cpu-fp32.xml", "models/openvino-cpu-fp32.bin")
    assert make_variant("openvino", "int8-bf16").golden_tolerance == plain.golden_tolerance


def test_a_shared_file_is_one_member_and_must_be_the_same(tiny):
    fp32 = open_export(make_variant("openvino", "fp32", qualifier="a"), (tiny.network(),))
    sharer = make_variant("openvino", "fp32", qualifier="b", files=fp32.variant.files[:1])
    fp32 = msgspec.structs.replace(fp32, variant=msgspec.structs.replace(fp32.variant, files=sharer.files))
    both = (fp32, open_export(sharer, fp32.contents))
    assert len(bundle_files(both, tiny.SPEC)) == 4  # a model, the golden inputs, two sets of golden logits
    other = open_export(sharer, (tiny.network(seed=1),))
    with pytest.raises(InputError, match=r"shares models/openvino-cpu-fp32-a\.xml with another"):
        bundle_files((fp32, other), tiny.SPEC)


@pytest.mark.parametrize("failure", ["cannot be read", "computes something else"])
def test_an_engine_that_fails_does_not_take_the_others_with_it(failure, tmp_path, monkeypatch):
    """OpenVINO computes something else of GCViT, and cannot read every graph."""
    from medfm_compress.export import build

    def unreadable(onnx):
        raise ModelError("OpenVINO cannot read the exported ONNX model: no such operator")

    other = tiny_study.make_module()
    with torch.no_grad():
        other[-1].weight.mul_(2)

    def another(onnx):
        return convert(build.export_onnx(other, tiny_study.SPEC, tiny_study.TASK).content)

    convert = build.to_openvino_ir
    monkeypatch.setattr(build, "to_openvino_ir", unreadable if failure == "cannot be read" else another)
    lines = []
    build_bundle(tiny_study.make_module(), draft(), tmp_path / "a.medfm", progress=lines.append)
    manifest = Bundle.open(tmp_path / "a.medfm").manifest
    assert [variant.name for variant in manifest.variants] == ["onnxruntime-cpu-fp32"]
    reason = "no such operator" if failure == "cannot be read" else "does not compute what the module computes"
    assert any("no variant for openvino" in line and reason in line for line in lines)
    assert any("no variant for openvino" in step and reason in step for step in manifest.provenance.steps)
