"""Draw a study: synthetic chest radiographs with and without an opacity, as DICOM files with a ``cases.csv``.

With masks it is a segmentation study: a PNG an image, 255 where an opacity is, all 0 where there is none.

Everything comes from the seed: equal arguments give equal bytes. It is for demonstrations and tests. It is hard enough
that a network does not reach an AUROC of 1, and says nothing about real patients.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.mask_files import write_label_map
from medfm_compress.data.open import open_study
from medfm_compress.data.radiograph import (
    Grid,
    draw_body,
    draw_distractors,
    draw_exposure,
    draw_opacities,
    make_grid,
    opacity_mask,
    render,
)
from medfm_compress.data.study import Study
from medfm_compress.data.synthetic_dicom import SITES, Site, Subject, dicom_bytes
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError

SHARES = {"train": 0.55, "val": 0.15, "test": 0.30}
_SECOND_IMAGE = 0.4
_PREVALENCE = 0.45
_FLIPPED = 0.015  # a report that is wrong: no label is without error
_MIN_PATIENTS = 20


class _Patient(NamedTuple):
    name: str
    split: str
    sex: str
    age: int
    site: Site
    ill: bool


class _Drawn(NamedTuple):
    """An image: its name, label, DICOM file, and where opacities are."""

    name: str
    label: str
    file: bytes
    mask: NDArray[np.bool_]


def draw_study(
    folder: str | Path,
    *,
    patients: int,
    seed: int,
    size_px: int = 160,
    shares: Mapping[str, float] = SHARES,
    masks: bool = False,
) -> Study:
    """Draw a study of ``patients`` patients, about 1.4 images each.

    Args:
        folder: receives ``images/*.dcm`` and ``cases.csv`` (image, split, label normal/opacity, patient, age group,
            sex, site). Files of an earlier study there are overwritten; the table is written last, at once.
        patients: at least 20.
        seed: of everything.
        size_px: rows and columns of each image, 64 to 1024.
        shares: of the patients, by split; they sum to 1.
        masks: write ``masks/*.png`` and a column ``mask:opacity`` in place of ``label``; the images are the same.

    Returns:
        The opened study.

    Raises:
        InputError: an argument out of its range, or a folder that cannot be written.
    """
    if patients < _MIN_PATIENTS or not 64 <= size_px <= 1024 or seed < 0:
        raise InputError(
            f"patients {patients}, size_px {size_px}, seed {seed}: at least {_MIN_PATIENTS} patients, 64 to 1024 px "
            "and a seed from 0 are needed"
        )
    folder, grid = Path(folder), make_grid(size_px)
    _make_room(folder, ("images", "masks") if masks else ("images",))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", "mask:opacity" if masks else "label", "patient", "age_group", "sex", "site"])
    for number, patient in enumerate(_draw_patients(patients, seed, shares)):
        for drawn in _draw_images(grid, patient, np.random.default_rng([seed, 1, number]), seed):
            (folder / "images" / f"{drawn.name}.dcm").write_bytes(drawn.file)
            truth = drawn.label
            if masks:
                truth = f"masks/{drawn.name}.png"
                write_label_map(folder / truth, drawn.mask.astype(np.uint8) * 255)
            group = [patient.name, _age_group(patient.age), patient.sex, patient.site.name]
            writer.writerow([f"images/{drawn.name}.dcm", patient.split, truth, *group])
    write_atomically(folder / "cases.csv", text.getvalue().encode())
    return open_study(folder)


def _make_room(folder: Path, kinds: Sequence[str]) -> None:
    """Create the folder, and remove the table of an earlier study: while it is absent the study is not complete."""
    try:
        for kind in kinds:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / "cases.csv").unlink(missing_ok=True)
    except OSError as exc:
        raise InputError(f"cannot write {folder}: {exc.strerror}; choose a folder that is writable") from None


def _draw_patients(count: int, seed: int, shares: Mapping[str, float]) -> list[_Patient]:
    """Patients with splits that are stratified by illness; sex, age and site are independent of both."""
    rng = np.random.default_rng([seed, 0])
    ill = rng.permutation(np.arange(count) < round(_PREVALENCE * count))
    splits = np.empty(count, object)
    for state in (False, True):
        members = np.flatnonzero(ill == state)  # in random order already
        ends = np.rint(np.cumsum(list(shares.values())) * len(members)).astype(int)
        for name, part in zip(shares, np.split(members, ends[:-1]), strict=True):
            splits[part] = name
    # A permutation breaks any link between a patient's number and the split.
    return [
        _Patient(
            name=f"SYN{number:05d}",
            split=str(splits[number]),
            sex="F" if rng.uniform() < 0.5 else "M",
            age=int(np.clip(rng.normal(55, 17), 20, 89)),
            site=SITES[int(rng.uniform() < 0.5)],
            ill=bool(ill[number]),
        )
        for number in range(count)
    ]


def _draw_images(grid: Grid, patient: _Patient, rng: np.random.Generator, seed: int) -> Iterator[_Drawn]:
    body = draw_body(rng, female=patient.sex == "F", age=patient.age)
    opacities = draw_opacities(rng, body) if patient.ill else ()
    harmless = draw_distractors(rng, body)
    for number in range(1, 2 + int(rng.uniform() < _SECOND_IMAGE)):
        exposure = draw_exposure(rng, noise=patient.site.noise, blur=patient.site.blur)
        density = render(grid, body, exposure, (*opacities, *harmless), rng)
        subject = Subject(f"{seed}/{patient.name}/{number}", patient.name, patient.sex, patient.age, number)
        data = dicom_bytes(density, patient.site, subject, gain=float(np.exp(rng.normal(0, 0.12))))
        is_called = patient.ill != (rng.uniform() < _FLIPPED)
        yield _Drawn(
            f"{patient.name}_{number}",
            "opacity" if is_called else "normal",
            data,
            opacity_mask(grid, body, exposure, opacities),
        )


def _age_group(age: int) -> str:
    return next(f"{low}-{low + 19}" for low in (20, 40, 60, 80) if age < low + 20)
