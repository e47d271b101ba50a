"""Storage commitment as user and as provider, with peers that answer in part, late, twice, never, and elsewhere."""

from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom")

from dicom_peer import CommitmentListener, DicomPeer
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from spool_scene import COMPREHENSIVE_SR, CR_IMAGE, open_spool, owe, reports, states, wait_until

from medfm_compress.runtime.node.commitment import CommitmentReports, information
from medfm_compress.runtime.node.commitment_answers import CommitmentAnswers
from medfm_compress.runtime.node.config import PacsConfig, PeerAddress, ReceiveConfig, RetryConfig, SenderConfig
from medfm_compress.runtime.node.deliver import Deliverer

QUICK = RetryConfig(first_s=0.05, longest_s=0.2)


@pytest.fixture
def node(tmp_path):
    """``node(peer, **settings)`` → spool, deliverer, listener; three reports are owed."""
    ends = []
    spool = open_spool(tmp_path)

    def make(peer, count=3, **settings):
        config = PacsConfig(
            **{
                "name": "pacs",
                "ae_title": "PACS",
                "host": "127.0.0.1",
                "port": peer.port,
                "timeout_s": 5.0,
                "retry": QUICK,
                **settings,
            }
        )
        owe(spool, reports(count))
        deliverer = Deliverer(config, "NODE", spool)
        listener = CommitmentListener(CommitmentReports([deliverer.commitment]))
        ends.extend([lambda: deliverer.stop(10), listener.close, peer.close])
        deliverer.start()
        return spool, deliverer, listener

    yield make
    for end in ends:
        end()
    spool.close()


def _uids(action) -> list[tuple[str, str]]:
    return [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in action.ReferencedSOPSequence]


def test_a_report_on_the_same_association_commits_all(node):
    peer = DicomPeer()
    peer.on_commitment = lambda peer, association, action: peer.report_here(
        association, information(action.TransactionUID, _uids(action), {})
    )
    spool, _, _ = node(peer)
    wait_until(lambda: states(spool) == {"committed": 3})
    wait_until(lambda: peer.report_statuses)
    assert set(peer.report_statuses) == {0}
    assert spool.forget_done(2e9) == 1


def test_a_report_to_the_listener_commits_all_and_a_second_one_is_taken_as_well(node):
    peer = DicomPeer()
    actions = []
    peer.on_commitment = lambda peer, association, action: actions.append(action)
    spool, _, listener = node(peer)
    wait_until(lambda: states(spool) == {"delivered": 3} and actions)
    for _ in range(2):
        peer.report_to(listener.port, information(actions[0].TransactionUID, _uids(actions[0]), {}))
    assert peer.report_statuses == [0, 0]
    if len(_uids(actions[0])) == 3:
        assert states(spool) == {"committed": 3}


def test_failures_are_done_by_their_reasons(node):
    peer = DicomPeer()
    reasons = {"1.2.7.0": 0x0112, "1.2.7.1": 0x0213, "1.2.7.2": 0x0119}
    asked = []

    def report(peer, association, action):
        bad = {uids: reasons.pop(uids[1]) for uids in _uids(action) if uids[1] in reasons}
        asked.extend(uid for _, uid in _uids(action))
        good = [uids for uids in _uids(action) if uids not in bad]
        peer.report_here(association, information(action.TransactionUID, good, bad), 2 if bad else 1)

    peer.on_commitment = report
    spool, _, _ = node(peer)
    wait_until(lambda: states(spool) == {"committed": 2, "quarantined": 1})
    assert peer.uids.count("1.2.7.0") == 2  # the PACS had lost it
    assert peer.uids.count("1.2.7.1") == 1 and asked.count("1.2.7.1") == 2
    assert asked.count("1.2.7.2") == 1 and "0119H" in spool.quarantined()[0].reason


def test_silence_leads_to_a_new_transaction_and_a_late_report_of_the_first_still_counts(node):
    peer = DicomPeer()
    actions = []
    peer.on_commitment = lambda peer, association, action: (actions.append(action), peer.release(association))
    spool, _, listener = node(peer, count=1, commitment_wait_s=0.3)
    wait_until(lambda: len(actions) >= 2)
    assert actions[0].TransactionUID != actions[1].TransactionUID
    peer.report_to(listener.port, information(actions[0].TransactionUID, [], {_uids(actions[0])[0]: 0x0112}), 2)
    assert states(spool) == {"delivered": 1}  # that failure is of the past
    peer.report_to(listener.port, information(actions[0].TransactionUID, _uids(actions[0]), {}))
    assert peer.report_statuses == [0, 0]
    assert states(spool) == {"committed": 1}


