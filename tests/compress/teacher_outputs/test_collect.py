"""Cached answers: asked once, whole after a kill, refused where they are of something else; engines that may answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from medfm_compress.compress.distillation.training_cases import Weighing, gather_training_cases
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.teacher_outputs import fastest_engine as fast
from medfm_compress.compress.teacher_outputs.collect import OutputRequest, collect_outputs
from medfm_compress.compress.teacher_outputs.fastest_engine import fastest_engine
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.output_cache import OutputCache, ViewPlan
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.training.augment import apply_view, augmentation_for, draw_view
from medfm_compress.compress.training.dataset import load_images, task_of
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError, ModelError, StudyError

PLAN = ViewPlan(augmentation=augmentation_for("radiograph"), seeds=(3, 4))
SHARD = "logits-v001-s00000.npy"


def silent(line: str) -> None:
    pass


class CountingTeacher:
    """A module teacher that counts the images that it is asked about; `fastest_engine` leaves it as it is."""

    def __init__(self, model, spoil=False):
        inner = ModuleTeacher(model)
        self.card, self.engine, self._inner, self._spoil, self.asked = inner.card, "counted", inner, spoil, 0

    def answer(self, images, wanted=()):
        self.asked += len(images)
        outputs = self._inner.answer(images, wanted)
        return TeacherOutputs(outputs.logits, outputs.features)


@pytest.fixture(scope="module")
def model(discs):
    torch.manual_seed(1)
    return build_model("test_resnet", task_of(discs), size_px=48, colour="grey")


@pytest.fixture(scope="module")
def output_request(discs, model):
    groups = gather_training_cases(discs, Weighing(0.8), unlabelled=True).groups
    return OutputRequest(load_images(groups, model.spec, None, silent), groups, PLAN, precision="fp32")


def test_a_teacher_is_asked_once_a_case_and_view(model, output_request, tmp_path):
    teacher = CountingTeacher(model)
    store = collect_outputs(teacher, output_request, tmp_path, silent)
    assert teacher.asked == 2 * 48 + 2  # and two images to learn the shapes of its features
    again = CountingTeacher(model)
    collect_outputs(again, output_request, tmp_path, silent)
    assert again.asked == 2
    assert store.bytes_per_case == 2 * 2 * 4  # views, labels, float32


def test_what_is_kept_is_what_the_teacher_says_of_that_view(model, output_request, tmp_path):
    with_features = output_request._replace(features=("embedding",))
    store = collect_outputs(ModuleTeacher(model), with_features, tmp_path, silent)
    rows = torch.tensor([40, 2, 17])
    view = draw_view(PLAN.augmentation, 48, PLAN.seeds[1])
    pixels = apply_view(torch.from_numpy(np.ascontiguousarray(output_request.images[rows.numpy()])), view, rows)
    expected = ModuleTeacher(model).answer(pixels, ("embedding",))
    kept = store.lookup(1, rows, ("embedding",))
    torch.testing.assert_close(kept.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.features["embedding"].float(), expected.features["embedding"], rtol=2e-3, atol=2e-3)


def test_a_store_with_features_also_serves_who_needs_none(model, output_request, tmp_path):
    collect_outputs(ModuleTeacher(model), output_request._replace(features=("embedding",)), tmp_path, silent)
    teacher = CountingTeacher(model)
    assert collect_outputs(teacher, output_request, tmp_path, silent).lookup(0, torch.tensor([1])).features == {}
    assert teacher.asked == 2
    more = CountingTeacher(model)
    collect_outputs(more, output_request._replace(features=("embedding", "map")), tmp_path, silent)
    assert more.asked == 2 * 48 + 2


@pytest.mark.parametrize("change", ["teacher", "plan", "precision", "cases"])
def test_whatever_they_depend_on_makes_them_stale(change, discs, model, output_request, tmp_path):
    collect_outputs(CountingTeacher(model), output_request, tmp_path, silent)
    teacher, request = CountingTeacher(model), output_request
    if change == "teacher":
        torch.manual_seed(2)
        teacher = CountingTeacher(build_model("test_resnet", task_of(discs), size_px=48, colour="grey"))
    if change == "plan":
        request = output_request._replace(plan=msgspec.structs.replace(PLAN, seeds=(3, 5)))
    if change == "precision":
        request = output_request._replace(precision="auto")
    if change == "cases":
        study = msgspec.structs.replace(discs, cases=tuple(case for case in discs.cases if case.image != "train/3"))
        study = msgspec.structs.replace(discs, cases=study.cases[1:])
        groups = gather_training_cases(study, Weighing(0.8), unlabelled=True).groups
        request = output_request._replace(groups=groups, images=output_request.images[1:])
    collect_outputs(teacher, request, tmp_path, silent)
    assert teacher.asked == 2 * len(request.images) + 2


def test_a_damaged_or_missing_shard_is_asked_for_again(model, output_request, tmp_path):
    store = collect_outputs(CountingTeacher(model), output_request, tmp_path, silent)
    before = store.lookup(1, torch.arange(48)).logits
    (tmp_path / SHARD).write_bytes((tmp_path / SHARD).read_bytes()[:-8])
    with pytest.raises(ModelError, match="1 of 2 shards are missing or damaged"):
        OutputCache.open(tmp_path)
    teacher, lines = CountingTeacher(model), []
    store = collect_outputs(teacher, output_request, tmp_path, lines.append)
    assert teacher.asked == 48 + 2
    assert lines[0] == "teacher: 1 of 2 shards of answers are there, going on"
    assert torch.equal(store.lookup(1, torch.arange(48)).logits, before)


def test_a_damaged_header_is_no_reason_to_stop(model, output_request, tmp_path):
    collect_outputs(CountingTeacher(model), output_request, tmp_path, silent)
    (tmp_path / "outputs.json").write_text("{")
    with pytest.raises(ModelError, match=r"outputs\.json"):
        OutputCache.open(tmp_path)
    collect_outputs(CountingTeacher(model), output_request, tmp_path, silent)
    assert not OutputCache.open(tmp_path).missing()


def test_other_cases_are_refused(discs, model, output_request, tmp_path):
    store = collect_outputs(CountingTeacher(model), output_request, tmp_path, silent)
    store.check(output_request.groups)
    fewer = gather_training_cases(msgspec.structs.replace(discs, cases=discs.cases[1:]), Weighing(0.8), unlabelled=True)
    with pytest.raises(StudyError, match="are on 48 other cases than the study's 47"):
        store.check(fewer.groups)


def test_there_must_be_answers(tmp_path):
    with pytest.raises(ModelError, match=r"holds no cached answers: it has no outputs\.json"):
        OutputCache.open(tmp_path)


def test_a_teacher_that_gives_nan_is_named(discs, output_request, tmp_path):
    model = build_model("test_resnet", task_of(discs), size_px=48, colour="grey")
    with torch.no_grad():
        model.module.get_classifier().bias[0] = float("nan")
    with pytest.raises(ModelError, match="teacher test_resnet gives logits that are not finite"):
        collect_outputs(ModuleTeacher(model), output_request, tmp_path, silent)
    assert not list(tmp_path.glob("*.npy"))


KILLED = """
import sys, time
from pathlib import Path
import torch
from medfm_compress.compress.teachers import output_cache as storing
from medfm_compress.compress.teacher_outputs.collect import OutputRequest, collect_outputs
from medfm_compress.compress.teachers.output_cache import ViewPlan
from medfm_compress.compress.training.augment import augmentation_for
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.training.dataset import load_images, task_of
from medfm_compress.compress.distillation.training_cases import Weighing, gather_training_cases
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.data.open import open_study

