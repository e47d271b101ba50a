"""`explain_difference`: two variants of a bundle, layer by layer, and why the first layers part where they do."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.difference.alignment import Point, align, layer_of
from medfm_compress.export.difference.backends import open_network
from medfm_compress.export.difference.causes import Side, find_cause
from medfm_compress.export.difference.exposed import ExposedNetwork
from medfm_compress.export.difference.graph import Array
from medfm_compress.export.difference.layers import Measured, Parts, measure, wider
from medfm_compress.export.difference.result import Cause, Difference, LayerDifference
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.progress import Progress, no_progress

FIRST = 8
"""Layers that part whose cause is looked for; the one that creates most is looked into as well."""
_TELLING = 0.01  # of the largest difference that a layer creates; what creates less explains nothing


def explain_difference(
    bundle: Bundle,
    names: tuple[str, str],
    cases: NDArray[np.float32],
    *,
    first: int = FIRST,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Difference:
    """Run two variants layer by layer on ``cases`` and find what makes them part.

    Args:
        bundle: that holds both.
        names: of the reference A and of the other variant B.
        cases: network inputs ``[n, C, H, W]``, normalised float32.
        first: layers whose cause is looked for, in A's order.
        threads: of both engines.
        progress: told what begins.

    Raises:
        InputError: an unknown variant, twice the same, two whose layers cannot be matched, or a network that takes
            columns beside the image.
        BundleRefused: a variant does not open here.
        MissingDependency: its engine is not installed.
    """
    if names[0] == names[1]:
        raise InputError(f"both variants are {names[0]}; name two different ones")
    if bundle.manifest.told:
        beside = ", ".join(column.name for column in bundle.manifest.told)
        raise InputError(
            f"{bundle.path.name} takes columns beside the image ({beside}), and layers are compared of networks of the "
            "image alone; 'medfm-compress bench' compares what the variants answer"
        )
    variants = [bundle.variant(name) for name in names]
    progress(f"opening {names[0]} and {names[1]}")
    a, b = (ExposedNetwork(open_network(bundle, variant, threads), cases[:1]) for variant in variants)
    points, method = align(a.network.topology, b.network.topology)
    progress(f"{len(points)} values are matched by {method}")
    outputs = [np.concatenate([side.output(cases[i : i + 1]) for i in range(len(cases))]) for side in (a, b)]
    layers: list[tuple[Measured, LayerDifference]] = []
    for measured in measure(a, b, points, cases):
        layers.append((measured, _layer(measured, a, b)))
        if len(layers) % 24 == 0:
            progress(f"compared {len(layers)} layers")
    chosen = _chosen([layer for _, layer in layers], first)
    progress(f"looking for the cause of {len(chosen)} layers")
    causes = {layer.value: _cause(m, points, a, b, cases[:1]) for m, layer in layers if layer.value in chosen}
    return Difference(
        a=names[0],
        b=names[1],
        cases=len(cases),
        output_error=relative_logit_error(outputs[1], outputs[0], bundle.manifest.task),
        matched_by=method,
        exposure=(a.exposure, b.exposure),
        layers=tuple(msgspec.structs.replace(layer, cause=causes.get(layer.value)) for _, layer in layers),
    )


def _layer(measured: Measured, a: ExposedNetwork, b: ExposedNetwork) -> LayerDifference:
    point = measured.point
    names = [layer_of(own, side.network.topology) for own, side in ((point.a, a), (point.b, b))]
    direct = [name for name in names if name and not name.startswith("behind ")]
    return LayerDifference(
        value=point.name,
        layer=next(iter([*direct, *filter(None, names)]), ""),
        operator=a.network.topology.operator(point.a),
        error=measured.error,
        created=measured.created,
        floor=measured.floor,
        steps=measured.steps,
        saturated=measured.saturated,
        alone=measured.alone,
        note=measured.note,
        with_inputs=measured.wide,
    )


def _chosen(layers: list[LayerDifference], first: int) -> set[str]:
    parted = [layer for layer in layers if layer.parts]
    largest = max((layer.created or 0.0 for layer in parted), default=0.0)
    telling = [layer for layer in parted if (layer.created or 0.0) >= _TELLING * largest]
    return {layer.value for layer in telling[:first]} | {layer.value for layer in telling if layer.created == largest}


def _cause(measured: Measured, points: Sequence[Point], a: ExposedNetwork, b: ExposedNetwork, case: Array) -> Cause:
    networks = a.network, b.network
    cutter = wider(*networks, points, measured.point) if measured.wide else Parts(*networks, points)
    parts = cutter.parts(measured.point)
    needed = cutter.needed(parts)
    values = a.open([point.a for point in needed])({a.network.topology.inputs[0]: case})
    feeds = cutter.feeds(measured.point, parts, dict(zip(needed, values, strict=True)), case)
    sides = [Side(side.network, part, feed) for side, part, feed in zip((a, b), parts, feeds, strict=True)]
    return find_cause(sides[0], sides[1], measured.floor)
