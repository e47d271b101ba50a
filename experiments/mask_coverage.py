"""How often the interval of the paired difference of mean Dice holds the true one, and how often a bad bundle passes.

Cases of a patient share an effect; Dice is skewed: most cases near 0.9, some badly overlapped, few missed altogether.
The bundle loses the same everywhere (``spread``), or loses all of some patients' structures and nothing else (``few``).

    python -m mask_coverage OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.mask_comparison import CaseValues, compare_means
from medfm_compress.bench.types.policy import NonInferiority, Policy

MARGIN = 0.05
STUDIES = 300
POLICY = Policy(non_inferiority=(NonInferiority(metric="dice", margin=MARGIN),), resamples=1000)


def main(out: Path) -> None:
    """Write one row a setting."""
    rows = []
    for loss in ("spread", "few"):
        for cases in (50, 150, 600):
            for a_patient in (1, 3):
                rows.append(_row(loss, cases, a_patient))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
                sys.stdout.flush()
    out.write_text(json.dumps(rows, indent=1) + "\n")


def _row(loss: str, cases: int, a_patient: int) -> dict[str, object]:
    random = np.random.default_rng([cases, a_patient, loss == "few"])
    truth = float(np.mean([_change(_draw(random, 20_000, a_patient, loss)) for _ in range(20)]))
    held, passed, widths = 0, 0, []
    for study in range(STUDIES):
        sample = _draw(random, cases, a_patient, loss)
        found = compare_means(sample, "dice", POLICY, MARGIN, seed=(study,), same=False).difference
        held += found.low <= truth <= found.high
        passed += found.low > -MARGIN
        widths.append(found.high - found.low)
    return {
        "loss": loss,
        "cases": cases,
        "cases_a_patient": a_patient,
        "true_difference": round(truth, 4),
        "holds": held / STUDIES,
        "passes": passed / STUDIES,
        "median_width": round(float(np.median(widths)), 4),
    }


def _change(sample: CaseValues) -> float:
    return float((sample.values[1] - sample.values[0]).mean())


def _draw(random: np.random.Generator, cases: int, a_patient: int, loss: str) -> CaseValues:
    """Dice of teacher and bundle, ``[2, cases]``; the true loss of the bundle is about the margin."""
    clusters = np.arange(cases) // a_patient
    patients = int(clusters[-1]) + 1
    difficulty = random.normal(0, 0.7, patients)[clusters] + random.normal(0, 0.7, cases)
    teacher = 1 / (1 + np.exp(-(2.4 - 1.1 * np.exp(0.7 * difficulty) + 1.1)))
    teacher[random.random(cases) < 0.03] = 0.0
    if loss == "few":
        bundle = teacher + random.normal(0, 0.01, cases)
        bundle[(random.random(patients) < 0.062)[clusters]] = 0.0
    else:
        change: NDArray[np.float64] = (
            random.gamma(0.5, 0.104, cases) * np.exp(random.normal(0, 0.3, patients))[clusters]
        )
        bundle = teacher - change + random.normal(0, 0.02, cases)
    return CaseValues(np.stack([teacher, np.clip(bundle, 0, 1)]), clusters)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
