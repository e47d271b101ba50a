r"""How far an image is from its nearest normal neighbours.

Bergman et al. 2020, "Deep nearest neighbor anomaly detection".

.. math:: s(q) = \frac{1}{k} \sum_{j \in N_k(q)} \|q - m_j\|

q the image's embedding, m the memory, :math:`N_k(q)` the k rows nearest to q.
"""

from __future__ import annotations

from torch import Tensor, nn

from medfm_compress.compress.networks.encoder import Encoder
from medfm_compress.compress.networks.scorers.memory import Memory, Storage


class NearestNeighbours(nn.Module):
    """See the top of the module."""

    output_names = ("logits", "nearest")

    def __init__(self, rows: int, width: int, neighbours: int, storage: Storage) -> None:
        super().__init__()
        self.memory, self.neighbours = Memory(rows, width, storage), neighbours

    def forward(self, encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[n, 1]``, and the training cases of the nearest rows ``[n, k]``, the nearest first."""
        distances, index = self.memory.nearest(encoder.embedding(images), self.neighbours)
        return distances.mean(1, keepdim=True), self.memory.case_numbers(index)
