"""The DICOM conformance statement in the structure of PS3.2 annex N, from the tables that the code itself uses.

medfm-compress serve conformance > docs/node-conformance.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medfm_compress.runtime.constraints import fields
from medfm_compress.runtime.node import association, commitment, commitment_answers, deliver, receive, statuses, storing
from medfm_compress.runtime.node.config import OperateConfig, PacsConfig, ReceiveConfig, RetryConfig, SpoolConfig
from medfm_compress.runtime.node.results import (
    codes,
    document,
    secondary_capture,
    segmentation_object,
    structured_report,
)
from medfm_compress.runtime.node.results.source_study import UTF_8
from medfm_compress.runtime.node.sop_classes import image_sop_classes, transfer_syntaxes

_MADE = "<!-- Made by: medfm-compress serve conformance > docs/node-conformance.md -->"
_RESULTS = (structured_report.SOP_CLASS_UID, secondary_capture.SOP_CLASS_UID, segmentation_object.SOP_CLASS_UID)
_STORE_ANSWERS: Mapping[int, tuple[str, str]] = {
    storing.SUCCESS: ("Success", "the object is on the disk, its file and folder synced, its record committed"),
    storing.OUT_OF_RESOURCES: (
        "Refused: out of resources",
        "the spool or the disk has no room for it, or the sender goes over its rate; it may be sent again",
    ),
    storing.DOES_NOT_MATCH: (
        "Error: data set does not match SOP class",
        "SOP class or instance UID of the data set is another than the request's",
    ),
    storing.CANNOT_UNDERSTAND: ("Error: cannot understand", "the data set cannot be read as far as its UIDs"),
}


def statement() -> str:
    """The whole statement, as Markdown."""
    return "\n".join([_MADE, _OVERVIEW, _overview_tables(), _INTRODUCTION, _networking(), _after_networking()])


_OVERVIEW = """
# DICOM conformance statement: medfm-compress node

## 1 Conformance statement overview

The node receives images over the network, keeps them until they were read by a neural network and its results are where
they belong, and sends the results to one or more archives as DICOM structured reports and, on request, secondary
captures. It asks the archives for storage commitment, and gives it to those who sent the images. It has no query or
retrieve service, no worklist, no print service and no media.
"""
_INTRODUCTION = """
## 2 Introduction

