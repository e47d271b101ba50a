"""What ``run --heatmap`` writes: a PNG an image, at the image's own size, from the run that gave the finding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.device.active_engine import ActiveEngine
    from medfm_compress.runtime.engine import Engine, NetworkInput, Prediction


class HeatMapFolder:
    """A folder of heat maps, named as their images are; of images of one name the later ones are numbered."""

    def __init__(self, folder: Path, engine: Engine | ActiveEngine) -> None:
        """Make the folder.

        Raises:
            InputError: the bundle gives no heat map, or the folder cannot be made or already holds something.
        """
        from medfm_compress.runtime.engine import Engine

        self._engine = engine
        opened = engine if isinstance(engine, Engine) else engine.engine
        if opened.manifest.cam is None:
            raise InputError(
                f"{opened.bundle.path.name} gives no heat map; export the model with --heat-map, which says whether it "
                "has one, or look at it with 'medfm-compress view', which needs none"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holds = any(folder.iterdir())
        except OSError as exc:
            raise InputError(f"cannot write to {folder}: {exc.strerror}; give another folder") from None
        if holds:
            raise InputError(f"{folder} already holds something; give --heatmap a new or empty folder")
        self._folder, self._names, self._without = folder, set[str](), 0

    @property
    def summary(self) -> str:
        """How many pictures lie where."""
        without = f"; {self._without} images without a finding to explain" if self._without else ""
        return f"{len(self._names)} heat maps in {self._folder}, which show images of patients{without}"

    def draw(self, image: Path, prediction: Prediction, seen: NetworkInput) -> None:
        """Write the map of the finding that matters most; none where no finding is given.

        Raises:
            ImageRefused: the image cannot be read any more.
            InputError: the picture cannot be written.
        """
        from PIL import Image

        from medfm_compress.runtime.engine import Engine
        from medfm_compress.runtime.heat_map import finding_to_explain, heat_map_of_image, overlay
        from medfm_compress.runtime.read_image import read_image

        engine = self._engine if isinstance(self._engine, Engine) else self._engine.engine
        finding = finding_to_explain(prediction)
        if finding is None or seen.activation is None:
            self._without += 1
            return
        spec = engine.manifest.image_spec
        pixels = read_image(image, spec.dicom)
        picture = overlay(heat_map_of_image(seen.activation, pixels, spec, engine.task, finding))
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        write_atomically(self._folder / self._name(image), buffer.getvalue())

    def _name(self, image: Path) -> str:
        name, number = f"{image.stem}.png", 1
        while name in self._names:
            number += 1
            name = f"{image.stem}-{number}.png"
        self._names.add(name)
        return name
