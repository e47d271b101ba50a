"""Results reach Orthanc and dcmtk's receivers, and Orthanc commits to their storage."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")

import pydicom
from dicom_peer import CommitmentListener
from real_peers import free_port, orthanc, program, running
from spool_scene import CR_IMAGE, open_spool, owe, reports, states, wait_until

from medfm_compress.runtime.node.commitment import CommitmentReports
from medfm_compress.runtime.node.commitment_answers import CommitmentAnswers
from medfm_compress.runtime.node.config import PacsConfig, PeerAddress, ReceiveConfig, RetryConfig, SenderConfig
from medfm_compress.runtime.node.deliver import Deliverer

QUICK = RetryConfig(first_s=0.1, longest_s=0.5)


@pytest.fixture
def spool(tmp_path):
    opened = open_spool(tmp_path)
    yield opened
    opened.close()


def _pacs(port: int, ae_title: str, **settings) -> PacsConfig:
    return PacsConfig(
        **{
            "name": "pacs",
            "ae_title": ae_title,
            "host": "127.0.0.1",
            "port": port,
            "timeout_s": 10.0,
            "retry": QUICK,
            **settings,
        }
    )


@pytest.mark.parametrize("only", [[], ["+xi"]])
def test_storescp_gets_every_report(spool, tmp_path, only):
    port = free_port()
    command = [
        program("storescp"),
        "--output-directory",
        str(tmp_path),
        *only,
        "--filename-extension",
        ".dcm",
        str(port),
    ]
    owe(spool, reports(5))
    deliverer = Deliverer(_pacs(port, "STORESCP", commitment=False), "NODE", spool)
    with running(command, port, tmp_path):
        deliverer.start()
        wait_until(lambda: states(spool) == {"committed": 5})
        deliverer.stop()
    kept = [pydicom.dcmread(path) for path in Path(tmp_path).glob("*.dcm")]
    assert {dataset.SOPInstanceUID for dataset in kept} == {f"1.2.7.{number}" for number in range(5)}
    implicit = {dataset.file_meta.TransferSyntaxUID.is_implicit_VR for dataset in kept}
    assert implicit == {bool(only)}


_DCMRECV = """[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Reports]
PresentationContext1 = ComprehensiveSRStorage\\Uncompressed
[[Profiles]]
[Default]
PresentationContexts = Reports
"""


@pytest.mark.parametrize("takes_reports", [True, False])
def test_dcmrecv_gets_every_report_unless_it_takes_none(spool, tmp_path, takes_reports):
    (tmp_path / "dcmrecv.cfg").write_text(_DCMRECV)
    port = free_port()
    profile = ["--config-file", str(tmp_path / "dcmrecv.cfg"), "Default"] if takes_reports else []
    command = [program("dcmrecv"), "-v", *profile, "--output-directory", str(tmp_path), str(port)]
    owe(spool, reports(5))
    deliverer = Deliverer(_pacs(port, "DCMRECV", commitment=False), "NODE", spool)
    with running(command, port, tmp_path):
        deliverer.start()
        wait_until(lambda: states(spool) == {"committed" if takes_reports else "quarantined": 5})
        deliverer.stop()


def test_orthanc_stores_and_commits(spool, tmp_path):
    pacs_port = free_port()
    deliverer = Deliverer(_pacs(pacs_port, "ORTHANC", commitment_wait_s=5.0), "NODE", spool)
    listener = CommitmentListener(CommitmentReports([deliverer.commitment]))
    try:
        owe(spool, reports(5))
        with orthanc(tmp_path / "orthanc", {"node": ("NODE", "127.0.0.1", listener.port)}, pacs_port) as pacs:
            deliverer.start()
            wait_until(lambda: states(spool) == {"committed": 5})
            assert pacs.instances() == {f"1.2.7.{number}" for number in range(5)}
        deliverer.stop()
    finally:
        deliverer.stop()
        listener.close()


def test_orthanc_as_modality_is_told_what_is_held(spool, tmp_path):
    own = free_port()
    owe(spool, reports(1))
    receive = ReceiveConfig(
        ae_title="NODE",
        senders=(SenderConfig(ae_title="ORTHANC", commitment=PeerAddress(host="127.0.0.1", port=own)),),
    )
    answers = CommitmentAnswers(receive, spool, timeout_s=10.0, retry=QUICK)
    listener = CommitmentListener(answers=answers)
    answers.start()
    try:
        with orthanc(tmp_path / "orthanc", {"node": ("NODE", "127.0.0.1", listener.port)}, own) as modality:
            wanted = [[CR_IMAGE, "1.2.9.1"], [CR_IMAGE, "1.2.9.2"]]
            asked = modality.post("/modalities/node/storage-commitment", {"DicomInstances": wanted})
            report = wait_until(
                lambda: (found := modality.get(asked["Path"]))["Status"] not in ("Pending", "Unknown") and found
            )
            assert [item["SOPInstanceUID"] for item in report["Success"]] == ["1.2.9.1"]
            assert [item["SOPInstanceUID"] for item in report["Failures"]] == ["1.2.9.2"]
            assert "0x0112" in str(report["Failures"]) or 274 in report["Failures"][0].values(), report
    finally:
        answers.stop()
        listener.close()
