"""Pre-training: it learns without labels, resumes to the same bits, touches no test case; its backbone is a start."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import msgspec
import pytest
import torch

from medfm_compress import steps
from medfm_compress.compress.distillation.distill import distill
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.networks.backbone import CARD, WEIGHTS, find_start
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.networks.model import classifier_names, read_state_dict, save_model
from medfm_compress.compress.pretrain.images import choose_images, hold_out
from medfm_compress.compress.pretrain.pretrain import pretrain
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import task_of
from medfm_compress.compress.training.finetune import finetune
from medfm_compress.data.study import Case
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.task import Task
from medfm_compress.step_settings import PretrainStep

FAST = TrainingConfig(epochs=2, batch_size=12, learning_rate=3e-3, ema=0.8, patience=0, precision="fp32", device="cpu")
ONE = msgspec.structs.replace(FAST, epochs=1)
TASK = Task(kind="binary", labels=("absent", "present"))


def start(name="test_vit", size=64, **options):
    torch.manual_seed(0)
    return build_model(name, TASK, size_px=size, colour="grey", **options)


def silent(_):
    pass


class Interrupted(Exception):
    """Stands for a killed process."""


def same(single, other):
    return single.keys() == other.keys() and all(torch.equal(single[name], other[name]) for name in single)


def without_labels(study, splits=("train", "unlabelled")):
    cases = tuple(msgspec.structs.replace(case, target=()) for case in study.cases if case.split in splits)
    return msgspec.structs.replace(study, labels=(), cases=cases)


@pytest.fixture(scope="module")
def backbone(discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("backbone")
    model = dataclasses.replace(start("test_resnet"), licence="CC0-1.0", intended_use="research")
    pretrain((discs,), model, ONE, out, silent)
    return out


@pytest.mark.parametrize(("name", "method"), [("test_vit", "mae"), ("test_resnet", "simmim")])
def test_it_learns_and_records_what_it_did(discs, tmp_path, name, method):
    done = pretrain((discs,), start(name), msgspec.structs.replace(FAST, epochs=4), tmp_path, lines := [].append)
    lines = lines.__self__
    scores = [float(line.split("negated val loss ")[1][:7]) for line in lines if line.startswith("epoch")]
    assert len(scores) == 4
    assert max(scores) > scores[0] + 0.02
    assert done.card.score == pytest.approx(max(scores), abs=1e-3)
    assert (done.card.images, done.card.masking.method) == (48, method)
    assert f"pre-trained {name}: {method}" in done.card.provenance.steps[-1]
    assert find_start(tmp_path).card == done.card


@pytest.mark.parametrize(("name", "method"), [("test_vit", "mae"), ("test_resnet", "simmim")])
def test_an_interrupted_run_ends_with_the_same_bits(discs, tmp_path, name, method):
    masking = Masking(method=method)
    whole = pretrain((discs,), start(name), FAST, tmp_path / "whole", silent, masking)

    def stop_after_one(line):
        if line.startswith("epoch   1"):
            raise Interrupted

    with pytest.raises(Interrupted):
        pretrain((discs,), start(name), FAST, tmp_path / "cut", stop_after_one, masking)
    assert not (tmp_path / "cut" / CARD).exists()
    lines = []
    resumed = pretrain((discs,), start(name), FAST, tmp_path / "cut", lines.append, masking)
    assert any(line.startswith("resuming after epoch 1") for line in lines)
    assert resumed.card == whole.card  # its weights' digest among the rest
    other = []
    pretrain((discs,), start(name), FAST, tmp_path / "cut", other.append, Masking(method=method, ratio=0.5))
    assert not any("resuming" in line for line in other)


def test_only_the_backbone_is_saved_and_the_classifier_does_not_move_it(backbone):
    state = read_state_dict(backbone / WEIGHTS)
    own = start("test_resnet").module.state_dict()
    assert own.keys() - state.keys() == {"fc.weight", "fc.bias"}
    assert state.keys() <= own.keys()
    assert not torch.equal(state["conv1.0.weight"], own["conv1.0.weight"])


def test_no_test_image_is_read_and_labels_are_not_needed(discs, tmp_path):
    class Guarded:
        def read(self, image):
            assert not image.startswith("test"), "a test image was decoded in pre-training"
            return discs.source.read(image)

        def content_sha256(self, image):
            return discs.source.content_sha256(image)

    guarded = msgspec.structs.replace(discs, source=Guarded())
    with_labels = pretrain((guarded,), start(), ONE, tmp_path / "with", silent)
    bare = without_labels(guarded, ("train", "val", "test"))
    without = pretrain((bare,), start(), ONE, tmp_path / "without", silent)
    assert without.card.weights_sha256 == with_labels.card.weights_sha256


def test_which_images_are_learned_from(discs):
    chosen = choose_images((discs,))
    assert {case.split for case in chosen.training[0][1]} == {"train"}
    assert [case.split for case in chosen.validation[0][1]] == ["val"] * 24
    hidden = tuple(
        msgspec.structs.replace(case, split="unlabelled", target=()) if case.split == "val" else case
        for case in discs.cases
    )
    other = msgspec.structs.replace(discs, cases=hidden)
    chosen = choose_images((discs, other))
    assert [len(cases) for _, cases in chosen.training] == [48, 72]
    assert {case.split for _, cases in chosen.training for case in cases} == {"train", "unlabelled"}
    chosen = choose_images((other,))  # no val: a tenth is held out
    assert [len(cases) for _, cases in (*chosen.training, *chosen.validation)] == [64, 8]
    assert not {c.image for c in chosen.training[0][1]} & {c.image for c in chosen.validation[0][1]}


def test_images_are_held_out_by_patient(discs):
    def cases(patients, entry):
        return tuple(
            Case(image=f"{p}-{n}", split="train", patient=f"p{p}") for p in range(patients) for n in range(entry)
        )

    kept, held = hold_out(discs, cases(20, 5))
    assert (len(kept), len(held)) == (90, 10)
    assert not {case.patient for case in kept} & {case.patient for case in held}
    kept, held = hold_out(discs, cases(1, 20))  # one patient: single images
    assert (len(kept), len(held)) == (18, 2)
    kept, held = hold_out(discs, cases(2, 1))
    assert (len(kept), len(held)) == (1, 1)
    with pytest.raises(StudyError, match="a single image"):
        hold_out(discs, cases(1, 1))


def test_more_studies_add_their_images(discs, tmp_path):
    more = without_labels(discs)
    lines = []
    done = pretrain((discs, more), start(), ONE, tmp_path, lines.append)
    assert done.card.images == 96
    assert "mae on 96 images, 24 to check them by" in lines


def test_a_study_without_images_to_learn_from_is_refused(discs, tmp_path):
    cases = tuple(case for case in discs.cases if case.split in ("val", "test"))
    only = msgspec.structs.replace(discs, cases=cases)
    with pytest.raises(
        StudyError, match=r"no image in split 'train' or 'unlabelled' to learn from; its splits: test, val"
    ):
        pretrain((only,), start(), ONE, tmp_path, silent)
    with pytest.raises(StudyError, match="no image in split"):
        pretrain((discs, only), start(), ONE, tmp_path, silent)
    with pytest.raises(InputError, match="at least one epoch"):
        pretrain((discs,), start(), msgspec.structs.replace(FAST, epochs=0), tmp_path, silent)
    assert not (tmp_path / CARD).exists()


def test_finetuning_and_distillation_start_from_it(backbone, discs, tmp_path):
    task = task_of(discs)
    for place in (backbone, backbone / WEIGHTS):
        model = build_model("test_resnet", task, size_px=48, colour="grey", weights=place)
        assert torch.equal(
            model.module.state_dict()["conv1.0.weight"], read_state_dict(backbone / WEIGHTS)["conv1.0.weight"]
        )
    assert (model.licence, model.intended_use) == ("CC0-1.0", "research")
    teacher = finetune(discs, model, ONE, tmp_path / "teacher", silent)
    assert [step.partition(" ")[0] for step in teacher.provenance.steps] == ["pre-trained", "fine-tuned"]
    fresh = build_model("test_resnet", task, size_px=48, colour="grey", weights=backbone)
    student = distill((discs,), ModuleTeacher(teacher), fresh, ONE, tmp_path / "s", silent, Distillation(views=1))
    assert [step.partition(" ")[0] for step in student.provenance.steps] == ["pre-trained", "fine-tuned", "distilled"]


def test_pretraining_goes_on_from_a_backbone(backbone, discs, tmp_path):
    again = pretrain((discs,), start("test_resnet", weights=backbone), ONE, tmp_path, silent)
    assert [step.partition(":")[0] for step in again.card.provenance.steps] == ["pre-trained test_resnet"] * 2
    assert again.card.score > find_start(backbone).card.score
    assert again.card.licence == "CC0-1.0"


def test_a_backbone_that_does_not_fit_is_refused(backbone, discs, tmp_path):
    with pytest.raises(ModelError, match="pre-trained on grey images; give --colour grey"):
        build_model("test_resnet", TASK, size_px=64, colour="rgb", weights=backbone)
    with pytest.raises(ModelError, match="does not fit the architecture"):
        build_model("resnet10t", TASK, size_px=64, colour="grey", weights=backbone)
    pretrain((discs,), start(), ONE, tmp_path / "vit", silent)
    with pytest.raises(ModelError, match="at 64 px, and its architecture fixes the size; give --image-size 64"):
        start(size=96, weights=tmp_path / "vit")
    folder = save_model(start(), tmp_path / "model")
    with pytest.raises(ModelError, match="is a model folder; give its weights"):
        start(weights=folder)
    with pytest.raises(ModelError, match=f"it has no {CARD}"):
        start(weights=tmp_path)
    (tmp_path / "vit" / WEIGHTS).write_bytes((backbone / WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match="is not the file that"):
        start(weights=tmp_path / "vit")


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("test_convnext", ("head.fc.",)),
        ("mobilenetv3_small_050", ("classifier.",)),
        ("deit_tiny_distilled_patch16_224", ("head.", "head_dist.")),
        ("repvit_m0_9", ("head.head.l.", "head.head_dist.l.")),
    ],
)
def test_a_network_knows_its_classifier(name, prefixes, tmp_path):
    model = start(name)
    assert classifier_names(model.module) == prefixes
    state = {k: v for k, v in model.module.state_dict().items() if not k.startswith(prefixes)}
    assert len(state) < len(model.module.state_dict())
    torch.save(state, tmp_path / "w.pth")
    loaded = start(name, weights=tmp_path / "w.pth").module.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())
    gone = next(k for k in state if "norm" in k or "bn" in k or "weight" in k)
    torch.save({k: v for k, v in state.items() if k != gone}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="1 tensors differ"):
        start(name, weights=tmp_path / "w.pth")


@pytest.mark.slow
def test_two_processes_follow_one(discs_path, tmp_path):
    step = PretrainStep(model="test_vit", image_size=64, training=FAST)
    alone = steps.pretrain(discs_path, step, silent, tmp_path / "one").card
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "medfm_compress", "pretrain", "test_vit", "--study", str(discs_path), "--image-size", "64"]
    command += ["--epochs", "2", "--batch-size", "12", "--learning-rate", "3e-3", "--ema", "0.8", "--device", "cpu"]
    command += ["--precision", "fp32", "--json", "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"] == pytest.approx(alone.score, rel=1e-3)  # the first one alone speaks
    assert find_start(tmp_path / "two").card.images == alone.images == 48