torch.manual_seed(1)
study = open_study(Path(sys.argv[1]))
model = build_model("test_resnet", task_of(study), size_px=48, colour="grey")
groups = gather_training_cases(study, Weighing(0.8), unlabelled=True).groups
plan = ViewPlan(augmentation=augmentation_for("radiograph"), seeds=tuple(range(40)))
request = OutputRequest(load_images(groups, model.spec, None, print), groups, plan, precision="fp32")
write = storing.OutputCache.write
def slowly(*arguments):
    time.sleep(float(sys.argv[3]))
    write(*arguments)
storing.OutputCache.write = slowly
print(collect_outputs(ModuleTeacher(model), request, Path(sys.argv[2]), print).fingerprint)
"""


def collecting(study: Path, out: Path, delay_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(study), str(out), str(delay_s)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_kill_in_the_middle_loses_no_shard_that_was_written(discs_path, tmp_path):
    process = collecting(discs_path, tmp_path, 0.1)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("logits-*.npy"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("logits-*.npy")}
    assert 5 <= len(written) < 40
    output = collecting(discs_path, tmp_path, 0.0).communicate(timeout=120)[0]
    assert f"{len(written)} of 40 shards of answers are there, going on" in output
    assert {path: path.stat().st_mtime_ns for path in written} == written
    store = OutputCache.open(tmp_path)
    assert store.fingerprint in output
    assert open_study(discs_path).split("train")


def test_openvino_answers_as_pytorch_does(discs, model, output_request):
    teacher = ModuleTeacher(model)
    builder = fast._EngineBuilder(teacher, ("embedding",), lambda: None)
    quick = builder.openvino("fp32")
    images = torch.from_numpy(
        np.ascontiguousarray(output_request.images[np.arange(40)])
    )  # more than a batch, no multiple
    expected, outputs = teacher.answer(images, ("embedding",)), quick.answer(images, ("embedding",))
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outputs.features["embedding"], expected.features["embedding"], rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="feature 'map' was not asked for"):
        quick.answer(images, ("map",))


def asked_of(request: OutputRequest) -> fast.Asked:
    return fast.Asked(len(request.images), request.inputs, (), 2)


def test_an_engine_that_is_unfaithful_is_not_used(model, output_request, monkeypatch):
    monkeypatch.setattr(fast, "WORTH", 1)
    monkeypatch.setattr(fast, "LIMITS", {"fp32": -1.0, "bf16": -1.0, "int8": -1.0})
    lines = []
    chosen = fastest_engine(ModuleTeacher(model), asked_of(output_request), "auto", lines.append)
    assert chosen.engine == "pytorch fp32"
    assert any(line.startswith("teacher: not in openvino fp32: relative logit error") for line in lines)
    assert lines[-1] == "teacher: pytorch fp32"


def test_an_engine_that_is_faithful_and_no_slower_is_used(model, output_request, monkeypatch):
    monkeypatch.setattr(fast, "WORTH", 1)
    monkeypatch.setattr(fast, "_SLOWER", 1000.0)
    lines = []
    chosen = fastest_engine(ModuleTeacher(model), asked_of(output_request), "auto", lines.append)
    assert chosen.engine.startswith("openvino")
    assert "relative logit error" in lines[-1]


def test_few_questions_are_not_worth_a_conversion(model, output_request):
    chosen = fastest_engine(ModuleTeacher(model), asked_of(output_request), "auto", silent)
    assert chosen.engine.startswith("pytorch")


def test_an_unknown_precision(model, output_request):
    with pytest.raises(InputError, match="teacher_precision is 'fp64'; it must be auto, fp32, bf16, int8"):
        fastest_engine(ModuleTeacher(model), asked_of(output_request), "fp64", silent)


def test_a_teacher_that_is_no_module_stays_as_it_is(model, output_request):
    teacher = CountingTeacher(model)
    assert fastest_engine(teacher, asked_of(output_request), "bf16", silent) is teacher
