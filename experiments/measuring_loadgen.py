"""Does the ruler measure straight? Writes docs/results/measuring.md.

    python experiments/measuring_loadgen.py --out docs/results/measuring.md

1. LoadGen and the plain mode on one model: fresh processes in turn (A B, B A, …), ratio of the percentiles by pairs.
2. The cost of measuring: an empty call, and the stages from file to prediction against their sum.
3. The slowdown test on a model against itself, and against a copy made heavier by a known share.

Without --bundle a small network is built (needs onnx). About eight minutes on one CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.latency_regression import Slowdown, geometric_mean_ratio, measure_slowdown
from medfm_compress.bench.measure.load_run import run_scenario
from medfm_compress.bench.measure.load_scenario import SCENARIOS, Harness, LoadPlan, ScenarioName
from medfm_compress.bench.measure.machine import Machine, describe_machine
from medfm_compress.bench.measure.stopwatch import timed_ms
from medfm_compress.bench.models import variant_models
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.task import Task

SPEC = ImageSpec(height_px=128, width_px=128, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="binary", labels=("normal", "finding"))
LAYERS, HEAVIER = 8, 9
WIDTH = 32
HARNESSES: tuple[Harness, ...] = ("loadgen", "plain")
SHORT_INFERENCE_MS = 5.0
ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"


def network(layers: int) -> bytes:
    """ONNX of ``layers`` equal convolutions, so that one more adds a known share of work."""
    from onnx import helper, numpy_helper

    random, names = np.random.default_rng(0), [f"x{number}" for number in range(layers + 2)]
    weights = {"A": (WIDTH, 1, 5, 5), "B": (WIDTH, WIDTH, 3, 3), "F": (WIDTH, 2)}
    nodes = [helper.make_node("Conv", ["image", "A"], [names[0]], strides=[2, 2], auto_pad="SAME_UPPER")]
    nodes += [
        helper.make_node("Conv", [names[number], "B"], [names[number + 1]], auto_pad="SAME_UPPER")
        for number in range(layers)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [names[layers]], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "F"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "measured",
        [helper.make_tensor_value_info("image", 1, SPEC.shape)],
        [helper.make_tensor_value_info("logits", 1, [1, 2])],
        [numpy_helper.from_array((0.05 * random.normal(size=s)).astype(np.float32), n) for n, s in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def built(folder: Path, name: str, layers: int) -> ModelUnderTest:
    """A model of :func:`network`, with one image file."""
    from PIL import Image

    model, image = folder / f"{name}.onnx", folder / "case.png"
    model.write_bytes(network(layers))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)).save(image)
    reference = SessionRef(opener=ORT, arguments={"model": str(model), "threads": 1})
    return ModelUnderTest(name=name, session=reference, spec=SPEC, task=TASK, files=(str(image),))


def agreement(
    model: ModelUnderTest, scenario: ScenarioName, plan: LoadPlan, pairs: int, print_line: Callable[[str], None]
) -> str:
    """One row a percentile: LoadGen's and the plain mode's median over processes, their spread, and the ratio."""
    result: dict[str, list[tuple[float, ...]]] = {"loadgen": [], "plain": []}
    for pair in range(pairs):
        for harness in HARNESSES if pair % 2 == 0 else HARNESSES[::-1]:
            print_line(f"{scenario}, pair {pair + 1} of {pairs}, {harness}")
            # Another seed for each pair, or one draw of arrivals would decide.
            run = run_scenario(model, scenario, harness, msgspec.structs.replace(plan, seed=pair))
            figures = np.quantile(run.latencies_ms, [0.5, 0.9, 0.99]).tolist()
            result[harness].append((*figures, run.queries_per_second))
    loadgen, plain = np.array(result["loadgen"]), np.array(result["plain"])
    # Offline has one query, and the rate of the server is given.
    names = {"offline": ("", "", "", "samples/s"), "server": ("p50 ms", "p90 ms", "p99 ms", "")}.get(
        scenario, ("p50 ms", "p90 ms", "p99 ms", "queries/s")
    )
    return "\n".join(
        f"| {scenario} | {name} | {spread(loadgen[:, column])} | {spread(plain[:, column])} | "
        f"{interval(geometric_mean_ratio(loadgen[:, column].tolist(), plain[:, column].tolist()))} |"
        for column, name in enumerate(names)
        if name
    )


def cost_of_measuring(model: ModelUnderTest) -> list[str]:
    """What an empty call seems to take, and how far the stages are from their sum."""
    empty = np.array(timed_ms(lambda: None, 100_000))
    result = measure([model], Plan(rounds=20))[0]
    apart = np.abs(np.sum([result.stages_ms[name] for name in result.stages_ms], axis=0) - result.end_to_end_ms)
    parts = ", ".join(f"{name} {np.median(values):.3f}" for name, values in result.stages_ms.items())
    median, tail = 1000 * np.median(empty), 1000 * np.quantile(empty, 0.99)
    energy = result.energy_source if result.energy_mj is None else f"{result.energy_mj:.2f} mJ"
    return [
        f"- An empty call is timed at {median:.2f} µs (median of {len(empty)}; 99th percentile {tail:.2f} µs), or",
        f"  {median / (10 * SHORT_INFERENCE_MS):.4f}% of an inference of {SHORT_INFERENCE_MS:g} ms. The limit is 1%.",
        f"- From file to prediction, medians in ms: {parts}; in all {np.median(result.end_to_end_ms):.3f}.",
        f"  The stages differ from their sum by at most {1e6 * apart.max():.0f} ns (rounding).",
        f"- Session alone: {result.quantile_ms(0.5):.3f} ms, {len(result.session_ms)} calls, warm after",
        f"  {result.warm_up_calls} calls. Energy: {energy}.",
    ]


def describe(name: str, slowdown: Slowdown) -> str:
    """A row of the slowdown table."""
    return (
        f"| {name} | {spread(np.array(slowdown.baseline_p50_ms))} | {spread(np.array(slowdown.p50_ms))} | "
        f"{interval(slowdown.ratio, 4)} |"
    )


def spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """Median, and the quartiles behind it."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.4g} ({low:.4g}–{high:.4g})"


