"""Files put into a watched folder go to the spool, whole and once; what is no image stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.node.config import SpoolConfig, WatchConfig
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.node.watch_folder import WatchFolder
from tests.helpers.node_receiver import Notes, accepted_uids, image_file
from tests.helpers.spool_scene import structured_report, wait_until

Scene = tuple[WatchFolder, Spool, Notes, Path]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    folder = tmp_path / "in"
    folder.mkdir()
    spool, notes = Spool(tmp_path / "spool", SpoolConfig(min_free_gb=0)), Notes()
    yield (
        WatchFolder(WatchConfig(folder=str(folder), settle_s=1e-9, every_s=0.01), spool, notes, notes),
        spool,
        notes,
        folder,
    )
    spool.close()


def test_a_file_is_taken_once_it_has_settled_and_is_gone_then(scene: Scene) -> None:
    watch, spool, notes, folder = scene
    (folder / "study").mkdir()
    (folder / "study" / "a.dcm").write_bytes(image_file("1.2.3.1", size=300))
    assert watch.look() == 0  # seen for the first time
    assert watch.look() == 1
    assert accepted_uids(spool) == {"1.2.3.1"}
    assert list((folder / "study").iterdir()) == []
    instance = spool.claim()
    assert instance is not None
    assert instance.path.read_bytes() == image_file("1.2.3.1", size=300)
    assert notes.records == [("received", {"way": "watch", "instance": instance.id, "repeated": False})]


def test_a_file_that_grows_is_waited_for(scene: Scene) -> None:
    watch, spool, _, folder = scene
    content = image_file("1.2.3.1", size=300)
    for end in (1000, 100_000, len(content)):
        (folder / "a.dcm").write_bytes(content[:end])
        assert watch.look() == 0
    assert watch.look() == 1
    assert accepted_uids(spool) == {"1.2.3.1"}


def test_what_is_no_image_stays_and_is_spoken_of_once(scene: Scene) -> None:
    watch, spool, notes, folder = scene
    (folder / "notes.txt").write_text("no DICOM file")
    (folder / "cut.dcm").write_bytes(image_file("1.2.3.1")[:200])
    (folder / "report.dcm").write_bytes(structured_report("1.2.3.4"))
    (folder / ".hidden").write_bytes(image_file("1.2.3.2"))
    (folder / "link.dcm").symlink_to(folder / ".hidden")
    os.mkfifo(folder / "pipe.dcm")
    for _ in range(4):
        assert watch.look() == 0
    assert sorted(notes.reasons()) == ["not-understood", "not-understood", "sop-class"]
    assert len(list(folder.iterdir())) == 6
    assert accepted_uids(spool) == set()


def test_a_full_spool_leaves_the_file_for_later(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    spool, notes = Spool(tmp_path / "spool", SpoolConfig(min_free_gb=0, max_gb=1e-5)), Notes()
    watch = WatchFolder(WatchConfig(folder=str(folder), settle_s=1e-9), spool, notes, notes)
    (folder / "a.dcm").write_bytes(image_file("1.2.3.1", size=300))
    assert [watch.look() for _ in range(3)] == [0, 0, 0]
    assert (folder / "a.dcm").exists()
    assert list((spool.folder / "incoming").iterdir()) == []
    spool.close()


def test_a_file_that_was_accepted_before_the_node_ended_is_no_second_image(scene: Scene) -> None:
    watch, spool, notes, folder = scene
    for _ in range(2):
        (folder / "a.dcm").write_bytes(image_file("1.2.3.1"))
        watch.look()
        assert watch.look() == 1
    assert spool.counts().instances == {"waiting": 1}
    assert [facts["repeated"] for _, facts in notes.records] == [False, True]


def test_it_watches_in_a_thread_of_its_own(scene: Scene) -> None:
    watch, spool, _, folder = scene
    watch.start()
    (folder / "a.dcm").write_bytes(image_file("1.2.3.1"))
    wait_until(lambda: accepted_uids(spool) == {"1.2.3.1"})
    assert watch.is_alive
    watch.stop()
    assert not watch.is_alive


def test_a_folder_that_is_not_there_is_refused(scene: Scene, tmp_path: Path) -> None:
    config = WatchConfig(folder=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"watch\.folder .* is no folder"):
        WatchFolder(config, scene[1], scene[2], scene[2]).start()


def test_a_file_that_cannot_be_removed_is_tried_less_and_less_often(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, spool, _, folder = scene
    now, tries = [1000.0], []
    monkeypatch.setattr("medfm_compress.runtime.node.watch_folder.time.monotonic", lambda: now[0])

    def refuses(path: Path) -> None:
        tries.append(now[0])
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuses)
        (folder / "a.dcm").write_bytes(image_file("1.2.3.1"))
        for _ in range(3600):
            watch.look()
            now[0] += 1
    assert 6 < len(tries) < 20 and tries[-1] - tries[-2] >= 600
    assert caplog.text.count("cannot be taken") == 1
    assert accepted_uids(spool) == {"1.2.3.1"}
    now[0] += 600
    watch.look()
    assert list(folder.iterdir()) == [] and spool.counts().instances == {"waiting": 1}


def test_what_takes_the_name_of_a_file_that_was_just_taken_is_taken_as_well(scene: Scene) -> None:
    watch, spool, _, folder = scene
    (folder / "a.dcm").write_bytes(image_file("1.2.3.1"))
    accept = spool.accept

    def meanwhile(*arguments: object) -> object:
        (folder / ".b").write_bytes(image_file("1.2.3.2"))
        (folder / ".b").rename(folder / "a.dcm")
        spool.accept = accept  # type: ignore[method-assign]
        return accept(*arguments)  # type: ignore[arg-type]

    spool.accept = meanwhile  # type: ignore[method-assign, assignment]
    for _ in range(4):
        watch.look()
    assert accepted_uids(spool) == {"1.2.3.1", "1.2.3.2"}


def test_more_files_than_are_looked_at_are_spoken_of(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, _, _, folder = scene
    monkeypatch.setattr("medfm_compress.runtime.node.watch_folder.MAX_FILES", 2)
    for number in range(3):
        (folder / f"{number}.txt").write_bytes(b"no image")
    for _ in range(4):
        watch.look()
    assert caplog.text.count("move away") == 1
