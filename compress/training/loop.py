"""The training loop: AdamW, warm-up and cosine, moving average, early stopping, exact resume, one process or many.

What a step does is a function of seed and step alone (order, views, dropout), so a run that was killed and goes on
from its checkpoint gives the weights of one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.heads import backbone_names, classifier_names
from medfm_compress.compress.training import distributed as processes
from medfm_compress.compress.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import share_processors
from medfm_compress.compress.training.ema import ExponentialMovingAverage, decay_at
from medfm_compress.compress.training.job import Batch, Job, Trained
from medfm_compress.compress.training.prefetch import Prefetcher, Raw, plan_epoch
from medfm_compress.compress.training.schedule import rate
from medfm_compress.compress.training.tensorboard import TensorBoardLog
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress, Tick, no_progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TELL_EVERY_S = 1.0
_CLIP = 1.0
_PATIENCE_S = 0.5  # a command that only looks whether somebody trains here holds the lock for a moment


def train(job: Job, config: TrainingConfig, progress: Progress) -> Trained:
    """Train ``job.learner`` in place and return the best moving average of ``job.network``.

    Raises:
        InputError: fewer training cases than a step needs, a loss that is no longer finite, a device whose memory does
            not suffice, or another training that writes the same checkpoint.
    """
    fabric = processes.start(config)
    told_at = progress if processes.is_first() else no_progress
    share_processors(fabric.device.type, told_at)
    with _alone(job.checkpoint):
        run = _Run(job, config, fabric, told_at)
        run.resume()
        try:
            while not run.finished:
                run.epoch()
        except torch.OutOfMemoryError:
            raise _out_of_memory(job, config) from None
        finally:
            run.log.close()
        return run.result()


@contextmanager
def _alone(checkpoint: Path | None) -> Iterator[None]:
    """No second training writes ``checkpoint`` meanwhile: each would go on from what the other left."""
    if checkpoint is None or not processes.is_first():
        yield
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(checkpoint.with_suffix(".lock"), _PATIENCE_S, "trains in"):
        yield


class _Run:
    """One training run; ``state`` is everything that a checkpoint must hold."""

    def __init__(self, job: Job, config: TrainingConfig, fabric: Fabric, progress: Progress) -> None:
        self.job, self.config, self.fabric, self.progress = job, config, fabric, progress
        self.network = job.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        optimizer = torch.optim.AdamW(_parameter_groups(job, config), lr=config.learning_rate)
        if config.compile:
            job.learner.compile()  # in place: names of the weights stay
        self.learner, self.optimizer = fabric.setup(job.learner, optimizer)
        self.mean = torch.tensor(job.mean, device=fabric.device).reshape(1, -1, 1, 1)
        self.std = torch.tensor(job.std, device=fabric.device).reshape(1, -1, 1, 1)
        self.averaging = ExponentialMovingAverage(self.average, self.network)
        self.state = Checkpoint(best={k: v.clone() for k, v in self.average.state_dict().items()})
        self.log = TensorBoardLog(config.tensorboard)
        self.steps = len(self._plan(0).steps)
        if self.steps == 0 and config.epochs:
            raise InputError(f"{len(job.images)} training cases are too few for {processes.world_size()} processes")

    @property
    def finished(self) -> bool:
        stale = len(self.state.history) - 1 - self.state.best_epoch
        stopped = self.config.patience > 0 and self.state.best_epoch >= 0 and stale >= self.config.patience
        return len(self.state.history) >= self.config.epochs or stopped

    def _plan(self, epoch: int) -> Any:
        config, share = self.config, -(-self.config.batch_size // processes.world_size())
        micro = config.micro_batch if config.micro_batch < share else 0
        return plan_epoch(len(self.job.images), config.batch_size, micro, config.seed, epoch)

    def resume(self) -> None:
        loaded = load_checkpoint(self.job.checkpoint, self.job.fingerprint)
        if loaded is None:
            return
        self.state = loaded
        self.job.learner.load_state_dict(loaded.learner)
        self.average.load_state_dict(loaded.average)
        self.optimizer.load_state_dict(loaded.optimizer)
        within = f", {loaded.step} of {self.steps} steps into the next" if loaded.step else ""
        self.progress(f"resuming after epoch {len(loaded.history)} of {self.config.epochs}{within}")

    def epoch(self) -> None:
        """Train one epoch, or what a checkpoint left of it, and score the average."""
        number, plan = len(self.state.history), self._plan(len(self.state.history))
        nn.Module.train(self.learner, not self.config.freeze_backbone)
        first = self.state.step
        # A checkpoint holds the first process's sum; the others take it for their own, which only the log sees.
        loss_sum = torch.tensor(self.state.loss_sum, device=self.fabric.device)
        prefetcher = Prefetcher(self.job, plan, number, first, pin=self.fabric.device.type == "cuda")
        started = saved = told_at = time.monotonic()
        parts = iter(prefetcher)
        for step in range(first, len(plan.steps)):
            raws = [next(parts) for _ in plan.steps[step]]
            loss_sum = loss_sum + self._step(number * self.steps + step, number, raws, plan.sizes[step])
            self.state.step = step + 1
            now = time.monotonic()
            if now - told_at > _TELL_EVERY_S:
                told_at = now
                left = (now - started) / (step + 1 - first) * (len(plan.steps) - step - 1)
                self.progress(Tick(f"  epoch {number + 1}, steps", step + 1, len(plan.steps), left))
            if self.config.checkpoint_minutes and now - saved > 60 * self.config.checkpoint_minutes:
                saved = now
                self.state.loss_sum = float(loss_sum)
                self._save()
        mean = processes.total(float(loss_sum)) / max(1, sum(plan.sizes))
        if not math.isfinite(mean):
            raise InputError(f"the loss became {mean} in epoch {number + 1}; lower --learning-rate or use fp32")
        trained = time.monotonic() - started
        score = processes.agree(self.job.score(self.average) if processes.is_first() else 0.0)
        self._record(mean, score, time.monotonic() - started, prefetcher.waited / max(trained, 1e-9))

    def _step(self, step: int, epoch: int, raws: list[Raw], size: int) -> Tensor:
        """One optimizer step; returns the sum of this process's losses over its cases."""
        factor = rate(step, self.config.epochs * self.steps, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor * group["share"]
        torch.manual_seed((self.config.seed * 1_000_003 + step) * processes.world_size() + processes.rank())
        summed = torch.zeros((), device=self.fabric.device)
        for number, raw in enumerate(raws):
            with self.fabric.no_backward_sync(self.learner, enabled=number + 1 < len(raws)):
                loss = self.learner(self._on_device(raw, epoch))
                # DDP takes the mean over processes; what is wanted is the mean over the cases of all of them.
                self.fabric.backward(loss * (len(raw.cases) * processes.world_size() / size))
            summed += loss.detach() * len(raw.cases)
        self.fabric.clip_gradients(self.learner, self.optimizer, max_norm=_CLIP, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.averaging.update(decay_at(step, self.config.ema))
        if self.log.open and step % 10 == 0:
            mine = sum(len(raw.cases) for raw in raws)
            self.log.note(step, {"loss/step": float(summed) / mine, "rate": factor})
        return summed

    def _on_device(self, raw: Raw, epoch: int) -> Batch:
        device = self.fabric.device
        images = raw.images.to(device, non_blocking=True)
        extras = {name: tensor.to(device, non_blocking=True) for name, tensor in raw.extras.items()}
        for name in self.job.moving:
            extras[name] = self.job.views.move(extras[name], epoch, raw.cases)
        images = (self.job.views.apply(images, epoch, raw.cases) - self.mean) / self.std
        columns = {name: rows[raw.cases].to(device) for name, rows in self.job.columns.items()}
        return Batch(images.contiguous(memory_format=torch.channels_last), raw.cases, epoch, extras, columns)

    def _record(self, loss: float, score: float, seconds: float, waited: float) -> None:
        number, state = len(self.state.history), self.state
        row = {"epoch": number + 1.0, "loss": loss, "score": score, "seconds": seconds, "waited": waited}
        state.history = (*state.history, row)
        state.step, state.loss_sum = 0, 0.0
        if state.best_epoch < 0 or score > state.history[state.best_epoch]["score"]:
            state.best_epoch = number
            state.best = {k: v.detach().cpu().clone() for k, v in self.average.state_dict().items()}
        self.log.note((number + 1) * self.steps, {"loss/epoch": loss, self.job.score_name: score, "waited": waited})
        self._save()
        self.progress(self._line(row, best=state.best_epoch == number))

    def _save(self) -> None:
        if processes.is_first():
            self.state.learner, self.state.average = self.job.learner.state_dict(), self.average.state_dict()
            self.state.optimizer = self.optimizer.state_dict()
            save_checkpoint(self.job.checkpoint, self.state, self.job.fingerprint)

    def _line(self, row: dict[str, float], *, best: bool) -> str:
        left = (self.config.epochs - len(self.state.history)) * row["seconds"]
        starved = f", device waited {row['waited']:.0%}" if row["waited"] > 0.1 else ""
        return (
            f"epoch {int(row['epoch']):3d}/{self.config.epochs}  loss {row['loss']:.4f}  "
            f"{self.job.score_name} {row['score']:.4f}{'*' if best else ' '}  {row['seconds']:.0f} s{starved}, "
            f"at most {_duration(left)} left"
        )

    def result(self) -> Trained:
        network = self.average.cpu()
        network.load_state_dict(self.state.best)
        network = network.to(memory_format=torch.contiguous_format)
        best = self.state.history[self.state.best_epoch]["score"] if self.state.history else float("nan")
        return Trained(nn.Module.eval(network), best, self.state.history)


def _duration(seconds: float) -> str:
    """``seconds`` as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _parameter_groups(job: Job, config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters only; all but the classifier at its share of the rate, or frozen."""
    share = 1.0 if config.backbone_rate is None else config.backbone_rate
    backbone = _backbone(job.network) if config.freeze_backbone or share < 1 else set()
    if config.freeze_backbone:
        for parameter in job.network.parameters():
            parameter.requires_grad_(id(parameter) not in backbone)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in job.learner.parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((decay, share if id(parameter) in backbone else 1.0), []).append(parameter)
    return [{"params": group, "weight_decay": decay, "share": share} for (decay, share), group in groups.items()]


def _backbone(network: nn.Module) -> set[int]:
    """Identities of a network's parameters outside its classifier."""
    names = backbone_names(network)
    backbone = {id(p) for name, p in network.named_parameters() if name in names}
    if len(backbone) == sum(1 for _ in network.parameters()):
        raise InputError(
            f"no classifier was found under {', '.join(classifier_names(network))}; give --backbone-rate 1 and train "
            "the whole"
        )
    return backbone


def _out_of_memory(job: Job, config: TrainingConfig) -> InputError:
    share = -(-config.batch_size // processes.world_size())
    micro = min(config.micro_batch or share, share)
    return InputError(
        f"the GPU ran out of memory with {micro} images of {tuple(job.images.shape[1:])} at once; give --micro-batch "
        f"{max(1, micro // 2)} (same result, in smaller parts), --precision bf16, or a smaller --image-size"
    )
