"""TLS for DICOM (PS3.15 B.9 and later: the BCP 195 profile, TLS 1.2 at least), both sides shown by certificates."""

from __future__ import annotations

import ssl

from medfm_compress.runtime.node.config import TlsConfig


def client_context(config: TlsConfig) -> ssl.SSLContext:
    """To call with: the other side's certificate must come from ``authorities`` and name the host that is called.

    Raises:
        OSError: a file is missing, or holds no certificate or key.
    """
    context = ssl.create_default_context(cafile=config.authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.certificate, config.key)
    return context


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """To listen with: a caller must show a certificate that comes from ``authorities``.

    Raises:
        OSError: a file is missing, or holds no certificate or key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=config.authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.certificate, config.key)
    return context
