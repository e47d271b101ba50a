"""Throughput of distillation: ours against a plain PyTorch loop and timm's own distillation task, interleaved.

python experiments/distillation_speed.py TEACHER STUDY.csv STUDENT OUT.json [ROUNDS] [CASES]

Every model trains the same student (a timm name) on the same views of the same images with the same batch size and
optimizer, on one core. What differs is where the teacher's logits come from, and what the loop around it costs:

==============  =====================================================================================
``ours``        the engine of ``distill`` on cached answers, with its moving average and its thread
``plain-kept``  a loop of ten lines on logits that lie in memory: the least that a training step costs
``plain``       the same loop with the teacher asked in every step, as tutorials do it
``timm``        the same loop around ``timm.task.LogitDistillationTask``, which also asks in every step
==============  =====================================================================================
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.compress.distillation.distill import StudentLearner, extras_of
from medfm_compress.compress.distillation.training_cases import TrainingCases, Weighing, gather_training_cases
from medfm_compress.compress.losses.registry import Setting, make_label_term, make_term
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.teacher_outputs.collect import OutputRequest, collect_outputs
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.output_cache import OutputCache, ViewPlan
from medfm_compress.compress.training.augment import CycledViews, apply_view, augmentation_for, draw_view
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_images
from medfm_compress.compress.training.job import Job, gather
from medfm_compress.compress.training.loop import train
from medfm_compress.compress.training.prefetch import plan_epoch
from medfm_compress.data.open import open_study
from medfm_compress.runtime.atomic_write import write_atomically

BATCH, TEMPERATURE, TEACHER_WEIGHT, VIEWS, RATE = 32, 3.0, 0.8, 2, 1e-3
MODALITY = "histology"


class Setup(NamedTuple):
    """What all models share."""

    teacher: Model
    student: str
    training_cases: TrainingCases
    images: Any
    store: OutputCache
    asking_s: float

    def fresh(self) -> Model:
        """The student as it starts."""
        torch.manual_seed(0)
        spec = self.teacher.spec
        model = build_model(self.student, self.teacher.task, size_px=spec.height_px, colour=spec.colour, spec=spec)
        model.module.to(memory_format=torch.channels_last)
        return model

    def steps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Index and normalised, augmented images of an epoch's batches, as the engine deals them."""
        view = draw_view(self.store.plan.augmentation, len(self.images), self.store.plan.seeds[0])
        mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (self.teacher.spec.mean, self.teacher.spec.std))
        for (index,) in plan_epoch(len(self.images), BATCH, 0, 0, 0).steps:
            images = torch.from_numpy(gather(self.images, index.numpy()))
            normalised = (apply_view(images, view, index) - mean) / std
            yield index, normalised.contiguous(memory_format=torch.channels_last)


def set_up(teacher: Path, study: Path, student: str, cases: int, folder: Path) -> Setup:
    """Prepare the images and ask the teacher, which is timed by itself."""
    model, opened = load_model(teacher), open_study(study)
    training_cases = first_cases(gather_training_cases(opened, Weighing(TEACHER_WEIGHT), unlabelled=True), cases)
    images = load_images(training_cases.groups, model.spec, folder / "cache", print_line)
    plan = ViewPlan(augmentation=augmentation_for(MODALITY), seeds=tuple(range(VIEWS)))
    start = time.perf_counter()
    request = OutputRequest(images, training_cases.groups, plan, precision="fp32")
    store = collect_outputs(ModuleTeacher(model), request, folder / "teacher-outputs", print_line)
    return Setup(model, student, training_cases, images, store, time.perf_counter() - start)


def first_cases(training_cases: TrainingCases, cases: int) -> TrainingCases:
    """The first ``cases`` of the first study."""
    study, chosen = training_cases.groups[0]
    return TrainingCases(
        groups=((study, chosen[:cases]),),
        targets=training_cases.targets[:cases],
        label_weight=training_cases.label_weight[:cases],
        teacher_weight=training_cases.teacher_weight[:cases],
    )


def ours(setup: Setup) -> float:
    """Seconds of one epoch of the engine."""
    return engine_epoch(setup)["seconds"]


