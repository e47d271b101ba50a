"""`run` with a segmentation: rows, files, DICOM Segmentation, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from torch import nn

from medfm_compress.__main__ import main
from medfm_compress.data.synthetic_dicom import SITES, Subject, dicom_bytes
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.self_contained.build import export_self_contained
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNUSABLE, ImageRefused, InputError, Refused
from medfm_compress.runtime.heat_map import heat_map
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.segmentation.files import colour_of
from medfm_compress.runtime.task import Task


class Bright(nn.Module):
    """Marks what is brighter than 0.6, as the first structure, and what is darker than 0.2, as the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([40.0, -40.0]).reshape(2, 1, 1, 1))
            self.conv.bias.copy_(torch.tensor([-24.0, 8.0]))

    def forward(self, x):
        return self.conv(x)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("segmentation") / "bright.medfm"
    spec = ImageSpec(height_px=32, width_px=32, colour="grey", mean=(0.0,), std=(1.0,), min_side_px=8)
    draft = BundleDraft(
        name="bright",
        spec=spec,
        task=Task(kind="segmentation", labels=("bright", "dark")),
        provenance=Provenance(),
        intended_use="a test",
    )
    build_bundle(Bright(), draft, path)
    return path


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def image(tmp_path) -> Path:
    values = np.full((60, 90), 100, np.uint8)
    values[10:30, 20:50] = 230
    values[40:50, 70:80] = 10
    values[52:58, 2:12] = 10
    path = tmp_path / "slice.png"
    Image.fromarray(values).save(path)
    return path


def dicom(folder: Path) -> Path:
    subject = Subject(study_key="seg/1/1", patient="Secret Name", sex="F", age=61, number=3)
    path = folder / "Secret Name.dcm"
    density = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    path.write_bytes(dicom_bytes(density, SITES[0], subject, 1.0))
    return path


def test_rows_say_areas_and_regions(bundle, image, capsys) -> None:
    assert run(["run", str(bundle), str(image), "--unverified"]) == EXIT_OK
    assert "dark" in (line := capsys.readouterr().out) and "in 2 region(s)" in line
    assert run(["run", str(bundle), str(image), "--unverified", "--json"]) == EXIT_OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["findings"] == {"bright": True, "dark": True}
    said = row["segmentation"]
    assert (said["height_px"], said["width_px"], said["area_mm2"]) == (60, 90, None)
    assert said["area_px"]["bright"] == pytest.approx(600, rel=0.15)
    assert len(said["regions"]["dark"]) == 2
    assert sum(region["area_px"] for region in said["regions"]["dark"]) == said["area_px"]["dark"]


def test_files_show_the_same_label_map(bundle, image, tmp_path, capsys) -> None:
    folders = {name: tmp_path / name for name in ("masks", "overlay", "probabilities", "contours")}
    options = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    assert run(["run", str(bundle), str(image), "--unverified", "--json", *options]) == EXIT_OK
    written = json.loads(capsys.readouterr().out)[0]["files"]
    assert {Path(path).name for path in written.values()} == {
        *("slice.png", "slice.json", "slice-1-bright.png", "slice-2-dark.png")
    }
    with Engine(bundle, unverified=True) as engine:
        prediction = engine.predict(image, keep_probabilities=True)
        maps, label_map = prediction.segmentation.probabilities, prediction.segmentation.label_map
    mask = Image.open(written["mask"])
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), label_map)
    assert mask.convert("RGB").getpixel((30, 20)) == colour_of(1)
    probability = Image.open(written["probability of bright"])
    assert probability.text["Description"] == "probability = value / 65535"
    assert np.abs(np.asarray(probability) / 65535 - maps[0]).max() < 1e-5
    rings = json.loads(Path(written["contours"]).read_bytes())["structures"]
    assert [len(rings[name]) for name in ("bright", "dark")] == [1, 2]
    with Image.open(written["overlay"]) as picture:
        assert picture.width >= 450 and picture.height > picture.width * 60 / 90
    assert not list(tmp_path.rglob("*.partial"))


