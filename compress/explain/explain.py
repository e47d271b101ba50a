"""Do teacher and student look at the same places? Attribution maps of both on a few cases, and how far they agree.

Like is compared with like: by default both are explained by occlusion, which looks at the engine that will really run.
The teacher with random weights gives the floor that any agreement must be held against (Adebayo et al. 2018).

This looks at images of the split, usually ``test``, and at no metric of it: it is not an evaluation, nothing is chosen
by it, and it stands in no evaluation log. Whoever changes a model after looking at these maps has used the split up.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from medfm_compress.bench.evaluate.subprocess_inference import labelled_cases
from medfm_compress.compress.explain.attribution import attribute, method_of, randomised
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.explain.pictures import write_pictures
from medfm_compress.compress.networks.model import Model, load_model
from medfm_compress.compress.networks.torch_session import TorchSession
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.export.cases import check_labels
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.occlusion import occlusion_map
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.progress import Progress, counted, no_progress
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.sessions.table import open_variant
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.variant_selection import Machine, incompatibility

FloatArray = NDArray[np.float32]


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        folder: that was written.
        agreements: the variant's row, then the randomised teacher's.
    """

    folder: Path
    agreements: tuple[ExplanationAgreement, ...]


@dataclass(frozen=True)
class _Viewer:
    """A network that can be asked where it looks: normalised image ``[1, C, H, W]`` → map ``[h, w]``."""

    name: str
    method: str
    spec: ImageSpec
    map_of: Callable[[FloatArray], FloatArray]


def explain(
    bundle_path: str | Path,
    teacher: Model,
    study: Study,
    out: str | Path,
    options: ExplainOptions | None = None,
    *,
    student_folder: str | Path | None = None,
    progress: Progress = no_progress,
) -> Explained:
    """Write ``explanations`` below ``out``: ``maps.npz``, ``agreement.json``, ``origin.json``, pictures; all or none.

    The maps of each row of the agreement follow one another in ``maps.npz``, in the order of its cases: ``images``
    uint8 ``[m, H, W, 3]``, ``teacher`` and ``variant`` float32 ``[m, H, W]``, each map stretched to [0, 1]: above 0.5
    speaks for the finding and below it against, or from 0 on where maps have no sign (attention rollout). H and W are
    the teacher's; a map of another size is resized bilinearly. The pictures are `write_pictures`'s. These files hold
    images of patients: they stay where the study may be.

    Args:
        bundle_path: whose variant is held against the teacher.
        teacher: the teacher; its weights are drawn anew for the floor, so it has to be a network.
        study: with labelled cases in the split.
        out: folder of the report.
        options: see `ExplainOptions`.
        student_folder: the model folder that the bundle was exported from; needed by ``gradient`` and only there.
        progress: told now and then.

    Raises:
        BundleRefused: the bundle is damaged.
        InputError: labels that differ, no such finding or variant, networks that see different parts of an image,
            another student than the bundle's, or a network that the method cannot read.
        StudyError: no labelled case in the split, or an image that cannot be used.
    """
    options = options or ExplainOptions()
    bundle = Bundle.open(bundle_path)
    finding = _finding(study, teacher.task, bundle.manifest.task, options.finding)
    if (student_folder is None) == (options.method == "gradient"):
        raise InputError("--student, the model folder that the bundle was exported from, goes with --method gradient")
    student = _student(bundle, student_folder) if student_folder is not None else None
    torch.set_num_threads(options.threads)
    viewers = _viewers(bundle, teacher, student, finding, options)
    _check_view(viewers)
    cases = labelled_cases(study, options.split)
    positions = sample_positions(cases, _has(study, cases, finding), options.cases, options.seed)
    shown = [cases[position] for position in positions]
    origin = ExplanationOrigin(
        model_digest=bundle.model_digest,
        cases_sha256=hashlib.sha256("\0".join(case.image for case in cases).encode()).hexdigest(),
        split=options.split,
        teacher=f"{teacher.name}@{teacher.weights_sha256()}",
    )
    _require_writable(Path(out))
    maps = [_maps(viewer, study, shown, teacher.spec, progress) for viewer in viewers]
    rows = tuple(
        _agreement((viewers[0], viewer), (maps[0], other), finding, positions)
        for viewer, other in zip(viewers[1:], maps[1:], strict=True)
    )
    images, stretched = _pictures(study, shown, teacher.spec), [_stretched(other) for other in maps]
    with _replaced(Path(out) / explanations.FOLDER) as folder:
        _write_maps(folder / explanations.MAPS, images, stretched)
        names = [viewer.name for viewer in viewers]
        write_pictures(folder, images, list(zip(names, stretched, strict=True)), positions)
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


