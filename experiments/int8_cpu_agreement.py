"""What an error of the logits does to the answers: how far a network and its FP32 agree, in the network's own terms.

top1      share of cases with the same largest logit
cosine    mean cosine of the two embeddings of a case
mask      Σ |both| / Σ |either| over the pixels above a probability of 0.3, where PP-OCR begins to see text
places    share of places, each with values of its own, with the same largest one, of those that FP32 does not leave
blank (number 0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Agreement = Literal["top1", "cosine", "mask", "places"]
Logits = NDArray[np.float32]
CHARACTERS = 18_710  # that PP-OCRv6 tells apart
_TEXT = float(np.log(0.3 / 0.7))


def agreement(how: Agreement, measured: Logits, reference: Logits) -> float:
    """Of ``measured`` with ``reference``, both ``[n, values]``; 1 is perfect."""
    return _WAYS[how](measured, reference)


def _top1(measured: Logits, reference: Logits) -> float:
    return float((measured.argmax(axis=1) == reference.argmax(axis=1)).mean())


def _cosine(measured: Logits, reference: Logits) -> float:
    products = (measured * reference).sum(axis=1)
    return float((products / np.linalg.norm(measured, axis=1) / np.linalg.norm(reference, axis=1)).mean())


def _mask(measured: Logits, reference: Logits) -> float:
    one, other = measured > _TEXT, reference > _TEXT
    return float((one & other).sum() / max((one | other).sum(), 1))


def _places(measured: Logits, reference: Logits, characters: int = CHARACTERS) -> float:
    one, other = (values.reshape(-1, characters).argmax(axis=1) for values in (measured, reference))
    return float((one == other)[other != 0].mean())


_WAYS: dict[Agreement, Callable[[Logits, Logits], float]] = {
    "top1": _top1, "cosine": _cosine, "mask": _mask, "places": _places,
}  # fmt: skip
