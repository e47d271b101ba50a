"""How often the monitor's drift test errs, and how late it is: the tables of docs/results/monitoring.md.

    python experiments/monitor_false_alarms.py --runs 2000

Every run draws a reference of its own, makes bins of it as a bundle's maker does, and lets a device see images week
after week. An alarm is false if nothing has changed. The vectorised game is that of the device (`drift.staked`); a test
holds one against the other.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.monitor.drift import BETS, staked, unstaked
from medfm_compress.runtime.monitor.histogram import BINS, summarise
from medfm_compress.runtime.monitor.record import ALPHA

Values = NDArray[np.float64]


class Stream(NamedTuple):
    """Where images come from.

    Attributes:
        cases: of the reference.
        images: of the device, a week.
        weeks: that are simulated.
        change_at: week that begins with the change; none at all where it is ``weeks``.
        shift: of the values from then on, in standard deviations of the reference.
        scale: of their spread from then on.
        in_a_row: images of one patient.
        alike: share of the variance that a patient's images have in common.
    """

    cases: int = 300
    images: int = 100
    weeks: int = 52
    change_at: int = 52
    shift: float = 0.0
    scale: float = 1.0
    in_a_row: int = 1
    alike: float = 0.0


class Played(NamedTuple):
    """Runs that were played to the end.

    Attributes:
        first: image at which the evidence first reached the threshold; -1 where it never did, ``[runs]``.
        largest: evidence ever, ``[runs]``.
    """

    first: NDArray[np.int64]
    largest: Values


def main() -> int:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    print_false_alarms(arguments.runs, random)
    print_dependence(arguments.runs, random)
    print_delays(arguments.runs, random)
    return 0


def print_false_alarms(runs: int, random: np.random.Generator) -> None:
    """Runs without a change: how many ever reach 1/α, looked at after every image."""
    say(f"## Without drift ({runs} runs a row, one feature, looked at after every image)\n")
    say("| reference | images | alarms at α = 5% | at 1% | stated | largest evidence, mean | 99% |")
    say("|---|---|---|---|---|---|---|")
    for cases, weeks in ((60, 52), (300, 52), (2000, 52), (300, 156)):
        played = play(Stream(cases=cases, weeks=weeks, change_at=weeks), runs, np.inf, random)
        rates = [share(played.largest >= 1 / alpha) for alpha in (0.05, 0.01)]
        tail = np.quantile(played.largest, 0.99)
        say(
            f"| {cases} | {weeks} weeks of 100 | {rates[0]} | {rates[1]} | ≤ 5%, ≤ 1% | {played.largest.mean():.2f} | "
            f"{tail:.1f} |"
        )


def print_dependence(runs: int, random: np.random.Generator) -> None:
    """Several images of a patient in a row."""
    say(f"\n## Several images of a patient in a row ({runs} runs a row, 300 cases, 52 weeks of 100 images, no drift)\n")
    say("| images a patient | share of variance in common | alarms at 5% | at 1% |")
    say("|---|---|---|---|")
    for in_a_row, alike in ((2, 0.5), (2, 0.9), (4, 0.5), (4, 0.9)):
        played = play(Stream(in_a_row=in_a_row, alike=alike), runs, np.inf, random)
        say(f"| {in_a_row} | {alike:.0%} | {share(played.largest >= 20)} | {share(played.largest >= 100)} |")


def print_delays(runs: int, random: np.random.Generator) -> None:
    """A change of known size after some weeks, at the threshold of a device that watches four features."""
    threshold = 4 / ALPHA
    say(f"\n## After a change ({runs} runs a row, 300 cases, 100 images a week, threshold {threshold:g})\n")
    say("| change | after week | found within 20 weeks | images until then, median | 90% | false before |")
    say("|---|---|---|---|---|---|")
    changes = ((0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (-0.5, 1.0), (0.0, 1.5), (0.0, 0.67))
    for shift, scale in changes:
        for week in (4, 26) if (shift, scale) in ((0.5, 1.0), (1.0, 1.0)) else (4,):
            stream = Stream(weeks=week + 20, change_at=week, shift=shift, scale=scale)
            print_delay(stream, play(stream, runs, threshold, random))
    more = Stream(cases=2000, weeks=24, change_at=4, shift=0.25)
    print_delay(more, play(more, runs, threshold, random))


def print_delay(stream: Stream, played: Played) -> None:
    """One row."""
    change = stream.change_at * stream.images
    before = (played.first >= 0) & (played.first < change)
    after = played.first[played.first >= change] - change + 1
    name = f"{stream.shift:+g} SD" if stream.shift else f"spread × {stream.scale:g}"
    name += "" if stream.cases == Stream().cases else f", {stream.cases} cases"
    middle, late = (f"{np.quantile(after, q):.0f}" for q in (0.5, 0.9)) if len(after) else ("", "")
    say(f"| {name} | {stream.change_at} | {share(played.first >= change)} | {middle} | {late} | {share(before)} |")


def play(stream: Stream, runs: int, threshold: float, random: np.random.Generator) -> Played:
    """Play all runs at once, image by image."""
    edges, counts = references(stream, runs, random)
    bets, rows = np.zeros((runs, BETS)), np.arange(runs)
    largest, first = np.ones(runs), np.full(runs, -1)
    common = np.zeros(runs)
    for image in range(stream.weeks * stream.images):
        if image % stream.in_a_row == 0:
            common = random.normal(size=runs)
        values = mixed(stream, common, random.normal(size=runs))
        if image >= stream.change_at * stream.images:
            values = values * stream.scale + stream.shift
        position = (values[:, None] >= edges).sum(axis=1)
        below = np.cumsum(counts, axis=1)
        here = counts[rows, position]
        p = (below[rows, position] - here + random.random(runs) * (here + 1)) / (below[:, -1] + 1)
        bets = staked(bets, p, image)
        counts[rows, position] += 1
        evidence = unstaked(image + 1) + bets.sum(axis=1)
        np.maximum(largest, evidence, out=largest)
        first[(first < 0) & (evidence >= threshold)] = image
    return Played(first, largest)


def references(stream: Stream, runs: int, random: np.random.Generator) -> tuple[Values, NDArray[np.int64]]:
    """Edges ``[runs, 9]``, filled up with infinity, and counts ``[runs, 10]``."""
    edges, counts = np.full((runs, BINS - 1), np.inf), np.zeros((runs, BINS), np.int64)
    for run in range(runs):
        groups = -(-stream.cases // stream.in_a_row)
        common = np.repeat(random.normal(size=groups), stream.in_a_row)[: stream.cases]
        histogram = summarise(mixed(stream, common, random.normal(size=stream.cases)).tolist())
        edges[run, : len(histogram.edges)] = histogram.edges
        counts[run, : len(histogram.counts)] = histogram.counts
    return edges, counts


def mixed(stream: Stream, common: Values, own: Values) -> Values:
    """Values of variance 1 of which a patient's images share a part."""
    if stream.in_a_row == 1:
        return own
    mixture: Values = np.sqrt(stream.alike) * common + np.sqrt(1 - stream.alike) * own
    return mixture


def share(hits: NDArray[np.bool_]) -> str:
    """A share in percent."""
    return f"{100 * hits.mean():.2f}%"


def say(line: str) -> None:
    """A line of the tables."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
