"""Fit a scorer on the embeddings of normal training cases, and put it behind its encoder: an anomaly model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.anomaly.coreset import MOST_CANDIDATES, greedy_coreset
from medfm_compress.compress.anomaly.nearest_cases import forget_nearest_cases, save_nearest_cases
from medfm_compress.compress.anomaly.open_encoder import OpenedEncoder
from medfm_compress.compress.anomaly.options import AnomalyFit
from medfm_compress.compress.anomaly.principal import project_on_principal_components
from medfm_compress.compress.anomaly.shrinkage import shrunk_covariance, whitening
from medfm_compress.compress.networks.anomaly_networks import (
    AnomalyNetwork,
    ScorerPlan,
    architecture_of,
    create_scorer,
)
from medfm_compress.compress.networks.encoder import Encoder, shortened
from medfm_compress.compress.networks.model import Model, Origin, save_model
from medfm_compress.compress.networks.scorers.mahalanobis import Mahalanobis
from medfm_compress.compress.networks.scorers.memory import Memory, row_bytes
from medfm_compress.compress.training.dataset import load_images
from medfm_compress.compress.training.job import Images
from medfm_compress.compress.training.validation_score import logits_in_batches
from medfm_compress.data.fingerprint import content_hashes, study_fingerprint
from medfm_compress.data.normal_labels import normal_cases
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress

FEWEST = 8
"""Normal cases of train, and of val, that something is told from."""
USUAL_LENGTH = 64
"""Of an encoder that is not distilled."""
_UNUSUAL = 0.95  # quantile of normal scores that becomes 1, the median being 0
_BATCH = 32


@dataclass(frozen=True)
class _Fitting:
    """What scorers are fitted on.

    Attributes:
        encoder: of the length that is used.
        plan: of the network.
        images: of normal training cases, prepared.
        spec: of the images.
        options: see `AnomalyFit`.
        progress: told what is done.
    """

    encoder: Encoder
    plan: ScorerPlan
    images: Images
    spec: ImageSpec
    options: AnomalyFit
    progress: Progress


def fit_anomaly_model(study: Study, opened: OpenedEncoder, options: AnomalyFit, out: Path, progress: Progress) -> Model:
    """Fit a scorer on the normal cases of train, standardise its scores on those of val, save a model folder.

    Args:
        study: of anomalies; other cases than normal ones are not looked at.
        opened: the encoder.
        options: which scorer, and how large.
        out: model folder; ``out/training/cache`` keeps prepared images.
        progress: told what is done.

    Raises:
        StudyError: no normal labels, or fewer normal cases of train or val than `FEWEST`.
        ModelError: an embedding that is longer than the encoder's.
        InputError: a memory that cannot be kept within its budget, or scores that are the same for all normal cases.
    """
    train, val = _normal_cases(study, "train"), _normal_cases(study, "val")
    cache = out / "training" / "cache"
    images = load_images([(study, train)], opened.spec, cache, progress)
    encoder, plan, line = _encoder(opened, options, images, progress)
    fitting = _Fitting(encoder, plan, images, opened.spec, options, progress)
    scorer, plan, fitted = _FITS[options.scorer](fitting)
    network = AnomalyNetwork(encoder, scorer).eval()
    median, spread = _standardise(network, load_images([(study, val)], opened.spec, cache, progress), opened.spec)
    steps = (
        *([line] if line else []),
        f"fitted {options.scorer} on {len(train)} normal cases of {opened.name}, {plan.encoder.width} numbers: "
        f"{fitted}; "
        f"scores of {len(val)} normal validation cases have median {median:.4g}, and {spread:.4g} more at their 95th "
        "percentile",
    )
    if line:
        progress(line)
    model = Model(
        name=f"{opened.name}-{options.scorer}-{plan.encoder.width}",
        module=network,
        spec=opened.spec,
        task=study.task,
        architecture=architecture_of(options.scorer, plan),
        licence=opened.licence,
        intended_use=opened.intended_use,
        provenance=Origin(
            teacher=opened.provenance.teacher,
            study_fingerprint=study_fingerprint(study),
            steps=(*opened.provenance.steps, *steps),
        ),
    )
    forget_nearest_cases(out)
    save_model(model, out)
    if "nearest" in network.output_names:
        hashes = content_hashes(study.source, [case.image for case in train])
        save_nearest_cases(hashes, model.weights_sha256(), out)
    return model


def _normal_cases(study: Study, split: str) -> tuple[Case, ...]:
    if not study.normal:
        raise StudyError(f"{study.root} names no normal labels; give them with --normal, e.g. --normal benign")
    cases = normal_cases(study, split)
    if len(cases) < FEWEST:
        raise StudyError(
            f"{study.root} has {len(cases)} normal cases in split {split!r}; at least {FEWEST} are needed: add some, "
            "or cut the splits again with 'study split'"
        )
    return cases


def _encoder(
    opened: OpenedEncoder, options: AnomalyFit, images: Images, progress: Progress
) -> tuple[Encoder, ScorerPlan, str]:
    """The encoder at the length that is used; one that learned no projection gets one of principal components."""
    whole = opened.plan.width
    if opened.is_distilled:
        length = options.length or whole
        if length not in opened.lengths:
            progress(f"note: {opened.name} learned the lengths {', '.join(map(str, opened.lengths))}, not {length}")
        encoder, plan = shortened(opened.encoder, opened.plan, length)
        return encoder, ScorerPlan(encoder=plan), ""
    length = min(options.length or USUAL_LENGTH, whole) if not options.length else options.length
    blank, plan = shortened(opened.encoder, opened.plan, length)
    kept = project_on_principal_components(blank, images, opened.spec, options.seed)
    line = (
        f"projected the feature maps {', '.join(map(str, plan.levels))} of {opened.name} on {length} principal "
        f"components, which keep {kept:.1%} of the variance at normal places"
    )
    return blank, ScorerPlan(encoder=plan), line


def _standardise(network: AnomalyNetwork, images: Images, spec: ImageSpec) -> tuple[float, float]:
    """Set what makes the scores of ``images`` 0 at their median and 1 at their 95th percentile; both are returned.

    Probabilities of scores of this size are not rounded to 1.
    """
    scores = torch.cat(list(logits_in_batches(_First(network), images, spec, size=_BATCH))).flatten().double()
    median = scores.median()
    spread = torch.quantile(scores, _UNUSUAL) - median
    if not torch.isfinite(spread) or spread <= 0:
        raise InputError(
            "the scores of all normal validation cases are the same, or not finite; give more of them, or another "
            "encoder"
        )
    network.median.fill_(float(median))
    network.spread.fill_(float(spread))
    return float(median), float(spread)


class _First(nn.Module):
    """The first of what a network returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        answer = self.network(images)
        first: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return first


