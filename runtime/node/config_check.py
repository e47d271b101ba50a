"""Everything that keeps a configuration from working on this machine, at once, before anything is received."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from medfm_compress.runtime.errors import EXIT_UNUSABLE, MedfmError, MissingDependency, in_one_line
from medfm_compress.runtime.node.config import NodeConfig, PacsConfig, TlsConfig
from medfm_compress.runtime.node.open_engine import current, open_engine
from medfm_compress.runtime.ownership import is_foreign, is_private
from medfm_compress.runtime.regular_file import read_regular

NEEDED = ("pynetdicom",)
_LONGEST_TOKEN = 4096
INSTALL = "pip install 'medfm-compress[node]'"


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
        text: a sentence.
        exit_code: 2, or 4 where the runtime refuses.
    """

    text: str
    exit_code: int = EXIT_UNUSABLE


def faults(config: NodeConfig) -> list[Fault]:
    """All of them; empty where the node may be started."""
    return [
        *_missing(),
        *_page(config),
        *_folders(config),
        *_ports(config),
        *_certificates(config),
        *_tokens(config),
        *_hosts(config),
        *_engine(config),
    ]


def check_dependencies() -> None:
    """Raise MissingDependency where the extra is not installed."""
    for fault in _missing():
        raise MissingDependency(fault.text)


def _missing() -> Iterator[Fault]:
    absent = []
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            absent.append(name)
    if absent:
        yield Fault(f"a DICOM node needs {' and '.join(absent)}: {INSTALL}")


def _page(config: NodeConfig) -> Iterator[Fault]:
    """Its libraries, and the names in its certificate; the token file is made at the start where it is missing."""
    if config.page is None:
        return
    from medfm_compress.runtime.page.server import check_installed, served_names
    from medfm_compress.runtime.page.token import check_token

    for check in (check_installed, lambda: served_names(config.page), lambda: check_token(config.page.token_file)):
        try:
            check()
        except MedfmError as exc:
            yield Fault(f"page: {exc}")


def _folders(config: NodeConfig) -> Iterator[Fault]:
    folder = Path(config.folder)
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not existing.is_dir():
        yield Fault(f"folder: {existing} is no folder; give another")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Fault(f"folder: {existing} cannot be written by this user; make it writable, or give another")
    elif existing == folder and is_foreign(folder.stat()):
        yield Fault(f"folder: others may write to {folder}; give it to this user alone (chmod 700)")
    if config.watch is not None:
        watched = Path(config.watch.folder)
        if not watched.is_dir():
            yield Fault(f"watch.folder: {watched} is no folder; make it")
        elif not os.access(watched, os.R_OK | os.W_OK | os.X_OK):
            yield Fault(f"watch.folder: files cannot be read in, and removed from, {watched}; give this user the right")


def _ports(config: NodeConfig) -> Iterator[Fault]:
    listeners = [("receive", config.receive.host, config.receive.port)]
    if config.stow is not None:
        listeners.append(("stow", config.stow.host, config.stow.port))
    if config.page is not None:
        listeners.append(("page", config.page.host, config.page.port))
    if config.operate.port:
        listeners.append(("operate", "127.0.0.1", config.operate.port))
    with contextlib.ExitStack() as held:  # so that two listeners of one port are found as well
        for name, host, port in listeners:
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                if os.name != "nt":
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
                listener.listen(1)
            except OSError as exc:
                yield Fault(
                    f"{name}: cannot listen at {host}:{port}: {in_one_line(exc)}; free the port, or give another"
                )


def _certificates(config: NodeConfig) -> Iterator[Fault]:
    sections: list[tuple[str, TlsConfig]] = []
    if config.receive.tls is not None:
        sections.append(("receive.tls", config.receive.tls))
    sections += [(f"pacs {pacs.name}: tls", pacs.tls) for pacs in config.pacs if pacs.tls is not None]
    for name, tls in sections:
        yield from _pair(name, tls.certificate, tls.key)
        yield from _authorities(name, tls.authorities)
    if config.stow is not None and config.stow.certificate and config.stow.key:
        yield from _pair("stow", config.stow.certificate, config.stow.key)
    for fhir in config.fhir:
        if fhir.authorities is not None:
            yield from _authorities(f"fhir {fhir.name}", fhir.authorities)


def _pair(name: str, certificate: str, key: str) -> Iterator[Fault]:
    for what, path in (("certificate", certificate), ("key", key)):
        if not Path(path).is_file():
            yield Fault(f"{name}.{what}: there is no file {path}; give a PEM file")
            return
    if not is_private(Path(key).stat()):
        yield Fault(f"{name}.key: others may read {key}; take the right from them (chmod 600)")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as exc:
        yield Fault(
            f"{name}: certificate {certificate} and key {key} cannot be used together: {in_one_line(exc)}; give a PEM "
            "certificate and its own key, without a password"
        )


def _no_password() -> str:
    raise ValueError("the key has a password")


def _authorities(name: str, path: str) -> Iterator[Fault]:
    if not Path(path).is_file():
        yield Fault(f"{name}.authorities: there is no file {path}; give a PEM file")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as exc:
        yield Fault(f"{name}.authorities: {path} holds no certificate authority: {in_one_line(exc)}; give a PEM file")


def _tokens(config: NodeConfig) -> Iterator[Fault]:
    named = [(f"fhir {fhir.name}", fhir.token_file) for fhir in config.fhir]
    named.append(("stow", config.stow.token_file if config.stow else None))
    for name, path in named:
        if path is None:
            continue
        try:
            if not read_regular(path, _LONGEST_TOKEN, "the token").decode("ascii").strip():
                yield Fault(f"{name}.token_file: {path} is empty; put the token into it")
        except (MedfmError, ValueError) as exc:
            yield Fault(f"{name}.token_file: {path} cannot be read: {in_one_line(exc)}; give a file with the token")


def _hosts(config: NodeConfig) -> Iterator[Fault]:
    peers = [(f"pacs {pacs.name}", host, port) for pacs in config.pacs for host, port in _addresses(pacs)]
    peers += [
        (f"sender {sender.ae_title}: commitment", sender.commitment.host, sender.commitment.port)
        for sender in config.receive.senders
        if sender.commitment is not None
    ]
    for name, host, port in peers:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            yield Fault(
                f"{name}: the name {host} leads to no address: {in_one_line(exc)}; correct it, or give an address"
            )


def _addresses(pacs: PacsConfig) -> Iterator[tuple[str, int]]:
    yield pacs.host, pacs.port
    if pacs.commitment_host is not None:
        yield pacs.commitment_host, pacs.commitment_port or pacs.port


def _engine(config: NodeConfig) -> Iterator[Fault]:
    try:
        engine = open_engine(config.engine)
    except MedfmError as exc:
        yield Fault(f"engine: {exc}", exc.exit_code)
        return
    try:
        known = current(engine).task.findings
        urgent = config.page.urgent if config.page is not None else ()
        for key, names in (("results.findings", config.results.findings), ("page.urgent", urgent)):
            for name in sorted(set(names) - set(known)):
                yield Fault(f"{key}: the bundle has no finding {name!r}; it has {', '.join(known)}")
    finally:
        engine.close()
