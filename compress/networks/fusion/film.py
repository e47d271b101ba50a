r"""FiLM: the columns scale and shift every channel of the pooled embedding.

Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", eq. 2:

    h' = (1 + G u + g) * h + B u + b,    z = W h' + w

h ``[n, embedding]`` the encoder's pooled embedding, u ``[n, hidden]`` as in `branch`, z ``[n, labels]`` the logits. As
the paper does, the scale is learned as its difference from 1; G, g, B, b and the classifier begin at zero.
"""

from __future__ import annotations

from torch import Tensor, nn

from medfm_compress.compress.networks.fusion.branch import column_branch


class Film(nn.Module):
    """See above.

    Attributes:
        branch: columns to features.
        scale: features to the change of each channel's scale.
        shift: features to each channel's shift.
        classifier: the last layer.
    """

    def __init__(self, embedding: int, numbers: int, labels: int, hidden: int) -> None:
        super().__init__()
        self.branch = column_branch(numbers, hidden)
        self.scale = nn.Linear(hidden, embedding)
        self.shift = nn.Linear(hidden, embedding)
        self.classifier = nn.Linear(embedding, labels)
        for layer in (self.scale, self.shift, self.classifier):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def embedding(self) -> int:
        """Numbers of the pooled embedding."""
        return self.classifier.in_features

    def forward(self, embedding: Tensor, columns: Tensor) -> Tensor:
        """Logits ``[n, labels]`` of ``[n, embedding]`` and ``[n, numbers]``."""
        features = self.branch(columns)
        logits: Tensor = self.classifier(embedding + embedding * self.scale(features) + self.shift(features))
        return logits
