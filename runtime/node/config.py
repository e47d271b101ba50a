"""`NodeConfig`: all that a DICOM node is told, strictly: an unknown key is refused, every bound stands here.

The face reads it from YAML; nothing else configures the node.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.engine import Atypical
from medfm_compress.runtime.errors import InputError, quoted
from medfm_compress.runtime.loopback import is_loopback
from medfm_compress.runtime.node.names import check_ae_title, check_different, check_name
from medfm_compress.runtime.page.settings import PageSettings

Port = Annotated[int, Meta(ge=1, le=65535)]
FilePath = Annotated[str, Meta(min_length=1, extra={"path": True})]
"""Of a file or folder; relative to the folder of the configuration."""
Seconds = Annotated[float, Meta(gt=0, le=30 * 86400, extra={"unit": "s"})]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a configuration; checks its bounds however it is made."""

    def __post_init__(self) -> None:
        check(self)


class TlsConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DICOM over TLS, both sides shown by certificates (PS3.15 B.9 and later: the BCP 195 profile, TLS 1.2 at least).

    Attributes:
        certificate: PEM file of this side's certificate chain.
        key: PEM file of its private key.
        authorities: PEM file of the certificate authorities that the other side's certificate must come from; of one
            that is called it must also name the host, as it stands in the configuration.
    """

    certificate: FilePath
    key: FilePath
    authorities: FilePath


class SenderConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may send.

    Attributes:
        ae_title: its calling AE title.
        addresses: IP addresses and networks that it may call from, e.g. ``10.1.2.0/24``; empty: any.
        priority: its images go before those of a lower one.
        commitment: where it wants N-EVENT-REPORT about storage commitment; without it a request is refused.
    """

    ae_title: str
    addresses: tuple[str, ...] = ()
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    commitment: PeerAddress | None = None

    def __post_init__(self) -> None:
        check(self)
        check_ae_title(self.ae_title)
        for address in self.addresses:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                raise InputError(
                    f"addresses has {quoted(address)}; give an IP address or a network, e.g. 10.1.2.0/24"
                ) from None


