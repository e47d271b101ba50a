"""timm names near a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_SHOWN = 5


def nearest(name: str) -> tuple[str, ...]:
    """At most five timm names that resemble ``name``, closest first."""
    import timm

    return resembling(name, timm.list_models())


def resembling(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """At most five of ``known`` that resemble ``name``, closest first."""
    family = [model for model in known if model.startswith(name.split("_", maxsplit=1)[0])]
    close = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.6)
    return tuple(dict.fromkeys([*close, *family]))[:_SHOWN]
