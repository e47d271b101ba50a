"""Golden cases: synthetic inputs whose logits are stored in the bundle and replayed before it is trusted.

They catch what no hash can: an engine, a CPU or a setting that computes something else from the same file. Inputs are
smooth random fields, never a patient's image. They are kept as uint8 of the [0, 1] image before normalisation, which
is a quarter of the size and puts the normalisation under test as well.

Relative logit error, over n cases (z_q measured, z reference, z̄ the per-output mean of z):

    ‖z_q − z‖_F / max(‖z − z̄‖_F, 0.01 ‖z‖_F, 1e-6)

What the task's activation ignores is taken from both first (of a softmax each case's mean logit); of a segmentation
every pixel counts as a case (see `tasks`). The two floors
keep the quotient meaningful where the cases hardly differ (or there is one only): rounding is relative to ‖z‖.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.bundle.arrays import read_npy, to_npy
from medfm_compress.runtime.bundle.bundle import GOLDEN_INPUTS, Bundle, golden_member
from medfm_compress.runtime.bundle.manifest import NEAREST, Variant
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line, refusing
from medfm_compress.runtime.golden_columns import golden_columns
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.nearest_cases import nearest_cases
from medfm_compress.runtime.network_inputs import NetworkInputs, feed, images_of, rows_of, with_columns
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of

Outputs = Mapping[str, NDArray[Any]]
GOLDEN_COUNT = 4
MAX_GOLDENS = 64

_LEVELS = 255
_OCTAVES = (2, 4, 9, 18)  # cells across the image; each finer one has half the amplitude
_SPREAD_FLOOR = 0.01
_ABSOLUTE_FLOOR = 1e-6
_AT_THRESHOLD = 0.02  # a probability that moved by less and crossed its threshold was as good as on it
_SQUARED_AT_MOST = 1e100  # squares of 1e154 leave float64


def make_goldens(spec: ImageSpec, count: int = GOLDEN_COUNT, seed: int = 0) -> NDArray[np.float32]:
    """Draw ``count`` network inputs ``[count, C, H, W]``, normalised float32, the same for the same seed.

    Raises:
        InputError: ``count`` outside 1 to 64.
    """
    if not 1 <= count <= MAX_GOLDENS:
        raise InputError(f"{count} golden cases; there must be 1 to {MAX_GOLDENS}")
    random = np.random.Generator(np.random.PCG64(seed))
    fields = np.stack([_field(random, spec.height_px, spec.width_px) for _ in range(count)])
    grey = np.rint(fields * _LEVELS).astype(np.uint8)[:, None]
    return _normalised(np.repeat(grey, spec.channels, axis=1), spec)


def make_golden_inputs(
    spec: ImageSpec, columns: Sequence[Column] = (), count: int = GOLDEN_COUNT, seed: int = 0
) -> NetworkInputs:
    """`make_goldens` with the columns of a network beside them (see `golden_columns`); the images alone without."""
    return with_columns(make_goldens(spec, count, seed), golden_columns(columns, count, seed))


def golden_files(inputs: NetworkInputs, logits: Mapping[str, NDArray[Any]], spec: ImageSpec) -> dict[str, bytes]:
    """Members for a bundle: ``goldens/inputs.npy`` and one ``goldens/<variant>.npy`` for each entry of ``logits``.

    Args:
        inputs: from `make_goldens` or `make_golden_inputs`; of columns nothing is stored.
        logits: variant name → its own logits on ``inputs``, ``[n, labels]``.
        spec: the one that ``inputs`` were made for.

    Raises:
        InputError: inputs that `make_goldens` did not make for ``spec``, or logits that are not finite.
    """
    shape = (1, -1, 1, 1)
    prepared = images_of(inputs) * np.reshape(spec.std, shape) + np.reshape(spec.mean, shape)
    levels = np.rint(prepared * _LEVELS)
    if np.abs(levels - prepared * _LEVELS).max() > 0.05 or levels.min() < 0 or levels.max() > _LEVELS:
        raise InputError("golden inputs must come from make_goldens with the same image spec")
    files = {GOLDEN_INPUTS: to_npy(levels.astype(np.uint8))}
    for variant, values in logits.items():
        if len(values) != len(inputs) or not np.isfinite(values).all():
            raise InputError(f"golden logits of {variant!r} must be finite, one row for each of {len(inputs)} inputs")
        files[golden_member(variant)] = to_npy(np.asarray(values, dtype=np.float32))
    return files


def read_golden_inputs(bundle: Bundle, count: int | None = None) -> NetworkInputs:
    """Network inputs, float32, of the bundle's golden cases, or of the first ``count``; with columns if it has any."""
    spec = bundle.manifest.image_spec
    levels = read_npy(bundle, GOLDEN_INPUTS, np.dtype(np.uint8))
    if levels.shape[1:] != spec.shape[1:] or not 1 <= len(levels) <= MAX_GOLDENS:
        raise BundleRefused(
            f"{bundle.path.name}: golden inputs have shape {levels.shape}, which its spec does not give"
        )
    images = _normalised(levels[:count], spec)
    return with_columns(images, golden_columns(bundle.manifest.told, len(images)))


