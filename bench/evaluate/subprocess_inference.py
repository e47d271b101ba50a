"""Logits of every case of a split, computed in a process of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import check_cases
from medfm_compress.bench.evaluate.kinds import Subject, kind_of
from medfm_compress.bench.evaluate.mask_evaluation import DEFAULT_MASKS, MaskOptions
from medfm_compress.bench.evaluate.perturb import unperturbed
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.measure.requests import Evaluate, Open
from medfm_compress.bench.measure.worker_process import Worker
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.case_columns import case_columns
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.tasks.table import rules_of

_CHUNK = 64
_CHUNK_VALUES = 1 << 24  # logits that one chunk may have: 64 MiB of float32


class Processes(contextlib.ExitStack):
    """Processes of models, each started when it is first asked for and ended with this context.

    A model that is asked again (validation cases, test cases, perturbed images) is not opened again: PyTorch alone
    takes seconds to import.
    """

    def __init__(self) -> None:
        super().__init__()
        self._workers: dict[str, Worker] = {}

    def of(self, model: ModelUnderTest, plan: Plan) -> Worker:
        """The process in which ``model`` is open; raises InputError where it cannot be opened."""
        key = digest([model.name, model.session, model.spec, model.columns])
        if key not in self._workers:
            worker = self.enter_context(Worker(model.name, plan.threads, plan.timeout_s))
            worker.ask(Open(session=model.session, spec=model.spec, task=model.task, columns=model.columns))
            self._workers[key] = worker
        return self._workers[key]


class Scratch(NamedTuple):
    """What a run works with while it lasts.

    Attributes:
        temporary: folder for network inputs and logits.
        prepared: folder for prepared images, which may be kept for longer.
        processes: of models that are asked again; without, each evaluation has its own.
    """

    temporary: Path
    prepared: Path
    processes: Processes | None = None


def evaluate_model(
    model: ModelUnderTest,
    study: Study,
    cases: tuple[Case, ...],
    plan: Plan,
    folder: Scratch,
    progress: Progress,
    masks: MaskOptions = DEFAULT_MASKS,
) -> Evaluation:
    """Per-case table of ``model`` on ``cases``.

    Args:
        model: opened in another process, so that what it imports never enters this one.
        study: where the images come from.
        cases: labelled cases of one split.
        plan: threads and time-out of the process.
        folder: temporary arrays, shared by models with equal specs, prepared images, and processes that go on.
        progress: told now and then.
        masks: of a segmentation: how they are judged, and where label maps are kept.

    Raises:
        InputError: the study's labels are not the model's, an image cannot be used, or the model cannot run or
            gives logits that are not finite.
        StudyError: the study lacks a column that the model takes, or has values that it does not take.
    """
    check_cases(study, cases, model.task)
    if model.columns and model.spec.tiles:
        raise InputError(
            f"{model.name} takes columns beside the image and reads it by tiles, which cannot be evaluated"
        )
    columns = _write_columns(model, study, cases, folder)
    inputs = None if model.spec.tiles else _write_inputs(model, study, cases, folder, progress)
    progress(f"evaluate {model.name} on {len(cases)} cases")
    with Processes() as own:
        worker = (folder.processes or own).of(model, plan)
        answers = _WorkerAnswers(worker, model, folder.temporary, _Inputs(inputs, columns, len(cases)), progress)
        return kind_of(model.task).evaluate(answers, Subject(study, cases, model.spec, model.task, model.name, masks))


class _Inputs(NamedTuple):
    """Files of network inputs (no ``images`` of tiles, empty ``columns`` without any), and how many cases they hold."""

    images: Path | None
    columns: str
    cases: int


class _WorkerAnswers:
    """`Answers` of a model in a process of its own, which reads inputs and writes logits as files."""

    def __init__(
        self,
        worker: Worker,
        model: ModelUnderTest,
        folder: Path,
        inputs: _Inputs,
        progress: Progress,
    ) -> None:
        self._worker, self._model, self._folder, self._progress = worker, model, folder, progress
        self._inputs, self._count = inputs, inputs.cases
        self._shape = rules_of(model.task).logits_shape(model.task, model.spec)[1:]

    def of_cases(self) -> Iterator[NDArray[Any]]:
        """Logits of so many cases at a time that they take bounded memory."""
        yield from (logits for logits, _ in self._chunks(maps=""))

    def with_maps(self) -> Iterator[tuple[NDArray[Any], NDArray[np.float32] | None]]:
        """Likewise, with the anomaly maps of a model that gives them."""
        yield from self._chunks(maps=str(self._folder / "maps.npy"))

    def _chunks(self, maps: str) -> Iterator[tuple[NDArray[Any], NDArray[np.float32] | None]]:
        size = max(1, min(_CHUNK, _CHUNK_VALUES // int(np.prod(self._shape))))
        outputs = self._empty("logits.npy", (min(size, self._count), *self._shape))
        name = f"evaluate {self._model.name}"
        for start in counted(range(0, self._count, size), name, self._count, self._progress, size):
            stop = min(start + size, self._count)
            if maps:
                Path(maps).unlink(missing_ok=True)
            self._worker.ask(
                Evaluate(
                    inputs=str(self._inputs.images),
                    columns=self._inputs.columns,
                    outputs=str(outputs),
                    start=start,
                    stop=stop,
                    first=start,
                    maps=maps,
                )
            )
            written = np.load(maps, allow_pickle=False) if maps and Path(maps).is_file() else None
            yield np.load(outputs, allow_pickle=False)[: stop - start], written

    def of_input(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Logits of one input."""
        inputs = self._folder / "tile.npy"
        np.save(inputs, values)
        outputs = self._empty("tile-logits.npy", (1, *self._shape))
        self._worker.ask(Evaluate(inputs=str(inputs), outputs=str(outputs), start=0, stop=1))
        return np.asarray(np.load(outputs, allow_pickle=False))

    def _empty(self, name: str, shape: tuple[int, ...]) -> Path:
        path = self._folder / name
        _allocated(path, shape).flush()
        return path


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A new ``.npy`` in place of memory, with room for all of it: on a full disk a sparse one ends the process."""
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return stored


def image_files(study: Study, cases: Sequence[Case], count: int) -> tuple[str, ...]:
    """Paths of ``count`` cases spread evenly over ``cases``; empty where a study does not keep images as files."""
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).astype(np.int64))
    if not isinstance(study.source, Files):
        return ()
    paths = [study.source.root / cases[number].image for number in chosen]
    return tuple(str(path.resolve()) for path in paths) if all(path.is_file() for path in paths) else ()


def _write_columns(model: ModelUnderTest, study: Study, cases: tuple[Case, ...], folder: Scratch) -> str:
    """What the model is given beside the images, as ``.npz``; empty where it takes none."""
    if not model.columns:
        return ""
    path = folder.temporary / f"columns-{digest([model.columns, [case.image for case in cases]])[:16]}.npz"
    if not path.is_file():
        arrays: dict[str, Any] = dict(case_columns(unperturbed(study), cases, model.columns))
        np.savez(path, **arrays)
    return str(path)


def _write_inputs(
    model: ModelUnderTest, study: Study, cases: tuple[Case, ...], folder: Scratch, progress: Progress
) -> Path:
    """Normalised inputs ``[n, C, H, W]`` as ``.npy``, in chunks, so that memory does not grow with the study."""
    keys = [model.spec, [case.image for case in cases]]
    path = folder.temporary / f"inputs-{digest(keys)[:16]}.npy"
    if path.is_file():
        return path
    progress(f"decode {len(cases)} images at {model.spec.width_px} × {model.spec.height_px} px")
    prepared = prepared_images(study, cases, model.spec, folder.prepared, progress)
    stored = _allocated(path, prepared.shape)
    for start in range(0, len(cases), _CHUNK):
        stored[start : start + _CHUNK] = normalise(prepared[start : start + _CHUNK], model.spec)
    stored.flush()
    return path
