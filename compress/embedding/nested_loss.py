r"""Matryoshka distillation: every nested length of an embedding is taught what the teacher knows.

Kusupati et al. 2022, "Matryoshka representation learning"; their efficient form, in which one matrix serves all
lengths. With the student's numbers z, the teacher's features t (centred), a matrix W that is learned and thrown away,
and :math:`\psi` the distances within a batch in units of their mean (`losses.relational`, Park et al. 2019):

.. math:: L = \frac{1}{|\mathcal{L}|} \sum_{\ell \in \mathcal{L}} \Bigl[
          \lambda \bigl(1 - \cos(W_{:, :\ell} \, z_{:\ell}, \, t)\bigr)
          + \rho \, \overline{l_\delta\bigl(\psi(z_{:\ell}), \psi(t)\bigr)} \Bigr]

once with the embeddings of images and once with those of places, which are added. The second term is what a scorer
needs: it takes distances between embeddings, not of what W makes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.embedding.options import EmbeddingDistillation
from medfm_compress.compress.losses.relational import distances

PLACES = 256
"""Of a batch, between which distances are compared."""


class NestedLoss(nn.Module):
    """See the top of the module; its matrices are trained along."""

    def __init__(self, width: int, teacher_width: int, options: EmbeddingDistillation) -> None:
        super().__init__()
        self.image_map = nn.Linear(width, teacher_width)
        self.place_map = nn.Linear(width, teacher_width)
        self._lengths, self._direction, self._relations = options.length, options.direction, options.relations

    def forward(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        """A scalar of embeddings ``[b, d]`` and places ``[b, d, h, w]`` of both, on one grid."""
        images = self._nested(self.image_map, student[0], teacher[0])
        rows, expected = (places.flatten(2).transpose(1, 2).flatten(0, 1) for places in (student[1], teacher[1]))
        return images + self._nested(self.place_map, rows, expected)

    def _nested(self, head: nn.Linear, rows: Tensor, expected: Tensor) -> Tensor:
        """Of rows ``[n, width]`` and what the teacher has for them ``[n, teacher width]``."""
        step = max(1, len(rows) // PLACES)  # spread evenly over images and places
        some, theirs = rows[::step], expected[::step]
        between = distances(theirs)
        parts = [rows.new_zeros(())]
        for length in self._lengths:
            predicted = functional.linear(rows[:, :length], head.weight[:, :length], head.bias)
            direction = (1 - functional.cosine_similarity(predicted, expected)).mean()
            relation = functional.huber_loss(distances(some[:, :length]), between)
            parts.append(self._direction * direction + self._relations * relation)
        return torch.stack(parts).sum() / len(self._lengths)
