"""``auto``: the largest network of a declared shortlist that keeps to a latency on the target.

Largest is by MACs: within one budget they buy more accuracy than anything else that can be known before training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.latency.network_latency import LatencyRequest, NetworkLatency, measure_networks
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.model import Model, Origin
from medfm_compress.compress.training.distributed import agree, is_first
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.task import Task

AUTO = "auto"
RECORD = "students.json"
SHORTLIST = (
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
    "regnetx_002",
    "mobilenetv2_100",
    "regnety_004",
    "convnext_atto",
    "resnet10t",
    "vit_tiny_patch16_224",
    "efficientformer_l1",
    "resnet18",
    "resnet50",
    "vit_small_patch16_224",
)
"""CNNs, ViTs and a hybrid of 23 M to 4.6 G MACs at 224 px, fewest first; both engines run them in FP32 and INT8."""
_PLAN = Plan(rounds=10, turn_ms=100.0, warm_up_s=3.0)


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of the shortlist.

    Attributes:
        name: timm name.
        macs: of one image; 0 where it was not built.
        parameters: likewise.
        p50_ms: median latency of one image, session alone; None where it was not timed.
        p99_ms: 99th percentile, likewise.
        fits: its median is within the budget.
        reason: why it was chosen, or why not.
    """

    name: str
    macs: int = 0
    parameters: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    fits: bool = False
    reason: str = ""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which network was chosen, and what was known of the others.

    Attributes:
        name: timm name of the chosen one.
        target: ``backend:device:precision:threads``.
        budget_ms: of the median.
        candidates: the shortlist, fewest MACs first.
    """

    name: str
    target: str
    budget_ms: float
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        chosen = next(candidate for candidate in self.candidates if candidate.name == self.name)
        timed = sum(candidate.p50_ms is not None for candidate in self.candidates)
        return (
            f"student {chosen.name} chosen of {timed} that were timed: {chosen.macs / 1e6:.0f} M MACs, "
            f"{chosen.p50_ms:.3g} ms for one image on {self.target}, budget {self.budget_ms:g} ms"
        )


class Auto(NamedTuple):
    """What ``auto`` needs besides the task and the input.

    Attributes:
        goal: latency and target.
        folder: keeps the measurements, in ``students.json``.
        progress: told what begins.
        on_choice: given the choice, once it is made.
        shortlist: timm names, fewest MACs first.
        plan: how long to measure; its threads are the target's.
    """

    goal: LatencyGoal
    folder: Path
    progress: Progress
    on_choice: Callable[[Choice], None]
    shortlist: tuple[str, ...] = SHORTLIST
    plan: Plan = _PLAN


def auto_select(task: Task, spec: ImageSpec, auto: Auto) -> Model:
    """An untrained network of the shortlist, chosen by its latency; under ``torchrun`` the first process measures.

    Raises:
        InputError: none fits, with the latency of the fastest; or none could be measured.
    """
    plan = msgspec.structs.replace(auto.plan, threads=auto.goal.target.threads)
    encoded = ""
    if is_first():
        request = LatencyRequest(task, spec, auto.goal, plan)
        rows = measure_networks(auto.shortlist, request, auto.folder / RECORD, auto.progress)
        encoded = encode(choose(rows, auto.goal)).decode()
    choice = decode(agree(encoded), Choice, source="choice of a student")
    auto.on_choice(choice)
    model = build_model(choice.name, task, size_px=spec.height_px, colour=spec.colour, spec=spec)
    return dataclasses.replace(model, provenance=Origin(steps=(str(choice),)))


def choose(rows: tuple[NetworkLatency, ...], goal: LatencyGoal) -> Choice:
    """The row of the most MACs within the budget.

    Raises:
        InputError: none fits, or none was measured.
    """
    known = [row for row in rows if not row.reason]
    if not known:
        first = rows[0].reason if rows else "the shortlist is empty"
        raise InputError(f"no network of the shortlist could be measured on {goal.target}: {first}")
    fitting = [row for row in known if row.measurement is not None and row.median_ms <= goal.budget_ms]
    if not fitting:
        fastest = min(known, key=lambda row: row.median_ms)
        raise InputError(
            f"no network of the shortlist takes {goal.budget_ms:g} ms or less on {goal.target}: the fastest, "
            f"{fastest.name}, takes {'' if fastest.measurement else 'about '}{fastest.median_ms:.3g} ms; raise "
            "--max-latency, lower --image-size, or name a --student"
        )
    chosen = max(fitting, key=lambda row: row.macs)
    candidates = tuple(_candidate(row, goal, chosen.name) for row in rows)
    return Choice(name=chosen.name, target=str(goal.target), budget_ms=goal.budget_ms, candidates=candidates)


def _candidate(row: NetworkLatency, goal: LatencyGoal, chosen: str) -> Candidate:
    timed = row.measurement
    fits = timed is not None and row.median_ms <= goal.budget_ms
    reason = row.reason
    if fits:
        reason = "chosen: the most MACs within the budget" if row.name == chosen else "fits, and so does a larger one"
    elif not reason:
        reason = "above the budget" if timed else f"took about {row.estimate_ms:.3g} ms, over twice the budget"
    return Candidate(
        name=row.name,
        macs=row.macs,
        parameters=row.parameters,
        p50_ms=timed.quantile_ms(0.5) if timed else None,
        p99_ms=timed.quantile_ms(0.99) if timed else None,
        fits=fits,
        reason=reason,
    )
