"""Why no INT8 variant ships, where none does: what ``quantize`` recorded of each candidate in the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.bench.types.quantization_step import keeps_out
from medfm_compress.cli import console

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.manifest import Manifest

_STEP = "quantize: "
_BEGINS = f"{_STEP}calibrated on "


def why_no_int8(manifest: Manifest) -> list[str]:
    """A sentence for each candidate that does not ship; empty where an INT8 variant does."""
    if any(variant.precision.startswith("int8") for variant in manifest.variants):
        return []
    steps = manifest.provenance.steps
    begun = [position for position, step in enumerate(steps) if step.startswith(_BEGINS)]
    if not begun:
        return ["the bundle was not quantized"]
    lines = [step.removeprefix(_STEP) for step in steps[begun[-1] :] if step.startswith(_STEP)]
    return [line for line in lines if keeps_out(line)]


def print_no_int8(manifest: Manifest) -> None:
    """Print it, one line a candidate; nothing where an INT8 variant ships."""
    reasons = why_no_int8(manifest)
    if reasons:
        console.say("no INT8 variant ships:")
    for reason in reasons:
        console.say(f"  {reason}")


def print_needed_instructions(manifest: Manifest) -> None:
    """Say so where no variant runs on a CPU without certain instructions; nothing where one does."""
    needed = [" and ".join(variant.instruction_set) for variant in manifest.variants if variant.device == "cpu"]
    if needed and all(needed):
        console.say(
            f"every variant needs a CPU with {'; or '.join(dict.fromkeys(needed))}, and refuses to run on another: "
            "--keep-fp32 ships one for every CPU beside them"
        )
