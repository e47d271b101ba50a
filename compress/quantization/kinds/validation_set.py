"""`ValidationSet`: the cases that candidates are judged on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.network_inputs import NetworkInputs
from medfm_compress.runtime.task import Task

Logits = NDArray[np.float32]


class ValidationSet(NamedTuple):
    """Validation cases that candidates are judged on, and their inputs: images ``[n, C, H, W]``, and columns.

    ``columns`` are those that the network takes. ``truth`` is what the task's kind wants to know of the labelled ones
    beyond their targets; see `kinds.table`.
    """

    study: Study
    cases: tuple[Case, ...]
    inputs: NetworkInputs
    task: Task
    truth: object = None
    columns: tuple[Column, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether any case has a label, so that accuracy can be told."""
        return any(case.target for case in self.cases)

    @property
    def are_labelled(self) -> NDArray[np.bool_]:
        """Which cases have a label, ``[n]``."""
        return np.array([bool(case.target) for case in self.cases])

    @property
    def labelled_cases(self) -> tuple[Case, ...]:
        """The cases that have a label."""
        return tuple(case for case in self.cases if case.target)