For those who connect the node with other systems. It says what the node does on the network, not what its results are
worth; that two systems conform does not prove that they work together, so try them with each other. Abbreviations: AE
application entity, IOD information object definition, PDU protocol data unit, SCU and SCP user and provider of a
service class, SR structured report. References: DICOM PS3 (https://www.dicomstandard.org/current), IHE AI Results
(Radiology technical framework supplement).
"""


def _overview_tables() -> str:
    rows = [
        ("Verification", "no", "yes"),
        ("Image storage (table 2)", "no", "yes"),
        *((_name(uid), "yes", "no" if uid not in image_sop_classes() else "yes") for uid in _RESULTS),
        (_name(association.COMMITMENT_CLASS), "yes", "yes"),
    ]
    return "Table 1: network services\n\n" + _table(("SOP class", "user (SCU)", "provider (SCP)"), rows)


def _networking() -> str:
    return "\n".join(
        [
            "## 3 Networking\n",
            _MODEL,
            "### 3.2 RECEIVER: images in, storage commitment\n",
            "Table 2: SOP classes as SCP\n",
            _table(
                ("SOP class", "UID"),
                ((_name(uid), uid) for uid in (receive.VERIFICATION_CLASS, *_sorted(image_sop_classes()))),
            ),
            f"and {_name(association.COMMITMENT_CLASS)} ({association.COMMITMENT_CLASS}) as SCP towards senders and as "
            "SCU towards archives that report on an association of their own.\n",
            _receiver_policy(),
            "Table 3: transfer syntaxes of images; of those that are offered the one that stands here first is taken\n",
            _table(("transfer syntax", "UID"), ((_name(uid), uid) for uid in transfer_syntaxes())),
            _for_other_classes(),
            "Table 4: answers to C-STORE\n",
            _table(("status", "meaning", "when"), ((f"{code:04X}H", *text) for code, text in _STORE_ANSWERS.items())),
            _IDENTITY,
            "### 3.3 SENDER: results out\n",
            _sender_policy(),
            "Table 5: statuses of C-STORE, N-ACTION and N-EVENT-REPORT that others answer\n",
            _table(("status", "text", "what follows"), _other_statuses()),
            "Table 6: failure reasons of storage commitment (0008,1197) that archives report\n",
            _table(("reason", "text", "what follows"), _reasons()),
            _commitment(),
            "### 3.4 Network interfaces\n\nTCP/IP over IPv4 and IPv6, with or without TLS.\n",
            "### 3.5 Configuration\n\nOne YAML file, `serve init` writes it with every key explained. Table 7 has "
            "those of the network.\n",
            _table(("key", "allowed", "default"), _settings()),
        ]
    )


_MODEL = """### 3.1 Implementation model

    modality ──C-STORE, C-ECHO, N-ACTION──▶ RECEIVER ──▶ spool ──▶ reading ──▶ SENDER ──C-STORE, N-ACTION──▶ archive
             ◀──────N-EVENT-REPORT───────── SENDER                  RECEIVER ◀────────N-EVENT-REPORT────────

Images are received as long as there is room. Each is read once, by priority of its sender and order of arrival, however
its network association ended after its C-STORE was answered. Results are sent as soon as they are made. All of it goes
on where it stood when the node, or its machine, is started again.
"""
_IDENTITY = """
One SOP instance that is sent again with the same data set is answered success and read once. One with another data set
is accepted; it is read if it shows the same pixels as the one before it or that one was never read, and is in
quarantine otherwise. Images without Patient ID (configurable), of a study whose earlier images name another patient, or
with a character set that cannot be decoded are accepted and go to quarantine, where an operator sees them.
"""


def _receiver_policy() -> str:
    from medfm_compress.runtime.node import listener

    return f"""Association policies

- Application context 1.2.840.10008.3.1.1.1. At most `receive.max_associations` at a time; a further one is rejected
  transiently (local limit exceeded). Asynchronous operations are not negotiated.
- A calling AE title that the configuration does not name, or from another address than it names for it, is rejected
  permanently (calling AE title not recognized); a called AE title that is not ours likewise.
- PDUs of {listener.PDU_BYTES} bytes are asked for; one above {listener.MAX_PDU_BYTES} bytes, a command set above
  {listener.MAX_COMMAND_BYTES}, or an association that is silent for `receive.idle_s` ends the association, as does an
  object above `receive.max_object_mb`.
- Implementation class UID and version name on associations are pynetdicom's; files name {document._IMPLEMENTATION}.
"""


def _for_other_classes() -> str:
    names = " and ".join(f"{_name(uid)} ({uid})" for uid in receive._UNCOMPRESSED)
    return f"For verification and storage commitment: {names}.\n"


def _sender_policy() -> str:
    syntaxes = " and ".join(f"{_name(uid)} ({uid})" for uid in (deliver.EXPLICIT_LITTLE, deliver.IMPLICIT_LITTLE))
    rows = [(_name(uid), uid, "SCU") for uid in (*_RESULTS, association.COMMITMENT_CLASS)]
    return (
        "SOP classes\n\n"
        + _table(("SOP class", "UID", "role"), rows)
        + f"""
Association policies: one association an archive at a time, opened when there is something to send and released when
there is nothing more. Of each SOP class a presentation context is proposed for each of
{syntaxes}; objects go
in the first as they lie in the file, or re-encoded in the second. A class whose contexts are all rejected permanently
puts its objects into quarantine; they are never sent in a syntax that was not accepted. Waits double from
{RetryConfig().first_s:g} s to {RetryConfig().longest_s:g} s; after {RetryConfig().give_up_days:g} days (defaults) an
object goes to quarantine, from which an operator replays it. A repeat has the same SOP instance UID.
"""
    )


def _other_statuses() -> Iterable[tuple[str, str, str]]:
    follows = {"stored": "it is there", "transient": "again after a wait", "permanent": "quarantine"}
    for row in statuses._ROWS:
        codes_of = f"{row.first:04X}H" if row.first == row.last else f"{row.first:04X}H to {row.last:04X}H"
        yield codes_of, row.text, follows[row.meaning]
    yield "any other", "no known status", follows["permanent"]


def _reasons() -> Iterable[tuple[str, str, str]]:
    follows = {
        "send again": "the result is sent again",
        "ask again": "commitment is asked for again",
        "permanent": "quarantine",
    }
    for code, (meaning, text) in statuses._COMMITMENT_REASONS.items():
        yield f"{code:04X}H", text, follows[meaning]


def _commitment() -> str:
    return f"""
### Storage commitment (PS3.4 annex J, push model)

- *As SCU*, for results: N-ACTION after C-STORE was answered success; the report is taken on the same association or on
  one of the archive's. A result is forgotten only after it. Without a report the request is repeated after
  `commitment_wait_s`. `commitment: false` takes C-STORE's success for it.
- *As SCP*, for images: the request is durable when N-ACTION is answered, of at most {commitment_answers.MAX_ITEMS}
  instances. The report goes out on an association of our own to the address that the configuration names for the
  sender, with role selection, until it is taken. An instance is committed if it is in the spool, or was and its results
  are where they belong: the node keeps it until it has done its work, and is no archive. Failure reasons:
  {commitment.NO_SUCH_INSTANCE:04X}H no such object instance, {commitment_answers.CLASS_CONFLICT:04X}H class-instance
  conflict. N-ACTION is answered {commitment.NOT_AUTHORIZED:04X}H to a sender without such an address.
- **This is no archive.** Commitment of an image says that the node has it durably, or has read it and the archives have
  committed its results; its pixels are deleted then. A modality must delete nothing because of it: let it delete by the
  archive's commitment alone.
"""


def _settings() -> Iterable[tuple[str, str, str]]:
    for prefix, kind in (
        ("receive", ReceiveConfig),
        ("spool", SpoolConfig),
        ("pacs", PacsConfig),
        ("retry", RetryConfig),
        ("operate", OperateConfig),
    ):
        defaults = dict(zip(kind.__struct_fields__[::-1], kind.__struct_defaults__[::-1], strict=False))
        for name, field in fields(kind).items():
            value = defaults.get(name)
            plain = isinstance(value, int | float | str) and not isinstance(value, bool)
            shown = f"{value:g}" if isinstance(value, float) else str(value) if plain or isinstance(value, bool) else ""
            yield f"`{prefix}.{name}`", field.allowed(), shown


def _after_networking() -> str:
    return f"""
## 4 Media interchange

None. A watched folder takes files of PS3.10, with or without preamble; it is no media storage application.

## 5 Character sets

Those of PS3.3 C.12.1.1.2, with and without code extensions. Text beyond the default repertoire without Specific
Character Set, or not of the one that is named, puts an image into quarantine. Results keep the image's character set
and its bytes, or are in {UTF_8} where they hold text beyond ASCII of their own.

## 6 Security

- TLS 1.2 or later with certificates of both sides (PS3.15 B.9 and later, BCP 195), on any listener and to any archive;
  without it the node belongs into a network of its own.
- AE titles and addresses of senders are allowed by name. Objects, messages and associations are bounded in size, number
  and rate.
- Audit trail in hash-chained JSON lines, not in the form of PS3.15 A.5. No patient data in it, nor in log and metrics.

## 7 Annexes

### 7.1 IOD contents

- Comprehensive 3D SR (PS3.3 A.35.13), TID 1500 with TID 1501 for each finding, TID 1004, TID 1600, TID 4019. Patient
  and study attributes are copied from the image; Content Date and Time are when the image was received; Completion Flag
  COMPLETE, Verification Flag UNVERIFIED, Preliminary Flag PRELIMINARY while results are for research.
- Secondary Capture (PS3.3 A.8.1), RGB, 8 bits, Conversion Type WSD, Burned In Annotation as stated in the object.
- UIDs of results follow from the image's UIDs, the network's digest and the node's settings (2.25, PS3.5 B.2, or under
  `results.uid_root`): the same image read again by the same network gives the same object.

### 7.2 Coded terminology

Findings have the codes of the configuration; one without has a code of the private scheme `{codes.PRIVATE_SCHEME}`
({codes.PRIVATE_SCHEME_NAME}, UID {codes.PRIVATE_SCHEME_UID}), which the object identifies. Presence:
{_code(codes.PRESENT)}, {_code(codes.ABSENT)}; probability: {_code(codes.PROBABILITY)}, in {_code(codes.NO_UNITS)};
of an anomaly its score: {_code(codes.ANOMALY_SCORE)}, likewise.

### 7.3 Private attributes, SOP classes and transfer syntaxes

None.
"""


def _sorted(uids: Iterable[str]) -> list[str]:
    return sorted(uids, key=lambda uid: [int(part) for part in uid.split(".")])


def _name(uid: str) -> str:
    from pydicom.uid import UID

    return str(UID(uid).name)


def _code(code: codes.Code) -> str:
    return f'({code.value}, {code.scheme}, "{code.meaning}")'


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines) + "\n"
