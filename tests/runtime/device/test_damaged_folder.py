"""A device folder that is not as it was left: damaged, exchanged and missing files, those of others, full media."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from losing_disk import FullDisk
from updated_device import OPTIONS, damage, releases_of, update

from medfm_compress.runtime import ActiveEngine, DeviceFolder
from medfm_compress.runtime.device import folder as folder_module
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.device.state import STATE_FILES
from medfm_compress.runtime.errors import BundleRefused, InputError, Refused
from medfm_compress.runtime.monitor.report import make_report


@pytest.mark.parametrize("how", ["damaged", "missing", "exchanged", "cut"])
def test_an_active_file_that_is_no_longer_what_it_was(device, releases, how):
    update(device, releases[1])
    update(device, releases[2])
    path = device.path_of(device.state.active)
    if how == "damaged":
        damage(path)
    elif how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        shutil.copy(releases[4], path)
    with ActiveEngine(device) as active:
        assert active.bundle.release == 1
    assert releases_of(device.state) == (1, None, None)
    assert device.state.events[-1].what == "rolled-back"


def test_a_file_that_is_exchanged_while_it_is_installed(device, releases, tmp_path, monkeypatch):
    source = tmp_path / "source.medfm"
    shutil.copy(releases[1], source)
    describe = folder_module._describe

    def exchange(bundle):
        described = describe(bundle)
        shutil.copy(releases[2], source)
        return described

    monkeypatch.setattr(folder_module, "_describe", exchange)
    with pytest.raises(BundleRefused, match="changes while it is installed"):
        device.install(source)
    assert list(device.bundles.iterdir()) == [] and device.state.candidate is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 50, b'{"content": {}, "sha256": ""}', b"[" * 5000])
def test_one_damaged_state_file_is_as_it_was_one_change_before(device, releases, content):
    update(device, releases[1])
    update(device, releases[2])
    before = device.state
    device.install(releases[3])
    (device.folder / STATE_FILES[device.state.number % 2]).write_bytes(content)
    stored = device.read()
    assert stored.state == before and len(stored.damaged) == 1
    with ActiveEngine(device) as active:
        assert active.bundle.release == 2
    update(device, releases[3])
    assert device.state.active.release == 3 and device.read().damaged == ()


def test_a_state_file_that_was_removed_or_is_an_older_one_is_noticed(device, releases):
    names = [STATE_FILES[number % 2] for number in range(6)]
    device.install(releases[1])
    first = (device.folder / names[1]).read_bytes()
    device.options = DeviceOptions(backend="onnxruntime", threads=1, trial=0)
    device.activate()
    assert device.state.number == 2 and device.read().damaged == ()
    kept = (device.folder / names[2]).read_bytes()
    (device.folder / names[2]).unlink()  # and with it the release that was committed
    assert device.read().damaged == (names[2],)
    (device.folder / names[2]).write_bytes(kept)
    update(device, releases[2], outcomes=())
    before, newest = device.state, STATE_FILES[device.state.number % 2]
    for name, content in ((newest, None), (STATE_FILES[(before.number + 1) % 2], None), (names[1], first)):
        whole = (device.folder / name).read_bytes()
        (device.folder / name).unlink() if content is None else (device.folder / name).write_bytes(content)
        stored = device.read()
        assert stored.damaged == (name,) and stored.state.number == before.number - (name == newest and content is None)
        (device.folder / name).write_bytes(whole)
    assert device.read() == (before, ())


def test_bundles_without_a_state_are_not_a_new_device(device, releases):
    update(device, releases[2])
    for name in STATE_FILES:
        (device.folder / name).unlink()
    for job in (device.read, device.roll_back, lambda: device.install(releases[1]), lambda: ActiveEngine(device)):
        with pytest.raises(Refused, match="is damaged or gone"):
            job()
    assert not any((device.folder / name).exists() for name in STATE_FILES)


def test_a_wrong_path_is_said_and_nothing_is_made_there(tmp_path):
    jobs = (
        *(DeviceFolder.read, DeviceFolder.activate, DeviceFolder.roll_back, DeviceFolder.count_start),
        *(lambda device: device.report(refused=True), make_report, ActiveEngine),
    )
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in (("typo/device", "is not there"), ("file", "is no folder"), ("empty", "is no device folder")):
        for job in jobs:
            with pytest.raises(InputError, match=f"{name} {words}.*; correct the path, or install a bundle there"):
                job(DeviceFolder(tmp_path / name))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


def test_two_damaged_state_files_start_nothing(device, releases):
    update(device, releases[1])
    for name in STATE_FILES:
        damage(device.folder / name)
    for attempt in (lambda: ActiveEngine(device), lambda: device.install(releases[2]), device.read):
        with pytest.raises(Refused, match="is damaged"):
            attempt()


def test_a_state_of_a_later_version_is_not_guessed(device, releases):
    from medfm_compress.runtime.strict_json import decode, digest, encode

    update(device, releases[1])
    for name in STATE_FILES:
        sealed = decode((device.folder / name).read_bytes(), dict, source=name)
        state = sealed["content"] | {"schema_version": 2, "novelty": True}
        (device.folder / name).write_bytes(encode({"content": state, "sha256": digest(state)}))
    with pytest.raises(InputError, match="newer medfm-compress"):
        ActiveEngine(device)


def test_the_order_of_events_does_not_hang_on_the_clock(device, releases, monkeypatch):
    update(device, releases[1])
    monkeypatch.setattr("time.gmtime", lambda seconds=0: __import__("time").struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    update(device, releases[2])
    events = device.state.events
    assert events[-1].date == "1970-01-01T00:00:00Z" and device.state.active.release == 2
    assert [event.number for event in events] == sorted(event.number for event in events)


def test_files_of_others_are_left_alone(device, releases):
    update(device, releases[1])
    strangers = {device.folder / "notes.txt", device.bundles / "README", device.bundles / "a.medfm"}
    for path in strangers:
        path.write_text("mine")
    (device.bundles / ("0" * 64 + ".medfm")).write_text("an update that was interrupted")
    (device.bundles / ("1" * 64 + ".medfm.partial")).write_text("likewise")
    update(device, releases[2])
    assert all(path.read_text() == "mine" for path in strangers)
    assert sorted(path.name for path in device.bundles.iterdir() if path not in strangers) == sorted(device.state.files)


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(device, releases, tmp_path):
    update(device, releases[1])
    target = tmp_path / "precious"
    target.write_text("keep")
    sha256 = folder_module._sha256(Path(releases[2]))
    (device.bundles / f"{sha256}.medfm.partial").symlink_to(target)
    update(device, releases[2])
    assert target.read_text() == "keep" and device.state.active.release == 2


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_media_run_what_is_there(device, releases, tiny):
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    check_read_only(device, releases, tiny)


def check_read_only(device, releases, tiny):
    folders = (device.bundles, device.folder)
    for folder in folders:
        folder.chmod(0o555)
    try:
        with ActiveEngine(device) as active:
            assert active.predict(tiny.image()) and active.bundle.release == 2
        with pytest.raises(InputError, match="cannot write"):
            device.install(releases[3])
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_media_that_take_nothing_run_what_is_there(device, releases, tiny, monkeypatch):
    """As `test_read_only_media_run_what_is_there`, also for root, by the errors that the system gives."""
    update(device, releases[1])
    update(device, releases[2], outcomes=())
    frozen = DeviceFolder(device.folder, options=OPTIONS, disk=FullDisk(0, 30))  # EROFS
    with ActiveEngine(frozen) as active:
        assert active.predict(tiny.image()) and active.bundle.release == 2
    assert device.state.trial.starts == 0
    damage(device.path_of(device.state.active))
    with ActiveEngine(frozen) as active:  # and goes back without a record of it
        assert active.bundle.release == 1
    assert device.state.active.release == 2
    with pytest.raises(InputError, match="cannot write"):
        frozen.install(releases[3])
