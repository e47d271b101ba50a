"""Who a data set says that it is, from its first bytes: SOP class and instance UID, before anything is decoded.

Also the start of a DICOM file (PS3.10 7.1): 128 bytes, ``DICM``, file meta information, data set.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import NamedTuple

from medfm_compress.runtime.errors import ImageRefused

HEAD_BYTES = 64 * 1024
_PREAMBLE = 128
_SOP_INSTANCE_UID = 0x00080018
_SOP_CLASS_UID = 0x00080016
_STUDY_UID = 0x0020000D
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1, but for leading zeros, which vendors write


class FileHead(NamedTuple):
    """Of a DICOM file.

    Attributes:
        data_offset: bytes before the data set.
    """

    transfer_syntax_uid: str
    data_offset: int


def is_uid(text: str) -> bool:
    """Whether it may stand for an object."""
    return _UID.fullmatch(text) is not None


def read_uids(head: bytes, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP class UID and SOP instance UID of the data set that begins with ``head`` (up to `HEAD_BYTES`).

    Raises:
        ImageRefused: it does not hold both.
    """
    sop_class, instance = _values(head, transfer_syntax_uid, (_SOP_CLASS_UID, _SOP_INSTANCE_UID))
    if not (is_uid(sop_class) and is_uid(instance)):
        raise ImageRefused("the data set's SOP class or instance UID is empty or no UID; export it again")
    return sop_class, instance


def read_study_uid(head: bytes, transfer_syntax_uid: str) -> str:
    """Study Instance UID likewise; empty where it does not stand within ``head``."""
    try:
        return _values(head, transfer_syntax_uid, (_STUDY_UID,))[0]
    except ImageRefused:
        return ""


def _values(head: bytes, transfer_syntax_uid: str, tags: tuple[int, ...]) -> list[str]:
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    syntax = UID(transfer_syntax_uid)
    try:
        if transfer_syntax_uid == _DEFLATED:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD_BYTES)
        ds = read_dataset(
            io.BytesIO(head),
            transfer_syntax_uid == "1.2.840.10008.1.2",
            not syntax.is_transfer_syntax or syntax.is_little_endian,
            stop_when=lambda tag, _vr, _length: tag > tags[-1],
            specific_tags=list(tags),
        )
        return [_text(ds.get_item(tag).value) for tag in tags]
    except Exception:  # noqa: BLE001 - pydicom may raise anything at bytes that are no data set
        raise ImageRefused("the data set does not begin as one of its transfer syntax does; export it again") from None


def read_file_head(head: bytes) -> FileHead:
    """The start of a DICOM file.

    Raises:
        ImageRefused: it is none, or its file meta information does not end within ``head``.
    """
    from pydicom.filereader import read_dataset

    if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise ImageRefused("no DICOM file (PS3.10): 'DICM' does not stand behind the first 128 bytes; give one")
    file = io.BytesIO(head)
    file.seek(_PREAMBLE + 4)
    try:
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
        syntax = _text(meta.get_item(0x00020010).value)
        offset = file.tell()
    except Exception:  # noqa: BLE001 - likewise
        raise ImageRefused(
            "the file meta information is damaged or lacks Transfer Syntax UID; export it again"
        ) from None
    if not is_uid(syntax):
        raise ImageRefused("the file meta information has no Transfer Syntax UID that is one; export it again")
    return FileHead(syntax, offset)


def file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble and file meta information for a data set that came without."""
    from pydicom.filewriter import write_file_meta_info
    from pynetdicom.dsutils import create_file_meta

    buffer = io.BytesIO()
    buffer.write(bytes(_PREAMBLE) + b"DICM")
    meta = create_file_meta(
        sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, transfer_syntax=transfer_syntax_uid
    )
    write_file_meta_info(buffer, meta)
    return buffer.getvalue()


def _text(value: bytes | str) -> str:
    text = value.decode("ascii") if isinstance(value, bytes) else str(value)
    return text.rstrip("\0 ")
