"""``medfm-compress distill``: from teachers and labels to a student; what it refuses, and many processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import load_model, save_model
from medfm_compress.runtime.task import Task

LABELS = ("normal", "opacity")
FAST = ("--epochs", "2", "--batch-size", "8", "--views", "2", "--precision", "fp32", "--device", "cpu", "--ema", "0.8")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SHORT = (*FAST, "--learning-rate", "0.003", "--patience", "0")


def draw(folder: Path, cases: int = 32, unlabelled: int = 0) -> Path:
    """A table of tiny images: those with an opacity are brighter."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = ["image,split,label,patient,trust"]
    for number in range(cases + unlabelled):
        bright = number % 2
        pixels = noise.integers(0, 150, (48, 48), dtype=np.uint8) + np.uint8(60 * bright)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "unlabelled" if number >= cases else "val" if number % 4 > 1 else "train"
        label = "" if split == "unlabelled" else LABELS[bright]
        rows.append(f"{number}.png,{split},{label},p{number},{number % 3}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def save(folder: Path, name: str = "test_resnet", labels: tuple[str, ...] = LABELS, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    task = Task(kind="binary" if len(labels) == 2 else "multiclass", labels=labels)
    return save_model(build_model(name, task, size_px=48, colour="grey"), folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("distill") / "study", unlabelled=8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save(tmp_path_factory.mktemp("distill") / "teacher")


def called(*words) -> object:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return ended.value.code


@pytest.mark.parametrize(("labels", "serves"), [(("a", "b", "c"), False), (LABELS, True)])
def test_weights_without_a_classifier_for_the_labels_are_neither_exported_nor_taught_from(
    capsys, study, tmp_path, labels, serves
) -> None:
    weights = save(tmp_path / "other", labels=labels) / "model.safetensors"
    start = ("finetune", "test_resnet", "--study", study, "--image-size", 48, "--colour", "grey", "--epochs", 0)
    assert called(*start, "--weights", weights, "--out", tmp_path / "m") == 0
    told = capsys.readouterr()
    assert ("nothing trains the new one" in told.err) == (not serves)
    assert "drawn at random" not in told.err
    assert ("next: " in told.out) == serves
    assert ("with a classifier at zero" in load_model(tmp_path / "m").provenance.steps[-1]) == (not serves)
    export = ("export", tmp_path / "m", "--study", study, "--out", tmp_path / "m.medfm")
    distill = ("distill", tmp_path / "m", "--student", "test_resnet", "--study", study, *FAST, "--out", tmp_path / "s")
    for words in (export, distill):
        assert (called(*words) == 0) == serves
        assert ("gives every image the same answer" in capsys.readouterr().err) == (not serves)
    assert (tmp_path / "m.medfm").exists() == serves


def test_a_network_that_nothing_gave_weights_says_that_its_answers_mean_nothing(capsys, study, tmp_path) -> None:
    start = ("finetune", "test_resnet", "--study", study, "--image-size", 48, "--colour", "grey", "--epochs", 0)
    assert called(*start, "--out", tmp_path / "m") == 0
    assert "warning: no --weights are given and --epochs 0 trains nothing" in capsys.readouterr().err
    assert load_model(tmp_path / "m").provenance.steps[0] == "drew the weights of test_resnet at random, seed 0"


def distil(capsys, study, teacher, out, *more):
    """Run the command; what it prints."""
    teachers = map(str, teacher if isinstance(teacher, tuple) else (teacher,))
    with pytest.raises(SystemExit) as caught:
        main(
            ["distill", *teachers, "--study", str(study), "--student", "test_resnet", "--out", str(out), *SHORT, *more]
        )
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def refused(capsys, study, teacher, out, *more):
    code, _, error = distil(capsys, study, teacher, out, *more)
    assert code == 2, error
    assert "Traceback" not in error
    assert not (out / "model.json").exists()
    return next(line for line in error.splitlines() if line.startswith("error:"))


def test_a_student_from_labelled_and_unlabelled_images(capsys, study, teacher, tmp_path):
    code, printed, told = distil(capsys, study, teacher, tmp_path / "s", "--json")
    assert code == 0, told
    assert "16 labelled cases, and 8 that learn from the teacher alone" in told
    document = json.loads(printed)
    assert document["name"] == "test_resnet"
    assert "losses kl" in document["steps"][-1]
    assert "8 unlabelled cases" in document["steps"][-1]
    assert load_model(tmp_path / "s").provenance.teacher.startswith("test_resnet@")


def test_without_any_training_label_the_teacher_teaches_alone(capsys, study, teacher, tmp_path):
    table = (study / "cases.csv").read_text()
    bare = tmp_path / "bare.csv"
    rows = [re.sub(",train,[a-z]+,", ",unlabelled,,", line) for line in table.split("\n")]
    bare.write_text("\n".join(rows))
    for name in {line.split(",")[0] for line in rows[1:] if line}:
        (tmp_path / name).symlink_to(study / name)
    code, _, told = distil(capsys, bare, teacher, tmp_path / "s")
    assert code == 0, told
    assert "0 labelled cases, and 24 that learn from the teacher alone" in told


def test_cached_answers_alone_give_the_same_student(capsys, study, teacher, tmp_path):
    distil(capsys, study, teacher, tmp_path / "s")
    answers = f"outputs:{tmp_path / 's' / 'training' / 'teacher-outputs'}"
    code, _, told = distil(capsys, study, answers, tmp_path / "alone")
    assert code == 0, told
    assert load_model(tmp_path / "alone").weights_sha256() == load_model(tmp_path / "s").weights_sha256()


def test_answers_of_another_study(capsys, study, teacher, tmp_path):
    distil(capsys, study, teacher, tmp_path / "s")
    answers = f"outputs:{tmp_path / 's' / 'training' / 'teacher-outputs'}"
    other = draw(tmp_path / "other", cases=28)
    error = refused(capsys, other, answers, tmp_path / "alone")
    assert "are on 24 other cases than the study's 14" in error


def test_two_teachers_are_averaged(capsys, study, teacher, tmp_path):
    other = save(tmp_path / "other", seed=1)
    code, _, told = distil(capsys, study, (teacher, other), tmp_path / "s")
    assert code == 0, told
    single = distil(capsys, study, teacher, tmp_path / "one")
    assert single[0] == 0
    assert load_model(tmp_path / "s").weights_sha256() != load_model(tmp_path / "one").weights_sha256()


@pytest.mark.parametrize(
    "losses", [("dist=1",), ("kl=1", "feature=0.5"), ("decoupled", "attention=2", "relational=0.1")]
)
def test_losses_by_name(capsys, study, teacher, tmp_path, losses):
    options = [part for loss in losses for part in ("--loss", loss)]
    code, _, told = distil(capsys, study, teacher, tmp_path / "s", *options, "--label-loss", "focal")
    assert code == 0, told
    message = load_model(tmp_path / "s").provenance.steps[-1]
    for loss in losses:
        assert loss.partition("=")[0] in message


def test_weights_of_cases_come_from_columns(capsys, study, teacher, tmp_path):
    plain = distil(capsys, study, teacher, tmp_path / "plain")
    weighed = distil(capsys, study, teacher, tmp_path / "weighed", "--label-weight-column", "trust")
    assert plain[0] == weighed[0] == 0
    assert load_model(tmp_path / "plain").weights_sha256() != load_model(tmp_path / "weighed").weights_sha256()


def test_other_classes_need_a_mapping(capsys, study, tmp_path):
    teacher = save(tmp_path / "three", labels=("clear", "bacterial", "viral"))
    error = refused(capsys, study, teacher, tmp_path / "s")
    assert "--map" in error
    assert "clear" in error
    options = ("--map", "clear=normal", "--map", "bacterial=opacity", "--map", "viral=opacity")
    code, _, told = distil(capsys, study, teacher, tmp_path / "s", *options)
    assert code == 0, told
    assert load_model(tmp_path / "s").task.labels == LABELS


def test_a_teacher_that_returns_nan(capsys, study, tmp_path):
    torch.manual_seed(0)
    model = build_model("test_resnet", Task(kind="binary", labels=LABELS), size_px=48, colour="grey")
    with torch.no_grad():
        model.module.get_classifier().weight.fill_(3e38)
    error = refused(capsys, study, save_model(model, tmp_path / "nan"), tmp_path / "s")
    assert "gives logits that are not finite" in error
    with torch.no_grad():
        model.module.get_classifier().weight[0, 0] = float("nan")
    error = refused(capsys, study, save_model(model, tmp_path / "weights"), tmp_path / "s")
    assert "which is not finite in 1 of 192 values" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss", "kld=1"), "no distillation loss is called 'kld'; choose of kl, "),
        (("--loss", "kl=heavy"), "--loss kl is 'heavy'; give a number"),
        (("--loss", "kl=1", "--loss", "kl=2"), "names 'kl' twice"),
        (("--loss", "sigmoid=1"), "does not fit a binary task"),
        (("--loss", "token-hard=1"), "needs the student's 'token'"),
        (("--teacher-weight", "2"), "--teacher-weight is 2; it must be 0 to 1"),
        (("--temperature", "0"), "--temperature is 0; it must be above 0"),
        (("--label-weight-column", "quality"), "no column 'quality'"),
        (("--label-loss", "hinge"), "--label-loss is 'hinge'; it must be cross-entropy, focal, class-balanced, "),
        (("--teacher-precision", "fp64"), "'fp64'"),
        (("--max-latency", "10ms"), "--student auto"),
        (("--teacher-labels", "a,b", "--teacher-labels", "a,b"), "--teacher-labels is given 2 times for 1 teachers"),
    ],
)
def test_bad_options(capsys, study, teacher, tmp_path, options, message):
    assert message in refused(capsys, study, teacher, tmp_path / "s", *options)


