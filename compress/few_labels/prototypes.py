"""Prototypes: a case belongs to the class whose mean lies in its direction, seen from the middle of all means.

    logit_k(x) = (x − μ) · (m_k − μ) / (‖m_k − μ‖ · r · T),     μ = mean_k m_k,   r = mean_i ‖x_i − μ‖,   T = 0.1

m_k the mean embedding of class k's training cases x_i. With r = ‖x − μ‖ instead, logit · T would be the cosine of Snell
et al.'s cosine variant and of Wang et al.; one r for all cases calls the same class, and leaves one linear layer, which
a network can have as its own classifier. Nothing is fitted but the means.

Sources: Snell, Swersky, Zemel, "Prototypical networks for few-shot learning" (2017); Wang et al., "SimpleShot" (2019).
"""

from __future__ import annotations

import numpy as np

from medfm_compress.compress.few_labels.linear_classifier import Floats, Integers, LinearClassifier
from medfm_compress.compress.few_labels.linear_probe import count_classes

SHARPNESS = 10.0
_SMALLEST = 1e-12


def prototypes(embeddings: Floats, classes: Integers, labels: int) -> LinearClassifier:
    """Fit it to embeddings ``[n, d]`` of ``classes`` ``[n]``, each of 0 … labels − 1 at least once.

    Raises:
        InputError: a class without a case.
    """
    count_classes(classes, labels)
    means = np.stack([embeddings[classes == label].mean(axis=0) for label in range(labels)])
    centre = means.mean(axis=0)
    radius = max(float(np.linalg.norm(embeddings - centre, axis=1).mean()), _SMALLEST)
    lengths = np.maximum(np.linalg.norm(means - centre, axis=1, keepdims=True), _SMALLEST)
    weight = SHARPNESS / radius * (means - centre) / lengths
    return LinearClassifier(weight, -weight @ centre)
