"""What several commands say in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.cli import console

if TYPE_CHECKING:
    from medfm_compress.compress.model import Model


def tell_model(model: Model, out: Path, as_json: bool) -> None:
    """A trained model: where it is and what was done."""
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    if as_json:
        steps = list(model.provenance.steps)
        console.emit_json({"model": str(out), "name": model.name, "parameters": parameters, "steps": steps})
        return
    console.say(f"{model.provenance.steps[-1]}")
    console.say(f"wrote {out} ({model.name}, {parameters / 1e6:.1f} M parameters)")
