"""``monitor`` and ``run --shadow``: from a study to a report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from released_bundle import as_release

from medfm_compress.cli.main import run
from medfm_compress.runtime.bundle.bundle import Bundle


@pytest.fixture
def call(capsys):
    def run_it(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A study, a bundle for it, and images of a device."""
    folder = tmp_path_factory.mktemp("monitor")
    random = np.random.default_rng(0)
    (folder / "study").mkdir()
    rows = ["image,split,label,patient"]
    for number in range(70):
        level = random.normal(110, 15)
        image = random.normal(level, 30, (40, 36)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "study" / f"{number}.png")
        rows.append(
            f"{number}.png,{'val' if number < 60 else 'test'},{('normal', 'opacity')[number % 2]},P{max(number, 5)}"
        )
    (folder / "study" / "cases.csv").write_text("\n".join(rows) + "\n")
    tiny.bundle(folder / "tiny.medfm", (tiny.OV, tiny.ORT))
    return folder


def test_from_a_study_to_a_report(folder, call, tiny, tmp_path):
    with_reference = tmp_path / "with.medfm"
    code, out, _ = call(
        "monitor", "reference", folder / "tiny.medfm", "--study", folder / "study", "--out", with_reference
    )
    assert code == 0
    assert "mean intensity, spread of intensity and the scores of 2 variants on 55 cases" in out
    assert Bundle.open(with_reference).verdict(tiny.ORT.name).outcome == "pass"
    device = tmp_path / "device"
    assert call("monitor", "report", "--device-folder", device)[0] == 2  # there is no device yet
    for release, path in ((1, with_reference), (2, tiny.bundle(tmp_path / "c.medfm", model=tiny.network(seed=3)))):
        call("device", "install", as_release(path, tmp_path / f"{release}.medfm", release), "--device-folder", device)
        if release == 1:
            words = ("--device-folder", device, "--trial", 0, "--backend", "onnxruntime", "--threads", 1)
            assert call("device", "activate", *words)[0] == 0
            assert call("monitor", "report", "--device-folder", device)[1].startswith("nothing was counted")
    code, out, _ = call("run", device, folder / "study", "--shadow", "--threads", 1)
    assert code == 0 and "70 predicted" in out
    code, out, _ = call("device", "shadow", "--device-folder", device)
    assert code == 0 and "70 predicted by both" in out and "decided otherwise" in out
    code, out, _ = call("monitor", "replay", "--device-folder", device)
    assert code == 0 and out.startswith("active: tiny (release 1")
    code, out, _ = call("monitor", "report", "--device-folder", device, "--out", tmp_path / "report.json")
    assert code == 0
    assert "mean intensity: no drift (evidence" in out and "golden cases: 1 replays, 0 with another result" in out
    assert "at most 1% of all devices" in out and "wrote" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["bundles"][0]["weeks"][0]["predicted"] == 70 and report["shadow"]["predicted"] == 70
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()
    code, _, error = call("monitor", "report", "--device-folder", device, "--out", tmp_path / "report.json")
    assert code == 2 and "exists" in error
    assert json.loads(call("monitor", "report", "--device-folder", device, "--json")[1])["alpha"] == 0.01


@pytest.mark.parametrize(
    ("split", "code", "reason"), [("test", 2, "needs at least 50"), ("nowhere", 2, "has 0 cases"), ("val", 2, "exists")]
)
def test_a_reference_that_cannot_be_made(folder, call, tmp_path, split, code, reason):
    out = tmp_path / "out.medfm"
    if split == "val":
        out.write_bytes(b"mine")
    words = ("--study", folder / "study", "--split", split, "--out", out)
    actual, _, error = call("monitor", "reference", folder / "tiny.medfm", *words)
    assert actual == code and reason in error
    assert not out.exists() or out.read_bytes() == b"mine"


def test_shadow_needs_a_device_with_a_candidate(folder, call, tmp_path):
    image = folder / "study" / "0.png"
    code, _, error = call("run", folder / "tiny.medfm", image, "--shadow")
    assert code == 2 and "--shadow needs a device folder" in error
    device = tmp_path / "device"
    call("device", "install", folder / "tiny.medfm", "--device-folder", device)
    call("device", "activate", "--device-folder", device, "--trial", 0, "--threads", 1)
    code, _, error = call("run", device, image, "--shadow")
    assert code == 2 and "no candidate waits" in error
    assert "nothing was counted" in call("device", "shadow", "--device-folder", device)[1]