def engine_epoch(setup: Setup) -> dict[str, float]:
    """The engine's own row of one epoch: its seconds, and for which share of them no batch was ready."""
    model = setup.fresh()
    task, training_cases, plan = setup.teacher.task, setup.training_cases, setup.store.plan
    label_term = make_label_term(
        "cross-entropy", training_cases.targets[training_cases.has_label], task, balanced=False
    )
    terms = {"kl": (1.0, make_term("kl", Setting(TEMPERATURE, task)))}
    job = Job(
        learner=StudentLearner(model.module, terms, label_term),
        network=model.module,
        images=setup.images,
        views=CycledViews(plan.augmentation, len(setup.images), lambda epoch: plan.seeds[0]),
        mean=model.spec.mean,
        std=model.spec.std,
        extras=extras_of(training_cases, lambda cases: training_cases.targets[cases].clamp(min=0), setup.store, ()),
        score=lambda network: 0.0,
    )
    config = TrainingConfig(epochs=1, batch_size=BATCH, learning_rate=RATE, patience=0, precision="fp32", device="cpu")
    return train(job, config, lambda line: None).history[0]


def plain_kept(setup: Setup) -> float:
    """Seconds of one epoch of a plain loop on kept logits."""
    every = setup.store.lookup(0, torch.arange(len(setup.images))).logits
    return looped(setup, lambda index, images: every[index])


def plain(setup: Setup) -> float:
    """Seconds of one epoch of a plain loop that asks the teacher."""
    network = nn.Module.eval(setup.teacher.module)

    def ask(index: Tensor, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(images)
        return logits.clone()

    return looped(setup, ask)


def looped(setup: Setup, trains: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Seconds of one epoch of the plain loop."""
    network = setup.fresh().module.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    training_cases = setup.training_cases
    start = time.perf_counter()
    for index, images in setup.steps():
        requested, logits = trains(index, images), network(images)
        soft = functional.kl_div(
            functional.log_softmax(logits / TEMPERATURE, 1),
            functional.log_softmax(requested / TEMPERATURE, 1),
            reduction="none",
            log_target=True,
        ).sum(1)
        hard = functional.cross_entropy(logits, training_cases.targets[index, 0].clamp(min=0), reduction="none")
        weights = training_cases.teacher_weight[index], training_cases.label_weight[index]
        loss = (weights[0] * soft * TEMPERATURE**2 + weights[1] * hard).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - start


def timm_task(setup: Setup) -> float:
    """Seconds of one epoch of the plain loop around timm's task."""
    from timm.task import LogitDistillationTask

    network = setup.fresh().module.train()
    task = LogitDistillationTask(
        student_model=network,
        teacher_model=setup.teacher.module,
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=1 - TEACHER_WEIGHT,
        temperature=TEMPERATURE,
        device=torch.device("cpu"),
        verbose=False,
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    targets = setup.training_cases.targets[:, 0].clamp(min=0)
    start = time.perf_counter()
    for index, images in setup.steps():
        loss = task(images, targets[index])["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - start


CONTENDERS: dict[str, Callable[[Setup], float]] = {
    "ours": ours,
    "plain-kept": plain_kept,
    "plain": plain,
    "timm": timm_task,
}


def print_line(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(line + "\n")


def main(teacher: str, study: str, student: str, out: str, rounds: str = "7", cases: str = "640") -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        setup = set_up(Path(teacher), Path(study), student, int(cases), Path(scratch))
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for number in range(int(rounds) + 1):
            for name, run in CONTENDERS.items():
                took = run(setup)
                if number:  # the first round warms up
                    seconds[name].append(took)
                print_line(f"round {number} {name}: {took:.2f} s")
        waited = engine_epoch(setup)["waited"]
    ratios = {name: [a / b for a, b in zip(took, seconds["ours"], strict=True)] for name, took in seconds.items()}
    result = {
        "machine": msgspec.to_builtins(describe_machine()),
        "student": student,
        "cases": len(setup.images),
        "views": VIEWS,
        "asking_s": setup.asking_s,
        "waited": waited,
        "seconds": seconds,
    }
    write_atomically(Path(out), msgspec.json.format(msgspec.json.encode(result)))
    for name, times in seconds.items():
        low, middle, high = np.percentile(ratios[name], (0, 50, 100))
        rate = len(setup.images) / statistics.median(times)
        sys.stdout.write(f"{name:11} {rate:7.1f} images/s, {middle:.2f} [{low:.2f}, {high:.2f}] times our time\n")
    sys.stdout.write(f"asking the teacher for {VIEWS} views, once: {setup.asking_s:.1f} s; no batch was ready for ")
    sys.stdout.write(f"{waited:.1%} of our time\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
