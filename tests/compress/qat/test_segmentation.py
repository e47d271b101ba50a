"""Training for INT8 of a network that answers for every pixel."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import tiny_segmentation  # noqa: E402

from medfm_compress.compress.qat.prepare import fake_quantized, plain_state, trained_ranges  # noqa: E402


def test_a_network_of_pixels_computes_with_the_values_of_int8_and_learns(tmp_path: Path) -> None:
    study = tiny_segmentation.make_study(tmp_path)
    module = tiny_segmentation.trained(study)
    images, masks = tiny_segmentation.inputs_of(study, "train")
    network = fake_quantized(module, images)
    assert set(trained_ranges(network)) == {"enter.0", "down.0", "joined.0", "leave"}
    with torch.no_grad():
        apart = (network(images) - module(images)).square().sum().sqrt()
        assert 0 < apart < 0.1 * (module(images) - module(images).mean()).square().sum().sqrt()
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images)[:, 0], masks.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert plain_state(network).keys() == module.state_dict().keys()