class PeerAddress(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a DICOM application listens."""

    host: str
    port: Port


class ReceiveConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener for C-STORE, C-ECHO and storage commitment.

    Attributes:
        ae_title: that senders must call.
        host: address to listen at.
        senders: who may send; nobody else is accepted.
        tls: listen with TLS only.
        max_associations: at one time; a further one is rejected as a transient lack of resources.
        max_object_mb: of one data set; a longer one is refused and nothing of it kept.
        max_objects_per_minute: of one sender; more are answered with out of resources.
        idle_s: an association that stays silent so long is aborted.
    """

    ae_title: str
    senders: tuple[SenderConfig, ...]
    host: str = "127.0.0.1"
    port: Port = 11112
    tls: TlsConfig | None = None
    max_associations: Annotated[int, Meta(ge=1, le=1000)] = 64
    max_object_mb: Annotated[int, Meta(ge=1, le=4096, extra={"unit": "MB"})] = 512
    max_objects_per_minute: Annotated[int, Meta(ge=1)] = 6000
    idle_s: Seconds = 60.0

    def __post_init__(self) -> None:
        check(self)
        check_ae_title(self.ae_title)
        if not self.senders:
            raise InputError("senders is empty; name everyone who may send, each with its ae_title")
        check_different("senders", [sender.ae_title for sender in self.senders])


class WatchConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder that others put DICOM files into. A file is taken once it is durable in the spool, and removed then.

    Attributes:
        folder: it and its folders are searched.
        settle_s: a file is complete once neither its size nor its time has changed for so long.
        every_s: between two looks.
        priority: of its images.
    """

    folder: FilePath
    settle_s: Seconds = 2.0
    every_s: Seconds = 1.0
    priority: Annotated[int, Meta(ge=0, le=9)] = 5


class StowConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DICOMweb's STOW-RS (PS3.18 10.5) as a way in.

    Attributes:
        host: address to listen at.
        token_file: holds the bearer token that a request must show; may be left out on loopback only.
        certificate: PEM file; with ``key`` the listener speaks HTTPS only.
        key: PEM file of the private key.
    """

    port: Port
    host: str = "127.0.0.1"
    token_file: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 5

    def __post_init__(self) -> None:
        check(self)
        if (self.certificate is None) != (self.key is None):
            raise InputError("stow has one of certificate and key; give both, or neither")
        if not is_loopback(self.host) and (self.token_file is None or self.certificate is None):
            raise InputError(
                f"stow listens at {quoted(self.host)} without token_file or certificate; give both, or use 127.0.0.1"
            )


class SpoolConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the node keeps, and for how long.

    Attributes:
        max_gb: that images and results may take; a sender is answered with out of resources before that.
        min_free_gb: that must stay free on the disk.
        deadline_s: after its arrival, within which an image is of use; empty: for ever.
        late: an image after its deadline is still ``read``, or goes to ``quarantine``.
        attempts: so many times an image is tried, where reading it ended the process.
        keep_days: that the record (no pixels) of what was done and delivered is kept, against repeats.
        without_patient_id: an image without Patient ID goes to ``quarantine``, or is ``accept``-ed.
    """

    max_gb: Annotated[float, Meta(gt=0, extra={"unit": "GB"})] = 50.0
    min_free_gb: Annotated[float, Meta(ge=0, extra={"unit": "GB"})] = 1.0
    deadline_s: Seconds | None = None
    late: Literal["read", "quarantine"] = "read"
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    without_patient_id: Literal["quarantine", "accept"] = "quarantine"


class EngineConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What reads the images: a device folder (installed, activated, rolled back), or a bundle as it is.

    Attributes:
        device: the device folder.
        bundle: a ``.medfm`` file, where there is no device folder.
        threads: for one prediction; by default the physical cores.
        cache: folder for compiled models.
        atypical: of an image unlike those the network was made for: no finding, or findings with a flag.
        trust_store: folder of trusted keys; by default as everywhere.
        allow_unsigned: also use a bundle that no trusted key signed; every result says so.
        unverified: also use a variant without a passing verdict; every result says so. Only with ``bundle``.
        shadow: let a candidate that waits in the device folder predict too, and count it.
    """

    device: FilePath | None = None
    bundle: FilePath | None = None
    threads: Annotated[int, Meta(ge=1)] | None = None
    cache: FilePath | None = None
    atypical: Atypical = "withhold"
    trust_store: FilePath | None = None
    allow_unsigned: bool = False
    unverified: bool = False
    shadow: bool = False

    def __post_init__(self) -> None:
        check(self)
        if (self.device is None) == (self.bundle is None):
            raise InputError("engine needs either device or bundle; give one of them")
        if self.device is not None and self.unverified:
            raise InputError("unverified is for a bundle; what runs in a device folder was settled by its activation")


class CodeConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A coded concept (PS3.3 8.8): e.g. ``233604007``, ``SCT``, ``Pneumonia``."""

    value: Annotated[str, Meta(min_length=1, max_length=64)]
    scheme: Annotated[str, Meta(min_length=1, max_length=16)]
    meaning: Annotated[str, Meta(min_length=1, max_length=64)]


class ResultsConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is made of a prediction.

    Attributes:
        status: ``research`` marks every object as not for clinical use; ``clinical`` is for an approved product.
        sr: a structured report (TID 1500).
        seg: of a segmentation, a DICOM Segmentation that lies on the image.
        segment_categories: structure of the bundle → the code of what kind of thing it is, e.g. ``85756007``, ``SCT``,
            ``Tissue``; one without is a ``Morphologically Abnormal Structure``.
        heat_map: a secondary capture that shows where the network looked; hundreds of runs an image.
        findings: finding of the bundle → its code; one without is coded in a private scheme, with its name as meaning.
        manufacturer: of the results (0008,0070).
        device_serial_number: of this node (0018,1000).
        institution: (0008,0080); empty: the image's.
        uid_root: under which the results' UIDs are made; by default 2.25 (PS3.5 B.2).
    """

    status: Literal["research", "clinical"] = "research"
    sr: bool = True
    seg: bool = True
    segment_categories: dict[str, CodeConfig] = {}
    heat_map: bool = False
    findings: dict[str, CodeConfig] = {}
    manufacturer: Annotated[str, Meta(min_length=1, max_length=64)] = "medfm-compress"
    device_serial_number: Annotated[str, Meta(min_length=1, max_length=64)] = "1"
    institution: Annotated[str, Meta(max_length=64)] = ""
    uid_root: Annotated[str, Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$", max_length=24)] = "2.25"


class RetryConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of what a destination refused for the moment: the wait doubles from ``first_s`` to ``longest_s``.

    Attributes:
        give_up_days: after which it goes to quarantine; it stays there until it is replayed. An object is not
            given up while its destination cannot be reached, however long.
    """

    first_s: Seconds = 5.0
    longest_s: Seconds = 900.0
    give_up_days: Annotated[float, Meta(gt=0, le=365, extra={"unit": "days"})] = 7.0


class PacsConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A DICOM destination of the results.

    Attributes:
        name: in records and messages.
        ae_title: that is called.
        calling_ae_title: by default ``receive.ae_title``.
        commitment: ask for storage commitment, and forget a result only after it.
        commitment_host: where storage commitment is asked for, if not at ``host``; likewise the port and AE title.
        commitment_wait_s: a request without an answer is repeated after so long.
        timeout_s: of the network, in every step.
    """

    name: str
    ae_title: str
    host: str
    port: Port
    calling_ae_title: str | UnsetType = UNSET
    tls: TlsConfig | None = None
    commitment: bool = True
    commitment_host: str | None = None
    commitment_port: Port | None = None
    commitment_ae_title: str | None = None
    commitment_wait_s: Seconds = 600.0
    timeout_s: Seconds = 30.0
    retry: RetryConfig = RetryConfig()

    def __post_init__(self) -> None:
        check(self)
        check_name(self.name)
        for title in (self.ae_title, self.calling_ae_title, self.commitment_ae_title):
            if isinstance(title, str):
                check_ae_title(title)


class FhirConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A FHIR R4 server that gets a ``DiagnosticReport`` with its ``Observation``s as one transaction.

    Attributes:
        name: in records and messages.
        url: base of the server, e.g. ``https://records.example/fhir``; ``http`` on loopback only.
        token_file: holds a bearer token.
        authorities: PEM file of the certificate authorities to trust, instead of the system's.
    """

    name: str
    url: str
    token_file: FilePath | None = None
    authorities: FilePath | None = None
    timeout_s: Seconds = 30.0
    retry: RetryConfig = RetryConfig()

    def __post_init__(self) -> None:
        from urllib.parse import urlsplit

        check(self)
        check_name(self.name)
        try:
            parts = urlsplit(self.url)
            host = parts.hostname or ""
        except ValueError:
            raise InputError(f"url is {quoted(self.url)}; give one such as https://records.example/fhir") from None
        if parts.scheme not in ("https", "http") or not host or parts.username or parts.query or parts.fragment:
            raise InputError(f"url is {quoted(self.url)}; give one such as https://records.example/fhir")
        if parts.scheme == "http" and not is_loopback(host):
            raise InputError(f"url is {quoted(self.url)}; patients' results leave this machine by https only")


class PageConfig(PageSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page for people in a browser: what waits, what was found, what was set aside; and an image can be tried.

    Attributes:
        port: to listen at; 0: any that is free.
        host: address to listen at; other than loopback only with ``token_file``, ``certificate`` and ``key``.
        token_file: holds the token that opens the page; made with a random one where it is missing. By default
            ``page.token`` in the node's folder.
        certificate: PEM file; with ``key`` the page is served over HTTPS only, under the names in the certificate.
        key: PEM file of the private key.
        max_upload_mb: of one image.
        urgent: findings that go to the top of the results once they are called; empty: every one.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 8470
    urgent: tuple[str, ...] = ()


class OperateConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What watches over the node.

    Attributes:
        port: of health and metrics, on loopback; 0 for none.
        log: ``json`` for one object a line, ``text`` for people.
        stop_s: that a graceful stop waits for what is under way.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 9118
    log: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_s: Seconds = 30.0


class NodeConfig(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole node.

    Attributes:
        folder: of the spool, the audit trail and the node's state; of the user's own, nobody else may write to it.
        pacs: where results go, as DICOM objects.
        fhir: where they go as FHIR reports.
    """

    folder: FilePath
    receive: ReceiveConfig
    engine: EngineConfig
    spool: SpoolConfig = SpoolConfig()
    results: ResultsConfig = ResultsConfig()
    pacs: tuple[PacsConfig, ...] = ()
    fhir: tuple[FhirConfig, ...] = ()
    watch: WatchConfig | None = None
    stow: StowConfig | None = None
    page: PageConfig | None = None
    operate: OperateConfig = OperateConfig()

    def __post_init__(self) -> None:
        check(self)
        check_different("pacs and fhir", [*(pacs.name for pacs in self.pacs), *(fhir.name for fhir in self.fhir)])
        if not self.pacs and not self.fhir:
            raise InputError("neither pacs nor fhir names a destination; give at least one, or results go nowhere")