def test_a_dicom_image_names_no_patient_and_gives_a_segmentation_of_its_own(bundle, tmp_path, capsys) -> None:
    source, folder = dicom(tmp_path), tmp_path / "seg"
    command = ["run", str(bundle), str(source), "--unverified", "--json", "--dicom-seg", str(folder)]
    assert run([*command, "--masks", str(tmp_path / "m")]) == EXIT_OK
    written = json.loads(capsys.readouterr().out)[0]["files"]
    assert sorted(written) == ["dicom_seg", "mask"]
    assert all("Secret" not in Path(path).name for path in written.values())
    seg = highdicom.seg.segread(io.BytesIO(Path(written["dicom_seg"]).read_bytes()))
    uid = pydicom.dcmread(source).SOPInstanceUID
    planes = seg.get_pixels_by_source_instance([uid], combine_segments=True, ignore_spatial_locations=True)
    assert np.array_equal(planes[0], np.asarray(Image.open(written["mask"])))


def test_images_of_one_name_do_not_replace_each_other(bundle, image, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "slice.png").write_bytes(image.read_bytes())
    folder = tmp_path / "m"
    command = ["run", str(bundle), str(image), str(other / "slice.png"), "--unverified", "--masks", str(folder)]
    assert run(command) == EXIT_OK
    assert sorted(path.name for path in folder.iterdir()) == ["slice-2.png", "slice.png"]


def test_what_cannot_be_written_is_said(bundle, image, tmp_path, capsys) -> None:
    options = ["--dicom-seg", str(tmp_path / "s"), "--masks", str(tmp_path / "m")]
    assert run(["run", str(bundle), str(image), "--unverified", *options]) == EXIT_REFUSED
    assert "is no DICOM file" in capsys.readouterr().out
    assert not (tmp_path / "s").exists() and not (tmp_path / "m").exists()
    assert run(["run", str(bundle), str(image), "--unverified", "--masks", str(image)]) == EXIT_UNUSABLE
    assert "give the path of a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--masks", "images"), "already holds something"),
        (("--masks", "m", "--overlay", "m"), "give each a folder of its own"),
        (("--masks", "m", "--contours", "images/../m"), "give each a folder of its own"),
        (("--masks", "images/found/masks"), "where images are looked for"),
        (("--overlay", ""), "give the path of a folder"),
    ],
)
def test_no_image_and_no_other_file_is_replaced(bundle, image, tmp_path, capsys, options, sentence) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "slice.png").write_bytes(image.read_bytes())
    places = [part if part.startswith("--") or not part else str(tmp_path / part) for part in options]
    assert run(["run", str(bundle), str(folder), "--unverified", *places]) == EXIT_UNUSABLE
    assert sentence in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["slice.png"]
    assert (folder / "slice.png").read_bytes() == image.read_bytes()


def test_inspect_and_export_say_what_the_label_map_holds(bundle, capsys) -> None:
    assert run(["inspect", str(bundle), "--verify"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "segmentation: bright, dark" in said
    assert "0 background, 1 bright, 2 dark" in said
    assert "schema 7" in said


def test_what_explains_an_image_as_a_whole_is_refused(bundle, image, tmp_path) -> None:
    with Engine(bundle, unverified=True) as engine:
        prediction, seen = engine.predict_with_input(image)
        with pytest.raises(InputError, match="look at its label map"):
            heat_map(engine, seen.tensor, prediction)
    with pytest.raises(InputError, match="is a segmentation"):
        export_self_contained(Bundle.open(bundle), SelfContainedOptions(), tmp_path / "one.onnx")
    assert not (tmp_path / "one.onnx").exists()


def test_an_output_that_is_no_mask_gives_no_result(bundle, image) -> None:
    with Engine(bundle, unverified=True) as engine:
        infer = engine._session.run
        for wrong in (lambda z: z * np.nan, lambda z: z[:, :1], lambda z: z[:, :, 1:]):
            engine._session = type("S", (), {"run": lambda _, x, w=wrong: {"logits": w(infer(x)["logits"])}})()
            with pytest.raises(Refused, match="not finite or misshapen"):
                engine.predict(image)


def test_an_absurdly_elongated_image_is_refused(bundle) -> None:
    with Engine(bundle, unverified=True) as engine:
        with pytest.raises(ImageRefused, match="shorter side"):
            engine.predict(np.zeros((4, 4000), np.uint8))
        assert engine.predict(np.zeros((8, 4000), np.uint8)).segmentation.label_map.shape == (8, 4000)
