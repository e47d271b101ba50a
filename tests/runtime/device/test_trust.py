"""A device with a trust store lets in, activates and runs what its keys signed, and nothing else."""

from __future__ import annotations

import pytest
from signing import Signer, make_store

from medfm_compress.runtime import ActiveEngine, Bundle, DeviceFolder
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.errors import BundleRefused, TrustRefused
from medfm_compress.runtime.trust.store_changes import remove_key

BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")


@pytest.fixture
def signed(releases, tmp_path):
    """Release → a copy that both have signed."""
    paths = {}
    for release in (1, 2):
        paths[release] = tmp_path / f"{release}.medfm"
        paths[release].write_bytes(releases[release].read_bytes())
        APPROVER.sign(BUILDER.sign(paths[release]))
    return paths


@pytest.fixture
def device(tmp_path):
    store = make_store(tmp_path / "trust", BUILDER, APPROVER)
    return DeviceFolder(
        tmp_path / "device", trust=store, options=DeviceOptions(backend="onnxruntime", threads=1, trial=0)
    )


def test_what_is_signed_is_installed_and_runs(device, signed, tiny):
    device.install(signed[2])
    device.activate()
    with ActiveEngine(device, threads=1) as engine:
        assert engine.predict(tiny.image()).flags == ()


def test_an_older_release_with_right_signatures_is_refused(device, signed):
    device.install(signed[2])
    device.activate()
    with pytest.raises(BundleRefused, match="is no newer than release 2"):
        device.install(signed[1])


def test_unsigned_is_not_let_in_and_unapproved_not_activated(device, releases, tmp_path):
    with pytest.raises(BundleRefused, match="no trusted builder signed it"):
        device.install(releases[1])
    path = tmp_path / "built.medfm"
    path.write_bytes(releases[1].read_bytes())
    device.install(BUILDER.sign(path))
    with pytest.raises(BundleRefused, match="its verdict does not count: no trusted approver signed it"):
        device.activate()
    assert device.state.candidate is None


def test_a_key_revoked_since_stops_what_runs_at_its_next_start(device, signed):
    device.install(signed[1])
    device.activate()
    remove_key(device.trust, "Build", revoke="stolen")
    with pytest.raises(BundleRefused, match="'Build' was revoked"):
        ActiveEngine(device, threads=1)


def test_a_store_that_cannot_be_relied_on_is_no_fault_of_the_bundle(device, signed):
    device.install(signed[1])
    device.activate()
    device.install(signed[2])
    device.trust.chmod(0o777)
    with pytest.raises(TrustRefused, match="others may write to"):
        device.activate()
    with pytest.raises(TrustRefused, match="others may write to"):
        ActiveEngine(device, threads=1)
    state = device.state
    assert (state.active.release, state.candidate.release) == (1, 2)
    assert Bundle.open(device.path_of(state.active)).manifest.release_number == 1