def _student(bundle: Bundle, folder: str | Path) -> Model:
    student = load_model(folder)
    made_of, own = bundle.manifest.provenance.student, f"{student.name}@{student.weights_sha256()}"
    if made_of and made_of != own:
        raise InputError(f"{folder} is {own[:60]}, the bundle was exported from {made_of[:60]}; give that model folder")
    return student


def _viewers(
    bundle: Bundle, teacher: Model, student: Model | None, finding: str, options: ExplainOptions
) -> tuple[_Viewer, ...]:
    """Teacher, variant or student, randomised teacher."""
    floor = randomised(teacher, options.seed)
    if student is not None:
        return (
            _by_gradient("teacher", teacher, finding),
            _by_gradient(f"{student.name} (PyTorch)", student, finding),
            _by_gradient(explanations.RANDOMISED, floor, finding),
        )
    variant = _variant(bundle, options.variant)
    session, spec = open_variant(bundle, variant, options.threads), bundle.manifest.image_spec

    def viewer(name: str, session: Session, spec: ImageSpec) -> _Viewer:
        def logits_of(image: FloatArray) -> FloatArray:
            logits: FloatArray = session.run({session.input_names[0]: image})[session.output_names[0]]
            return logits

        def map_of(image: FloatArray) -> FloatArray:
            return occlusion_map(logits_of, image, teacher.task, finding, options.occlusion)

        return _Viewer(name, "occlusion", spec, map_of)

    return (
        viewer("teacher", TorchSession(teacher, "cpu", options.threads), teacher.spec),
        viewer(variant.name, session, spec),
        viewer(explanations.RANDOMISED, TorchSession(floor, "cpu", options.threads), floor.spec),
    )


def _by_gradient(name: str, model: Model, finding: str) -> _Viewer:
    return _Viewer(name, method_of(model), model.spec, lambda image: attribute(model, image, finding)[0])


def _variant(bundle: Bundle, name: str) -> Variant:
    """The variant called ``name``, or the first that can run here."""
    machine = Machine(cpu=read_cpu())
    if name:
        requested = bundle.variant(name)
        reason = incompatibility(requested, machine)
        if reason:
            raise InputError(f"variant {name!r} cannot run here: {reason}")
        return requested
    for variant in bundle.manifest.variants:
        if not incompatibility(variant, machine):
            return variant
    raise InputError(f"no variant of {bundle.path.name} can run here; 'medfm-compress inspect' says why")


def _check_view(viewers: Sequence[_Viewer]) -> None:
    """Maps can only be laid over each other where the networks see the same part of an image."""
    views = [(viewer.spec.resize, viewer.spec.crop_fraction, _aspect(viewer.spec)) for viewer in viewers]
    for viewer, view in zip(viewers, views, strict=True):
        if view != views[0]:
            raise InputError(
                f"teacher and {viewer.name} see different parts of an image (resize, crop, aspect {views[0]} and "
                f"{view}); their maps cannot be laid over each other"
            )


def _aspect(spec: ImageSpec) -> float:
    return round(spec.width_px / spec.height_px, 3)


def _maps(viewer: _Viewer, study: Study, cases: Sequence[Case], grid: ImageSpec, progress: Progress) -> FloatArray:
    """Maps ``[n, H, W]`` of ``cases`` on the grid of ``grid``."""
    prepared = prepared_images(study, cases, viewer.spec, None)
    maps = np.empty((len(cases), grid.height_px, grid.width_px), np.float32)
    for row in counted(range(len(cases)), f"{viewer.name}: {viewer.method}", len(cases), progress):
        own_map = viewer.map_of(normalise(prepared[row : row + 1], viewer.spec))
        maps[row] = on_grid(own_map, grid.height_px, grid.width_px)
    return maps


def _agreement(
    viewers: tuple[_Viewer, _Viewer], maps: tuple[FloatArray, FloatArray], finding: str, positions: tuple[int, ...]
) -> ExplanationAgreement:
    pairs = list(zip(*maps, strict=True))
    return ExplanationAgreement(
        variant=viewers[1].name,
        finding=finding,
        method=f"{viewers[0].method} / {viewers[1].method}",
        rank_correlation=tuple(rank_correlation(*pair) for pair in pairs),
        overlap=tuple(overlap(*pair) for pair in pairs),
        cases=positions,
    )


def _pictures(study: Study, cases: Sequence[Case], spec: ImageSpec) -> NDArray[np.uint8]:
    """What the teacher saw, before normalisation: uint8 ``[n, H, W, 3]``."""
    prepared = np.rint(255 * prepared_images(study, cases, spec, None)).astype(np.uint8)
    return np.repeat(prepared, 3 // spec.channels, axis=1).transpose(0, 2, 3, 1)


def _write_maps(path: Path, pictures: NDArray[np.uint8], maps: Sequence[FloatArray]) -> None:
    teacher, *others = maps
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=np.concatenate([pictures] * len(others)),
            teacher=np.concatenate([teacher] * len(others)),
            variant=np.concatenate(others),
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
