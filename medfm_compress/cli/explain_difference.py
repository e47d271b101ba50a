"""``medfm-compress explain-difference``: two variants of a bundle layer by layer, and why they part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, Study
from medfm_compress.cli.command import command

if TYPE_CHECKING:
    from medfm_compress.export.difference.result import Difference, Exposure, LayerDifference

_MOST_FUSED = 4


@command()
def explain_difference(
    bundle: Bundle,
    study: Study,
    variant: Annotated[list[str], typer.Option("--variant", help="Name of a variant; twice: the reference A, and B.")],
    split: Annotated[str, typer.Option("--split", help="Split whose images both variants run on.")] = "val",
    cases: Annotated[int, typer.Option("--cases", min=1, max=256, help="Images, drawn from the split.")] = 4,
    layers: Annotated[
        int, typer.Option("--layers", min=1, max=1000, help="Layers that part whose cause is looked for.")
    ] = 8,
) -> None:
    """Run two variants layer by layer on a few images: the first layers that part, and what makes them do so.

    A layer creates a difference where both engines, given the same inputs to it, give different values beyond what
    rounding explains. A cause is named only where changing it made the difference vanish. No metric is computed: it is
    no evaluation.
    """
    from medfm_compress.data.open import open_study
    from medfm_compress.export.cases import network_inputs, sample_cases
    from medfm_compress.export.difference import explain
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.runtime.errors import InputError

    if len(variant) != 2:
        raise InputError(f"--variant is given {len(variant)} times; give it twice, the reference first")
    opened = OpenedBundle.open(bundle)
    for name in variant:
        opened.variant(name)
    images = open_study(study)
    spec = opened.manifest.image_spec
    inputs = network_inputs(images, sample_cases(images, split, cases, 0), spec)
    difference = explain.explain_difference(
        opened, (variant[0], variant[1]), inputs, first=layers, progress=console.progress
    )
    console.emit(lambda: _as_json(difference), lambda: _print_difference(difference))


def _as_json(difference: Difference) -> dict[str, Any]:
    parted = [layer.value for layer in difference.parted]
    return {"difference": difference, "parted": parted, "noise": difference.noise}


def _print_difference(difference: Difference) -> None:
    console.say(f"A: {difference.a}")
    console.say(f"B: {difference.b}")
    console.say(
        f"relative logit error of B against A: {difference.output_error:.3g}, on {difference.cases} images; "
        f"{len(difference.layers)} values matched by {difference.matched_by}"
    )
    for name, exposure in zip("AB", difference.exposure, strict=True):
        console.say(_describe_exposure(name, exposure))
    console.say()
    explained = [layer for layer in difference.parted if layer.cause is not None]
    if not explained:
        _print_unparted(difference)
    else:
        console.table(["layer", "value", "operator", "error", "created", "rounding", "steps", "saturated"],
                      [_row(layer) for layer in explained], left=(0, 1, 2))  # fmt: skip
        console.say()
        for layer in explained:
            _print_cause(layer)
        rest = len(difference.parted) - len(explained)
        console.say(
            f"{len(difference.parted)} of {len(difference.layers)} layers part"
            + (f", {rest} more than shown; see --layers" if rest else "")
        )
    console.say(f"the others create at most {difference.noise:.2g}, which rounding explains")
    _print_doubts(difference)


def _print_unparted(difference: Difference) -> None:
    console.say("no layer parts: none creates a difference beyond rounding")
    grown = max(difference.layers, key=lambda layer: layer.error, default=None)
    if grown is not None and grown.error > grown.floor:
        console.say(
            f"what rounding leaves in each layer grows along the network, to an error of {grown.error:.3g} in "
            f"{grown.layer or grown.value} ({grown.value})"
        )


def _print_doubts(difference: Difference) -> None:
    unknown = [layer for layer in difference.layers if layer.created is None]
    if unknown:
        console.say(f"{len(unknown)} layers were not run alone, e.g. {unknown[0].value}: {unknown[0].note}")
    fused = sorted((layer for layer in difference.layers if layer.fused), key=lambda layer: -max(layer.alone))
    if fused:
        console.say(
            f"{len(fused)} layers give something else alone than in the whole network: an engine fuses them there"
        )
    for layer in fused[:_MOST_FUSED]:
        console.say(
            f"  {layer.layer or layer.value} ({layer.value}): {layer.alone[0]:.2g} in A, {layer.alone[1]:.2g} in B"
        )


def _describe_exposure(name: str, exposure: Exposure) -> str:
    if exposure.change == 0:
        return f"{name}: exposing its values, in {exposure.runs} runs, leaves its output as it is, to the bit"
    return f"{name}: exposing its values, in {exposure.runs} runs, changes its output by up to {exposure.change:.2g}"


def _row(layer: LayerDifference) -> list[str]:
    shares = ["–" if share is None else f"{share:.2%}" for share in layer.saturated]
    return [
        layer.layer or "–",
        layer.value,
        layer.operator + (" (fused)" if layer.with_inputs else ""),
        f"{layer.error:.3g}",
        f"{layer.created:.3g}",
        f"{layer.floor:.2g}",
        "–" if layer.steps is None else f"{layer.steps:.1f}",
        " / ".join(shares),
    ]


def _print_cause(layer: LayerDifference) -> None:
    cause = layer.cause
    if cause is None:
        return
    name = f"{layer.layer} ({layer.value})" if layer.layer else layer.value
    where = {"file": "in the files", "engine": "in the engines", "not known": "in files or engines"}[cause.where]
    if cause.text == "not known":
        tried = "; ".join(f"{text} (left {left:.2g})" for text, left in cause.tried.items())
        console.say(f"{name}: cause not known, {where}; tried: {tried or 'nothing applies'}")
    else:
        console.say(f"{name}: {cause.text} ({where}; with that changed {cause.left:.2g} is left)")
