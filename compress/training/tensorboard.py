"""TensorBoard's event files, where they are asked for."""

from __future__ import annotations

from typing import Any

from medfm_compress.compress.training.distributed import is_first
from medfm_compress.runtime.errors import MissingDependency


class TensorBoardLog:
    """Writes scalars to ``folder``; without a folder, or on another process than the first, it writes nothing."""

    def __init__(self, folder: str) -> None:
        self._writer: Any = None
        if folder and is_first():
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingDependency("TensorBoard logs need tensorboard: pip install tensorboard") from None
            self._writer = SummaryWriter(folder)

    @property
    def open(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def note(self, step: int, values: dict[str, float]) -> None:
        """One point of every curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.close()
