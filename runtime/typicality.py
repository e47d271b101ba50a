"""Typicality: how usual an image is among those that a network was made for, without its answer.

Two descriptions x of an image are held against those of the training cases: the classifier's input (``features``,
the network's second output) and what the prepared image itself looks like (``pixels``, see `describe_pixels`). For
each, the distance under probabilistic PCA (Tipping & Bishop 1999, equation 7), whose covariance is B diag(λ) Bᵀ on k
principal directions B and σ² on all others: Mahalanobis' distance with a covariance that few cases can give,

    d² = Σ_i (B_iᵀ(x − μ))² / λ_i  +  (‖x − μ‖² − ‖Bᵀ(x − μ)‖²) / σ²

(Lee et al. 2018, https://arxiv.org/abs/1807.03888, use it on features). An image's strangeness s is the larger of the
two, each in units of what 95 % of the training cases keep below. Typicality is the conformal p-value of s among n
held-out validation cases (Vovk et al. 2005; Bates et al. 2023, https://arxiv.org/abs/2104.08279),

    p = (1 + #{i : s_i ≥ s}) / (n + 1),

so an image drawn as they were has p ≤ α with a probability of at most α: the stated rate of false refusals. Nothing is
promised about images of another kind; how often they are told apart is measured, not implied.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.bundle.arrays import read_npy, to_npy
from medfm_compress.runtime.bundle.bundle import Bundle, typicality_member
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import BundleRefused

FEATURES, PIXELS = "features", "pixels"
UNLIKE = {
    FEATURES: "what the network sees in it is unlike its training images",
    PIXELS: "its brightness, contrast or texture is unlike that of the training images",
}
_GRID = 64  # lines and columns of pixels that are looked at, at most
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_BLOCKS = 3  # of the layout, each way
_SMALLEST = 1e-6
_FLOAT32 = np.dtype(np.float32)


class Gaussian(NamedTuple):
    """Probabilistic PCA of one description.

    Attributes:
        mean: μ, float32 ``[d]``.
        basis: B, float32 ``[k, d]``, rows of unit length.
        variances: λ and, last, σ², float32 ``[k + 1]``, > 0.
        unit: what 95 % of the training cases' d² keep below, > 0.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    variances: NDArray[np.float32]
    unit: float

    def strangeness(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """d² in units of ``unit`` for each row of ``x``, ``[n, d]`` → ``[n]``."""
        centred = (x - self.mean).astype(np.float64)
        inside = centred @ self.basis.T.astype(np.float64)
        rest = np.maximum((centred**2).sum(axis=1) - (inside**2).sum(axis=1), 0.0)
        variances = self.variances.astype(np.float64)
        total: NDArray[np.float64] = ((inside**2) / variances[:-1]).sum(axis=1) + rest / variances[-1]
        return total / self.unit


class Judgement(NamedTuple):
    """Of one image.

    Attributes:
        typicality: conformal p-value, in (0, 1].
        reason: why it is not reliable; empty where it is.
    """

    typicality: float
    reason: str


class TypicalityModel(NamedTuple):
    """Both descriptions' statistics.

    Attributes:
        features: of the classifier's input.
        pixels: of the prepared image.
    """

    features: Gaussian
    pixels: Gaussian

    def parts(self, features: NDArray[np.float32], described: NDArray[np.float32]) -> NDArray[np.float64]:
        """Strangeness by features and by pixels, ``[n, 2]``, of ``[n, d]`` and ``[n, e]``."""
        return np.stack([self.features.strangeness(features), self.pixels.strangeness(described)], axis=1)


def describe_pixels(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a prepared image looks like: quantiles, layout, local contrast at three distances, colour.

    Args:
        tensor: network inputs ``[n, C, H, W]``, normalised.

    Returns:
        ``[n, d]``, float32; d depends on C alone.
    """
    step = max(1, -(-max(tensor.shape[2:]) // _GRID))
    n, channels = tensor.shape[:2]
    sampled = np.ascontiguousarray(tensor[:, :, ::step, ::step])
    grey = _grey(sampled)
    beside = _grey(np.ascontiguousarray(tensor[:, :, ::step, 1::step]))
    columns = min(beside.shape[2], grey.shape[2])
    contrast = [
        _mean_size(beside[:, :, :columns] - grey[:, :, :columns]),  # neighbours: noise, sharpness
        _mean_size(grey[:, 1:] - grey[:, :-1]),
        _mean_size(grey[:, :, 1:] - grey[:, :, :-1]),
        grey.reshape(n, -1).std(axis=1),
    ]
    ordered = np.sort(grey.reshape(n, -1), axis=1)
    ranks = np.rint(np.multiply(_QUANTILES, ordered.shape[1] - 1)).astype(np.int64)
    parts = [ordered[:, ranks], np.log(np.maximum(np.stack(contrast, axis=1), _SMALLEST)), _layout(grey)]
    if channels > 1:
        colour = (sampled - grey[:, None]).reshape(n, channels, -1)
        parts += [colour.mean(axis=2), np.log(np.maximum(colour.std(axis=2), _SMALLEST))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def strangest(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The larger strangeness of each case, ``[n, 2]`` → ``[n]``."""
    largest: NDArray[np.float64] = parts.max(axis=1)
    return largest


class TypicalityJudge:
    """Judges images for one variant of a bundle."""

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        """Read the statistics and the variant's validation cases.

        Raises:
            BundleRefused: they are damaged, or do not fit the network.
        """
        rule = bundle.manifest.typicality
        if rule is msgspec.UNSET:
            raise BundleRefused(f"{bundle.path.name} holds no statistics of its training images")
        self._rate = rule.false_refusal_rate
        self._model = read_model(bundle)
        _check_widths(self._model, bundle)
        scores = read_npy(bundle, typicality_member(variant.name), _FLOAT32)
        if scores.ndim != 1 or len(scores) != rule.validation_cases or not np.isfinite(scores).all():
            raise BundleRefused(f"{bundle.path.name}: typicality scores of {variant.name} are misshapen")
        self._scores = np.sort(scores.astype(np.float64))

    def judge(self, features: NDArray[np.float32], tensor: NDArray[np.float32]) -> Judgement:
        """Typicality of one image by its features ``[1, d]`` and prepared pixels ``[1, C, H, W]``."""
        parts = self._model.parts(features, describe_pixels(tensor))
        strangeness = float(strangest(parts)[0])
        if not np.isfinite(strangeness):
            strangeness = np.inf
        above = len(self._scores) - int(np.searchsorted(self._scores, strangeness * (1 - _SMALLEST), side="left"))
        typicality = (1 + above) / (len(self._scores) + 1)
        if typicality > self._rate:
            return Judgement(typicality, "")
        return Judgement(typicality, UNLIKE[FEATURES if parts[0, 0] >= parts[0, 1] else PIXELS])


def model_files(model: TypicalityModel) -> dict[str, bytes]:
    """Members of a bundle that hold ``model``."""
    files = {}
    for name, gaussian in model._asdict().items():
        files[typicality_member(f"{name}-directions")] = to_npy(np.vstack([gaussian.mean, gaussian.basis]))
        files[typicality_member(f"{name}-variances")] = to_npy(
            np.append(gaussian.variances, gaussian.unit).astype(np.float32)
        )
    return files


def read_model(bundle: Bundle) -> TypicalityModel:
    """The statistics in ``bundle``; raises BundleRefused where they do not fit together."""
    return TypicalityModel(_read_gaussian(bundle, FEATURES), _read_gaussian(bundle, PIXELS))


def _read_gaussian(bundle: Bundle, name: str) -> Gaussian:
    directions = read_npy(bundle, typicality_member(f"{name}-directions"), _FLOAT32)
    variances = read_npy(bundle, typicality_member(f"{name}-variances"), _FLOAT32)
    fits = directions.ndim == 2 and len(directions) >= 2 and variances.shape == (len(directions) + 1,)
    if not fits or not np.isfinite(directions).all() or not (np.isfinite(variances) & (variances > 0)).all():
        raise BundleRefused(f"{bundle.path.name}: typicality statistics of its {name} do not fit together")
    return Gaussian(directions[0], directions[1:], variances[:-1], float(variances[-1]))


def _check_widths(model: TypicalityModel, bundle: Bundle) -> None:
    """The statistics must be of descriptions that this network and its image spec give."""
    manifest = bundle.manifest
    widths = [tensor.shape[-1] for tensor in manifest.outputs if tensor.role == FEATURES]
    widths.append(describe_pixels(np.zeros(manifest.image_spec.shape, np.float32)).shape[1])
    if [len(gaussian.mean) for gaussian in model] != widths or any(g.basis.shape[1] != len(g.mean) for g in model):
        raise BundleRefused(f"{bundle.path.name}: typicality statistics do not fit its network")


def _grey(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels, ``[n, C, H, W]`` → ``[n, H, W]``."""
    grey: NDArray[np.float32] = sum((tensor[:, c] for c in range(1, tensor.shape[1])), tensor[:, 0])
    return grey / np.float32(tensor.shape[1])


def _mean_size(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean magnitude of each case, ``[n, H, W]`` → ``[n]``; 0 where there is nothing."""
    flat = np.abs(differences).reshape(len(differences), -1)
    sizes: NDArray[np.float32] = flat.sum(axis=1) / np.float32(max(flat.shape[1], 1))
    return sizes


def _layout(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 3 × 3 blocks, ``[n, H, W]`` → ``[n, 9]``; of fewer pixels than that some are in several blocks."""
    height, width = grey.shape[1:]
    rows, columns = np.arange(_BLOCKS) * height // _BLOCKS, np.arange(_BLOCKS) * width // _BLOCKS
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=1), columns, axis=2)
    counts = np.outer(_lengths(rows, height), _lengths(columns, width)).astype(np.float32)
    return np.asarray(sums / counts, dtype=np.float32).reshape(len(grey), -1)


def _lengths(starts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Of the blocks that begin at ``starts``; at least 1."""
    return np.maximum(np.diff(starts, append=size), 1)