class _Places(nn.Module):
    """Embeddings of an encoder's places, ``[n, width, h, w]``."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.places(images)


_Fitted = tuple[nn.Module, ScorerPlan, str]


def _fit_mahalanobis(fitting: _Fitting) -> _Fitted:
    width, budget = fitting.plan.encoder.width, fitting.options.memory_budget_mb
    if (needed := 4 * width * (width + 1) / 1e6) > budget:
        raise InputError(
            f"mean and covariance of {width} numbers take {needed:.2f} MB and the budget is {budget:g} MB; give a "
            "smaller --length, or a larger --memory-budget"
        )
    rows = torch.cat(list(logits_in_batches(fitting.encoder, fitting.images, fitting.spec, size=_BATCH)))
    shrunk = shrunk_covariance(rows)
    scorer = create_scorer("mahalanobis", fitting.plan)
    assert isinstance(scorer, Mahalanobis)  # noqa: S101 - of this name
    scorer.mean.copy_(shrunk.mean)
    scorer.whitening.copy_(whitening(shrunk.covariance))
    return scorer, fitting.plan, f"covariance shrunk by {shrunk.shrinkage:.3f}"


def _fit_knn(fitting: _Fitting) -> _Fitted:
    rows = torch.cat(list(logits_in_batches(fitting.encoder, fitting.images, fitting.spec, size=_BATCH)))
    return _with_memory(fitting, rows, torch.arange(len(rows)))


def _fit_patches(fitting: _Fitting) -> _Fitted:
    """Of more places than can be looked at, so many are drawn, of every image alike."""
    generator = torch.Generator().manual_seed(fitting.options.seed)
    each = max(1, MOST_CANDIDATES // len(fitting.images))
    parts: list[Tensor] = []
    for grid in logits_in_batches(_Places(fitting.encoder), fitting.images, fitting.spec, size=_BATCH):
        places = grid.flatten(2).transpose(1, 2)
        for case in places:
            parts.append(case[torch.randperm(len(case), generator=generator)[:each].sort().values])
    cases = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    return _with_memory(fitting, torch.cat(parts), cases)


def _with_memory(fitting: _Fitting, rows: Tensor, cases: Tensor) -> _Fitted:
    options = fitting.options
    count = min(options.memory_rows, _affordable(fitting), len(rows))
    if count < options.neighbours:
        raise InputError(
            f"{options.neighbours} neighbours are taken and the memory has {count} rows; give fewer --neighbours, or "
            "more --memory-rows and normal cases"
        )
    fitting.progress(f"choosing {count} of {len(rows)} embeddings for the memory")
    coreset = greedy_coreset(rows, count)
    plan = msgspec.structs.replace(fitting.plan, rows=count, neighbours=options.neighbours, storage=options.storage)
    scorer = create_scorer(options.scorer, plan)
    memory = scorer.memory
    assert isinstance(memory, Memory)  # noqa: S101 - both scorers have one
    memory.fill(rows[coreset.chosen], cases[coreset.chosen])
    size = count * row_bytes(plan.encoder.width, options.storage) / 1e6
    return (
        scorer,
        plan,
        (
            f"a memory of {count} of {len(rows)} embeddings in {options.storage}, {size:.2f} MB, none of the others "
            f"farther than {coreset.radius:.3g} from one of them"
        ),
    )


def _affordable(fitting: _Fitting) -> int:
    """Rows that the budget holds; raises InputError where these are fewer than neighbours are taken."""
    options = fitting.options
    each = row_bytes(fitting.plan.encoder.width, options.storage)
    rows = int(options.memory_budget_mb * 1e6 // each)
    if rows < options.neighbours:
        raise InputError(
            f"a row of the memory takes {each} bytes, so that {options.neighbours} neighbours need "
            f"{options.neighbours * each / 1e6:.4f} MB and the budget is {options.memory_budget_mb:g} MB; give a "
            "larger --memory-budget, fewer --neighbours, a smaller --length, or --storage int8"
        )
    return rows


_FITS: Mapping[str, Callable[[_Fitting], _Fitted]] = MappingProxyType(
    {"knn": _fit_knn, "mahalanobis": _fit_mahalanobis, "patches": _fit_patches}
)
