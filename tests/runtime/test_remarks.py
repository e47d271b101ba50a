"""Every flag that a prediction may carry has its words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import medfm_compress.runtime
from medfm_compress.runtime.remarks import FLAGS, flag_in_words

RUNTIME = Path(medfm_compress.runtime.__file__).parent
ROOMS = ("answers", "dicom", "images", "segmentation", "slides", "stain", "tasks")  # that an image goes through
OTHERS = {"utf-8", "latin-1", "medfm-compress", "nvidia-smi", "noisy-or", "mean-top", "generic-tiff"}


def hyphenated_texts():
    """Texts of a flag's form in the modules that an image goes through."""
    for path in [*RUNTIME.glob("*.py"), *(path for room in ROOMS for path in (RUNTIME / room).rglob("*.py"))]:
        if path.name == "remarks.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", text):
                yield text


def test_every_flag_has_words_and_no_words_lack_a_flag():
    """A new text of this form is a flag, which gets its words in `remarks.FLAGS`, or is named among the others here."""
    assert set(hyphenated_texts()) - OTHERS == set(FLAGS)


def test_words_are_a_sentence_without_its_full_stop():
    for flag in FLAGS:
        words = flag_in_words(flag)
        assert " " in words and "-" not in words.split()[0] and not words.endswith(".")
