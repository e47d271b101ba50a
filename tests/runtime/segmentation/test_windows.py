"""The sliding window is MONAI's, in both engines, and its memory does not grow with the image's height."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec, Tiles
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import at_resolution, normalise, prepare
from medfm_compress.runtime.segmentation.segment import SMALLER_THAN_TILE, segment
from medfm_compress.runtime.segmentation.windows import sliding_logits, tile_starts
from medfm_compress.runtime.task import Task

TILE = 32
MEAN, STD = 0.4, 0.25
STRUCTURES = ("nucleus", "border")
SIZES = [(31, 40), (32, 32), (33, 32), (63, 65), (66, 62), (20, 97), (11, 9)]


def spec_of(**tiles) -> ImageSpec:
    spec = ImageSpec(height_px=TILE, width_px=TILE, colour="rgb", mean=(MEAN,) * 3, std=(STD,) * 3, min_side_px=8)
    return msgspec.structs.replace(spec, tiles=Tiles(**tiles))


def network(structures: int) -> nn.Module:
    """Not translation-invariant: zero padding inside makes every tile's border differ."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, structures, 5, padding=2)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        module[2].weight *= 4
    return module


def image(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(module: nn.Module, pixels: np.ndarray, spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``[K, H, W]`` and label map of MONAI's window; outside the image is black."""
    x = torch.from_numpy((pixels.astype(np.float32) / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    with torch.no_grad():
        z = sliding_window_inference(
            x,
            (TILE, TILE),
            1,
            module,
            overlap=spec.tiles.overlap,
            mode=spec.tiles.blending,
            cval=-MEAN / STD,
        )
    both = torch.cat([torch.zeros_like(z[:, :1]), z], dim=1).softmax(1)[0].numpy()
    return both[1:], both.argmax(0)


@pytest.fixture(scope="module", params=[1, 2])
def exported(request, tmp_path_factory):
    structures = STRUCTURES[: request.param]
    module, path = network(request.param), tmp_path_factory.mktemp("bundle") / "tiles.medfm"
    draft = BundleDraft(
        name="tiles",
        spec=spec_of(overlap=0.25),
        task=Task(kind="segmentation", labels=structures),
        provenance=Provenance(),
        intended_use="a test",
    )
    build_bundle(module, draft, path)
    return module, path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_both_engines_give_what_monai_gives_around_the_multiples_of_a_tile(exported, backend) -> None:
    module, path = exported
    with Engine(path, backend=backend, threads=1, unverified=True) as engine:
        for height, width in SIZES:
            pixels = image(height, width)
            prediction = engine.predict(pixels, keep_probabilities=True)
            answer = prediction.segmentation
            expected, label_map = reference(module, pixels, engine.manifest.image_spec)
            assert answer.probabilities.shape == expected.shape
            assert np.abs(answer.probabilities - expected).max() < 1e-4
            assert np.array_equal(answer.label_map, label_map)
            assert (SMALLER_THAN_TILE in prediction.flags) == (min(height, width) < TILE)
            highest = expected.reshape(len(expected), -1).max(axis=1)
            assert list(prediction.probabilities.values()) == pytest.approx(highest, abs=1e-4)
            shown = np.unique(label_map)
            assert list(prediction.findings.values()) == [k in shown for k in range(1, len(expected) + 1)]


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.77, 0.9])
def test_every_overlap_and_blending_gives_what_monai_gives(overlap, blending) -> None:
    spec, module, task = spec_of(overlap=overlap, blending=blending), network(1), Task(kind="segmentation", labels="a")

    def run(x):
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    pixels = image(70, 45)
    expected, label_map = reference(module, pixels, spec)
    answer = segment(run, Pixels.from_integers(pixels), task, spec, keep_probabilities=True)
    assert np.abs(answer.probabilities - expected).max() < 1e-4
    assert np.array_equal(answer.label_map, label_map)
    threaded = segment(run, Pixels.from_integers(pixels), task, spec, workers=4, keep_probabilities=True)
    assert np.array_equal(threaded.probabilities, answer.probabilities)


def test_tiles_begin_where_monai_has_them() -> None:
    from monai.data.utils import dense_patch_slices

    for length in (32, 33, 47, 48, 63, 64, 65, 100):
        for overlap in (0.0, 0.25, 0.6, 0.9):
            step = 32 if length == 32 else max(1, int(32 * (1 - overlap)))
            theirs = [slices[0].start for slices in dense_patch_slices((length,), (32,), (step,))]
            assert list(tile_starts(length, 32, overlap)) == theirs


def test_memory_does_not_grow_with_the_height_of_an_image() -> None:
    spec = spec_of(overlap=0.25)

    def peak(height: int) -> int:
        pixels = Pixels.from_integers(np.zeros((height, 200, 3), np.uint8))
        tracemalloc.start()
        rows = sum(band.logits.shape[1] for band in sliding_logits(lambda x: x[:, :2], pixels, spec))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == height
        return used

    peak(100)
    assert peak(4000) < 1_000_000  # its logits alone are 6.4 MB


def test_pixels_are_brought_to_the_distance_that_the_network_was_made_for() -> None:
    task, spec = Task(kind="segmentation", labels=("a",)), spec_of(mm_per_px=0.5)
    values = np.zeros((60, 90), np.uint8)
    values[20:40, 30:60] = 255
    pixels = Pixels.from_integers(values)._replace(spacing_mm=0.25)
    answer = segment(lambda x: x[:, :1] * 8, pixels, task, spec, keep_probabilities=True)
    assert answer.label_map.shape == (60, 90)
    assert answer.probabilities.shape == (1, 60, 90)
    assert np.mean((answer.label_map == 1) != (values > 0)) < 0.02
    with pytest.raises(ImageRefused, match="does not say the distance"):
        segment(lambda x: x[:, :1], Pixels.from_integers(values), task, spec)
    with pytest.raises(ImageRefused, match="region of interest"):
        segment(lambda x: x[:, :1], pixels._replace(spacing_mm=5000.0), task, spec)


def test_pixels_that_are_not_square_are_made_square() -> None:
    spec = spec_of(mm_per_px=0.5)
    pixels = Pixels.from_integers(image(60, 90))._replace(spacing_mm=0.5, aspect=4.0)  # rows 1 mm, columns 0.25 mm
    there = at_resolution(pixels, spec)
    assert there.values.shape == (120, 45, 3)
    assert (there.spacing_mm, there.aspect) == (0.5, 1.0)


def test_one_input_of_a_sliding_window_is_the_tile_in_the_middle() -> None:
    pixels = image(80, 20)
    middle = prepare(Pixels.from_integers(pixels), spec_of())
    assert middle.shape == (3, TILE, TILE)
    assert np.array_equal(middle[:, :, 6:26], pixels[24:56].transpose(2, 0, 1).astype(np.float32) / 255)
    assert not middle[:, :, :6].any()
    assert not middle[:, :, 26:].any()
    assert normalise(middle, spec_of()).min() >= -MEAN / STD - 1e-6
    with pytest.raises(ImageRefused, match="shorter side"):
        prepare(Pixels.from_integers(pixels[:, :7]), spec_of())


def test_what_no_tile_can_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"overlap of tiles is 0.95; it must be 0 to 0.9"):
        Tiles(overlap=0.95)
    with pytest.raises(InputError, match="mm_per_px"):
        Tiles(mm_per_px=0.0)
    with pytest.raises(InputError, match="not cropped"):
        msgspec.structs.replace(spec_of(), crop_fraction=0.875)
    from medfm_compress.runtime.tasks.table import rules_of

    with pytest.raises(InputError, match="for segmentations"):
        binary = Task(kind="binary", labels=("no", "yes"))
        rules_of(binary).check_spec(binary, spec_of())
    with pytest.raises(InputError, match="no tiles"):
        whole = msgspec.structs.replace(spec_of(), tiles=msgspec.UNSET)
        next(sliding_logits(lambda x: x, Pixels.from_integers(image(40, 40)), whole))
