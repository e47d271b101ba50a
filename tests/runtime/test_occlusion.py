"""Occlusion maps: hot where a network looks, the same as Captum's, and covering every pixel whatever the size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.occlusion import OcclusionOptions, log_odds, occlusion_map, windows
from medfm_compress.runtime.task import Task

MULTILABEL = Task(kind="multilabel", labels=("opacity", "effusion"))
BINARY = Task(kind="binary", labels=("normal", "opacity"))


class Fake:
    """A network around a function of the image ``[1, C, H, W]`` that gives logits ``[1, labels]``; counts its runs."""

    def __init__(self, function: Callable[[np.ndarray], list[float]]) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.array([self._function(image)], np.float32)


def image(side: int = 32, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((1, channels, side, side)).astype(np.float32)


@pytest.mark.parametrize("baseline", ["mean", "blurred"])
def test_a_explainedthat_looks_at_one_quadrant_is_hot_there_only(baseline: Any) -> None:
    explained = Fake(lambda x: [0.0, float((x[0, 0, :16, 16:] ** 2).sum())])
    heat = occlusion_map(explained, image(), BINARY, "opacity", OcclusionOptions(baseline=baseline))
    assert heat.shape == (32, 32) and heat.dtype == np.float32
    assert (heat[:14, 18:] != 0).all()
    assert np.count_nonzero(heat[18:]) == np.count_nonzero(heat[:, :14]) == 0


def test_evidence_against_a_finding_is_negative() -> None:
    bright = image()
    bright[..., :8, :] += 5
    assert occlusion_map(Fake(lambda x: [float(x[0, 0, :8].sum()), 0.0]), bright, BINARY, "opacity")[:8].max() < 0


def test_maps_are_captum_s() -> None:
    torch = pytest.importorskip("torch")
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    )
    values = image(32, 3)
    with torch.no_grad():
        reference = captum.Occlusion(network).attribute(
            torch.from_numpy(values),
            sliding_window_shapes=(3, 4, 4),
            strides=(3, 2, 2),
            baselines=torch.from_numpy(values).mean(dim=(2, 3), keepdim=True).expand(1, 3, 32, 32),
            target=1,
        )
        explained = Fake(lambda x: network(torch.from_numpy(x))[0].tolist())
        heat = occlusion_map(explained, values, MULTILABEL, "effusion")
    np.testing.assert_allclose(heat, reference[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("patch", [(1 / 8, 1 / 16), (1 / 3, 1 / 3), (0.3, 0.29), (0.05, 0.01)])
def test_every_pixel_is_covered_whatever_the_size(patch: tuple[float, float]) -> None:
    options = OcclusionOptions(patch=patch[0], stride=patch[1])
    for height, width in ((2, 3), (7, 11), (31, 33), (48, 224), (100, 97)):
        covered = np.zeros((height, width), int)
        for rows, columns in windows(height, width, options):
            covered[rows, columns] += 1
        assert covered.min() >= 1


def test_networks_of_any_size_get_the_same_windows() -> None:
    for side in (32, 128, 224, 256, 384, 100):
        assert len(list(windows(side, side, OcclusionOptions()))) == 15 * 15


def test_the_image_is_not_changed_and_runs_are_counted() -> None:
    values, explained = image(), Fake(lambda x: [0.0, float(x.sum())])
    before = values.copy()
    occlusion_map(explained, values, BINARY, "opacity")
    assert np.array_equal(values, before)
    assert explained.calls == 1 + 15 * 15


def test_log_odds_are_those_of_the_probabilities() -> None:
    from medfm_compress.runtime.activation import probabilities

    logits = np.random.default_rng(0).normal(0, 3, (20, 3))
    for task in (
        Task(kind="multiclass", labels=("a", "b", "c")),
        Task(kind="multilabel", labels=("a", "b", "c")),
    ):
        p = probabilities(logits, task)
        for index, finding in enumerate(task.findings):
            np.testing.assert_allclose(log_odds(logits, task, finding), np.log(p[:, index] / (1 - p[:, index])))
    np.testing.assert_allclose(log_odds(logits[:, :2], BINARY, "opacity"), logits[:, 1] - logits[:, 0])


@pytest.mark.parametrize(("patch", "stride"), [(0.1, 0.2), (0.0, 0.0), (1.0, 0.5), (float("nan"), 0.1)])
def test_windows_that_leave_pixels_out_are_refused(patch: float, stride: float) -> None:
    with pytest.raises(InputError, match="stride"):
        OcclusionOptions(patch=patch, stride=stride)


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(InputError, match="no finding 'normal'; choose of opacity"):
        occlusion_map(Fake(lambda x: [0.0, 0.0]), image(), BINARY, "normal")
    with pytest.raises(InputError, match="not finite"):
        occlusion_map(Fake(lambda x: [0.0, float("nan")]), image(), BINARY, "opacity")
    with pytest.raises(InputError, match=r"\(1, 3\)"):
        occlusion_map(Fake(lambda x: [0.0, 0.0, 0.0]), image(), BINARY, "opacity")
