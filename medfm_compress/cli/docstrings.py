"""What docstrings say of a struct, a command and their parts, as plain text: the help stands once, beside the code."""

from __future__ import annotations

import inspect
import re
from functools import cache


@cache
def attributes(kind: type) -> dict[str, str]:
    """The entries of ``Attributes:`` of a Google-style docstring, markup removed."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:")
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", listed, flags=re.MULTILINE)
    return {name: plain(text) for name, text in entries}


def summary(thing: object) -> str:
    """What a docstring says before its sections, paragraphs kept."""
    text = (inspect.getdoc(thing) or "").partition("Attributes:")[0]
    return "\n\n".join(plain(paragraph) for paragraph in text.strip().split("\n\n"))


def plain(text: str) -> str:
    """One line without markup; a full stop at the end."""
    line = " ".join(text.replace("``", "").replace("`", "").split())
    return line if line.endswith(".") or not line else f"{line}."
