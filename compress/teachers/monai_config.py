"""Read a MONAI bundle's files as data: literals and ``@`` references, never an expression.

A bundle's configuration may hold Python (``$...``), macros (``%...``) and the name of any class (``_target_``). None of
it is run here: what a teacher needs is read from the literals, and everything else is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from medfm_compress.runtime.errors import ModelError

METADATA = "configs/metadata.json"
NETWORK = "network_def"
_CONFIGS = tuple(f"{name}.{end}" for name in ("inference", "train") for end in ("json", "yaml", "yml"))
_WEIGHTS = ("model.safetensors", "model.pt")
_DEEPEST = 16
_DESCRIPTION = "_desc_"
TARGET = "_target_"


class MonaiBundle:
    """A bundle's metadata, its configuration, and where its files lie.

    Attributes:
        name: of the bundle.
        folder: of the bundle.
        metadata: ``configs/metadata.json``.
        config: the first of inference and train configuration that defines a network.
    """

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ModelError: damaged files, or no configuration that defines a network.
        """
        self.folder = folder
        self.metadata: dict[str, Any] = _read(folder / METADATA)
        self.name = str(self.metadata.get("name") or folder.resolve().name)
        self.config = self._find_config()

    def value(self, item: Any, depth: int = 0) -> Any:
        """``item`` with its references replaced by the literals that they name.

        Raises:
            ModelError: an expression, a macro, a reference to nothing, or references in a circle.
        """
        if depth > _DEEPEST:
            raise ModelError(f"the configuration of {self.name} refers to itself in a circle; correct it")
        if isinstance(item, dict):
            return {key: self.value(part, depth + 1) for key, part in item.items() if key != _DESCRIPTION}
        if isinstance(item, list):
            return [self.value(part, depth + 1) for part in item]
        if isinstance(item, str) and item.startswith(("$", "%")):
            raise ModelError(
                f"the configuration of {self.name} has the expression {item!r}, and expressions are not run; write "
                "its value there"
            )
        if isinstance(item, str) and item.startswith("@"):
            return self.value(self.referred(item), depth + 1)
        return item

    def weights(self) -> str:
        """Path of its weights; raises ModelError where there are none."""
        for name in _WEIGHTS:
            if (self.folder / "models" / name).is_file():
                return str(self.folder / "models" / name)
        raise ModelError(f"{self.folder} has no weights; put {' or '.join(_WEIGHTS)} (a state dict) into its models/")

    def licence(self) -> str:
        """First line of its LICENSE that is not empty; empty where there is none."""
        path = self.folder / "LICENSE"
        if not path.is_file():
            return ""
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), "")

    def referred(self, reference: str) -> Any:
        """What ``@NAME::KEY`` names, not resolved yet; raises ModelError where there is nothing."""
        value: Any = self.config
        for key in reference[1:].replace("#", "::").split("::"):
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                raise ModelError(f"the configuration of {self.name} refers to {reference!r}, which is not there")
        return value

    def _find_config(self) -> dict[str, Any]:
        for name in _CONFIGS:
            path = self.folder / "configs" / name
            if path.is_file():
                config = _read(path)
                if NETWORK in config:
                    return config
        raise ModelError(
            f"{self.folder} has no configuration that defines {NETWORK!r}; it is looked for in configs/: "
            f"{', '.join(_CONFIGS)}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as exc:
        raise ModelError(f"cannot read {path}: {exc.strerror}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as exc:
        raise ModelError(f"{path} is damaged: {' '.join(str(exc).split())[:200]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged: it holds a {type(value).__name__}, not an object")
    return value