@pytest.mark.parametrize(
    "calling, transaction, event_type, status",
    [
        ("PACS", "1.2.3.4", 1, 0x0115),
        ("STRANGER", None, 1, 0x0124),
        ("PACS", None, 3, 0x0113),
        ("PACS", "", 1, 0x0115),
    ],
)
def test_what_was_not_asked_or_comes_from_elsewhere_is_refused(node, calling, transaction, event_type, status):
    peer = DicomPeer()
    actions = []
    peer.on_commitment = lambda peer, association, action: actions.append(action)
    spool, _, listener = node(peer, count=1)
    wait_until(lambda: actions)
    uid = actions[0].TransactionUID if transaction is None else transaction
    peer.report_to(listener.port, information(uid, _uids(actions[0]), {}), event_type, calling=calling)
    assert peer.report_statuses == [status]
    assert states(spool) == {"delivered": 1}


def test_a_pacs_without_storage_commitment_keeps_its_results_in_the_spool(node):
    peer = DicomPeer(commitment=False)
    spool, deliverer, _ = node(peer, count=1)
    wait_until(lambda: states(spool) == {"delivered": 1})
    wait_until(lambda: peer.associations >= 3)
    assert states(spool) == {"delivered": 1} and deliverer.is_alive


class Modality:
    """Asks for storage commitment, and takes reports where it listens."""

    def __init__(self) -> None:
        self.reports = []
        self.answer = 0x0000
        self.entity = AE(ae_title="MODALITY")
        self.entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]

    def _on_report(self, event):
        self.reports.append((event.event_type, event.event_information))
        return self.answer, None

    def ask(self, port, report, calling="MODALITY", action_type=1) -> int:
        entity = AE(ae_title=calling)
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", port)
        status, _ = association.send_n_action(report, action_type, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        association.release()
        return status.Status

    def close(self) -> None:
        self.server.shutdown()
        self.entity.shutdown()


@pytest.fixture
def provider(tmp_path):
    """Spool that holds image 1.2.9.1, modality, answers, listener."""
    spool = open_spool(tmp_path)
    owe(spool, reports(1))
    modality = Modality()
    receive = ReceiveConfig(
        ae_title="NODE",
        senders=(
            SenderConfig(ae_title="MODALITY", commitment=PeerAddress(host="127.0.0.1", port=modality.port)),
            SenderConfig(ae_title="SILENT"),
        ),
    )
    answers = CommitmentAnswers(receive, spool, timeout_s=5.0, retry=QUICK)
    listener = CommitmentListener(answers=answers)
    yield spool, modality, answers, listener
    answers.stop(10)
    listener.close()
    modality.close()
    spool.close()


def test_a_modality_gets_its_report_with_what_is_held_and_what_is_not(provider):
    spool, modality, answers, listener = provider
    wanted = [(CR_IMAGE, "1.2.9.1"), (CR_IMAGE, "1.2.9.2")]
    assert modality.ask(listener.port, information("1.2.5.1", wanted, {})) == 0
    assert modality.ask(listener.port, information("1.2.5.2", wanted[:1], {})) == 0
    assert modality.ask(listener.port, information("1.2.5.3", [(COMPREHENSIVE_SR, "1.2.9.1")], {})) == 0
    answers.start()
    wait_until(lambda: len(modality.reports) == 3)
    (kind, first), (other, second), (_, third) = modality.reports
    assert (kind, other) == (2, 1)
    assert first.TransactionUID == "1.2.5.1"
    assert [item.ReferencedSOPInstanceUID for item in first.ReferencedSOPSequence] == ["1.2.9.1"]
    assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in first.FailedSOPSequence] == [
        ("1.2.9.2", 0x0112)
    ]
    assert "FailedSOPSequence" not in second
    assert third.FailedSOPSequence[0].FailureReason == 0x0119
    wait_until(lambda: not spool.due_commitment_answers(2e9))


def test_a_report_is_repeated_until_it_is_taken(provider):
    spool, modality, answers, listener = provider
    modality.answer = 0x0213
    assert modality.ask(listener.port, information("1.2.5.1", [(CR_IMAGE, "1.2.9.1")], {})) == 0
    answers.start()
    wait_until(lambda: len(modality.reports) >= 2)
    assert spool.due_commitment_answers(2e9)
    modality.answer = 0x0000
    wait_until(lambda: not spool.due_commitment_answers(2e9))


@pytest.mark.parametrize(
    "calling, transaction, items, action_type, status",
    [
        ("STRANGER", "1.2.5", [(CR_IMAGE, "1.2.9.1")], 1, 0x0124),
        ("SILENT", "1.2.5", [(CR_IMAGE, "1.2.9.1")], 1, 0x0124),
        ("MODALITY", "", [(CR_IMAGE, "1.2.9.1")], 1, 0x0115),
        ("MODALITY", "1.2.5", [], 1, 0x0115),
        ("MODALITY", "1.2.5", [(CR_IMAGE, "")], 1, 0x0115),
        ("MODALITY", "1.2.5", [(CR_IMAGE, "1.2.9.1")], 2, 0x0123),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(provider, calling, transaction, items, action_type, status):
    spool, modality, _, listener = provider
    assert modality.ask(listener.port, information(transaction, items, {}), calling, action_type) == status
    assert not spool.due_commitment_answers(2e9)
