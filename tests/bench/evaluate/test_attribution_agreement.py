"""Agreement of attribution maps, against SciPy and by hand; and the files that carry it, as untrusted input."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.attribution_agreement import (
    AGREEMENT,
    FOLDER,
    ORIGIN,
    ExplanationAgreement,
    ExplanationOrigin,
    load_explanations,
    overlap,
    rank_correlation,
)
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import encode

ROW = ExplanationAgreement(
    variant="int8",
    finding="opacity",
    method="occlusion / occlusion",
    rank_correlation=(0.5, -1.0),
    overlap=(0.25, 1.0),
    cases=(3, 7),
)
SOURCE = ExplanationOrigin(model_digest="d" * 64, cases_sha256="c" * 64, split="test", teacher="t@0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / AGREEMENT).write_bytes(encode([ROW]))
    (tmp_path / FOLDER / ORIGIN).write_bytes(encode(SOURCE))
    return tmp_path


def test_rank_correlation_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for levels in (3, 20, 10_000):
        teacher = random.integers(0, levels, (16, 12)).astype(np.float32)
        variant = teacher + random.normal(0, levels / 3, teacher.shape).round()
        assert rank_correlation(teacher, variant) == pytest.approx(
            stats.spearmanr(teacher.ravel(), variant.ravel()).statistic
        )


def test_identical_and_opposite_maps() -> None:
    values = np.random.default_rng(0).normal(size=(9, 7))
    assert rank_correlation(values, 3 * values + 5) == pytest.approx(1)
    assert overlap(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert overlap(values, -values) == pytest.approx(0)


def test_overlap_counts_the_hottest_tenth() -> None:
    teacher, variant = np.zeros(100), np.zeros(100)
    teacher[:10], variant[4:14] = np.arange(10, 20), np.arange(10, 20)
    assert overlap(teacher, variant) == pytest.approx(0.6)


def test_ties_at_the_border_are_shared_whatever_the_order() -> None:
    random = np.random.default_rng(1)
    teacher, variant = random.integers(0, 5, 90), random.integers(0, 5, 90)
    order = random.permutation(90)
    assert overlap(teacher, variant) == pytest.approx(overlap(teacher[order], variant[order]))
    assert overlap(teacher, variant) == pytest.approx(overlap(variant, teacher))
    assert overlap(teacher, teacher) == pytest.approx(1)


def test_independent_maps_agree_by_chance() -> None:
    random = np.random.default_rng(2)
    pairs = [(random.normal(size=400), random.normal(size=400)) for _ in range(200)]
    assert np.mean([rank_correlation(*pair) for pair in pairs]) == pytest.approx(0, abs=0.02)
    assert np.mean([overlap(*pair) for pair in pairs]) == pytest.approx(0.1, abs=0.02)


def test_constant_maps_agree_by_chance_and_never_give_nan() -> None:
    flat, other = np.full((8, 8), 0.3), np.random.default_rng(0).normal(size=(8, 8))
    for pair in ((flat, other), (other, flat), (flat, flat)):
        assert rank_correlation(*pair) == 0.0
        assert overlap(*pair) == 0.1


@pytest.mark.parametrize("other", [np.zeros((4, 5)), np.full((4, 4), np.nan), np.full((4, 4), np.inf)])
def test_maps_that_cannot_be_compared_are_refused(other: np.ndarray) -> None:
    for figure in (rank_correlation, overlap):
        with pytest.raises(InputError, match=r"shapes|finite"):
            figure(np.eye(4), other)


def test_what_was_written_is_read(folder: Path, tmp_path: Path) -> None:
    assert load_explanations(folder) == (ROW,)
    assert load_explanations(folder, model_digest="d" * 64, cases_sha256="c" * 64) == (ROW,)
    assert load_explanations(tmp_path / "nowhere") == ()


def test_maps_of_another_bundle_or_other_cases_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="another bundle"):
        load_explanations(folder, model_digest="0" * 64)
    with pytest.raises(InputError, match="other cases"):
        load_explanations(folder, cases_sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank_correlation": (0.5,)}, "lengths"),
        ({"cases": (3, 3)}, "positions"),
        ({"cases": (-1, 3)}, "positions"),
        ({"cases": (), "rank_correlation": (), "overlap": ()}, "lengths"),
        ({"rank_correlation": (1.5, 0.0)}, "1.5"),
        ({"overlap": (-0.1, 0.0)}, "-0.1"),
    ],
)
def test_altered_rows_are_refused(folder: Path, change: dict[str, tuple[float, ...]], message: str) -> None:
    (folder / FOLDER / AGREEMENT).write_bytes(encode([msgspec.structs.replace(ROW, **change)]))
    with pytest.raises(InputError, match=message):
        load_explanations(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[{}]", b"\xff", b"[1]", b"[NaN]", b"[" * 100_000])
def test_damaged_files_are_refused_in_one_sentence(folder: Path, content: bytes) -> None:
    (folder / FOLDER / AGREEMENT).write_bytes(content)
    with pytest.raises(InputError):
        load_explanations(folder)


def test_a_file_without_its_origin_and_one_too_large_are_refused(folder: Path) -> None:
    (folder / FOLDER / AGREEMENT).write_bytes(b" " * (5 << 20))
    with pytest.raises(InputError, match="larger"):
        load_explanations(folder)
    (folder / FOLDER / ORIGIN).unlink()
    with pytest.raises(InputError, match="cannot read"):
        load_explanations(folder)
