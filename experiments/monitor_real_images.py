"""The drift test on real radiographs, as they are and altered: the last table of docs/results/monitoring.md.

    python experiments/monitor_real_images.py BUNDLE STUDY

The validation cases (the first image of every patient) are cut into halves at random, again and again: one is the
reference, the other the device's images, in random order. Once all were seen they come again in another order, altered,
or the test cases come.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study
from medfm_compress.runtime import Engine
from medfm_compress.runtime.monitor.histogram import summarise
from medfm_compress.runtime.monitor.record import Record, Seen, Watched, count
from medfm_compress.runtime.monitor.reference import input_features

Image = NDArray[np.float32]
Values = dict[str, float]


def noisy(image: Image) -> Image:
    """Gaussian noise, 5% of the range."""
    return image + np.random.default_rng(0).normal(0, 0.05, image.shape).astype(np.float32)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "5% brighter": lambda image: image * 1.05,
    "20% brighter": lambda image: image * 1.2,
    "gamma 1.3": lambda image: image**1.3,
    "contrast × 0.8": lambda image: 0.5 + 0.8 * (image - 0.5),
    "noise of 5%": noisy,
    "inverted": lambda image: 1 - image,
}


def main() -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--halves", type=int, default=100)
    arguments = parser.parse_args()
    study = open_study(arguments.study)
    with Engine(arguments.bundle, unverified=True, threads=1) as engine:
        names = first_of_patients(study, "val")
        plain = [features(engine, study, name, lambda image: image) for name in names]
        say(f"{len(names)} patients, {len(plain[0])} features, {arguments.halves} random halves\n")
        say("| images of the device | halves with an alarm | images until then, median | 90% | first to alarm |")
        say("|---|---|---|---|---|")
        report("as they are, once", plain, None, arguments.halves)
        test = [features(engine, study, name, lambda image: image) for name in first_of_patients(study, "test")]
        report("as they are, then the study's test cases", plain, test, arguments.halves)
        for title, change in CHANGES.items():
            altered = [features(engine, study, name, change) for name in names]
            report(f"as they are, then {title}", plain, altered, arguments.halves)
    return 0


def first_of_patients(study: Study, split: str) -> list[str]:
    """The first image of every patient."""
    first: dict[str, str] = {}
    for case in study.split(split):
        first.setdefault(case.patient_key or case.image, case.image)
    return list(first.values())


def features(engine: Engine, study: Study, name: str, change: Callable[[Image], Image]) -> Values:
    """What is watched of an image after ``change``, its values in [0, 1]."""
    pixels = study.source.read(name)
    image = (pixels.values.astype(np.float32) - pixels.low) / (pixels.high - pixels.low)
    prediction, seen = engine.predict_with_input(np.clip(change(image), 0, 1).astype(np.float32))
    scores = {f"score of {finding}": value for finding, value in prediction.probabilities.items()}
    return input_features(seen, engine.manifest.image_spec) | scores


def report(title: str, plain: Sequence[Values], later: Sequence[Values] | None, halves: int) -> None:
    """One row: ``later`` are the values of the same images altered, or of others."""
    delays, first = [], Counter[str]()
    for seed in range(halves):
        order = np.random.default_rng(seed).permutation(len(plain))
        reference, device = order[: len(order) // 2], order[len(order) // 2 :]
        stream = [plain[i] for i in device]
        if later is not None:
            others = [later[i] for i in device] if len(later) == len(plain) else list(later)
            stream += [others[i] for i in np.random.default_rng(seed + 1).permutation(len(others))]
        alarm = play([plain[i] for i in reference], stream, seed)
        if alarm:
            delays.append(alarm[0] - (len(device) if later is not None else 0))
            first[alarm[1]] += 1
    middle, late = (f"{np.quantile(delays, q):.0f}" for q in (0.5, 0.9)) if delays else ("", "")
    names = ", ".join(f"{name} {number}" for name, number in first.most_common(3))
    say(f"| {title} | {len(delays)} of {halves} | {middle} | {late} | {names} |")


def play(reference: Sequence[Values], stream: Sequence[Values], seed: int) -> tuple[int, str] | None:
    """Number of the image at which the first feature alarms, and its name; None where none does."""
    draw = np.random.default_rng(seed)
    known = {name: summarise([case[name] for case in reference]) for name in reference[0]}
    watched = {name: Watched(reference=made, counts=(0,) * len(made.counts)) for name, made in known.items()}
    record = Record(manifest_sha256="", release=0, variant="", watched=watched)
    for number, case in enumerate(stream, start=1):
        bins = {name: known[name].bin_of(value) for name, value in case.items()}
        record = count(record, Seen(bins=bins), "", draw.random())
        for name, feature in record.watched.items():
            if feature.alarm:
                return number, name
    return None


def say(line: str) -> None:
    """A line of the table."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
