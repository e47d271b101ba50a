"""``run`` on folders: every image of them, what is no image said, and nothing lost by one bad image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from medfm_compress.__main__ import main
from medfm_compress.data.synthetic import draw_study


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["run", *map(str, words), "--threads", "1"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def bundle(tiny: ModuleType, tmp_path: Path) -> Path:
    return Path(tiny.bundle(tmp_path / "tiny.medfm", (tiny.ORT,)))


@pytest.fixture
def scans(tiny: ModuleType, tmp_path: Path) -> Path:
    """A DICOM file and a PNG without suffix, one in a folder within, and files that are no images."""
    folder = tmp_path / "the scans"
    (folder / "b" / "deep").mkdir(parents=True)
    draw_study(tmp_path / "drawn", patients=20, seed=0, shares={"train": 0.5, "val": 0.25, "test": 0.25})
    dicom = next(iter(sorted((tmp_path / "drawn").rglob("*.dcm"))))
    (folder / "IM0001").write_bytes(dicom.read_bytes())
    Image.fromarray(tiny.image()).save(folder / "b" / "two.png")
    (folder / "b" / "two.png").rename(folder / "b" / "deep" / "two")
    (folder / "notes.txt").write_text("not an image")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def test_every_image_of_a_folder_is_predicted(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, bundle, scans)
    header, *rows, summary = out.splitlines()
    assert code == 0
    assert header.split() == ["image", "opacity"]
    assert [row.partition("the scans/")[2].split()[0] for row in rows] == [
        "DICOMDIR",
        "IM0001",
        "b/deep/two",
        "notes.txt",
    ]
    assert "skipped: the index of a DICOM medium" in rows[0]
    assert "skipped: not a DICOM, PNG, JPEG, TIFF or BMP image" in rows[3]
    assert all("called" in row for row in rows[1:3])
    assert len({row.index("0.") for row in rows[1:3]}) == 1
    assert summary == "2 predicted, 0 refused, 2 other files skipped"
    assert "predict: 4 of 4" in err


def test_a_bad_image_does_not_lose_the_others(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "bad.dcm").write_bytes(b"half a file")
    code, out, _ = run(capsys, bundle, scans, "--json")
    rows = {Path(row["image"]).name: row for row in json.loads(out)}
    assert code == 4
    assert rows["bad.dcm"]["exit_code"] == 4
    assert "opacity" in rows["IM0001"]["probabilities"] and "opacity" in rows["two"]["probabilities"]
    assert rows["notes.txt"]["skipped"]
    assert ".DS_Store" not in rows


def test_folders_and_files_together(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, bundle, scans / "b", scans / "IM0001", scans / "absent", "--json")
    assert [Path(row["image"]).name for row in json.loads(out)] == ["two", "IM0001", "absent"]


def test_a_folder_without_an_image_is_unusable(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, out, _ = run(capsys, bundle, tmp_path / "empty")
    assert code == 2
    assert "the folder holds no image" in out
    code, out, _ = run(capsys, bundle, tmp_path / "empty", "--json")
    assert code == 2 and json.loads(out)[0]["exit_code"] == 2


def test_links_in_a_circle_end(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "b" / "again").symlink_to(scans, target_is_directory=True)
    _, out, _ = run(capsys, bundle, scans, "--json")
    names = [Path(row["image"]).name for row in json.loads(out)]
    assert sorted(names) == sorted({*names})


def test_a_name_that_is_no_text(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "IM0001").rename(os.fsdecode(os.fsencode(scans) + b"/caf\xe9"))
    code, out, _ = run(capsys, bundle, scans, "--json")
    assert code == 0
    assert any(row["image"].endswith("caf\\xe9") for row in json.loads(out))
    code, out, _ = run(capsys, bundle, scans)
    assert code == 0 and "caf" in out


def test_a_name_that_no_file_can_have(bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, bundle, "n" * 300, scans / "IM0001")
    assert code == 4
    assert "File name too long" in out and "IM0001: opacity" in out


def test_folders_that_cannot_be_entered_are_counted(
    bundle: Path, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nested so deeply that their paths are longer than the system takes."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(scans)
    try:
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
    finally:
        os.fchdir(here)
        os.close(here)
    code, out, _ = run(capsys, bundle, scans, "--json")
    rows = json.loads(out)
    (deepest,) = [row for row in rows if row["image"].endswith("/" + "d" * 250)]
    assert code == 4 and "File name too long" in deepest["error"]
    assert any("probabilities" in row for row in rows)
