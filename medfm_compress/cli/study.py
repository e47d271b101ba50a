"""``medfm-compress study check`` and ``study split``: is a study fit to be learned from, and cut it so that it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import EXIT_UNUSABLE

if TYPE_CHECKING:
    from medfm_compress.data.check import StudyCheck
    from medfm_compress.data.splitting import SplitResult

_SHOWN = 5
_SHOWN_VALUES = 12

app = typer.Typer(help="Check a study, or cut its splits by patient.", no_args_is_help=True)
StudyPath = Annotated[
    Path,
    typer.Argument(
        help="Folder with cases.csv, a CSV file (columns image, split, label or label:NAME …, mask, patient, "
        "subgroups), a folder per class, a MedMNIST .npz, or a folder of DICOM files.",
    ),
]


@app.command()
def check(
    study: StudyPath,
    accept_leakage: Annotated[
        bool, typer.Option("--accept-leakage", help="Report patients or copies in several splits, but do not fail.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Read every image; count; look for leakage. Exit code 2 for leakage or for images that cannot be used."""
    from medfm_compress.data.check import check_study
    from medfm_compress.data.open import open_study

    found = check_study(open_study(study), progress=console.progress)
    if json:
        console.emit_json(found)
    else:
        _show(found, study, accept_leakage)
    if found.errors or (found.leakage and not accept_leakage):
        raise typer.Exit(EXIT_UNUSABLE)


@app.command()
def split(
    study: StudyPath,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write; it may lie outside the study.")],
    val: Annotated[float, typer.Option(help="Share of the cases that become val.")] = 0.1,
    test: Annotated[float | None, typer.Option(help="Share of the cases that become test.")] = None,
    keep_test: Annotated[bool, typer.Option("--keep-test", help="Leave the given test split as it is.")] = False,
    drop_leaking: Annotated[
        bool, typer.Option("--drop-leaking", help="Leave out whatever shares a patient or an image with the kept test.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal splits.", min=0)] = 0,
) -> None:
    """Cut train, val and test by patient, stratified by label, and write a new CSV; the study itself is not changed."""
    from medfm_compress.data.open import open_study
    from medfm_compress.data.splitting import SplitPlan, split_study
    from medfm_compress.data.table import write_table
    from medfm_compress.runtime.errors import InputError

    if out.suffix.lower() != ".csv":
        raise InputError(f"--out is {out}; give the path of a .csv file")
    plan = SplitPlan(val=val, test=test or 0.0, keep_test=keep_test, drop_leaking=drop_leaking, seed=seed)
    result = split_study(open_study(study), plan)
    write_table(result.study, out)
    _show_split(result, out)


def _show(found: StudyCheck, path: Path, accept_leakage: bool) -> None:
    images = sum(found.images.values())
    console.say(f"{path}: {images} images, {found.kind if found.labels else 'no labels'}")
    if found.labels:
        console.say(f"labels: {', '.join(found.labels)} ({found.label_order})")
    console.say()
    console.table(
        ["split", "images", "patients", *found.labels],
        [
            [split, str(count), str(found.patients[split] or "-"), *_with_shares(found.classes[split], count)]
            for split, count in found.images.items()
        ],
    )
    for name, sizes in found.subgroups.items():
        shown = [f"{value} {count}" for value, count in list(sizes.items())[:_SHOWN_VALUES]]
        more = [f"and {len(sizes) - _SHOWN_VALUES} more"] if len(sizes) > _SHOWN_VALUES else []
        console.say(f"\n{name}: {', '.join(shown + more)}")
    console.say()
    _show_images(found)
    for sentence in found.remarks:
        console.say(f"note: {sentence}")
    for sentence in found.leakage:
        console.say(f"{'accepted leakage' if accept_leakage else 'leakage'}: {sentence}")
    for sentence in found.errors:
        console.say(f"unusable: {sentence}")
    if found.leakage and not accept_leakage:
        console.say("cut the splits with 'medfm-compress study split', or accept the leakage with --accept-leakage")
    elif not found.errors:
        console.say("no obstacle found")


def _with_shares(sizes: dict[str, int], total: int) -> list[str]:
    return [f"{count} ({count / total:.0%})" if total else "0" for count in sizes.values()]


def _show_images(found: StudyCheck) -> None:
    across = sum(len(set(group.splits)) > 1 for group in found.copies)
    console.say(f"exact copies: {len(found.copies)} groups, {across} of them across splits")
    console.say(f"patients in several splits: {len(found.shared_patients)}")
    console.say(f"unreadable: {len(found.unreadable)}, blank: {len(found.blank)}, of odd size: {len(found.odd_sizes)}")
    for bad in found.unreadable[:_SHOWN]:
        console.say(f"  {bad.image}: {bad.reason}")
    for odd in found.odd_sizes[:_SHOWN]:
        console.say(f"  {odd.image}: {odd.width_px}×{odd.height_px} px")


def _show_split(result: SplitResult, out: Path) -> None:
    from medfm_compress.data.labels import class_counts

    study = result.study
    splits = [name for name in ("train", "val", "test") if study.split(name)]
    rows = []
    for name in splits:
        cases, counts = study.split(name), class_counts(study, name)
        sizes = {label: counts[label] for label in study.labels}
        clusters = len({case.cluster for case in cases})
        rows.append([name, str(len(cases)), str(clusters), *_with_shares(sizes, len(cases))])
    console.table(["split", "images", "patients", *study.labels], rows)
    if result.dropped:
        console.say(f"dropped {len(result.dropped)} images that share a patient or an exact copy with test")
    console.say(f"wrote {out}; it can be used wherever a study is asked for")