def test_a_student_that_does_not_exist(capsys, study, teacher, tmp_path):
    error = refused(capsys, study, teacher, tmp_path / "s", "--student", "resnet18z")
    assert "resnet18" in error.replace("resnet18z", "")


def test_the_output_may_not_replace_what_it_learns_from(capsys, study, teacher):
    code, _, error = distil(capsys, study, teacher, teacher)
    assert code == 2
    assert "would replace it" in error


def test_two_processes_distil_one_student(capsys, study, teacher, tmp_path):
    """``torchrun`` runs the command unchanged; the loss follows that of one process with the same global batch."""
    more = ("--student", "test_vit", "--no-unlabelled")
    code, _, alone = distil(capsys, study, teacher, tmp_path / "one", *more)
    assert code == 0, alone
    command = ["distill", str(teacher), "--study", str(study), *SHORT, *more, "--out", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "medfm_compress", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    curves = {}
    for name, told in {"one": alone, "two": done.stderr}.items():
        lines = [line for line in told.splitlines() if line.startswith("epoch")]
        assert len(lines) == 2, told  # one process speaks
        curves[name] = [float(line.split("loss ")[1].split()[0]) for line in lines]
        assert load_model(tmp_path / name).name == "test_vit"
    np.testing.assert_allclose(curves["two"], curves["one"], rtol=2e-3)
