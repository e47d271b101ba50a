"""A classifier from few labels: linear probe and prototypes on the features of an encoder that stays as it is.

    python experiments/few_labels.py OUT --study FOLDER --encoder NAME=ARCHITECTURE[:FILE] … [--size PX] [--draws N]

Every encoder's features (the mean of its last feature map) of at most `MOST` training and `MOST` test cases are
computed once and kept in ``OUT/NAME-STUDY.npz``. Then, for 5, 20 and 100 cases a class, ``--draws`` draws of training
cases, one patient or group at most once where there are enough of them, are classified on all test cases

    prototypes      p ∝ exp(cos(x − μ, m_k − μ) / 0.1),  m_k the draw's class means, μ theirs (Snell et al. 2017)
    linear probe    logistic regression, features scaled to unit variance by the draw, L2, C from 0.01 to 1

and by the same draws for every encoder, so that encoders differ by nothing else. ``OUT/STUDY.json`` receives macro
AUROC and balanced accuracy: the mean over draws and the 2.5 and 97.5 percentiles of the draws. These tell what a
new draw of labels would give on these test cases; what other test cases would give they do not tell.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.optimize import minimize

from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.data.open import open_study
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.image_spec import ImageSpec

SHOTS = (5, 20, 100)
MOST = 1200
_CHUNK = 32
_SHARPNESS = 10.0
_PENALTY = {5: 0.01, 20: 0.1, 100: 1.0}

FloatArray = NDArray[np.float64]


class Features(NamedTuple):
    """Of one encoder: rows ``[n, d]`` and classes ``[n]`` of both splits, and the group of each training case."""

    train: FloatArray
    train_class: NDArray[np.int64]
    train_group: NDArray[np.str_]
    test: FloatArray
    test_class: NDArray[np.int64]


def features_of(study: Study, name: str, encoder: str, size: int, out: Path) -> Features:
    """Computed once, then read."""
    path = out / f"{name}-{name_of(study)}.npz"
    if not path.is_file():
        module = _encoder(encoder)
        spec = ImageSpec(height_px=size, width_px=size, colour="rgb", mean=(0.498,) * 3, std=(0.502,) * 3)
        train, test = (_sample(study, part) for part in ("train", "test"))
        arrays = Features(
            _rows(module, study, train, spec),
            np.array([case.target[0] for case in train]),
            np.array([case.cluster for case in train]),
            _rows(module, study, test, spec),
            np.array([case.target[0] for case in test]),
        )
        np.savez_compressed(path, **arrays._asdict())
    with np.load(path, allow_pickle=False) as kept:
        return Features(**{key: kept[key] for key in Features._fields})


def name_of(study: Study) -> str:
    """Of its folder."""
    return (study.root if study.root.is_dir() else study.root.parent).name


def _encoder(encoder: str) -> Any:
    architecture, _, file = encoder.partition(":")
    torch.manual_seed(0)
    module = timm.create_model(architecture)
    if file:
        weights = {key: value.float() for key, value in load_file(file).items()}
        own = module.state_dict()
        fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
        if len(fitting) < len(own) - 2:  # a classifier of other classes is left out
            raise SystemExit(f"{file} does not hold the weights of {architecture}")
        module.load_state_dict(fitting, strict=False)
    return module.eval()


def _sample(study: Study, part: str) -> list[Case]:
    cases = [case for case in study.split(part) if case.target]
    order = np.random.default_rng(0).permutation(len(cases))[:MOST]
    return [cases[number] for number in sorted(order)]


def _rows(module: Any, study: Study, cases: list[Case], spec: ImageSpec) -> FloatArray:
    rows = []
    for start in range(0, len(cases), _CHUNK):
        images = torch.from_numpy(network_inputs(study, cases[start : start + _CHUNK], spec))
        with torch.no_grad():
            rows.append(module.forward_features(images).mean((2, 3)).numpy())
    return np.concatenate(rows).astype(np.float64)


def draw(features: Features, shots: int, seed: int) -> NDArray[np.int64]:
    """Positions of ``shots`` training cases a class; those of a group that was drawn come last."""
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in np.unique(features.train_class):
        order = random.permutation(np.flatnonzero(features.train_class == label)).tolist()
        seen: dict[str, int] = defaultdict(int)
        ranked: list[tuple[int, int, int]] = []
        for position in order:
            ranked.append((seen[features.train_group[position]], len(ranked), position))
            seen[features.train_group[position]] += 1
        chosen += [position for *_, position in sorted(ranked)[:shots]]
    return np.array(chosen)


def prototypes(train: FloatArray, classes: NDArray[np.int64], test: FloatArray) -> FloatArray:
    """Probabilities ``[n, K]`` by the cosine to the class means."""
    means = np.stack([train[classes == label].mean(axis=0) for label in np.unique(classes)])
    centre = means.mean(axis=0)
    scores = _SHARPNESS * _unit(test - centre) @ _unit(means - centre).T
    return _softmax(scores)


def linear_probe(train: FloatArray, classes: NDArray[np.int64], test: FloatArray) -> FloatArray:
    """Probabilities ``[n, K]`` by logistic regression."""
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    x = (train - mean) / scale
    labels = np.unique(classes)
    truth = (classes[:, None] == labels).astype(np.float64)
    strength = 1 / _PENALTY[int(len(x) / len(labels))] if int(len(x) / len(labels)) in _PENALTY else 1.0

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights = flat.reshape(x.shape[1] + 1, -1)
        p = _softmax(x @ weights[:-1] + weights[-1])
        rest = p - truth
        gradient = np.vstack([x.T @ rest + strength * weights[:-1], rest.sum(axis=0)])
        value = -np.log(np.maximum(p[truth == 1], 1e-300)).sum() + strength / 2 * (weights[:-1] ** 2).sum()
        return float(value), gradient.ravel()

    start = np.zeros((x.shape[1] + 1) * len(labels))
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x.reshape(x.shape[1] + 1, -1)
    return _softmax((test - mean) / scale @ best[:-1] + best[-1])


def judged(p: FloatArray, classes: NDArray[np.int64]) -> tuple[float, float]:
    """Macro AUROC (one against the rest) and balanced accuracy."""
    labels = np.unique(classes)
    areas = [auroc(p[:, number], classes == label) for number, label in enumerate(labels)]
    called = labels[p.argmax(axis=1)]
    recalls = [float((called[classes == label] == label).mean()) for label in labels]
    return float(np.mean(areas)), float(np.mean(recalls))


def curve(features: Features, draws: int) -> list[dict[str, Any]]:
    """Rows for every number of cases and method."""
    rows = []
    for shots in SHOTS:
        for name, method in (("prototypes", prototypes), ("linear probe", linear_probe)):
            figures = []
            for seed in range(draws):
                chosen = draw(features, shots, seed)
                p = method(features.train[chosen], features.train_class[chosen], features.test)
                figures.append(judged(p, features.test_class))
            table = np.array(figures)
            rows.append({"shots": shots, "method": name, "draws": draws})
            for key, values in zip(("auroc", "balanced accuracy"), table.T, strict=True):
                low, high = np.quantile(values, (0.025, 0.975))
                rows[-1][key] = [round(float(value), 4) for value in (values.mean(), low, high)]
    return rows


def _unit(x: FloatArray) -> FloatArray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _softmax(scores: FloatArray) -> FloatArray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def main() -> None:
    """Curves of every encoder on one study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--encoder", action="append", required=True, metavar="NAME=ARCHITECTURE[:FILE]")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    study = open_study(options.study)
    table = {}
    for entry in options.encoder:
        name, _, encoder = entry.partition("=")
        features = features_of(study, name, encoder, options.size, options.out)
        table[name] = {"width": features.train.shape[1], "rows": curve(features, options.draws)}
        sys.stdout.write(f"{name} {table[name]}\n")
    (options.out / f"{name_of(study)}.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1))


if __name__ == "__main__":
    main()
