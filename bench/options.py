"""`BenchOptions`: what a bench does beyond the necessary."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.measure.load_scenario import Harness, LoadPlan, ScenarioName


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
        batch_sweep: whether 1 to 64 images at once are timed as well, after the rounds.
        cache_dir: where prepared images are kept between runs; none keeps nothing.
    """

    plan: Plan = Plan()
    targets: tuple[str, ...] = ()
    others: tuple[ModelUnderTest, ...] = ()
    external_models: tuple[Path, ...] = ()
    scenarios: tuple[ScenarioName, ...] = ()
    harness: Harness = "plain"
    load: LoadPlan = LoadPlan()
    baseline: Path | None = None
    pairs: int = 10
    split: str = "test"
    files: int = 4
    batch_sweep: bool = False
    cache_dir: Path | None = None
