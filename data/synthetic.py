"""Draw a study: synthetic chest radiographs with and without an opacity, as DICOM files with a ``cases.csv``.

Everything comes from the seed: equal arguments give equal bytes. It is for demonstrations and tests. It is hard enough
that a network does not reach an AUROC of 1, and says nothing about real patients.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medfm_compress.data.open import open_study
from medfm_compress.data.radiograph import (
    Grid,
    draw_body,
    draw_distractors,
    draw_exposure,
    draw_opacities,
    make_grid,
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


def draw_study(
    folder: str | Path, *, patients: int, seed: int, size_px: int = 160, shares: Mapping[str, float] = SHARES
) -> Study:
    """Draw a study of ``patients`` patients, about 1.4 images each.

    Args:
        folder: receives ``images/*.dcm`` and ``cases.csv`` (image, split, label normal/opacity, patient, age group,
            sex, site). Files of an earlier study there are overwritten; the table is written last, at once.
        patients: at least 20.
        seed: of everything.
        size_px: rows and columns of each image, 64 to 1024.
        shares: of the patients, by split; they sum to 1.

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
    _make_room(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", "label", "patient", "age_group", "sex", "site"])
    for number, patient in enumerate(_draw_patients(patients, seed, shares)):
        for image, label, data in _draw_images(grid, patient, np.random.default_rng([seed, 1, number]), seed):
            (folder / image).write_bytes(data)
            writer.writerow(
                [image, patient.split, label, patient.name, _age_group(patient.age), patient.sex, patient.site.name]
            )
    write_atomically(folder / "cases.csv", text.getvalue().encode())
    return open_study(folder)


def _make_room(folder: Path) -> None:
    """Create the folder, and remove the table of an earlier study: while it is absent the study is not complete."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
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


def _draw_images(
    grid: Grid, patient: _Patient, rng: np.random.Generator, seed: int
) -> Iterator[tuple[str, str, bytes]]:
    """Path, label and file of each image of a patient."""
    body = draw_body(rng, female=patient.sex == "F", age=patient.age)
    opacities = draw_opacities(rng, body) if patient.ill else ()
    harmless = draw_distractors(rng, body)
    for number in range(1, 2 + int(rng.uniform() < _SECOND_IMAGE)):
        exposure = draw_exposure(rng, noise=patient.site.noise, blur=patient.site.blur)
        density = render(grid, body, exposure, (*opacities, *harmless), rng)
        subject = Subject(f"{seed}/{patient.name}/{number}", patient.name, patient.sex, patient.age, number)
        data = dicom_bytes(density, patient.site, subject, gain=float(np.exp(rng.normal(0, 0.12))))
        is_called = patient.ill != (rng.uniform() < _FLIPPED)
        yield f"images/{patient.name}_{number}.dcm", "opacity" if is_called else "normal", data


def _age_group(age: int) -> str:
    return next(f"{low}-{low + 19}" for low in (20, 40, 60, 80) if age < low + 20)
