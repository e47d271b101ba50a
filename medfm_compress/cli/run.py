"""``medfm-compress run``: predict for images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import TrustStoreOption
from medfm_compress.cli.column_options import GivenColumns, given_columns
from medfm_compress.cli.command import command
from medfm_compress.cli.engine_choice import EngineChoice, is_folder, open_engine
from medfm_compress.cli.heat_map_folder import HeatMapFolder
from medfm_compress.cli.outputs import check_new_folders
from medfm_compress.cli.prediction_rows import Rows, as_line
from medfm_compress.cli.segmentation_files import Folders, SegmentationFiles
from medfm_compress.runtime.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNUSABLE, InputError, MedfmError, Refused
from medfm_compress.runtime.images.find_files import find_files, why_no_image
from medfm_compress.runtime.progress import counted

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.prediction import Prediction

    Outcome = Prediction | MedfmError | str  # a string says why a file was skipped


Written = dict[str, str]
_NOT_RELIABLE = "not reliable"
Atypical = Literal["withhold", "flag"]


@command()
def run(
    bundle: Annotated[
        Path, typer.Argument(help="The .medfm file, or a device folder, whose active bundle runs.", metavar="BUNDLE")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(help="DICOM, PNG or JPEG files, and folders, of which all images are taken.", metavar="IMAGE"),
    ],
    backend: Annotated[str | None, typer.Option(help="Use only openvino, onnxruntime or tensorrt.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one prediction (default: physical cores).")] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also use a variant that no passing verdict covers.")
    ] = False,
    atypical: Annotated[
        Atypical, typer.Option(help="Of an image unlike those the network was made for, give no finding, or a flag.")
    ] = "withhold",
    cache: Annotated[
        Path | None, typer.Option(help="Folder of your own where OpenVINO may keep compiled models (faster start).")
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="With a device folder: let the candidate predict too, and only count it.")
    ] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Folder for a PNG an image: where the network looked. Of a bundle exported with --heat-map."),
    ] = None,
    trust_store: TrustStoreOption = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Also use a bundle that no trusted key signed; flagged.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Of a segmentation: folder for label maps (PNG; 0 background, 1, 2 ...).")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Of a segmentation: folder for pictures with the structures outlined.")
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option(help="Of a segmentation: folder for probabilities (PNG, 16 bits; 65535 is 1).")
    ] = None,
    contours: Annotated[
        Path | None, typer.Option(help="Of a segmentation: folder for outlines (JSON, polygons in pixels).")
    ] = None,
    dicom_seg: Annotated[
        Path | None, typer.Option(help="Of a segmentation and DICOM images: folder for DICOM Segmentation objects.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a model that takes columns: a value for all images, age=63. What is not given comes from DICOM.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    columns: Annotated[
        Path | None, typer.Option(help="CSV of columns: 'image' (name, or path from its end) and one a column.")
    ] = None,
) -> None:
    """Predict for images with a bundle. A refused image gets its reason, the others are still done (exit code 4).

    A folder is searched with all its folders, for images by their content. Its other files are skipped, and said; a
    folder without any image is unusable input (exit code 2).
    """
    if cache == Path():
        raise InputError("--cache is empty or '.'; give the path of a folder for compiled models")
    places = Folders(masks, overlay, probabilities, contours, dicom_seg)
    check_new_folders({"--heatmap": heatmap, **places.by_option()}, images)
    folders = any(map(is_folder, images))
    count, longest = _survey(images) if folders else (len(images), 0)
    say = (lambda _: None) if console.wants_json() else console.say
    tally: Counter[str] = Counter()
    code = EXIT_OK
    choice = EngineChoice(backend, threads, unverified, cache, shadow, trust_store, allow_unsigned)
    with contextlib.ExitStack() as stack:
        engine = open_engine(bundle, choice)
        stack.callback(engine.close)
        drawing = HeatMapFolder(heatmap, engine) if heatmap is not None else None
        rows = Rows(engine.task, longest)
        told = given_columns(engine.columns, column, columns, _files(images) if columns else ())
        if told.remark:
            console.progress(told.remark)
        files = SegmentationFiles(engine, places)
        add = stack.enter_context(console.json_list())  # last: what is refused before any image is no empty list
        if folders:
            say(rows.header)
        outcomes = _outcomes(_Predictor(engine, atypical, files, drawing, told), images)
        for image, (outcome, written) in counted(outcomes, "predict", count, console.progress if folders else None):
            code = max(code, _exit_code(outcome))
            tally[_as_word(outcome)] += 1
            add(_as_json(image, outcome, written))
            say(rows.row(image, outcome) if folders else as_line(image, outcome))
    if drawing is not None:
        say(drawing.summary)
    if folders:
        unlike = f"{tally[_NOT_RELIABLE]} {_NOT_RELIABLE}, " if tally[_NOT_RELIABLE] else ""
        skipped = f"{tally['skipped']} other files skipped"
        say(f"{tally['predicted']} predicted, {unlike}{tally['refused']} refused, {skipped}")
    if code:
        raise typer.Exit(code)


def _survey(images: list[Path]) -> tuple[int, int]:
    """How many files there are to look at, and the length of the longest path; nothing of them is kept."""
    files, longest = 0, 0
    for path in _files(images):
        files, longest = files + 1, max(longest, len(str(path)))
    return files, longest


def _files(images: list[Path]) -> Iterator[Path]:
    for image in images:
        yield from find_files(image) if is_folder(image) else (image,)


class _Predictor(NamedTuple):
    """What is done for every image; ``drawing`` is where heat maps go, None draws none; ``told`` what is known."""

    engine: Engine | ActiveEngine
    atypical: Atypical
    files: SegmentationFiles
    drawing: HeatMapFolder | None
    told: GivenColumns

    def __call__(self, image: Path) -> Iterator[tuple[Outcome, Written]]:
        """Each prediction and the files that were written of it; an error is what it was refused for."""
        if is_folder(image):  # others were entered
            yield InputError("the folder cannot be listed; make it readable"), {}
        elif self._answers_for_each_frame:
            yield from self._frames(image)
        else:
            yield self._image(image)

    @property
    def _answers_for_each_frame(self) -> bool:
        from medfm_compress.runtime.device.current import current

        return current(self.engine).manifest.image_spec.dicom.frame_aggregation == "each"

    def _frames(self, image: Path) -> Iterator[tuple[Outcome, Written]]:
        try:
            for prediction in self.engine.predict_frames(image, columns=self.told.of(image), atypical=self.atypical):
                yield prediction, {}
        except MedfmError as exc:
            yield exc, {}

    def _image(self, image: Path) -> tuple[Outcome, Written]:
        try:
            prediction, seen = self.engine.predict_with_input(
                image,
                columns=self.told.of(image),
                atypical=self.atypical,
                keep_probabilities=self.files.needs_probabilities,
            )
            drawn = {} if self.drawing is None else self.drawing.draw(image, prediction, seen)
            return prediction, drawn | self.files.write(image, prediction)
        except MedfmError as exc:
            return exc, {}


def _outcomes(predict: _Predictor, images: list[Path]) -> Iterator[tuple[Path, tuple[Outcome, Written]]]:
    """Every file with its outcome, of several frames that of each; last, every folder without an image."""
    empty = []
    for image in images:
        if not is_folder(image):
            yield from ((image, outcome) for outcome in predict(image))
            continue
        found = False
        for path in find_files(image):
            reason = why_no_image(path)
            found = found or not reason
            outcomes = iter([(reason, {})]) if reason else predict(path)
            yield from ((path, outcome) for outcome in outcomes)
        empty += [] if found else [image]
    for folder in empty:
        error = InputError("the folder holds no image; give one with DICOM, PNG, JPEG, TIFF or BMP files")
        yield folder, (error, {})


def _exit_code(outcome: Outcome) -> int:
    if not isinstance(outcome, MedfmError):
        return EXIT_OK
    return EXIT_REFUSED if isinstance(outcome, Refused) else EXIT_UNUSABLE


def _as_word(outcome: Outcome) -> str:
    if isinstance(outcome, str):
        return "skipped"
    if isinstance(outcome, MedfmError):
        return "refused"
    return "predicted" if outcome.probabilities else _NOT_RELIABLE


def _as_json(image: Path, outcome: Outcome, written: Written) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"image": str(image), "skipped": outcome}
    if isinstance(outcome, MedfmError):
        return {"image": str(image), "error": str(outcome), "exit_code": outcome.exit_code}
    return {"image": str(image), **outcome.row(), **({"files": written} if written else {})}
