"""`PageSettings`: where the page is served, who may see it, and how much it takes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError, quoted
from medfm_compress.runtime.loopback import is_loopback


class PageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page for people in a browser: try an image, and see what waits, what was found and what was set aside.

    Attributes:
        port: to listen at; 0: any that is free.
        host: address to listen at; other than loopback only with ``token_file``, ``certificate`` and ``key``.
        token_file: holds the token that opens the page; made with a random one where it is missing.
        certificate: PEM file; with ``key`` the page is served over HTTPS only, under the names in the certificate.
        key: PEM file of the private key.
        max_upload_mb: of one image.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    host: str = "127.0.0.1"
    token_file: Annotated[str, Meta(min_length=1, extra={"path": True})] | None = None
    certificate: Annotated[str, Meta(min_length=1, extra={"path": True})] | None = None
    key: Annotated[str, Meta(min_length=1, extra={"path": True})] | None = None
    max_upload_mb: Annotated[int, Meta(ge=1, le=2048, extra={"unit": "MB"})] = 256

    def __post_init__(self) -> None:
        check(self)
        if (self.certificate is None) != (self.key is None):
            raise InputError("certificate and key go together; give both, or neither")
        if not is_loopback(self.host) and (self.token_file is None or self.certificate is None):
            raise InputError(
                f"host is {quoted(self.host)}, from where others can see the page; give token_file, certificate and "
                "key as well, or use 127.0.0.1"
            )