def read_golden_logits(bundle: Bundle, variant: Variant) -> NDArray[np.float32]:
    """Stored logits ``[n, …]``, float32, of ``variant`` on the golden inputs."""
    logits = read_npy(bundle, golden_member(variant.name), np.dtype(np.float32))
    task, spec = bundle.manifest.task, bundle.manifest.image_spec
    fits = logits.size > 0 and logits.shape[1:] == rules_of(task).logits_shape(task, spec)[1:]
    if not fits or not np.isfinite(logits).all():
        raise BundleRefused(f"{bundle.path.name}: golden logits of {variant.name} do not fit its task")
    return logits.astype(np.float32)


def run_goldens(
    session: Session, inputs: NetworkInputs, check: Callable[[Outputs], Outputs] | None = None
) -> NDArray[np.float32]:
    """Logits ``[n, …]`` of ``session`` on ``inputs`` of n cases, one case at a time as the device does.

    Every answer goes through ``check``, if there is one, which returns it as it is or raises.
    """
    names, output = session.input_names, session.output_names[0]
    answers = (session.run(feed(names, case)) for case in rows_of(inputs))
    return np.concatenate([answer[output] for answer in (map(check, answers) if check else answers)])


def replay_goldens(bundle: Bundle, variant: Variant, session: Session, count: int | None = None) -> float:
    """Replay the golden cases, or the first ``count`` of them, on an opened session; the relative logit error.

    Of a part of the cases the error is relative to the spread of all, as it would be if the others had the same one.
    A part whose logits are slight beside that spread would pass whatever the engine computes: then all are replayed.

    Raises:
        BundleRefused: it is above the variant's tolerance, or goldens, the shapes of outputs or the numbers of nearest
            cases do not fit the bundle.
    """
    stored = read_golden_logits(bundle, variant)
    if count is not None and _is_slight(stored[:count], stored, bundle.manifest.task):
        count = None
    inputs = read_golden_inputs(bundle, count)
    measured, expected = _run_of(bundle, variant, session, inputs), stored[:count]
    if measured.shape != expected.shape or len(stored) < len(inputs):
        raise BundleRefused(f"variant {variant.name} gives logits {measured.shape}, its goldens have {stored.shape}")
    error = _error_of_part(measured, expected, stored, bundle.manifest.task)
    if not error <= variant.golden_tolerance:
        raise BundleRefused(
            f"variant {variant.name} computes something else on this machine: relative logit error {error:.3g} on its "
            f"golden cases, allowed is {variant.golden_tolerance:g}; use another variant or backend"
        )
    _check_decisions(bundle.manifest.task_of(variant), variant, measured, expected)
    return error


