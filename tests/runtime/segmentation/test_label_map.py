"""From logits to a label map at the image's own size: the geometry is that of the preprocessing, turned round."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.image_spec import ImageSpec, Resize, Tiles
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import layout, prepare
from medfm_compress.runtime.segmentation.enlarged_mask import enlarged_mask
from medfm_compress.runtime.segmentation.label_map import lay_on_image, probability_maps, resize_plane
from medfm_compress.runtime.segmentation.segment import segment
from medfm_compress.runtime.task import Task

ONE, THREE = (Task(kind="segmentation", labels=tuple("abc"[:count])) for count in (1, 3))
SIZES = [(48, 64), (300, 200), (61, 401), (64, 48), (1000, 48), (13, 9)]


def spec_of(resize: Resize, height: int = 48, width: int = 64) -> ImageSpec:
    return ImageSpec(
        height_px=height, width_px=width, colour="grey", mean=(0.0,), std=(1.0,), resize=resize, min_side_px=4
    )


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Logits that cross zero in large patches."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 3, (1, shape[0], 5, 6)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic")[0].numpy()


@pytest.mark.parametrize("task", [ONE, THREE], ids=["one", "three"])
@pytest.mark.parametrize("resize", ["stretch", "longest"])
def test_it_is_softmax_crop_resize_and_the_most_probable(task, resize) -> None:
    spec = spec_of(resize)
    logits = smooth((len(task.labels), 48, 64))
    for height, width in SIZES:
        together = torch.cat([torch.zeros(1, 48, 64), torch.from_numpy(logits)]).softmax(0).numpy()
        if resize == "longest":  # written down anew, from the words of the design
            ratio = max(height / 48, width / 64)
            rows, columns = max(1, round(height / ratio)), max(1, round(width / ratio))
            top, left = (48 - rows) // 2, (64 - columns) // 2
            together = together[:, top : top + rows, left : left + columns]
        size, how = (width, height), Image.Resampling.BILINEAR
        planes = np.stack([np.asarray(Image.fromarray(p.copy()).resize(size, how)) for p in together])
        answer = lay_on_image(logits, task, spec, height, width, keep_probabilities=True)
        assert np.abs(answer.probabilities - planes[1:]).max() < 1e-6
        best = np.sort(planes, axis=0)
        clear = best[-1] - best[-2] > 1e-5
        assert clear.mean() > 0.99
        assert np.array_equal(answer.label_map[clear], planes.argmax(0)[clear])
        bare = lay_on_image(logits[None], task, spec, height, width)
        assert bare.probabilities is None
        assert np.array_equal(bare.label_map, answer.label_map)


@pytest.mark.parametrize("resize", ["stretch", "longest"])
def test_an_image_that_is_its_own_answer_comes_back_where_it_was(resize) -> None:
    for height, width in SIZES[:5]:
        values = np.zeros((height, width), np.uint8)
        values[height // 4 : height // 2, width // 3 : width * 3 // 4] = 255
        spec = spec_of(resize)
        answer = segment(lambda x: x * 20 - 10, Pixels.from_integers(values), ONE, spec)
        assert answer.label_map.shape == values.shape
        place = layout(height, width, spec)
        edge = max(1, round(height / place.rows)) * width + max(1, round(width / place.columns)) * height
        assert np.count_nonzero((answer.label_map == 1) != (values > 0)) <= edge
        assert answer.peaks[0] > 0.8  # of a thin image its few pixels are averaged with their neighbours


def test_the_layout_is_where_the_preprocessing_puts_an_image() -> None:
    for resize in ("stretch", "longest"):
        for height, width in SIZES:
            spec = spec_of(resize)
            place = layout(height, width, spec)
            seen = prepare(Pixels.from_integers(np.full((height, width), 255, np.uint8)), spec)[0] > 0
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            assert (rows[0], columns[0], len(rows), len(columns)) == tuple(place)
    for wrong in ({"resize": "shortest"}, {"crop_fraction": 0.9}, {"tiles": Tiles()}):
        with pytest.raises(InputError, match="whole image"):
            layout(100, 100, msgspec.structs.replace(spec_of("stretch"), **wrong))


def test_an_enlarged_mask_is_the_mask_of_the_enlarged_plane() -> None:
    for seed in range(6):
        plane = 1 / (1 + np.exp(-smooth((1, 40, 56), seed)[0]))
        for height, width in ((41, 57), (123, 456), (400, 560)):
            mask = enlarged_mask(plane, height, width)
            assert mask is not None
            assert np.array_equal(mask, resize_plane(plane, height, width) >= 0.5)
    plane[10, 10] = 0.5  # at the level itself
    assert np.array_equal(enlarged_mask(plane, 90, 90), resize_plane(plane, 90, 90) >= 0.5)
    assert enlarged_mask(plane, 40, 100) is None
    noise = np.random.default_rng(0).random((40, 56)).astype(np.float32)
    assert enlarged_mask(noise, 400, 560) is None  # nearly all of it would have to be computed


def test_of_equal_probabilities_the_structure_is_shown() -> None:
    spec = spec_of("stretch", 8, 8)
    assert lay_on_image(np.zeros((1, 8, 8)), ONE, spec, 8, 8).label_map.min() == 1
    assert lay_on_image(np.zeros((3, 8, 8)), THREE, spec, 8, 8).label_map.max() == 1
    assert lay_on_image(np.full((3, 8, 8), -1.0), THREE, spec, 8, 8).label_map.max() == 0


def test_large_logits_give_probabilities_that_are_numbers() -> None:
    maps = probability_maps(np.array([[[1e4]], [[-1e4]], [[9.9e3]]]), THREE)
    assert maps.reshape(-1) == pytest.approx([1.0, 0.0, 0.0])


def test_what_is_no_answer_is_refused() -> None:
    spec = spec_of("stretch", 8, 8)
    with pytest.raises(Refused, match="not finite"):
        lay_on_image(np.full((1, 8, 8), np.nan), ONE, spec, 8, 8)
    with pytest.raises(InputError, match=r"logits have shape \(2, 8, 8\)"):
        lay_on_image(np.zeros((2, 8, 8)), ONE, spec, 8, 8)
    with pytest.raises(InputError, match="the network's input"):
        lay_on_image(np.zeros((1, 4, 4)), ONE, spec, 8, 8)
