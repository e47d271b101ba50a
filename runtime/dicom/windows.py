"""Which of a file's VOI LUTs and windows shows the image, and the formulas of windows.

Sources: PS3.3 C.11.2 (several are alternative views, of which one is applied), C.11.2.1.2 (centres and widths are
pairs), C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).

Where a file has tables and windows, its tables are the alternatives. A pair of which both are empty is no window and is
passed over, but keeps its number; a pair of which one is empty is refused where it is the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import code
from medfm_compress.runtime.dicom.numbers import numbers
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]


class Window(NamedTuple):
    """Centre and width in modality units."""

    centre: float
    width: float


def table_item(ds: Dataset, rules: DicomRules, name: str) -> Dataset | None:
    """The item of VOI LUT Sequence that the rules name, or None where there are no tables.

    Raises:
        ImageRefused: there are tables, and none of that number or explanation.
    """
    items = ds.get("VOILUTSequence")
    if not items:
        return None
    explanations = [_text(item.get("LUTExplanation")) for item in items]
    item: Dataset = items[_place(len(items), explanations, rules, name, lambda place: True)]
    return item


def window_of(ds: Dataset, rules: DicomRules, name: str) -> Window | None:
    """The window that the rules name, or None where the file has none.

    Raises:
        ImageRefused: there are windows and none of that number or explanation, or a half of it is not there.
    """
    centres, widths = numbers(ds, "WindowCenter", name), numbers(ds, "WindowWidth", name)
    if not any(value is not None for value in (*centres, *widths)):
        return None
    count = max(len(centres), len(widths))
    centres, widths = ([*values, *[None] * (count - len(values))] for values in (centres, widths))
    texts = ds.get("WindowCenterWidthExplanation")
    explanations = [_text(text) for text in ([texts] if isinstance(texts, str) else texts or [])]
    place = _place(count, explanations, rules, name, lambda at: centres[at] is not None or widths[at] is not None)
    centre, width = centres[place], widths[place]
    if centre is None and width is None:
        raise ImageRefused(f"{name}: window {place + 1} of {count}, for which this network was made, is empty")
    if centre is None or width is None:
        raise ImageRefused(f"{name}: WindowCenter and WindowWidth must both be there; export the image again")
    return Window(centre, width)


def _place(count: int, explanations: list[str], rules: DicomRules, name: str, is_there: Callable[[int], bool]) -> int:
    """Of the alternative that the rules name; by default the first that is there."""
    if rules.window_explanation is not msgspec.UNSET:
        places = [at for at, text in enumerate(explanations[:count]) if text == _text(rules.window_explanation)]
        if len(places) != 1:
            raise ImageRefused(
                f"{name}: {len(places)} of its {count} windows are explained as {rules.window_explanation!r}, and this "
                "network was made for the one that is"
            )
        return places[0]
    if rules.window_number is msgspec.UNSET:
        return next(at for at in range(count) if is_there(at))
    if rules.window_number > count:
        raise ImageRefused(f"{name}: has {count} windows, and this network was made for number {rules.window_number}")
    return rules.window_number - 1


def _text(value: Any) -> str:
    return str(value or "").strip().upper()


def windowed(ds: Dataset, values: Values, window: Window, name: str) -> Values:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; LINEAR where VOI LUT Function is absent."""
    function = code(ds, "VOILUTFunction", name) or "LINEAR"
    formulas = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}
    if function not in formulas:
        raise ImageRefused(f"{name}: VOI LUT Function must be one of {', '.join(formulas)}")
    if window.width <= 0 or (function == "LINEAR" and window.width < 1):
        least = "at least 1" if function == "LINEAR" else "above 0"
        raise ImageRefused(f"{name}: WindowWidth is {window.width:g}; it must be {least} for {function} (PS3.3 C.11.2)")
    return formulas[function](values, window.centre, window.width)


def linear(x: Values, centre: float, width: float) -> Values:
    """LINEAR (C.11.2.1.2.1): ``(x - (c - 0.5)) / (w - 1) + 0.5`` clipped to [0, 1]; a step for a width of 1."""
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def linear_exact(x: Values, centre: float, width: float) -> Values:
    """LINEAR_EXACT (C.11.2.1.3.2): ``(x - c) / w + 0.5`` clipped to [0, 1]."""
    return np.clip((x - centre) / width + 0.5, 0.0, 1.0)


def sigmoid(x: Values, centre: float, width: float) -> Values:
    """SIGMOID (C.11.2.1.3.1): ``1 / (1 + exp(-4 (x - c) / w))``."""
    exponent = np.clip(-4.0 * (x - centre) / width, -700.0, 700.0)  # exp overflows beyond, and the result is 0 or 1
    result: Values = 1.0 / (1.0 + np.exp(exponent))
    return result
