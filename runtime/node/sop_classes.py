"""What the node takes in: storage SOP classes of images, and the transfer syntaxes of their data sets.

Every image class is taken, also of modalities that the bundle is not for, and every transfer syntax that carries its
pixels with it, also one that nothing here decodes: such an image goes to quarantine with a reason, where a person sees
it, while a rejected presentation context would be seen by nobody but the sender.
"""

from __future__ import annotations

from functools import cache

_NOT_IN_THE_DATA_SET = ("JPIP", "SMPTEST")  # pixels are fetched elsewhere, or streamed
_LOSSLESS_FIRST = (
    *("ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "RLELossless", "JPEGLosslessSV1", "JPEGLossless"),
    *("JPEGLSLossless", "JPEG2000Lossless", "HTJ2KLossless", "HTJ2KLosslessRPCL", "DeflatedExplicitVRLittleEndian"),
    *("ExplicitVRBigEndian", "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEG2000", "JPEGLSNearLossless", "HTJ2K"),
)


@cache
def image_sop_classes() -> frozenset[str]:
    """UIDs of the storage SOP classes of images (PS3.4 annex B.5), without the retired ones that pydicom knows."""
    from pydicom._uid_dict import UID_dictionary

    return frozenset(
        uid
        for uid, (_, kind, _, retired, keyword) in UID_dictionary.items()
        if kind == "SOP Class"
        and not retired
        and ("ImageStorage" in keyword or keyword == "EnhancedUSVolumeStorage")
        and not keyword.startswith(("DICOS", "EddyCurrent"))  # security screening and material testing
    )


@cache
def transfer_syntaxes() -> tuple[str, ...]:
    """UIDs, in the order in which one is chosen where a sender offers several: uncompressed, lossless, then others."""
    from pydicom.uid import AllTransferSyntaxes

    carried = {
        syntax.keyword: str(syntax)
        for syntax in AllTransferSyntaxes
        if not syntax.keyword.startswith(_NOT_IN_THE_DATA_SET)
    }
    first = [carried.pop(keyword) for keyword in _LOSSLESS_FIRST if keyword in carried]
    return (*first, *carried.values())
