"""Whatever a power failure takes at whatever moment, the device starts with a complete bundle that it accepted."""

from __future__ import annotations

import errno
import shutil

import pytest
from losing_disk import Crash, FullDisk, LosingDisk

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.device.folder import DeviceFolder, DeviceOptions
from medfm_compress.runtime.errors import InputError

OPTIONS = DeviceOptions(backend="onnxruntime", threads=1, trial=1)


@pytest.fixture(scope="module")
def one(releases, tmp_path_factory):
    """A device that has committed release 1."""
    device = DeviceFolder(tmp_path_factory.mktemp("one") / "device", options=OPTIONS)
    device.install(releases[1])
    device.activate()
    device.report(refused=False)
    return device.folder


def copy(folder, target):
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(folder, target)


def install(device, releases):
    device.install(releases[2])


def activate(device, _):
    device.activate()


def commit(device, _):
    device.report(refused=False)


def refuse(device, _):
    device.report(refused=True)


def roll_back(device, _):
    device.roll_back()


def install_the_first_again(device, releases):
    device.install(releases[1])


def start(device, _):
    device.count_start()


def break_down(device, _):
    state = device.state
    if state.active.release == 2:
        device.give_up(state.active, "it does not open")


UPDATE = (install, activate, commit)
JOBS = {
    "update": UPDATE,
    "automatic rollback": (install, activate, refuse, install),
    "starts that come to nothing": (install, activate, start, start, start, start),
    "a bundle that does not open": (*UPDATE, break_down),
    "rollback by hand": (*UPDATE, roll_back, roll_back),
    "back by installing": (*UPDATE, install_the_first_again, activate),
}


def run(folder, job, releases, disk):
    for change in job:
        change(DeviceFolder(folder, options=OPTIONS, disk=disk), releases)


@pytest.fixture(autouse=True)
def quick_self_test(monkeypatch):
    """The self-test touches no disk, and has tests of its own."""
    monkeypatch.setattr(DeviceFolder, "_test", lambda self, bundle: None)


def starts_with(folder) -> int:
    """The release that the device would run, every byte of it verified."""
    device = DeviceFolder(folder, options=OPTIONS)
    active = device.state.active
    assert active is not None
    assert device.open_bundle(active).model_digest == active.model_digest
    return Bundle.open(device.path_of(active)).manifest.release_number


def left_behind(job, one, releases, tmp_path):
    """Every folder that a power failure at any moment of ``job`` may leave; last, the number of operations."""
    whole = LosingDisk(copy(one, tmp_path / "whole"))
    run(whole.root, job, releases, whole)
    for stop in range(len(whole.log) + 1):
        disk = LosingDisk(copy(one, tmp_path / "live"), stop)
        try:
            run(disk.root, job, releases, disk)
        except Crash:
            assert stop < len(whole.log)
        yield from disk.crashes(tmp_path / "after")


@pytest.mark.parametrize("name", JOBS)
def test_no_loss_at_any_moment_leaves_a_device_without_its_bundle(name, one, releases, tmp_path):
    folders = 0
    for folder in left_behind(JOBS[name], one, releases, tmp_path):
        folders += 1
        assert starts_with(folder) in (1, 2)
        assert DeviceFolder(folder).state.minimum_release >= 1
        device = DeviceFolder(folder, options=OPTIONS, disk=LosingDisk(folder))  # which does not wait for syncs
        device.install(releases[3])  # and it can be updated again
        device.activate()
        assert starts_with(folder) == 3
    assert folders > 60


@pytest.mark.slow
def test_a_second_failure_while_the_device_is_updated_after_the_first(one, releases, tmp_path):
    def update_again(device, releases):
        device.install(releases[3])
        device.activate()

    folders = 0
    for first in left_behind(UPDATE, one, releases, tmp_path):
        shutil.rmtree(tmp_path / "first", ignore_errors=True)
        shutil.copytree(first, tmp_path / "first")
        for folder in left_behind((update_again,), tmp_path / "first", releases, tmp_path / "second"):
            folders += 1
            assert starts_with(folder) in (1, 2, 3)
    assert folders > 2000


def test_a_disk_without_syncs_would_be_found_out(one, releases, tmp_path, monkeypatch):
    """The same loss where the code forgets to sync the new bundle's content or name."""
    for forgotten in ("sync-file", "sync-folder"):
        broken = False
        disk = LosingDisk(copy(one, tmp_path / "live"))
        run(disk.root, (install, activate), releases, disk)
        disk.log[:] = [step for step in disk.log if not (step.kind == forgotten and "bundles" in step.path)]
        for folder in disk.crashes(tmp_path / "after"):
            try:
                starts_with(folder)
            except Exception:  # noqa: BLE001 -- any failure to start
                broken = True
        assert broken


def test_no_loss_during_the_first_installation_looks_like_a_lost_state(releases, tmp_path):
    """What is left is a new device, or one that knows its bundle; it is never refused, and can be installed to."""
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = LosingDisk(whole)
    DeviceFolder(whole, options=OPTIONS, disk=disk).install(releases[1])
    folders = 0
    for stop in range(len(disk.log) + 1):
        live = tmp_path / "live"
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir()
        losing = LosingDisk(live, stop)
        try:
            DeviceFolder(live, options=OPTIONS, disk=losing).install(releases[1])
        except Crash:
            assert stop < len(disk.log)
        for folder in losing.crashes(tmp_path / "after"):
            folders += 1
            device = DeviceFolder(folder, options=OPTIONS, disk=LosingDisk(folder))
            device.install(releases[2])
            assert device.read().damaged == () and device.state.candidate.release == 2
    assert folders > 10


def test_no_commit_is_forgotten_once_it_was_reported(one, releases, tmp_path):
    disk = LosingDisk(copy(one, tmp_path / "live"))
    run(disk.root, UPDATE, releases, disk)
    for folder in disk.crashes(tmp_path / "after"):
        state = DeviceFolder(folder).state
        assert state.active.release == state.minimum_release == 2 and state.trial is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_takes_no_more_at_any_moment(name, code, one, releases, tmp_path):
    job, stop = JOBS[name], 0
    while True:
        folder, disk = copy(one, tmp_path / "live"), FullDisk(stop, code)
        try:
            run(folder, job, releases, disk)
        except InputError as exc:
            assert "cannot write" in str(exc)
        else:
            break
        assert starts_with(folder) in (1, 2)
        files = {path.name for path in (folder / "bundles").iterdir()}
        assert not any(name.endswith(".partial") for name in files)
        stop += 1
    assert stop > 10
