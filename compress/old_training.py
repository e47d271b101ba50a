"""The training loop that fine-tuning, distillation and recovery after pruning share.

AdamW, linear warm-up then cosine, exponential moving average of the weights, bf16 autocast where the processor has it,
early stopping on the mean validation AUROC, a checkpoint after every epoch from which a killed run goes on.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.compress.augment import Augmentation, View, apply_view, draw_view
from medfm_compress.compress.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medfm_compress.compress.training.device import autocast, best_device, best_precision
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

Progress = Callable[[str], None]
Loss = Callable[[Tensor, Tensor, int], Tensor]
"""(logits ``[b, labels]``, case index ``[b]``, epoch) → scalar."""


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train.

    Attributes:
        epochs: 0 packages the weights as they are.
        batch_size: cases a step.
        learning_rate: peak of the schedule.
        weight_decay: of AdamW, on matrices and filters only.
        warmup: fraction of all steps.
        ema: decay of the moving average, ramped up over the first steps.
        patience: epochs without a better validation AUROC before it stops; 0 never stops early.
        freeze_backbone: train the classifier only.
        precision: ``auto`` is bf16 where the hardware has it.
        device: ``auto``, ``cpu`` or ``cuda``.
        modality: which augmentation is safe (see `augment`).
        seed: of weights' order, views and batches.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    ema: float = 0.995
    patience: int = 5
    freeze_backbone: bool = False
    precision: str = "auto"
    device: str = "auto"
    modality: str = "radiograph"
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (self.epochs, 0, 10_000),
            "batch_size": (self.batch_size, 1, 65_536),
            "learning_rate": (self.learning_rate, 1e-9, 10),
            "warmup": (self.warmup, 0, 1),
            "ema": (self.ema, 0, 1),
            "patience": (self.patience, 0, 10_000),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be {low} to {high}")


@dataclass(frozen=True)
class Examples:
    """Training or validation cases in memory.

    Attributes:
        images: ``[n, channels, height, width]`` float32 in [0, 1], before normalisation; may be memory-mapped.
        targets: ``[n, 1]`` or ``[n, labels]`` int64.
    """

    images: np.ndarray[Any, np.dtype[np.float32]]
    targets: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Job:
    """What is trained on what: the loop's whole input besides its config."""

    module: nn.Module
    spec: ImageSpec
    task: Task
    train: Examples
    val: Examples
    loss: Loss
    view: Callable[[int], View]
    """epoch → augmented view of the training cases."""
    checkpoint: Path | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Trained:
    """The best network seen, on the CPU in eval mode, and the course of training."""

    module: nn.Module
    best_auroc: float
    history: tuple[dict[str, float], ...]


def view_of(augmentation: Augmentation, cases: int, seed: int) -> Callable[[int], View]:
    """A fresh view each epoch."""
    return lambda epoch: draw_view(augmentation, cases, seed * 100_003 + epoch)


def train(job: Job, config: TrainingConfig, progress: Progress) -> Trained:
    """Train ``job.module`` in place and return its best moving average.

    Raises:
        InputError: fewer training cases than one batch needs, or a loss that is no longer finite.
    """
    device = best_device(config.device)
    precision = best_precision(config.precision, device)
    torch.manual_seed(config.seed)
    run = _Run(job, config, device, precision)
    run.resume(progress)
    while not run.finished:
        started = time.monotonic()
        loss = run.epoch(progress)
        score = validation_auroc(run.average, job, device, precision)
        run.record(loss, score, time.monotonic() - started)
        progress(run.line())
    return run.result()


