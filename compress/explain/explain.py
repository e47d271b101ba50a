"""Do teacher and student look at the same places? Attribution maps of both on a few cases, and how far they agree.

Like is compared with like: by default both are explained by occlusion, which looks at the engine that will really run;
by ``device`` it is the maps that the networks give themselves, in the run of the finding.
The teacher with random weights gives the floor that any agreement must be held against (Adebayo et al. 2018).

This looks at images of the split, usually ``test``, and at no metric of it: it is not an evaluation, nothing is chosen
by it, and it stands in no evaluation log. Whoever changes a model after looking at these maps has used the split up.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.bench.evaluate import attribution_agreement as explanations
from medfm_compress.bench.evaluate.attribution_agreement import (
    ExplanationAgreement,
    ExplanationOrigin,
    overlap,
    rank_correlation,
)
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.explain.pictures import write_pictures
from medfm_compress.compress.explain.pointing import mask_of, pointing
from medfm_compress.compress.explain.viewers import Reference, Viewer, check_view, viewers_of
from medfm_compress.compress.networks.model import Model
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import check_labels
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task

FloatArray = NDArray[np.float32]
MOST_PICTURED = 16
"""Cases of which maps and pictures are kept: those that agree least."""


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        folder: that was written.
        agreements: a row a variant, then the randomised teacher's where there is one.
    """

    folder: Path
    agreements: tuple[ExplanationAgreement, ...]


def explain(
    bundle_path: str | Path,
    teacher: Model | Bundle,
    study: Study,
    out: str | Path,
    options: ExplainOptions | None = None,
    *,
    student_folder: str | Path | None = None,
    progress: Progress = no_progress,
) -> Explained:
    """Write ``explanations`` below ``out``: ``maps.npz``, ``agreement.json``, ``origin.json``, pictures; all or none.

    ``maps.npz`` holds the maps of `MOST_PICTURED` cases at most, row after row of the agreement: ``images`` uint8
    ``[m, H, W, 3]``, ``teacher`` and ``variant`` float32 ``[m, H, W]``, each map stretched to [0, 1]: above 0.5
    speaks for the finding and below it against, or from 0 on where maps have no sign (attention rollout); ``cases``
    int64, the positions of those cases. H and W are the teacher's; a map of another size is resized bilinearly. The
    pictures are `write_pictures`'s. These files hold images of patients: they stay where the study may be.

    Args:
        bundle_path: whose variants are held against the teacher: by ``device`` all that `bench` evaluates, else one.
        teacher: the teacher; its weights are drawn anew for the floor, which a bundle's (``device`` alone) cannot be.
        study: with labelled cases in the split.
        out: folder of the report.
        options: see `ExplainOptions`.
        student_folder: the model folder that the bundle was exported from; needed by ``gradient`` and only there.
        progress: told now and then.

    Raises:
        BundleRefused: the bundle is damaged.
        InputError: labels that differ, no such finding or variant, networks that see different parts of an image,
            another student than the bundle's, or a network that the method cannot read, which it says why.
        StudyError: no labelled case in the split, or an image that cannot be used.
    """
    options = options or ExplainOptions()
    bundle = Bundle.open(bundle_path)
    reference = Reference.of(teacher)
    finding = _finding(study, reference.task, bundle.manifest.task, options.finding)
    torch.set_num_threads(options.threads)
    viewers = viewers_of(bundle, reference, student_folder, finding, options)
    check_view(viewers)
    cases = study.labelled_split(options.split)
    positions = sample_positions(cases, _has(study, cases, finding), options.cases, options.seed)
    shown = [cases[position] for position in positions]
    origin = ExplanationOrigin(
        model_digest=bundle.model_digest,
        cases_sha256=hashlib.sha256("\0".join(case.image for case in cases).encode()).hexdigest(),
        split=options.split,
        teacher=reference.identity,
    )
    _require_writable(Path(out))
    grid = reference.spec
    with_finding = _has(study, tuple(shown), finding)
    masks = [mask_of(study, case, finding) if has else None for case, has in zip(shown, with_finding, strict=True)]
    looks = [_look(viewer, study, shown, masks, grid, progress) for viewer in viewers]
    rows = tuple(
        _agreement((viewers[0], viewer), (looks[0], look), finding, positions)
        for viewer, look in zip(viewers[1:], looks[1:], strict=True)
    )
    kept = _least_alike(rows)
    images = _pictures(study, [shown[row] for row in kept], grid)
    stretched, places = [_stretched(look.maps[kept]) for look in looks], [positions[row] for row in kept]
    with _replaced(Path(out) / explanations.FOLDER) as folder:
        _write_maps(folder / explanations.MAPS, images, stretched, places)
        names = [viewer.name for viewer in viewers]
        write_pictures(folder, images, list(zip(names, stretched, strict=True)), places)
        write_atomically(folder / explanations.AGREEMENT, encode(rows))
        write_atomically(folder / explanations.ORIGIN, encode(origin))
    return Explained(folder=Path(out) / explanations.FOLDER, agreements=rows)


