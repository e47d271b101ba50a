"""``run`` on an image of several frames: one row, or one a frame, as the bundle declares."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tiny_bundle as tiny
import typer
from msgspec.structs import replace
from typer.testing import CliRunner

from medfm_compress.cli.model_summary import dicom_in_words
from medfm_compress.cli.run import run
from medfm_compress.device_spec import with_dicom_kind
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.step_settings import ExportStep

FRAMES = np.random.default_rng(1).integers(0, 256, (3, 48, 40), dtype=np.uint8)


@pytest.fixture
def cine(tmp_path):
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.NumberOfFrames = "US", "MONOCHROME2", 1, 3
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 48, 40, 8, 8, 7, 0
    ds.PixelData = FRAMES.tobytes()
    ds["PixelData"].VR = "OB"
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    (tmp_path / "cine.dcm").write_bytes(file.getvalue())
    return tmp_path / "cine.dcm"


def invoke(tmp_path, how, *arguments):
    rules = DicomRules(modalities=("US",), frame="all", frame_aggregation=how)
    bundle = tiny.bundle(tmp_path / "tiny.medfm", spec=replace(tiny.SPEC, dicom=rules))
    app = typer.Typer()
    app.command()(run)
    return CliRunner().invoke(app, [str(bundle), *map(str, arguments), "--threads", "1"])


def test_a_row_a_frame_or_one_for_all(tmp_path, cine):
    each = invoke(tmp_path, "each", cine)
    assert [line.partition(": ")[0] for line in each.stdout.splitlines()] == [
        f"cine.dcm, frame {number}" for number in (1, 2, 3)
    ]
    rows = json.loads(invoke(tmp_path, "each", cine, "--json").stdout)
    assert [row["frame"] for row in rows] == [1, 2, 3]
    for how, join in (("max", max), ("mean", lambda values: sum(values) / 3)):
        row = json.loads(invoke(tmp_path, how, cine, "--json").stdout)[0]
        assert row["frames"] == 3 and "frame" not in row
        expected = join([row["probabilities"]["opacity"] for row in rows])
        assert row["probabilities"]["opacity"] == pytest.approx(expected, abs=1e-12)


def test_a_folder_has_a_row_a_frame_and_its_other_files(tmp_path, cine):
    result = invoke(tmp_path, "each", tmp_path)
    assert result.exit_code == 0 and "3 predicted, 0 refused" in result.stdout
    assert f"{cine}, frame 2" in result.stdout


def test_a_damaged_frame_is_said_after_those_before_it(tmp_path, cine):
    cine.write_bytes(cine.read_bytes()[:-100])
    result = invoke(tmp_path, "each", cine)
    assert result.exit_code == 4 and "refused: " in result.stdout
    assert invoke(tmp_path, "max", cine).exit_code == 4


def test_export_sets_the_rules(tmp_path, cine):
    spec = replace(tiny.SPEC, dicom=DicomRules(frame="numbered", frame_number=2))
    assert with_dicom_kind(spec, ExportStep()) == spec
    step = ExportStep(dicom_frames="mean", dicom_orientation="LF", dicom_mirror_to="R")
    asked = with_dicom_kind(spec, step)
    assert asked.dicom == DicomRules(frame="all", frame_aggregation="mean", orientation="LF", mirrored_to="R")
    words = dicom_in_words(asked)
    assert "the mean of all" in words and "run to LF" in words and "mirrored to side R" in words
    for wrong in ("LR", "LX"):
        with pytest.raises(InputError, match=f"orientation is '{wrong}'; .* on two axes"):
            ExportStep(dicom_orientation=wrong)
