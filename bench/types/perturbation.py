"""Perturbations of an image that a policy may name, and how strong each is at severities 1, 2 and 3.

| name | what is done | 1 | 2 | 3 |
|---|---|---|---|---|
| noise | Gaussian, σ in units of the range from black to white | 0.02 | 0.05 | 0.10 |
| exposure | values times 2^±s, s in stops | 0.25 | 0.5 | 1 |
| gamma | values to the power of g or 1/g | 1.25 | 1.5 | 2 |
| contrast | distance from the image's mean times c | 0.8 | 0.6 | 0.4 |
| jpeg | stored as JPEG of 8 bits of this quality | 50 | 25 | 10 |
| blur | Gaussian, σ as a share of the longer side | 0.003 | 0.006 | 0.012 |
| rotation | by ±so many degrees about the centre | 3 | 7 | 15 |
| shift | by ±so much of the sides, down and to the right | 0.02 | 0.05 | 0.10 |

The signs and the noise of an image follow from its key, so that teacher and bundle see the same one. Severities are
ours: of the order of what exposure control, positioning and archives do to radiographs, with 3 at the edge of what a
reader would send back. The design is ImageNet-C's (Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, get_args

PerturbationName = Literal["noise", "exposure", "gamma", "contrast", "jpeg", "blur", "rotation", "shift"]
PERTURBATIONS: tuple[PerturbationName, ...] = get_args(PerturbationName)
MOVING: frozenset[PerturbationName] = frozenset({"rotation", "shift"})
"""Those that move what an image shows, so that a mask of it no longer fits."""
SEVERITIES: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
STRENGTHS: MappingProxyType[PerturbationName, tuple[float, float, float]] = MappingProxyType(
    {
        "noise": (0.02, 0.05, 0.10),
        "exposure": (0.25, 0.5, 1.0),
        "gamma": (1.25, 1.5, 2.0),
        "contrast": (0.8, 0.6, 0.4),
        "jpeg": (50.0, 25.0, 10.0),
        "blur": (0.003, 0.006, 0.012),
        "rotation": (3.0, 7.0, 15.0),
        "shift": (0.02, 0.05, 0.10),
    }
)
