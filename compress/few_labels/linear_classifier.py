"""What both classifiers are: one linear layer on the embedding, so that it can take the place of a network's own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FLATTEST = 1e-6


class LinearClassifier(NamedTuple):
    """Logits W x + b of an embedding x.

    Attributes:
        weight: W, ``[labels, d]``.
        bias: b, ``[labels]``.
    """

    weight: Floats
    bias: Floats

    def logits(self, embeddings: Floats) -> Floats:
        """``[n, labels]`` of embeddings ``[n, d]``."""
        return np.asarray(embeddings @ self.weight.T + self.bias)


class Scaling(NamedTuple):
    """Mean and standard deviation ``[d]`` of training embeddings; an embedding that never changes keeps its scale."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, embeddings: Floats) -> Scaling:
        """Of embeddings ``[n, d]``."""
        return cls(embeddings.mean(axis=0), embeddings.std(axis=0) + FLATTEST)

    def __call__(self, embeddings: Floats) -> Floats:
        """Embeddings of mean 0 and variance 1."""
        return np.asarray((embeddings - self.mean) / self.scale)

    def undone(self, weight: Floats, bias: Floats) -> LinearClassifier:
        """The classifier of embeddings as they are, which answers as W, b do of scaled ones."""
        unscaled = weight / self.scale
        return LinearClassifier(unscaled, bias - unscaled @ self.mean)


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
