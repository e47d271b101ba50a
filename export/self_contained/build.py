"""`export --self-contained`: a bundle's variant as one file that any host with an ONNX Runtime can run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.export.self_contained.compose import compose, metadata, serialise
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.export.self_contained.parity import Parity, check_parity
from medfm_compress.export.self_contained.portable import portable_variant
from medfm_compress.export.self_contained.preprocessing import GraphForm
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress, no_progress


class SelfContained(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: the variant in it, its verdict (``pass`` or ``none``), its parity with the engine, its size."""

    variant: str
    verdict: str
    parity: Parity
    bytes: int


def export_self_contained(
    bundle: Bundle, options: SelfContainedOptions, path: str | Path, progress: Progress = no_progress
) -> SelfContained:
    """Write preprocessing, a variant's network and its decisions to ``path``, after their parity was checked.

    Raises:
        InputError: the bundle is a segmentation, takes columns, normalises stains, turns images or joins frames, no
            variant is portable, the file would differ from the engine, or cannot be written. Nothing is left behind.
    """
    if bundle.manifest.task.is_dense:
        raise InputError(
            f"{bundle.path.name} is a segmentation, whose label map is laid back on the image at its own size, and one "
            "ONNX file holds the way from pixels to findings of classifiers alone; run the bundle itself "
            "(medfm_compress.runtime, without torch)"
        )
    if bundle.manifest.told:
        names = ", ".join(column.name for column in bundle.manifest.told)
        raise InputError(
            f"{bundle.path.name} takes columns beside the image ({names}), which are read, checked and filled by rules "
            "that no ONNX graph holds here; run the bundle itself (medfm_compress.runtime, without torch)"
        )
    variant = portable_variant(bundle, options.variant)
    form = GraphForm(pixels=options.pixels, resize=options.resize_with)
    rules = bundle.manifest.image_spec.dicom
    if rules.turns or rules.frame_aggregation:
        raise InputError(
            f"{bundle.path.name} turns DICOM images or answers for all of their frames, by attributes of the file that "
            "a graph does not see; run the bundle itself (medfm_compress.runtime, without torch)"
        )
    if bundle.manifest.image_spec.stain:
        raise InputError(
            f"{bundle.path.name} normalises the stain of its images, which looks at each image as a whole and "
            "which no ONNX graph holds here; run the bundle itself, or train without --stain"
        )
    progress(f"composing {variant.name} with preprocessing and decisions")
    manifest = bundle.manifest
    model = compose(bundle.read(variant.files[0]), manifest.image_spec, manifest.task_of(variant), form)
    progress("checking parity with the engine")
    parity = check_parity(serialise(model, {}), bundle, variant, options.pixels)
    properties = metadata(bundle, variant, form, msgspec.to_builtins(parity))
    content = serialise(model, properties)
    write_atomically(path, content)
    return SelfContained(variant=variant.name, verdict=properties["medfm.verdict"], parity=parity, bytes=len(content))
