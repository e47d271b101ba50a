"""Which networks timm has, read from its files: importing it takes seconds, and a misspelt name is said at once."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from medfm_compress.compress.networks.architecture import split_name
from medfm_compress.compress.networks.similar_names import resembling
from medfm_compress.runtime.errors import ModelError

_REGISTERED = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_ENCODER = "tu-"  # before the name of a timm network that is an encoder
_HUBS = ("hf-hub:", "hf_hub:", "local-dir:")


def refuse_unlisted(name: str) -> None:
    """Refuse a name that stands nowhere in timm; whatever may be one is left to timm itself.

    Raises:
        ModelError: timm has no such network; the nearest names are said.
    """
    library, inner = split_name(name)
    if library != "timm":
        encoder = inner.rpartition("/")[2]
        if not encoder.startswith(_ENCODER):
            return  # the library itself says what it has
        name = encoder.removeprefix(_ENCODER)
    source, names = _timm()
    base = name.partition(".")[0]
    if not names or name.startswith(_HUBS) or base in names or re.search(rf"[\"\']{re.escape(base)}[\"\'.]", source):
        return
    near = ", ".join(resembling(name, sorted(names))) or "nothing; see timm.list_models()"
    raise ModelError(f"timm has no model {name!r}; near it: {near}")


@cache
def _timm() -> tuple[str, frozenset[str]]:
    """Text of timm's models, and the names that it registers; nothing where it is not installed as files."""
    spec = importlib.util.find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    files = [path for folder in folders or () for path in sorted(Path(folder, "models").glob("*.py"))]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return source, frozenset(_REGISTERED.findall(source))
