"""What a zero point of activations costs and gives in OpenVINO: symmetric S8 activations beside U8 ones.

    python experiments/symmetric_activations.py WORK NAME… [--precision int8] [--placement …] [--isa ISA]

WORK is that of `int8_cpu.py` after its stage ``prepare``. Of each network: INT8 by min–max with zero points wherever a
range is not around 0 (none), only where it is skewed (balanced), and nowhere (all), timed in turns on one thread of
this process by processor time; beside them the relative logit error on 64 validation cases. ISA is one of oneDNN's,
e.g. AVX512_CORE_VNNI, which keeps the kernels of this CPU to those of a lesser one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medfm_compress.runtime.sessions.protocol import Session

CASES = 64
ROUNDS = 80
SAMPLE = 32


def main() -> None:
    """Read the arguments, print one row a network and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--precision", default="int8-bf16", choices=("int8", "int8-bf16"))
    parser.add_argument("--placement", default="default", choices=("default", "byte-sums"))
    parser.add_argument("--isa", default="")
    arguments = parser.parse_args()
    if arguments.isa:  # read once, when OpenVINO is loaded
        os.environ["ONEDNN_MAX_CPU_ISA"] = arguments.isa
    write("| network | symmetric | ms, median and 10 % | over all of them | relative logit error |")
    write("|---|---|---|---|---|")
    for name in arguments.names:
        compare(Path(arguments.work) / name, arguments.precision, arguments.placement)


def compare(work: Path, precision: str, placement: str) -> None:
    """The rows of one network."""
    from int8_cpu_network import load_network
    from int8_cpu_ours import batches, form_of, product_graph
    from medfm_compress.bench.measure.speedup import paired_ratio
    from medfm_compress.bench.measure.stopwatch import drawn_order
    from medfm_compress.compress.quantization.build_candidate import GraphBuilder
    from medfm_compress.compress.quantization.calibrate import calibrate
    from medfm_compress.compress.quantization.methods import Method
    from medfm_compress.runtime.cpu import usable_cores
    from medfm_compress.runtime.golden_cases import relative_logit_error
    from medfm_compress.runtime.sessions.table import open_session_from_bytes

    graph, images = product_graph(work / "plain-b1.onnx"), np.load(work / "calibration.npz")["image"]
    statistics = calibrate(graph, batches(images, 1), threads=usable_cores())
    builder = GraphBuilder(graph, statistics, images[:SAMPLE], load_network(work).task)
    sessions = dict[str, "Session"]()
    for symmetric in ("none", "balanced", "all"):
        method = msgspec.convert({"symmetric": symmetric, "placement": placement}, Method)
        files = builder.build("openvino", method)
        sessions[symmetric] = open_session_from_bytes("openvino", list(files), 1, precision)
    float32 = open_session_from_bytes("openvino", list(form_of("openvino", graph)), 1, "fp32")
    cases = np.load(work / "validation.npy")[:CASES]
    expected = logits(float32, cases)
    image = np.load(work / "image-b1.npy")
    samples: dict[str, list[list[float]]] = {symmetric: [] for symmetric in sessions}
    for order in islice(drawn_order(len(sessions)), ROUNDS):
        for symmetric in (tuple(sessions)[number] for number in order):
            session = sessions[symmetric]
            feeds = {session.input_names[0]: image}
            session.run(feeds)
            start = time.process_time()
            session.run(feeds)
            samples[symmetric].append([1e3 * (time.process_time() - start)])
    for symmetric, session in sessions.items():
        ms = np.array(samples[symmetric])
        ratio = paired_ratio(ms, np.array(samples["none"]))
        error = relative_logit_error(logits(session, cases), expected)
        write(
            f"| {work.name} | {symmetric} | {np.median(ms):.1f}, {np.quantile(ms, 0.1):.1f} |"
            f" {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] | {error:.4f} |"
        )


def write(line: str) -> None:
    """At once, since a network takes a minute."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def logits(session: Session, cases: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[n, labels]``."""
    name, output = session.input_names[0], session.output_names[0]
    return np.concatenate([session.run({name: case[None]})[output].reshape(1, -1) for case in cases])


if __name__ == "__main__":
    main()
