"""A small job for the engine, also run in child processes: ``python engine_job.py CHECKPOINT OUT [DELAY_S]``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medfm_compress.compress.training.augment import CycledViews, augmentation_for
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.job import Job
from medfm_compress.compress.training.loop import train

CASES, SIZE = 40, 32
CONFIG = TrainingConfig(
    epochs=3, batch_size=8, learning_rate=3e-3, ema=0.9, patience=0, precision="fp32", device="cpu", warmup=0.1
)


class Learner(nn.Module):
    """Cross-entropy of a network; sleeps at each step so that a test can kill it in the middle of an epoch."""

    def __init__(self, network, delay_s=0.0):
        super().__init__()
        self.network, self.delay_s = network, delay_s

    def forward(self, batch):
        time.sleep(self.delay_s)
        return nn.functional.cross_entropy(self.network(batch.images), batch.extras["targets"])


def network(dropout=0.1):
    import timm

    torch.manual_seed(7)
    return timm.create_model("test_vit", img_size=SIZE, in_chans=1, num_classes=2, drop_rate=dropout)


def make_job(checkpoint=None, *, delay_s=0.0, dropout=0.1, module=None):
    rng = np.random.default_rng(0)
    targets = np.arange(CASES) % 2
    images = (rng.random((CASES, 1, SIZE, SIZE)) * 0.5 + targets.reshape(-1, 1, 1, 1) * 0.3).astype(np.float32)
    module = module or network(dropout)
    labels = torch.from_numpy(targets)

    def score(average):
        with torch.inference_mode():
            logits = average((torch.from_numpy(images) - 0.5) / 0.25)
        return -float(nn.functional.cross_entropy(logits, labels))

    return Job(
        learner=Learner(module, delay_s),
        network=module,
        images=images,
        views=CycledViews(augmentation_for("radiograph"), CASES, lambda epoch: epoch),
        mean=(0.5,),
        std=(0.25,),
        extras=lambda index, epoch: {"targets": labels[index]},
        score=score,
        checkpoint=checkpoint,
        fingerprint="job",
    )


if __name__ == "__main__":
    from msgspec.structs import replace

    torch.set_num_threads(1)
    checkpoint, out, delay_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    dropout = float(sys.argv[4])
    trained = train(
        make_job(checkpoint, delay_s=delay_s, dropout=dropout), replace(CONFIG, checkpoint_minutes=1e-9), print
    )
    rows = [{key: row[key] for key in ("loss", "score")} for row in trained.history]
    total = float(sum(p.double().abs().sum() for p in trained.network.parameters()))
    out.with_suffix(f".{__import__('os').environ.get('RANK', '0')}").write_text(json.dumps([rows, total]))
