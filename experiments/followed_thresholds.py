"""How many decisions a quantized variant's threshold changes on cases that it was not chosen on, by three ways.

    python experiments/followed_thresholds.py STUDY BUNDLE… [--cases 128] [--draws 200] [--most-val 600]

BUNDLE is quantized with ``--keep-fp32``, for one finding at Youden's index. Of each quantized variant: the threshold is
chosen on drawn validation cases of STUDY, as many with the finding as without, in turn

- ``kept``: that of FP32, which Youden's index gives on the same cases;
- ``again``: Youden's index on the variant's own scores;
- ``followed``: calls as many cases as FP32 (`follow_operating_point`);

and judged on the test cases: the share of decisions that differ from those of FP32, and how much of Youden's index is
lost against it, means over the draws with the 5th and 95th percentile.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medfm_compress.data.study import Case, Study
    from medfm_compress.runtime.bundle.bundle import Bundle

Floats = NDArray[np.float64]
WAYS = ("kept", "again", "followed")
CHUNK = 32


class Answers(NamedTuple):
    """Scores ``[n]`` of one network on validation and test cases."""

    val: Floats
    test: Floats


def main() -> None:
    """Read the arguments, print one row a variant and way."""
    from medfm_compress.data.open import open_study_of
    from medfm_compress.runtime.bundle.bundle import Bundle

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--cases", type=int, default=128)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--most-val", type=int, default=600)
    arguments = parser.parse_args()
    say = sys.stdout.write
    say("| network | variant | threshold | decisions that differ, of 100 | loss of Youden's index |\n")
    say(f"|{'---|' * 5}\n")
    for path in arguments.bundles:
        bundle = Bundle.open(path)
        study = open_study_of(bundle.manifest.task, arguments.study)
        splits = [tuple(case for case in study.split(name) if case.target) for name in ("val", "test")]
        splits[0] = _balanced(splits[0], arguments.most_val)
        truths = [np.array([case.target == (1,) for case in cases]).astype(np.int64) for cases in splits]
        answers = {
            variant.name: Answers(*(_scores(bundle, variant.name, study, cases) for cases in splits))
            for variant in bundle.manifest.variants
        }
        fp32 = next(of for name, of in answers.items() if name.endswith("fp32"))
        for name, own in answers.items():
            if not name.endswith("fp32"):
                for row in _rows(fp32, own, truths, arguments.cases, arguments.draws):
                    say(f"| {Path(path).stem} | {name} | {row}\n")


def _balanced(cases: tuple[Case, ...], most: int) -> tuple[Case, ...]:
    """At most ``most`` cases, half of each outcome, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    chosen: list[Case] = []
    for target in ((0,), (1,)):
        of_target = [case for case in cases if case.target == target]
        picked = random.permutation(len(of_target))[: most // 2]
        chosen += [of_target[number] for number in sorted(picked.tolist())]
    return tuple(chosen)


def _scores(bundle: Bundle, name: str, study: Study, cases: tuple[Case, ...]) -> Floats:
    from medfm_compress.compress.quantization.fidelity import case_logits
    from medfm_compress.export.cases import case_inputs
    from medfm_compress.runtime.activation import probabilities
    from medfm_compress.runtime.sessions.table import open_variant

    session = open_variant(bundle, bundle.variant(name), 1)
    manifest = bundle.manifest
    logits = np.concatenate(
        [
            case_logits(session, case_inputs(study, cases[start : start + CHUNK], manifest.image_spec, manifest.told))
            for start in range(0, len(cases), CHUNK)
        ]
    )
    return probabilities(logits.astype(np.float64), manifest.task)[:, 0]


def _rows(fp32: Answers, own: Answers, truths: list[NDArray[np.int64]], cases: int, draws: int) -> list[str]:
    """One row a way."""
    from medfm_compress.bench.evaluate.operating_points import choose_operating_point, follow_operating_point

    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    random = np.random.default_rng(1)
    val, test = truths
    for _ in range(draws):
        drawn = np.concatenate(
            [random.choice(np.flatnonzero(val == value), cases // 2, replace=False) for value in (0, 1)]
        )
        point = choose_operating_point("finding", fp32.val[drawn], val[drawn], rule="youden")
        called = int((fp32.val[drawn] >= point.threshold).sum())
        again = choose_operating_point("finding", own.val[drawn], val[drawn], rule="youden")
        followed = follow_operating_point(point, own.val[drawn], val[drawn], called=called)
        before = fp32.test >= point.threshold
        for way, threshold in zip(WAYS, (point.threshold, again.threshold, followed.threshold), strict=True):
            after = own.test >= threshold
            found[way].append((100 * float((after != before).mean()), _index(before, test) - _index(after, test)))
    return [f"{way} | {_spread(found[way], 0, 1)} | {_spread(found[way], 1, 3)} |" for way in WAYS]


def _index(called: NDArray[np.bool_], truth: NDArray[np.int64]) -> float:
    return float(called[truth == 1].mean() - called[truth == 0].mean())


def _spread(pairs: list[tuple[float, float]], column: int, digits: int) -> str:
    values = np.array(pairs)[:, column]
    low, high = np.quantile(values, [0.05, 0.95])
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
