"""`BenchOptions`: what a bench does beyond the necessary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.measure.load_scenario import Harness, LoadPlan, ScenarioName
from medfm_compress.bench.types.target import TARGETS


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do beyond the necessary.

    Attributes:
        plan: rounds, threads, warm-up.
        targets: measure only what begins with one of these, e.g. ``openvino:cpu``; without any, all.
        others: further models, measured and not evaluated, e.g. the teacher in ONNX Runtime.
        external_models: ONNX files or bundles, evaluated and measured beside the bundle, never judged.
        scenarios: loads to put on the teacher and every variant, after the interleaved rounds.
        harness: what drives the scenarios; ``plain`` needs nothing installed.
        load: how long a scenario runs; its threads are the plan's.
        baseline: an earlier bundle, to see whether a variant became slower.
        pairs: interleaved pairs of processes for that.
        split: evaluated split.
        files: images for the end-to-end time.
        cache_dir: where prepared images are kept between runs; none keeps nothing.
    """

    plan: Plan = Plan()
    targets: Annotated[tuple[str, ...], TARGETS] = ()
    others: tuple[ModelUnderTest, ...] = ()
    external_models: Annotated[tuple[Path, ...], Meta(extra={"option": "against"})] = ()
    scenarios: Annotated[tuple[ScenarioName, ...], Meta(extra={"option": "scenario"})] = ()
    harness: Harness = "plain"
    load: LoadPlan = LoadPlan()
    baseline: Annotated[Path, Meta(extra={"option": "baseline-bundle"})] | None = None
    pairs: Annotated[int, Meta(ge=10)] = 10
    split: str = "test"
    files: int = 4
    cache_dir: Annotated[Path, Meta(extra={"option": "cache"})] | None = None
