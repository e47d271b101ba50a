"""The side of a load scenario that answers: a library of inputs, and an engine that takes one or several at a time.

Networks are exported with a batch of one, because that is what a scanner sends; most engines here therefore answer the
samples of a query one after the other. An engine whose network takes any batch gets ``samples_per_query`` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from medfm_compress.runtime.network_inputs import NetworkInputs

Run = Callable[[NetworkInputs], NDArray[Any]]


class Library:
    """Inputs that queries draw from, and the engine that answers them.

    Attributes:
        count: of inputs.
        batch: samples that the engine takes at once.
    """

    def __init__(self, inputs: NetworkInputs, run: Run, most: int) -> None:
        """Take inputs of n cases, an engine for those of b, and the ``most`` to hand it at once."""
        self._inputs, self._run = inputs, run
        self.count = len(inputs)
        self.batch = most if most > 1 and _takes_batches(inputs, run) else 1

    def chunks(self, samples: Sequence[int]) -> Iterator[Sequence[int]]:
        """``samples`` in pieces that the engine takes at once."""
        return (samples[start : start + self.batch] for start in range(0, len(samples), self.batch))

    def answer(self, samples: Sequence[int]) -> None:
        """Run the engine on the inputs ``samples``, at most ``batch`` of them."""
        if len(samples) == 1:
            self._run(self._inputs[samples[0] : samples[0] + 1])
        else:
            self._run(self._inputs[list(samples)])


def _takes_batches(inputs: NetworkInputs, run: Run) -> bool:
    try:
        return len(run(inputs[[0, 0]])) == 2
    except Exception:  # noqa: BLE001 - any refusal means one input at a time; a real fault shows there again
        return False
