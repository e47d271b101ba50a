"""What age and sex add to frozen features of dermoscopy images: heads of each fusion, trained on embeddings alone.

    python experiments/multimodal_heads.py OUT --study TABLE --columns FILE --weights FILE [--size PX] [--seeds N]

``TABLE`` and ``FILE`` are those of `multimodal.py`, ``--weights`` ImageNet weights of timm's tf_efficientnet_lite0,
which has seen none of the images. Its pooled embeddings are computed once; every arm of `ARMS` is then trained on them
by the product's own loop, with other seeds. ``OUT/heads.json`` receives the AUROC on the test images of every arm and
seed, and of the means over seeds paired differences to the image alone with their intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.paired_comparison import compare
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.compress.losses.registry import make_label_term
from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.fusion.network import FusionNetwork
from medfm_compress.compress.networks.fusion.table import fusion_head
from medfm_compress.compress.networks.inputs import with_columns
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import load_columns, task_of
from medfm_compress.compress.training.finetune import LabelLearner
from medfm_compress.compress.training.job import Job
from medfm_compress.compress.training.loop import train
from medfm_compress.compress.training.validation_score import mean_auroc
from medfm_compress.data.columns_file import load_columns as read_columns
from medfm_compress.data.open import open_study
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.progress import no_progress
from medfm_compress.runtime.strict_json import encode

ENCODER = "tf_efficientnet_lite0"
ARMS: dict[str, FusionMethod | None] = {
    "image alone": None,
    "columns alone": "concatenation",
    "concatenation": "concatenation",
    "film": "film",
}
Array = NDArray[np.floating]
_HIDDEN, _EPOCHS, _CHUNK = 32, 30, 32
_POLICY = Policy(non_inferiority=(NonInferiority(metric="auroc", margin=0.03),))


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm.

    Attributes:
        name: key of `ARMS`.
        test: AUROC of each seed.
        mean: of the mean logits over seeds, with its interval.
        difference: of that to the image alone, paired, with its interval.
    """

    name: str
    test: tuple[float, ...]
    mean: tuple[float, float, float]
    difference: tuple[float, float, float]


class Unchanged:
    """Views that change nothing: what is trained on are embeddings."""

    def apply(self, images: Tensor, epoch: int, index: Tensor) -> Tensor:
        """``images``."""
        return images

    def move(self, maps: Tensor, epoch: int, index: Tensor) -> Tensor:
        """``maps``."""
        return maps


def embeddings(study: Study, cases: dict[str, tuple[Case, ...]], options: argparse.Namespace) -> dict[str, Array]:
    """Split → ``[n, 1280, 1, 1]`` float32, kept in ``OUT/embeddings.npz``."""
    path = options.out / "embeddings.npz"
    if path.is_file():
        with np.load(path) as kept:
            return dict(kept)
    model = build_model(ENCODER, task_of(study), size_px=options.size, colour="rgb", weights=options.weights)
    model.module.reset_classifier(0)  # type: ignore[operator]
    rows = {}
    for split, chosen in cases.items():
        images = normalise(prepared_images(study, chosen, model.spec, None), model.spec)
        with torch.inference_mode():
            parts = [model.module(part) for part in torch.split(torch.from_numpy(images), _CHUNK)]
        rows[split] = torch.cat(parts).numpy()[:, :, None, None]
    np.savez(path, **rows)  # type: ignore[arg-type]
    return rows


class Trial:
    """Everything that the arms share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.study = open_study(options.study)
        self.cases = {name: tuple(c for c in self.study.split(name) if c.target) for name in ("train", "val", "test")}
        self.embedded = embeddings(self.study, self.cases, options)
        self.columns = read_columns(options.columns, self.study)
        self.values = {name: load_columns([(self.study, cases)], self.columns) for name, cases in self.cases.items()}
        self.task = task_of(self.study)

    def logits(self, name: str, seed: int) -> Array:
        """Of the test cases ``[n, labels]``, of the arm's head trained with ``seed``."""
        torch.manual_seed(seed)
        method, blind = ARMS[name], name == "columns alone"
        network, images = self._network(method), self._images("train", blind)
        columns = self.values["train"] if method else {}
        targets = torch.from_numpy(self.study.targets(self.cases["train"]))
        width = images.shape[1]
        mean, std = (
            (np.zeros(width), np.ones(width)) if blind else (images.mean((0, 2, 3)), images.std((0, 2, 3)) + 1e-6)
        )
        term = make_label_term("cross-entropy", targets, self.task, balanced=True)
        job = Job(
            learner=LabelLearner(network, term),
            network=network,
            images=images,
            views=Unchanged(),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            extras=lambda index, epoch: {"targets": targets[index]},
            columns=columns,
            score=lambda module: mean_auroc(
                self._answers(module, "val", blind, mean, std), self.study.targets(self.cases["val"]), self.task
            ),
        )
        config = TrainingConfig(epochs=_EPOCHS, patience=0, seed=seed, device="cpu", precision="fp32", modality="none")
        best = train(job, config, no_progress).network
        return self._answers(best, "test", blind, mean, std).numpy()

    def _images(self, split: str, blind: bool) -> Array:
        images = self.embedded[split].astype(np.float32)
        return np.zeros_like(images) if blind else images

    def _network(self, method: FusionMethod | None) -> nn.Module:
        width, labels = self.embedded["train"].shape[1], len(self.task.labels)
        if method is None:
            last = nn.Linear(width, labels)
            nn.init.zeros_(last.weight)
            return nn.Sequential(nn.Flatten(), last)
        widths = {column.name: column.width for column in self.columns}
        return FusionNetwork(nn.Flatten(), fusion_head(method, width, sum(widths.values()), labels, _HIDDEN), widths)

    def _answers(self, module: nn.Module, split: str, blind: bool, mean: Array, std: Array) -> Tensor:
        images = (self._images(split, blind) - mean[:, None, None]) / std[:, None, None]
        columns = self.values[split] if isinstance(module, FusionNetwork) else {}
        with torch.inference_mode():
            logits: Tensor = module.eval()(with_columns(torch.from_numpy(images.astype(np.float32)), columns))
        return logits


def main() -> None:
    """Train every arm with every seed, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--columns", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    trial = Trial(options)
    cases, truth = trial.cases["test"], trial.study.targets(trial.cases["test"])
    arms, tables = [], {}
    for name in ARMS:
        runs = [trial.logits(name, seed) for seed in range(options.seeds)]
        areas = [mean_auroc(torch.from_numpy(run), truth, trial.task) for run in runs]
        tables[name] = tabulate(np.mean(runs, 0), trial.study, cases, trial.task, name=name)
        area = [c for c in compare(tables["image alone"], tables[name], _POLICY) if c.metric == "auroc"][-1]
        ends = [(i.estimate, i.low, i.high) for i in (area.bundle, area.difference)]
        arms.append(Arm(name=name, test=tuple(areas), mean=ends[0], difference=ends[1]))
        print(arms[-1], flush=True)  # noqa: T201
    write_atomically(options.out / "heads.json", encode(arms))


if __name__ == "__main__":
    main()
