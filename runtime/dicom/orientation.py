"""How the image lies, and turning it the way the network was made for: by flips and a transposition, never resampled.

Directions are those in which rows run (from left to right) and columns (from top to bottom), in the patient: to the
Left or Right, Anterior or Posterior, Head or Feet. Sources: PS3.3 C.7.6.1.1.1 (Patient Orientation; the first letter of
each value is the principal one), C.7.6.2.1.1 (Image Orientation (Patient): x to the left, y to the back, z to the
head), C.7.6.16.2.4 and C.7.6.16.2.15 (of a frame), C.7.3.1 and C.7.6.16.2.8 (laterality).

Field of View Rotation and Horizontal Flip (C.8.11.4) are not applied: they say what was done to the pixels that are
stored, and Patient Orientation says how these lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import code, shown_code
from medfm_compress.runtime.dicom.numbers import numbers
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import AXES, DicomRules
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.tabled import Tabled

if TYPE_CHECKING:
    from pydicom import Dataset

_POSITIVE, _NEGATIVE = "LPH", "RAF"
_PRINCIPAL = 0.7072  # just above the cosine of 45°: nearer to one axis than to any other
_UNIT = 1e-3


class Turn(NamedTuple):
    """What is done to the stored pixels, in this order.

    Attributes:
        transposed: rows become columns.
        upside_down: the last row comes first.
        mirrored: the last column comes first.
    """

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False


def turn_of(ds: Dataset, rules: DicomRules, name: str) -> Turn:
    """How the image is turned to what the rules ask for.

    Raises:
        ImageRefused: it does not say how it lies or of which side of the body it is, says it twice and differently,
            lies askew, or shows another plane.
    """
    turn = Turn() if rules.orientation is msgspec.UNSET else _between(directions(ds, name), rules.orientation, name)
    if rules.mirrored_to is not msgspec.UNSET and _side(ds, name) != rules.mirrored_to:
        turn = turn._replace(mirrored=not turn.mirrored)
    return turn


def turned(pixels: Pixels, turn: Turn) -> Pixels:
    """The image turned; itself where nothing is to be done."""
    if turn == Turn():
        return pixels
    held, aspect = pixels.held, 1 / pixels.aspect if turn.transposed else pixels.aspect
    if isinstance(held, Tabled):
        return pixels._replace(held=Tabled(_turned(held.codes, turn), held.table), aspect=aspect)
    return pixels._replace(held=_turned(held, turn), aspect=aspect)


def _turned(values: NDArray[Any], turn: Turn) -> NDArray[Any]:
    rows = values.swapaxes(0, 1) if turn.transposed else values
    return np.ascontiguousarray(rows[:: -1 if turn.upside_down else 1, :: -1 if turn.mirrored else 1])


def directions(ds: Dataset, name: str) -> str:
    """Of rows and of columns, two letters such as ``LF``.

    Raises:
        ImageRefused: neither attribute says it, one is no direction or askew, or the two contradict each other.
    """
    said, measured = _patient_orientation(ds, name), _image_orientation(ds, name)
    if said and measured and said != measured:
        raise ImageRefused(
            f"{name}: Patient Orientation says that rows and columns run to {said}, Image Orientation (Patient) that "
            f"they run to {measured}; correct the one that is wrong"
        )
    if not said and not measured:
        raise ImageRefused(f"{name}: says neither Patient Orientation nor Image Orientation (Patient), which is needed")
    return said or measured


def _patient_orientation(ds: Dataset, name: str) -> str:
    """PS3.3 C.7.6.1.1.1: two values, empty where they are not known."""
    value = ds.get("PatientOrientation")
    values = [value] if isinstance(value, str) else list(value or ())
    letters = [str(part).strip().upper() for part in values]
    if not any(letters):
        return ""
    found = "".join(part[:1] for part in letters)
    if len(letters) != 2 or not all(map(_is_direction, letters)) or AXES[found[0]] == AXES[found[1]]:
        raise ImageRefused(
            f"{name}: Patient Orientation must be two directions of L, R, A, P, H and F on two axes, such as L\\F"
        )
    return found


def _is_direction(letters: str) -> bool:
    """One letter of each axis at most, so neither ``LR`` nor ``LL``."""
    axes = {AXES.get(letter) for letter in letters}
    return None not in axes and 0 < len(axes) == len(letters)


def _image_orientation(ds: Dataset, name: str) -> str:
    """PS3.3 C.7.6.2.1.1: cosines of a row and of a column."""
    cosines = numbers(ds, "ImageOrientationPatient", name)
    if not any(value is not None for value in cosines):
        return ""
    if len(cosines) != 6 or any(value is None for value in cosines):
        raise ImageRefused(f"{name}: Image Orientation (Patient) must be six numbers; export the image again")
    row, column = np.array(cosines, np.float64).reshape(2, 3)
    lengths = np.array((row @ row, column @ column))
    if not (abs(lengths - 1) <= _UNIT).all() or abs(row @ column) > _UNIT:  # NaN fails this too
        raise ImageRefused(f"{name}: Image Orientation (Patient) must be two unit vectors at right angles")
    places = [int(np.abs(vector).argmax()) for vector in (row, column)]
    components = [float(vector[place]) for vector, place in zip((row, column), places, strict=True)]
    if min(map(abs, components)) < _PRINCIPAL:
        raise ImageRefused(f"{name}: the image lies askew, as near to one axis of the body as to another")
    return "".join(
        (_POSITIVE if component > 0 else _NEGATIVE)[place] for component, place in zip(components, places, strict=True)
    )


def _between(found: str, wanted: str, name: str) -> Turn:
    """From ``found`` to ``wanted``; both are on two axes."""
    axes, wanted_axes = ([AXES[letter] for letter in pair] for pair in (found, wanted))
    is_transposed = axes == wanted_axes[::-1]
    if axes != wanted_axes and not is_transposed:
        raise ImageRefused(
            f"{name}: rows and columns run to {found}, so it shows another plane than the network was made for, whose "
            f"run to {wanted}"
        )
    row, column = tuple(found[::-1] if is_transposed else found)
    return Turn(is_transposed, upside_down=column != wanted[1], mirrored=row != wanted[0])


def _side(ds: Dataset, name: str) -> str:
    """R or L: of the image or its frame (PS3.3 C.7.6.16.2.8), else of the series (C.7.3.1), which must agree."""
    sides = {found for key in ("ImageLaterality", "FrameLaterality", "Laterality") if (found := code(ds, key, name))}
    if sides not in ({"R"}, {"L"}):
        if sides <= {"B", "U"}:
            said = "that it is of both or of neither" if sides else "none"
        elif len(sides) > 1:
            said = "more than one"
        else:
            said = f"what is no side ({shown_code(*sides)})"
        raise ImageRefused(
            f"{name}: the side of the body must be R or L for this network, and the file says {said}; correct its "
            "Image Laterality (0020,0062)"
        )
    return sides.pop()
