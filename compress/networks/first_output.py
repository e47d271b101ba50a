"""The logits alone of a network that returns more: what can teach, and be compared with another network's logits."""

from __future__ import annotations

from torch import Tensor, nn


class FirstOutput(nn.Module):
    """``network``, whose further outputs are left out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, labels]`` of normalised images ``[n, channels, height, width]``."""
        answer = self.network(images)
        first: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return first


def logits_alone(network: nn.Module) -> nn.Module:
    """``network`` itself where it returns logits alone."""
    return FirstOutput(network) if len(getattr(network, "output_names", ())) > 1 else network
