"""Concatenation: the classifier reads the pooled embedding and the columns' features side by side.

    z = W [h, u] + b

h ``[n, embedding]`` the encoder's pooled embedding, u ``[n, hidden]`` as in `branch`, z ``[n, labels]`` the logits. The
classifier begins at zero, so that the first answers are a coin's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.fusion.branch import column_branch


class Concatenation(nn.Module):
    """See above.

    Attributes:
        branch: columns to features.
        classifier: the last layer.
    """

    def __init__(self, embedding: int, numbers: int, labels: int, hidden: int) -> None:
        super().__init__()
        self.branch, self.hidden = column_branch(numbers, hidden), hidden
        self.classifier = nn.Linear(embedding + hidden, labels)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @property
    def embedding(self) -> int:
        """Numbers of the pooled embedding."""
        return self.classifier.in_features - self.hidden

    def forward(self, embedding: Tensor, columns: Tensor) -> Tensor:
        """Logits ``[n, labels]`` of ``[n, embedding]`` and ``[n, numbers]``."""
        logits: Tensor = self.classifier(torch.cat((embedding, self.branch(columns)), dim=1))
        return logits