def _check_decisions(
    task: Task, variant: Variant, measured: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """Refuse where a finding is called otherwise than by the stored logits, whose probability is not at its threshold.

    Engines that were compiled here are held to the float network's logits, so their error may be far above rounding.
    """
    by_case = (rules_of(task).case_logits(logits, task) for logits in (expected, measured))
    before, now = (probabilities(logits, task) for logits in by_case)
    turned = decisions(before, task) != decisions(now, task)
    turned &= np.abs(now - before) > _AT_THRESHOLD
    if turned.any():
        case, finding = (int(index) for index in np.argwhere(turned)[0])
        raise BundleRefused(
            f"variant {variant.name} decides otherwise on this machine: golden case {case + 1}, "
            f"{in_one_line(task.findings[finding])}, probability {now[case, finding]:.3f} where it was "
            f"{before[case, finding]:.3f}; use another variant or backend"
        )


def _check_of(bundle: Bundle) -> Callable[[Outputs], Outputs]:
    """What comes with an anomaly score has the shapes of the manifest, and numbers only cases that the bundle names."""
    nearest = nearest_cases(bundle)

    def check(answer: Outputs) -> Outputs:
        bundle.manifest.with_shapes_checked(answer)
        if nearest is not None:
            nearest.check_numbers(answer[NEAREST])
        return answer

    return check


def _run_of(bundle: Bundle, variant: Variant, session: Session, inputs: NetworkInputs) -> NDArray[np.float32]:
    """Logits of ``variant`` on ``inputs``; raises BundleRefused where it does not run on them or gives no numbers."""
    what = f"variant {variant.name} does not run on its golden cases"
    with refusing(BundleRefused, what):
        try:
            measured = run_goldens(session, inputs, _check_of(bundle))
        except InputError as exc:
            raise BundleRefused(f"{what}: {in_one_line(exc)}") from exc
        if not np.issubdtype(measured.dtype, np.floating):
            raise BundleRefused(f"variant {variant.name} gives logits of type {measured.dtype}, not real numbers")
        return measured


def relative_logit_error(measured: NDArray[Any], reference: NDArray[Any], task: Task | None = None) -> float:
    """Relative logit error (see above) of ``measured`` against ``reference``, both ``[n, …]``; 0 is equal.

    Without a ``task`` logits ``[n, labels]`` are compared as they are. Not finite anywhere is ``inf``.

    Raises:
        InputError: the shapes differ or are not the task's.
    """
    z_q, z = np.asarray(measured, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if z_q.shape != z.shape or z.ndim != (4 if task is not None and task.is_dense else 2):
        needed = "[n, structures, height, width]" if task is not None and task.is_dense else "[n, labels]"
        raise InputError(f"logits of shapes {z_q.shape} and {z.shape} cannot be compared; both must be {needed}")
    if not (np.isfinite(z_q).all() and np.isfinite(z).all()):
        return float("inf")
    largest = max(np.abs(z_q).max(initial=0), np.abs(z).max(initial=0))
    if largest > _SQUARED_AT_MOST:  # the ratio is the same at every scale
        z_q, z = z_q / largest, z / largest
    z_q, z = _compared(z_q, task), _compared(z, task)
    return float(np.linalg.norm(z_q - z)) / _scale(z)


def _error_of_part(
    measured: NDArray[np.float32], expected: NDArray[np.float32], stored: NDArray[np.float32], task: Task
) -> float:
    """Relative logit error of some cases ``[k, labels]`` by the scale of all ``[n, labels]``."""
    if not np.isfinite(measured).all():
        return float("inf")
    z_q, z, everything = (_compared(values.astype(np.float64), task) for values in (measured, expected, stored))
    return float(np.linalg.norm(z_q - z)) / (_scale(everything) * math.sqrt(len(z) / len(everything)))


def _is_slight(part: NDArray[np.float32], stored: NDArray[np.float32], task: Task) -> bool:
    """Whether the logits ``[k, labels]`` of some cases are below 1% of the spread of all ``[n, labels]``, by case."""
    z, everything = (_compared(values.astype(np.float64), task) for values in (part, stored))
    size, spread = float(np.linalg.norm(z)), _scale(everything)
    return size / math.sqrt(len(z)) < _SPREAD_FLOOR * spread / math.sqrt(len(everything))


def _compared(logits: NDArray[np.float64], task: Task | None) -> NDArray[np.float64]:
    """Logits ``[rows, labels]`` without what the activation ignores."""
    return logits if task is None else rules_of(task).comparable(logits, task)


def _scale(z: NDArray[np.float64]) -> float:
    """The denominator of the relative logit error."""
    spread = float(np.linalg.norm(z - z.mean(axis=0)))
    return max(spread, _SPREAD_FLOOR * float(np.linalg.norm(z)), _ABSOLUTE_FLOOR)


def _field(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A smooth random field over [0, 1], ``[height, width]``: value noise in octaves, stretched to the full range."""
    total = np.zeros((height, width))
    for octave, cells in enumerate(_OCTAVES):
        grid = random.random((cells + 1, cells + 1))
        rows, columns = _interpolation(cells, height), _interpolation(cells, width)
        total += 0.5**octave * (rows @ grid @ columns.T)
    total -= total.min()
    return total / max(float(total.max()), _ABSOLUTE_FLOOR)


def _interpolation(cells: int, size: int) -> NDArray[np.float64]:
    """Linear interpolation matrix ``[size, cells + 1]`` from grid corners to pixels, eased so that slopes are even."""
    position = np.linspace(0, cells, size)
    left = np.minimum(position.astype(np.int64), cells - 1)
    t = position - left
    weight = t * t * (3 - 2 * t)
    matrix = np.zeros((size, cells + 1))
    matrix[np.arange(size), left] = 1 - weight
    matrix[np.arange(size), left + 1] = weight
    return matrix


def _normalised(levels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    from medfm_compress.runtime.preprocess import normalise

    return normalise(levels.astype(np.float32) / np.float32(_LEVELS), spec)
