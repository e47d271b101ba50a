"""What ``run --heatmap`` writes: a picture an image, at its own size with a legend, from the run of the finding."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.cli.image_names import ImageNames, is_dicom
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.heat_map import HeatMap
    from medfm_compress.runtime.prediction import NetworkInput, Prediction


class HeatMapFolder:
    """A folder of heat maps, named by `ImageNames`: PNG, and of a DICOM image a secondary capture as well."""

    def __init__(self, folder: Path, engine: Engine | ActiveEngine) -> None:
        """Make the folder.

        Raises:
            InputError: the bundle gives no heat map, or the folder cannot be made or already holds something.
        """
        from medfm_compress.runtime.device.current import current

        self._engine, self._folder = engine, folder
        self._names, self._drawn, self._without = ImageNames(), 0, 0
        bundle = current(engine).bundle
        if bundle.manifest.task.is_dense:
            raise InputError(f"{bundle.path.name} draws structures and gives no heat map; --overlay shows what it drew")
        if bundle.manifest.place_map is None and not bundle.manifest.task.gives_probabilities:
            raise InputError(
                f"{bundle.path.name} scores images as a whole and gives no anomaly map; fit it with --scorer patches, "
                "or look at it with 'medfm-compress view', which covers one place after the other"
            )
        if bundle.manifest.place_map is None and bundle.manifest.told:
            raise InputError(
                f"{bundle.path.name} takes columns beside the image, and no such network gives a heat map itself; look "
                "at it with 'medfm-compress view', which covers one place after the other"
            )
        if bundle.manifest.place_map is None:
            raise InputError(
                f"{bundle.path.name} gives no heat map; export the model with --heat-map, which says whether it has "
                "one, or look at it with 'medfm-compress view', which needs none"
            )
        if bundle.manifest.image_spec.dicom.frame == "all":
            raise InputError(
                f"{bundle.path.name} answers for all frames of an image, and a heat map is of one; leave --heatmap out"
            )
        if folder == Path():
            raise InputError("--heatmap is empty or '.'; give the path of a new or empty folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holds = any(folder.iterdir())
        except OSError as exc:
            raise InputError(f"cannot write to {folder}: {exc.strerror}; give another folder") from None
        if holds:
            raise InputError(f"{folder} already holds something; give --heatmap a new or empty folder")

    @property
    def summary(self) -> str:
        """How many pictures lie where."""
        without = f"; {self._without} images without a finding to explain" if self._without else ""
        return f"{self._drawn} heat maps in {self._folder}, which show images of patients{without}"

    def draw(self, image: Path, prediction: Prediction, seen: NetworkInput) -> dict[str, str]:
        """Write the map of the finding that matters most, none where no finding is given; what was written, by kind.

        Raises:
            ImageRefused: the image cannot be read any more.
            InputError: the picture cannot be written.
        """
        from PIL import Image

        from medfm_compress.runtime.device.current import current
        from medfm_compress.runtime.heat_map import finding_to_explain, heat_map_of_image
        from medfm_compress.runtime.heat_map_legend import drawable, legend_lines, with_legend
        from medfm_compress.runtime.images.size_limits import read_limited
        from medfm_compress.runtime.read_image import read_image

        engine, finding = current(self._engine), finding_to_explain(prediction)
        if finding is None or seen.activation is None:
            self._without += 1
            return {}
        spec, data, name = engine.manifest.image_spec, read_limited(image), self._names.name_of(image)
        pixels = read_image(data, spec.dicom)
        heat = heat_map_of_image(seen.activation, pixels, spec, engine.task, finding)
        buffer = io.BytesIO()
        number = engine.task.findings.index(finding) + 1
        measure = "score" if prediction.is_score else "probability"
        lines = legend_lines(heat, drawable(finding, number), prediction.probabilities[finding], measure)
        Image.fromarray(with_legend(heat, lines)).save(buffer, "PNG")
        contents = {f"{name}.png": buffer.getvalue()}
        if is_dicom(data):
            contents[f"{name}.dcm"] = self._secondary_capture(data, image, prediction, heat)
        for file, content in contents.items():
            write_atomically(self._folder / file, content)
        self._drawn += 1
        kinds = ("heat map", "heat map (DICOM)")
        return {kind: str(self._folder / file) for kind, file in zip(kinds, contents, strict=False)}

    def _secondary_capture(self, data: bytes, image: Path, prediction: Prediction, heat: HeatMap) -> bytes:
        from medfm_compress.runtime.device.current import current
        from medfm_compress.runtime.dicom.parse import parse_header
        from medfm_compress.runtime.node.config import ResultsConfig
        from medfm_compress.runtime.node.results.assessment import ReadBy, assess
        from medfm_compress.runtime.node.results.secondary_capture import secondary_capture

        read_by = ReadBy.of(current(self._engine))
        header = parse_header(data, image.name)
        return secondary_capture(assess(header, prediction, read_by, ResultsConfig(), time.time()), heat)
