"""Network inputs of n cases: the images alone, or the images and the columns beside them.

A network without columns takes an array of images and nothing else is passed around for it. One with columns takes
`ImagesAndColumns`, which has a length and is cut like an array, so that code which runs a session or cuts a batch is
the same for both. A torch module of such a network is called as ``module(images, *columns)``, in the columns' order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError


class ImagesAndColumns:
    """Inputs of n cases of a network with columns.

    Attributes:
        images: ``[n, C, H, W]``, float32, normalised.
        columns: column → float32 ``[n, width]`` as `runtime.columns` encodes it, in the order of the network's inputs.
    """

    __slots__ = ("columns", "images")

    def __init__(self, images: NDArray[np.float32], columns: Mapping[str, NDArray[np.float32]]) -> None:
        """Put them together.

        Raises:
            InputError: other numbers of cases.
        """
        other = {name: len(rows) for name, rows in columns.items() if len(rows) != len(images)}
        if other:
            raise InputError(f"{len(images)} images and columns of {other} cases; each needs a row a case")
        self.images = images
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, cases: slice | NDArray[Any] | Sequence[int]) -> ImagesAndColumns:
        """Those of some cases, as an array is cut along its first axis."""
        return ImagesAndColumns(self.images[cases], {name: rows[cases] for name, rows in self.columns.items()})


NetworkInputs = NDArray[np.float32] | ImagesAndColumns
"""Of n cases; see above."""
Inputs = TypeVar("Inputs", NDArray[np.float32], ImagesAndColumns, NetworkInputs)


def with_columns(images: NDArray[np.float32], columns: Mapping[str, NDArray[np.float32]]) -> NetworkInputs:
    """``images`` ``[n, C, H, W]`` and what stands beside them; the images themselves where there are no columns."""
    return ImagesAndColumns(images, columns) if columns else images


def images_of(inputs: NetworkInputs) -> NDArray[np.float32]:
    """The images ``[n, C, H, W]`` alone."""
    return inputs.images if isinstance(inputs, ImagesAndColumns) else inputs


def columns_of(inputs: NetworkInputs) -> dict[str, NDArray[np.float32]]:
    """The columns alone, ``[n, width]`` each; none of a network that takes images only."""
    return inputs.columns if isinstance(inputs, ImagesAndColumns) else {}


def arguments_of(inputs: NetworkInputs) -> tuple[NDArray[np.float32], ...]:
    """What a module is called with: the images, then the columns in their order."""
    return (images_of(inputs), *columns_of(inputs).values())


def rows_of(inputs: NetworkInputs) -> Iterator[NetworkInputs]:
    """Inputs of one case at a time."""
    for case in range(len(inputs)):
        yield inputs[case : case + 1]


def joined(parts: Sequence[NetworkInputs]) -> NetworkInputs:
    """Inputs of the cases of all ``parts``, of one network, in their order; at least one part."""
    names = list(columns_of(parts[0]))
    columns = {name: np.concatenate([columns_of(part)[name] for part in parts]) for name in names}
    return with_columns(np.concatenate([images_of(part) for part in parts]), columns)


def feed(input_names: Sequence[str], inputs: NetworkInputs) -> dict[str, NDArray[np.float32]]:
    """What a session with ``input_names`` is run on: input → array. The image is the input that no column has.

    Raises:
        InputError: a column without an input, or an input that nothing is given for.
    """
    columns = columns_of(inputs)
    images = [name for name in input_names if name not in columns]
    if len(images) != 1 or len(input_names) != len(columns) + 1:
        named = ", ".join(map(repr, columns)) or "none"
        raise InputError(f"the network's inputs are {', '.join(map(repr, input_names))}; columns given: {named}")
    return {images[0]: images_of(inputs), **columns}
