r"""How far each place of an image is from the nearest normal place: PatchCore.

Roth et al. 2022, "Towards total recall in industrial anomaly detection".

.. math:: d_p = \min_j \|a_p - m_j\|, \qquad s = \max_p d_p

:math:`a_p` the encoder's embedding of place p, m a coreset of the normal cases' places (`anomaly.coreset`). The paper's
re-weighting of s by the neighbours of the nearest row is left out: a score is then the greatest value of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.encoder import Encoder
from medfm_compress.compress.networks.scorers.memory import Memory, Storage


class Patches(nn.Module):
    """See the top of the module."""

    output_names = ("logits", "anomaly_map", "nearest")

    def __init__(self, rows: int, width: int, neighbours: int, storage: Storage) -> None:
        super().__init__()
        self.memory, self.neighbours = Memory(rows, width, storage), neighbours

    def forward(self, encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores ``[n, 1]``, maps ``[n, 1, h, w]``, and the training cases ``[n, k]`` nearest to the worst place."""
        grid = encoder.places(images)
        count, width, height, across = grid.shape
        places = grid.permute(0, 2, 3, 1).reshape(count, height * across, width)
        distances, _ = self.memory.nearest(places.reshape(count * height * across, width), 1)
        by_place = distances.reshape(count, height * across)
        scores, worst = torch.topk(by_place, 1, dim=1)
        place = torch.gather(places, 1, worst[:, :, None].expand(count, 1, width)).reshape(count, width)
        _, index = self.memory.nearest(place, self.neighbours)
        return scores, by_place.reshape(count, 1, height, across), self.memory.case_numbers(index)