def interval(result: Interval, digits: int = 3) -> str:
    """Estimate and interval."""
    return f"{result.estimate:.{digits}f} [{result.low:.{digits}f}, {result.high:.{digits}f}]"


def machine_line(machine: Machine, load_after: float) -> str:
    """The machine in one sentence."""
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items() if name in SHOWN)
    return (
        f"Machine: {machine.cpu_model}, {machine.allowed_cpus} of {machine.logical_cpus} CPUs\n"
        f"({', '.join(machine.cpu_flags)}),\n{machine.memory_bytes / 2**30:.0f} GiB, {machine.system}; "
        f"Python {machine.python},\n{libraries}.\n"
        f"Load average {machine.load_average:.2f} before and {load_after:.2f} after."
    )


SHOWN = ("numpy", "onnxruntime", "openvino", "mlcommons-loadgen")
REMARKS = "## What to read with care\n"
TEXT = """# Measuring: does the ruler measure straight?

Reproduce with

```sh
{command}
```

{machine}

{model}

## LoadGen and the plain mode agree

One thread, {pairs} pairs of fresh processes of {seconds:g} s each (LoadGen first in one pair, the plain mode first in
the next). Median over processes (quartiles); the ratio plain / LoadGen is a geometric mean over pairs with its 95% t
interval. `server` gets half of the rate that the engine can answer one by one; the two draw their arrivals from
generators of their own, so its tail differs from pair to pair.

| scenario | figure | LoadGen | plain | plain / LoadGen |
|---|---|---|---|---|
{agreement}

## What measuring costs

{cost}

## The slowdown test

Ten pairs of fresh processes each, four turns a process.

| new against old | old p50 ms | new p50 ms | ratio |
|---|---|---|---|
{slowdowns}

A policy with `max_slowdown: 1.05` calls it a regression where the whole interval lies above 1.05, and passes it where
the whole interval lies below.
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="measure its first variant and not the small network")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    before = describe_machine()
    with tempfile.TemporaryDirectory(prefix="medfm-measuring-") as temporary:
        folder, supplied = Path(temporary), options.bundle
        measured = built(folder, "measured", LAYERS)
        served = variant_models(Bundle.open(supplied), 1)[0] if supplied else measured
        one_by_one = np.median(measure([served], Plan(rounds=1))[0].session_ms)
        plan = LoadPlan(duration_s=options.seconds, target_qps=float(500 / one_by_one))
        rows = [agreement(served, scenario, plan, options.pairs, say) for scenario in SCENARIOS]
        cost = cost_of_measuring(measured)
        timing = Plan(rounds=40)
        heavier = built(folder, "heavier", HEAVIER)
        slowdowns = [
            describe("the same network", measure_slowdown(measured, measured, timing, 10, say)),
            describe(f"{HEAVIER} layers for {LAYERS}", measure_slowdown(measured, heavier, timing, 10, say)),
        ]
    chosen = f" --bundle {supplied.name}" if supplied else ""
    text = TEXT.format(
        command=f"python experiments/measuring_loadgen.py{chosen} --out {options.out} "
        f"--pairs {options.pairs} --seconds {options.seconds:g}",
        machine=machine_line(before, describe_machine().load_average),
        model=described(served, supplied),
        pairs=options.pairs,
        seconds=options.seconds,
        agreement=lines(rows),
        cost=lines(cost),
        slowdowns=lines(slowdowns),
    )
    write_atomically(options.out, (text + remarks(options.out)).encode())


def remarks(path: Path) -> str:
    """What people wrote at the end of an earlier result; it is kept."""
    earlier = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, heading, message = earlier.partition(REMARKS)
    return f"\n{heading}{message}" if heading else ""


def described(model: ModelUnderTest, bundle: Path | None) -> str:
    """What was put under load."""
    if bundle:
        return f"Under load: the variant {model.name} of {bundle.name}."
    return f"Under load: {LAYERS} equal convolutions of {WIDTH} channels, 128 × 128 px, ONNX Runtime FP32."


def lines(parts: Iterable[str]) -> str:
    """One part a line."""
    return "\n".join(parts)


def say(line: str) -> None:
    """Tell whoever waits."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
