"""What the flags of a prediction mean, in words for people."""

from __future__ import annotations

from medfm_compress.runtime.answers.frames import FRAMES_LEFT_OUT
from medfm_compress.runtime.engine import NOT_RELIABLE_FLAG, UNVERIFIED_FLAG
from medfm_compress.runtime.fill_columns import MISSING_FLAG
from medfm_compress.runtime.opening import CLOCK_FLAG, UNSIGNED_FLAG

RESEARCH = "Research result, not for clinical use"
FLAGS = {
    NOT_RELIABLE_FLAG: "the image is unlike those that the network was made for",
    UNVERIFIED_FLAG: "no passing verdict stands behind the network",
    UNSIGNED_FLAG: "no trusted signature stands behind the network or its verdict",
    CLOCK_FLAG: "the clock of the device showed an earlier time than was certainly reached",
    MISSING_FLAG: "a value beside the image was missing, and the network was told so or given one that is usual",
    FRAMES_LEFT_OUT: "frames that are unlike those that the network was made for were left out",
    "lossy-compressed": "the image was compressed with loss",
    "burned-in-annotation": "the image has annotations burned in",
    "no-window": "the image names no window, so its whole range was taken",
    "colour-label-contradicted": "the image is coded in another colour than it says",
    "precision-below-bits-stored": "the image may be too dark: its pixels have fewer bits than it says",
    "second-decoder": "the first decoder could not read the image, a second did",
    "image-smaller-than-tile": "the image is smaller than the network's tile and was surrounded with black",
    "colour-image-for-grey-model": "the image has colour and the network knows grey alone",
    "grey-image-for-colour-model": "the image is grey and the network knows colour images alone",
    "dicom-kind-not-declared": "the network does not say for which kinds of DICOM images it was made",
    "lookup-table-partly-filled": "the image may be too dark: its lookup table fills a part of its range alone",
    "unread-regions": "regions of the slide could not be read",
}


def flag_in_words(flag: str) -> str:
    """A sentence without its full stop; the flag itself where it has none."""
    return FLAGS.get(flag, flag)