def sample_positions(cases: Sequence[Case], has: NDArray[np.bool_], count: int, seed: int) -> tuple[int, ...]:
    """Ascending positions of at most ``count`` cases, drawn by ``seed``: half with the finding, other patients first.

    Args:
        cases: of the split.
        has: ``[n]``, which of them have the finding.
        count: >= 1; where one half is too small the other fills up.
        seed: of the draw.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(cases)).tolist()
    seen: dict[str, int] = {}
    firsts = {seen.setdefault(cases[position].cluster, position) for position in order}
    order.sort(key=lambda position: position not in firsts)
    positive = [position for position in order if has[position]]
    negative = [position for position in order if not has[position]]
    positives = max(count - count // 2, count - len(negative))
    chosen = positive[:positives]
    return tuple(sorted(chosen + negative[: count - len(chosen)]))


def on_grid(values: FloatArray, height: int, width: int) -> FloatArray:
    """Map ``[h, w]`` resized to ``[height, width]``, float32; bilinear, antialiased where it shrinks."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _finding(study: Study, teacher: Task, bundle: Task, requested: str) -> str:
    check_labels(study, teacher)
    check_labels(study, bundle)
    if teacher.is_dense:
        raise InputError(
            "explain asks where in an image a classifier looks, and this teacher answers for every pixel: its maps "
            "say it themselves; compare them with 'medfm-compress bench'"
        )
    if not teacher.gives_probabilities:
        raise InputError(
            "explain asks where in an image a classifier looks, and this teacher scores anomalies: see its map with "
            "'medfm-compress run BUNDLE IMAGE --heatmap FOLDER', and compare maps with 'medfm-compress bench'"
        )
    if not requested and len(teacher.findings) == 1:
        return teacher.findings[0]
    if requested not in teacher.findings:
        problem = f"there is no finding {requested!r}" if requested else "the task has several findings"
        raise InputError(f"{problem}; give --finding as one of {', '.join(teacher.findings)}")
    return requested


def _has(study: Study, cases: tuple[Case, ...], finding: str) -> NDArray[np.bool_]:
    index, targets = study.labels.index(finding), study.targets(cases)
    return np.asarray(targets[:, index] == 1 if study.independent else targets[:, 0] == index)


class _Look(NamedTuple):
    """What one network looks at: maps ``[n, H, W]`` on one grid, and whether each points at what was drawn."""

    maps: FloatArray
    pointing: tuple[float | None, ...]


def _look(
    viewer: Viewer,
    study: Study,
    cases: Sequence[Case],
    masks: Sequence[NDArray[np.bool_] | None],
    grid: ImageSpec,
    progress: Progress,
) -> _Look:
    """Of ``cases``, on the grid of ``grid``."""
    maps = np.empty((len(cases), grid.height_px, grid.width_px), np.float32)
    points = []
    for row in counted(range(len(cases)), f"{viewer.name}: {viewer.method}", len(cases), progress):
        prepared = prepared_images(study, cases[row : row + 1], viewer.spec, None)
        own_map = viewer.map_of(normalise(prepared, viewer.spec))
        maps[row] = on_grid(own_map, grid.height_px, grid.width_px)
        points.append(pointing(own_map, viewer.spec, masks[row]))
    return _Look(maps, tuple(points))


def _agreement(
    viewers: tuple[Viewer, Viewer], looks: tuple[_Look, _Look], finding: str, positions: tuple[int, ...]
) -> ExplanationAgreement:
    pairs = list(zip(looks[0].maps, looks[1].maps, strict=True))
    drawn = any(point is not None for point in looks[0].pointing)
    return ExplanationAgreement(
        variant=viewers[1].name,
        finding=finding,
        method=f"{viewers[0].method} / {viewers[1].method}",
        rank_correlation=tuple(rank_correlation(*pair) for pair in pairs),
        overlap=tuple(overlap(*pair) for pair in pairs),
        cases=positions,
        pointing=looks[1].pointing if drawn else (),
        teacher_pointing=looks[0].pointing if drawn else (),
    )


def _least_alike(rows: Sequence[ExplanationAgreement]) -> list[int]:
    """Ascending numbers of the cases on which some variant agrees least with the teacher, `MOST_PICTURED` at most."""
    lowest = np.min([row.rank_correlation for row in rows if row.variant != explanations.RANDOMISED], axis=0)
    return sorted(np.argsort(lowest, kind="stable")[:MOST_PICTURED].tolist())


def _pictures(study: Study, cases: Sequence[Case], spec: ImageSpec) -> NDArray[np.uint8]:
    """What the teacher saw, before normalisation: uint8 ``[n, H, W, 3]``."""
    prepared = np.rint(255 * prepared_images(study, cases, spec, None)).astype(np.uint8)
    return np.repeat(prepared, 3 // spec.channels, axis=1).transpose(0, 2, 3, 1)


def _write_maps(path: Path, pictures: NDArray[np.uint8], maps: Sequence[FloatArray], positions: Sequence[int]) -> None:
    teacher, *others = maps
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=np.concatenate([pictures] * len(others)),
            teacher=np.concatenate([teacher] * len(others)),
            variant=np.concatenate(others),
            cases=np.array(positions, np.int64),
        )


def _stretched(maps: FloatArray) -> FloatArray:
    """Maps ``[n, H, W]`` of one network, each to [0, 1] in its own units, its ranks kept.

    Where its maps have a sign, 0.5 stands for none: stretched from its lowest to its highest value, a map with
    evidence against the finding alone would look hot all over.
    """
    if maps.min() < 0:
        largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
        return np.asarray(0.5 + 0.5 * maps / np.where(largest > 0, largest, 1), np.float32)
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / np.where(high > low, high - low, 1), np.float32)


def _require_writable(folder: Path) -> None:
    """Make ``folder`` and see that it can be written, before minutes are spent on what goes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise InputError(f"cannot write {folder}: {exc.strerror}; choose a folder that is writable") from None


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` on success, and vanishes on any error or interrupt."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (scratch / "new").mkdir()
        yield scratch / "new"
        if folder.exists():
            folder.rename(scratch / "old")
        (scratch / "new").rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
