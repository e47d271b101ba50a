"""What a module is called with in PyTorch: images alone, or images and the columns beside them.

The form of `runtime.network_inputs` with tensors: a network without columns is given a tensor and nothing else is
passed around for it. `Columned` has a length, is cut like a tensor and moves between devices like one, so that code
which reads batches is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from medfm_compress.runtime import network_inputs as runtime_inputs
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.network_inputs import NetworkInputs, columns_of, images_of


class Columned:
    """Inputs of n cases of a network with columns.

    Attributes:
        images: ``[n, channels, height, width]``.
        columns: column → ``[n, width]``.
    """

    __slots__ = ("columns", "images")

    def __init__(self, images: Tensor, columns: Mapping[str, Tensor]) -> None:
        self.images, self.columns = images, dict(columns)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, cases: slice | Tensor) -> Columned:
        """Those of some cases."""
        return Columned(self.images[cases], {name: rows[cases] for name, rows in self.columns.items()})

    def to(self, where: torch.device | torch.dtype | str) -> Columned:
        """Likewise on another device, or in another precision."""
        columns = {name: rows.to(where) for name, rows in self.columns.items()}
        return Columned(self.images.to(where), columns)


Inputs = Tensor | Columned
"""Of n cases; see above."""


def with_columns(images: Tensor, columns: Mapping[str, Tensor]) -> Inputs:
    """``images`` and what stands beside them; the images themselves where there are no columns."""
    return Columned(images, columns) if columns else images


def images_in(inputs: Inputs) -> Tensor:
    """The images alone."""
    return inputs.images if isinstance(inputs, Columned) else inputs


def columns_in(inputs: Inputs) -> dict[str, Tensor]:
    """The columns alone; none of images only."""
    return inputs.columns if isinstance(inputs, Columned) else {}


def map_images(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """``inputs`` with ``change`` made to the images."""
    return with_columns(change(images_in(inputs)), columns_in(inputs))


def as_tensors(inputs: NetworkInputs) -> Inputs:
    """Arrays as tensors that share their memory."""
    columns = {name: torch.from_numpy(rows) for name, rows in columns_of(inputs).items()}
    return with_columns(torch.from_numpy(images_of(inputs)), columns)


def as_arrays(inputs: Inputs) -> NetworkInputs:
    """Tensors on the CPU as arrays that share their memory."""
    columns = {name: rows.numpy() for name, rows in columns_in(inputs).items()}
    return runtime_inputs.with_columns(images_in(inputs).numpy(), columns)


def in_parts(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """``size`` cases after the other."""
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Inputs of the cases of all ``parts``, in their order; at least one part."""
    names = columns_in(parts[0])
    columns = {name: torch.cat([columns_in(part)[name] for part in parts]) for name in names}
    return with_columns(torch.cat([images_in(part) for part in parts]), columns)


def chosen(inputs: Inputs, names: Sequence[str]) -> Inputs:
    """``inputs`` with the columns ``names`` alone.

    Raises:
        InputError: one of them is not there.
    """
    given = columns_in(inputs)
    lacking = [name for name in names if name not in given]
    if lacking:
        raise InputError(f"the network takes the column {lacking[0]!r}, and it is given {', '.join(given) or 'none'}")
    return with_columns(images_in(inputs), {name: given[name] for name in names})


def widths_of(module: nn.Module) -> dict[str, int]:
    """Column → numbers that a network takes beside the image, in the order of its inputs; none of most."""
    widths: dict[str, int] = getattr(module, "column_widths", {})
    return widths


def example(module: nn.Module, images: Tensor) -> Inputs:
    """``images`` ``[n, …]`` and columns that are all one half: what ``module`` can be traced with."""
    widths = widths_of(module)
    return with_columns(images, {name: images.new_full((len(images), width), 0.5) for name, width in widths.items()})