class _Run:
    """State of one training run; everything a checkpoint must hold."""

    def __init__(self, job: Job, config: TrainingConfig, device: str, precision: str) -> None:
        self.job, self.config, self.device, self.precision = job, config, device, precision
        self.module = job.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.module).eval()
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.module, config), lr=config.learning_rate)
        self.steps = max(1, math.ceil(len(job.train.images) / config.batch_size))
        self.mean = torch.tensor(job.spec.mean, device=device).reshape(1, -1, 1, 1)
        self.std = torch.tensor(job.spec.std, device=device).reshape(1, -1, 1, 1)
        self.state = Checkpoint(best={k: v.clone() for k, v in self.average.state_dict().items()})

    @property
    def finished(self) -> bool:
        stale = len(self.state.history) - 1 - self.state.best_epoch
        stopped = self.config.patience > 0 and self.state.best_epoch >= 0 and stale >= self.config.patience
        return len(self.state.history) >= self.config.epochs or stopped

    def resume(self, progress: Progress) -> None:
        loaded = load_checkpoint(self.job.checkpoint, self.job.fingerprint)
        if loaded is None:
            return
        self.state = loaded
        self.module.load_state_dict(loaded.module)
        self.average.load_state_dict(loaded.average)
        self.optimizer.load_state_dict(loaded.optimizer)
        torch.set_rng_state(loaded.rng)
        progress(f"resuming after epoch {len(loaded.history)} of {self.config.epochs}")

    def epoch(self, progress: Progress) -> float:
        number = len(self.state.history)
        view = self.job.view(number)
        order = torch.randperm(len(self.job.train.images))
        nn.Module.train(self.module, not self.config.freeze_backbone)
        total, started, told = 0.0, time.monotonic(), time.monotonic()
        for step, index in enumerate(torch.split(order, self.config.batch_size)):
            if len(index) > 1:  # batch normalisation has no variance of one case
                total += self._step(number * self.steps + step, number, index, view)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                left = (told - started) / (step + 1) * (self.steps - step - 1)
                progress(f"  epoch {number + 1}: step {step + 1}/{self.steps}, {left:.0f} s left in it")
        mean = total / self.steps
        if not math.isfinite(mean):
            raise InputError(f"the loss became {mean} in epoch {number + 1}; lower --learning-rate or use fp32")
        return mean

    def _step(self, step: int, epoch: int, index: Tensor, view: View) -> float:
        rate = _schedule(step, self.config.epochs * self.steps, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        images = torch.from_numpy(self.job.train.images[index.numpy()]).to(self.device)
        images = (apply_view(images, view, index) - self.mean) / self.std
        with autocast(self.device, self.precision):
            logits = self.module(images.contiguous(memory_format=torch.channels_last))
        loss = self.job.loss(logits.float(), index, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        _average(self.average, self.module, min(self.config.ema, (1 + step) / (10 + step)))
        return float(loss.detach())

    def record(self, loss: float, score: float, seconds: float) -> None:
        number = len(self.state.history)
        row = {"epoch": number + 1.0, "loss": loss, "val_auroc": score, "seconds": seconds}
        self.state.history = (*self.state.history, row)
        if self.state.best_epoch < 0 or score > self.state.history[self.state.best_epoch]["val_auroc"]:
            self.state.best_epoch = number
            self.state.best = {k: v.detach().cpu().clone() for k, v in self.average.state_dict().items()}
        self.state.module, self.state.average = self.module.state_dict(), self.average.state_dict()
        self.state.optimizer, self.state.rng = self.optimizer.state_dict(), torch.get_rng_state()
        save_checkpoint(self.job.checkpoint, self.state, self.job.fingerprint)

    def line(self) -> str:
        row = self.state.history[-1]
        left = (self.config.epochs - len(self.state.history)) * row["seconds"]
        best = "*" if self.state.best_epoch == len(self.state.history) - 1 else " "
        return (
            f"epoch {int(row['epoch']):3d}/{self.config.epochs}  loss {row['loss']:.4f}  "
            f"val AUROC {row['val_auroc']:.4f}{best}  {row['seconds']:.0f} s, at most {left / 60:.0f} min left"
        )

    def result(self) -> Trained:
        module = self.average.cpu()
        module.load_state_dict(self.state.best)
        module = module.to(memory_format=torch.contiguous_format)
        best = self.state.history[self.state.best_epoch]["val_auroc"] if self.state.history else float("nan")
        return Trained(nn.Module.eval(module), best, self.state.history)


def logits_of(
    module: nn.Module,
    images: np.ndarray[Any, Any],
    spec: ImageSpec,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    view: View | None = None,
) -> Tensor:
    """Logits ``[n, labels]`` float32 on the CPU of prepared images ``[n, c, h, w]`` in [0, 1], optionally augmented."""
    mean = torch.tensor(spec.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(spec.std).reshape(1, -1, 1, 1)
    nn.Module.eval(module)
    outputs = []
    with torch.inference_mode(), autocast(device, precision):
        for index in torch.split(torch.arange(len(images)), 64):
            batch = torch.from_numpy(np.ascontiguousarray(images[index.numpy()]))
            batch = batch if view is None else apply_view(batch, view, index)
            batch = ((batch - mean) / std).to(device).contiguous(memory_format=torch.channels_last)
            outputs.append(module(batch).float().cpu())
    return torch.cat(outputs)


def validation_auroc(module: nn.Module, job: Job, device: str, precision: str) -> float:
    """Mean AUROC over findings on the validation cases."""
    logits = logits_of(module, job.val.images, job.spec, device=device, precision=precision).double()
    scores = torch.sigmoid(logits) if job.task.kind == "multilabel" else torch.softmax(logits, dim=1)
    if not torch.isfinite(scores).all():
        return 0.0
    truth = one_hot(job.val.targets, job.task)
    columns = range(len(job.task.labels) - len(job.task.findings), len(job.task.labels))
    return float(np.mean([auroc(scores[:, i].numpy(), truth[:, i]) for i in columns]))


def one_hot(targets: np.ndarray[Any, np.dtype[np.int64]], task: Task) -> np.ndarray[Any, np.dtype[np.int64]]:
    """0/1 ``[n, labels]`` of targets ``[n, 1]`` (index) or ``[n, labels]`` (already 0/1)."""
    if task.kind == "multilabel":
        return targets
    columns: np.ndarray[Any, np.dtype[np.int64]] = (targets == np.arange(len(task.labels))).astype(np.int64)
    return columns


def _parameter_groups(module: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters only; the classifier alone where the backbone is frozen."""
    classifier = set()
    if config.freeze_backbone:
        classifier = {id(p) for p in module.get_classifier().parameters()}  # type: ignore[operator]
    for parameter in module.parameters():
        parameter.requires_grad_(not config.freeze_backbone or id(parameter) in classifier)
    trained = [p for p in module.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    return [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then cosine to 1% of the peak; a factor in (0, 1]."""
    rising = max(1, int(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """``average ← decay · average + (1 − decay) · module``; integer buffers are copied."""
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
