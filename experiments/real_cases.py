"""Inputs for the networks of `real_weights`: real texts, rendered lines and pages of them, and real images.

The texts are docstrings of the standard library, which every Python carries; calibration and validation take different
modules. The images are those of a folder of studies. Both sides of the seam get different images and different texts.
"""

from __future__ import annotations

import ast
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_LEAST_WORDS = 12
_LINE_CHARACTERS = 38
_SUFFIXES = (".jpg", ".jpeg", ".png")


def texts(side: str) -> Iterator[str]:
    """Docstrings of the standard library's modules; every third module is for ``validation``."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    for number, path in enumerate(sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))):
        if (number % 3 == 0) != (side == "validation") or "test" in path.parts or "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text.split()) >= _LEAST_WORDS:
                    yield text


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Token numbers of an uncased WordPiece vocabulary: the longest piece first (Schuster and Nakajima 2012)."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(c if c.isalnum() or c.isspace() else f" {c} " for c in plain)
    return [piece for word in spaced.split() for piece in _pieces(word, vocabulary)]


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    result, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
        end = next(ends, 0)
        if not end:
            return [vocabulary["[UNK]"]]
        result.append(vocabulary[prefix + word[start:end]])
        start = end
    return result


def token_rows(side: str, count: int, tokens: int, vocabulary: dict[str, int]) -> NDArray[np.int64]:
    """``[count, tokens]``: classifier token, a text that fills the row, separator; so that no row is padded."""
    rows, row = [], list[int]()
    for text in texts(side):
        row += word_pieces(text, vocabulary)
        if len(row) >= tokens - 2:
            rows.append([vocabulary["[CLS]"], *row[: tokens - 2], vocabulary["[SEP]"]])
            row = []
        if len(rows) == count:
            return np.array(rows, dtype=np.int64)
    raise RuntimeError(f"the standard library has texts for {len(rows)} of {count} rows")


def photographs(studies: Path, side: str, count: int) -> list[Path]:
    """``count`` image files of the colour studies, in turns; calibration and validation share none."""
    sets = [sorted(p for p in (studies / name).rglob("*") if p.suffix.lower() in _SUFFIXES and "masks" not in p.parts)
            for name in ("skin-lesion", "polyps", "lung-histology")]  # fmt: skip
    random = np.random.default_rng(0)
    for paths in sets:
        random.shuffle(paths)
    halves = [paths[: len(paths) // 2] if side == "calibration" else paths[len(paths) // 2 :] for paths in sets]
    return [halves[i % len(halves)][i // len(halves)] for i in range(count)]


def scaled(path: Path, width: int, height: int) -> Image.Image:
    """An image of exactly that size, its middle."""
    image = Image.open(path).convert("RGB")
    factor = max(width / image.width, height / image.height)
    size = (max(round(image.width * factor), width), max(round(image.height * factor), height))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def normalised(images: list[Image.Image], mean: float, std: float) -> NDArray[np.float32]:
    """``[n, 3, H, W]``."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2), dtype=np.float32)


def pages(studies: Path, side: str, count: int, pixels: int) -> list[Image.Image]:
    """Squares with lines of text over a photograph or over plain paper, a little turned; every eighth has no text."""
    random = np.random.default_rng(1 if side == "calibration" else 2)
    lines = _lines(side)
    result = []
    for number, path in enumerate(photographs(studies, side, count)):
        page = scaled(path, pixels, pixels) if number % 2 else Image.new("RGB", (pixels, pixels), _shade(random, 180))
        top = int(random.integers(4, 30))
        while number % 8 != 7 and top < pixels - 20:
            size = int(random.integers(12, 30))
            _write(page, next(lines), (int(random.integers(2, 60)), top), size, random)
            top += size + int(random.integers(4, 40))
        result.append(
            page.rotate(float(random.uniform(-4, 4)), Image.Resampling.BICUBIC, fillcolor=_shade(random, 100))
        )
    return result


def text_lines(studies: Path, side: str, count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Strips ``size`` (width, height) with one line of text each."""
    random = np.random.default_rng(3 if side == "calibration" else 4)
    lines = _lines(side)
    result = []
    for number, path in enumerate(photographs(studies, side, count)):
        strip = scaled(path, *size) if number % 2 else Image.new("RGB", size, _shade(random, 180))
        _write(strip, next(lines), (int(random.integers(2, 10)), int(random.integers(2, 14))), 26, random)
        result.append(strip)
    return result


def _lines(side: str) -> Iterator[str]:
    for text in texts(side):
        words = text.split()
        line = ""
        for word in words:
            if len(line) + len(word) >= _LINE_CHARACTERS:
                break
            line = f"{line} {word}".strip()
        if line:
            yield line


def _write(image: Image.Image, line: str, place: tuple[int, int], size: int, random: Any) -> None:
    corner = image.crop((*place, place[0] + size, place[1] + size))
    bright = float(np.asarray(corner, dtype=np.float32).mean()) > 127
    colour = _shade(random, 0, 75) if bright else _shade(random, 180)
    ImageDraw.Draw(image).text(place, line, fill=colour, font=ImageFont.load_default(size))


def _shade(random: Any, low: int, span: int = 75) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in random.integers(low, low + span, 3))
    return red, green, blue
