"""The files that ``run`` writes of segmentations: what was asked for, and what each image gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.cli.image_names import ImageNames
from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.remarks import flag_in_words

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.prediction import Prediction
    from medfm_compress.runtime.segmentation.result import Segmentation


class Folders(NamedTuple):
    """Where files go; None writes none of that kind."""

    masks: Path | None = None
    overlay: Path | None = None
    probabilities: Path | None = None
    contours: Path | None = None
    dicom_seg: Path | None = None

    def by_option(self) -> dict[str, Path | None]:
        """Option of ``run`` → its folder."""
        return {f"--{name.replace('_', '-')}": folder for name, folder in self._asdict().items()}


class SegmentationFiles:
    """Writes the files of one ``run``.

    A file is named after its image; one of a DICOM image, whose name may be a patient's, after the image's content.
    """

    def __init__(self, engine: Engine | ActiveEngine, folders: Folders) -> None:
        """Check what was asked for.

        Raises:
            InputError: files of a bundle that is no segmentation.
        """
        self._engine, self._folders = engine, folders
        self._names = ImageNames()
        asked = [option for option, folder in folders.by_option().items() if folder is not None]
        if asked and not engine.task.is_dense:
            raise InputError(f"{asked[0]} is for segmentations; the bundle is {engine.task.kind}: leave it out")

    @property
    def needs_probabilities(self) -> bool:
        """Whether the probability of every pixel is wanted."""
        return self._folders.probabilities is not None

    def write(self, image: Path, prediction: Prediction) -> dict[str, str]:
        """Write the files of one image, each atomically; what was written, by kind.

        Raises:
            InputError: a folder cannot be written.
            Refused: no DICOM Segmentation can be made of this image.
        """
        from medfm_compress.runtime.atomic_write import write_atomically

        if prediction.segmentation is None or not any(self._folders):
            return {}
        contents = list(self._contents(image, self._names.name_of(image), prediction, prediction.segmentation))
        for _, path, content in contents:  # all of an image's, or, where one cannot be made, none
            write_atomically(path, content)
        return {kind: str(path) for kind, path, _ in contents}

    def _contents(
        self, image: Path, name: str, prediction: Prediction, segmentation: Segmentation
    ) -> Iterator[tuple[str, Path, bytes]]:
        """Kind, path and content of each file."""
        from medfm_compress.runtime.segmentation import files

        folders = self._folders
        if folders.masks is not None:
            yield "mask", folders.masks / f"{name}.png", files.label_map_png(segmentation.label_map)
        if folders.contours is not None:
            yield "contours", folders.contours / f"{name}.json", files.outlines_json(segmentation)
        if folders.overlay is not None:
            yield "overlay", folders.overlay / f"{name}.png", self._overlay(image, prediction, segmentation)
        if folders.probabilities is not None and segmentation.probabilities is not None:
            maps = zip(segmentation.structures, segmentation.probabilities, strict=True)
            for number, (structure, plane) in enumerate(maps, start=1):
                path = folders.probabilities / f"{name}-{number}-{_plain(structure)}.png"
                yield f"probability of {structure}", path, files.probability_png(plane)
        if folders.dicom_seg is not None:
            path = folders.dicom_seg / f"{name}.dcm"
            yield "dicom_seg", path, self._dicom_seg(image, prediction, segmentation)

    def _dicom_seg(self, image: Path, prediction: Prediction, segmentation: Segmentation) -> bytes:
        import time

        from medfm_compress.runtime.device.current import current
        from medfm_compress.runtime.dicom.parse import parse_header
        from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of
        from medfm_compress.runtime.images.size_limits import read_limited
        from medfm_compress.runtime.node.config import ResultsConfig
        from medfm_compress.runtime.node.results.assessment import ReadBy, assess
        from medfm_compress.runtime.node.results.segmentation_object import segmentation_object

        data = read_limited(image)
        if kind_of(data[:HEAD_BYTES]) != "dicom":
            raise Refused(f"{image.name} is no DICOM file, so that no DICOM Segmentation can refer to it")
        read_by = ReadBy.of(current(self._engine))
        header = parse_header(data, image.name)
        assessment = assess(header, prediction, read_by, ResultsConfig(), time.time())
        return segmentation_object(assessment, segmentation)

    def _overlay(self, image: Path, prediction: Prediction, segmentation: Segmentation) -> bytes:
        from medfm_compress.runtime.device.current import current
        from medfm_compress.runtime.read_image import read_image
        from medfm_compress.runtime.segmentation.overlay import Caption, overlay_png

        manifest = current(self._engine).manifest
        remarks = tuple(f"{flag_in_words(flag).capitalize()}." for flag in prediction.flags)
        pixels = read_image(image, manifest.image_spec.dicom)
        return overlay_png(pixels, segmentation, Caption(manifest.name, prediction.model_digest, remarks))


def _plain(structure: str) -> str:
    """A structure's name as a part of a file's."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in structure)
