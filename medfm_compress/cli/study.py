"""``medfm-compress study``: is a study fit to be learned from; cut its splits, convert its masks, cut it into tiles."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import NormalLabels, Overwrite, Structures, StudyArgument
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_file_out, check_new_files
from medfm_compress.data.splitting import SplitPlan
from medfm_compress.runtime.errors import EXIT_INCONCLUSIVE, EXIT_UNUSABLE

if TYPE_CHECKING:
    from medfm_compress.bench.gate.enough_patients import Need
    from medfm_compress.data.check import StudyCheck
    from medfm_compress.data.check_masks import MaskCheck
    from medfm_compress.data.splitting import SplitResult
    from medfm_compress.data.study import Study

_SHOWN = 5
_SHOWN_VALUES = 12

app = typer.Typer(
    help="Check a study, cut its splits by patient, convert its masks, or cut it into tiles.", no_args_is_help=True
)


@app.command()
@command()
def check(
    study: StudyArgument,
    structure: Structures = None,
    normal: NormalLabels = None,
    accept_leakage: Annotated[
        bool, typer.Option("--accept-leakage", help="Report patients or copies in several splits, but do not fail.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Say whether the split can show what this policy asks for.")
    ] = None,
    test_split: Annotated[str, typer.Option("--split", help="The split that --policy is about.")] = "test",
) -> None:
    """Read every image and mask; count; look for leakage.

    Exit code 2 for leakage or for images or masks that cannot be used, 3 for a split that is too small for the policy.
    """
    from medfm_compress.bench.gate.enough_patients import patients_needed
    from medfm_compress.bench.gate.policy_file import load_policy
    from medfm_compress.data.check import check_study
    from medfm_compress.data.open import open_study

    opened = open_study(study, structures=tuple(structure or ()), normal=tuple(normal or ()), read_masks=False)
    needs = patients_needed(opened, load_policy(policy).policy, test_split) if policy else ()
    checked = check_study(opened, progress=console.progress)

    def as_json() -> dict[str, object]:
        return msgspec.structs.asdict(checked) | {"patients_needed": [need._asdict() for need in needs]}

    def in_words() -> None:
        _print_check(checked, study, accept_leakage)
        _print_needs(needs, test_split)

    console.emit(as_json, in_words)
    if checked.errors or (checked.leakage and not accept_leakage):
        raise typer.Exit(EXIT_UNUSABLE)
    if not all(need.met for need in needs):
        raise typer.Exit(EXIT_INCONCLUSIVE)


@app.command()
@command(defaults={"keep_test": False})
def split(
    study: StudyArgument,
    plan: SplitPlan,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write; it may lie outside the study.")],
    structure: Structures = None,
    normal: NormalLabels = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut train, val and test by patient, stratified by label, and write a new CSV; the study itself is not changed.

    Of a segmentation study, stratified by which structures an image shows; its labels stay as a column. Of an anomaly
    study (--normal) all that is abnormal goes to a new test split, for nothing is learned from it.
    """
    check_file_out(out, ".csv", overwrite)
    from medfm_compress.data.open import open_study
    from medfm_compress.data.splitting import split_study
    from medfm_compress.data.table import write_table

    opened = open_study(study, structures=tuple(structure or ()), normal=tuple(normal or ()))
    result = split_study(opened, plan)
    write_table(result.study, out)
    console.emit(lambda: _split_as_json(result, out), lambda: _print_split(result, out))


@app.command()
@command()
def masks(
    study: StudyArgument,
    structure: Annotated[
        list[str],
        typer.Option(
            "--structure",
            help="A structure and what stands for it in the masks: NAME=255, NAME=1,2 or NAME=#FF0000; of a DICOM "
            "segmentation its segment's number. NAME alone: its segment's label, the value 1, 2 … in this order, or "
            "of a single structure whatever is not 0.",
            metavar="NAME[=VALUE]",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for masks/*.png and cases.csv.", metavar="FOLDER")],
    background: Annotated[
        list[str] | None,
        typer.Option("--background", help="A further value or #RRGGBB that is background, beside 0; repeatable."),
    ] = None,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="Each value is an object: make NAME (insides) and 'NAME boundary' of them."),
    ] = False,
    boundary_px: Annotated[
        int, typer.Option("--boundary-px", help="Pixels of an object this near to anything else are its boundary.")
    ] = 1,
    nearest: Annotated[
        bool,
        typer.Option("--nearest", help="Take each pixel for the nearest of the values: JPEG or smoothed masks."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make label maps of masks of other values, colours, instance maps, or 2-D DICOM segmentations.

    Images stay where they are. A conversion that was interrupted goes on where it stood.
    """
    check_new_files({"--out": out / "cases.csv"}, overwrite)
    from medfm_compress.data.convert_masks import conversion_from, convert_masks

    conversion = conversion_from(structure, background or (), instances, boundary_px, nearest)
    done = convert_masks(study, conversion, out, console.progress)

    def as_json() -> dict[str, object]:
        return {
            "study": str(out / "cases.csv"),
            "structures": list(done.study.labels),
            "converted": done.made,
            "kept": done.kept,
            "undrawn": sum(not case.masks for case in done.study.cases),
        }

    def in_words() -> None:
        kept = f", {done.kept} were there already" if done.kept else ""
        console.say(f"{done.made} masks converted{kept}; they show {', '.join(done.study.labels)}")
        _print_written(done.study, out / "cases.csv")

    console.emit(as_json, in_words)


@app.command()
@command()
def tiles(
    study: StudyArgument,
    size: Annotated[int, typer.Option("--size", help="Side of a tile, px.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for images/, masks/ and cases.csv.", metavar="FOLDER")],
    structure: Structures = None,
    overlap: Annotated[float, typer.Option("--overlap", help="Of neighbouring tiles, as a part of their side.")] = 0.25,
    mm_per_px: Annotated[
        float | None,
        typer.Option("--mm-per-px", help="Bring images to this distance of pixels first; DICOM files say theirs."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut images and masks into tiles, to train a network that a sliding window moves over large images.

    Tiles stand where the device's window stands, the last ones shifted inwards. An image that is smaller than a tile
    lies in the middle of one.
    """
    check_new_files({"--out": out / "cases.csv"}, overwrite)
    from medfm_compress.data.cut_tiles import cut_tiles
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.image_spec import Tiles

    window = Tiles(overlap=overlap) if mm_per_px is None else Tiles(overlap=overlap, mm_per_px=mm_per_px)
    done = cut_tiles(open_study(study, structures=tuple(structure or ())), size, window, out, console.progress)
    undrawn = sum(not case.masks for case in done.study.cases)

    def as_json() -> dict[str, object]:
        return {
            "study": str(out / "cases.csv"),
            "images": done.images,
            "tiles": len(done.study.cases),
            "smaller": done.smaller,
            "undrawn": undrawn,
        }

    def in_words() -> None:
        console.say(f"{done.images} images, {len(done.study.cases)} tiles of {size}×{size} px")
        if done.smaller:
            console.say(f"{done.smaller} images are smaller than a tile; they lie in the middle of one, on black")
        if undrawn:
            console.say(f"{undrawn} tiles are of images without a mask")
        _print_written(done.study, out / "cases.csv")

    console.emit(as_json, in_words)


@app.command()
@command()
def columns(
    study: StudyArgument,
    out: Annotated[Path, typer.Option("--out", help="YAML file to write.")],
    structure: Structures = None,
    overwrite: Overwrite = False,
) -> None:
    """Propose a file of columns: what a network can be given beside the image, from the table and DICOM headers.

    Look at every line before you train with it (--columns): ranges, categories, what a missing value becomes.
    """
    check_file_out(out, ".yaml", overwrite)
    from medfm_compress.data.column_proposal import propose_columns
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.atomic_write import write_atomically

    proposal = propose_columns(open_study(study, structures=tuple(structure or ()), read_masks=False))
    write_atomically(out, proposal.text.encode())

    def as_json() -> dict[str, object]:
        return {"out": str(out), "columns": list(proposal.columns), "left_out": proposal.left_out}

    def in_words() -> None:
        for line in proposal.text.splitlines():
            console.say(line)
        for name, reason in proposal.left_out.items():
            console.say(f"left out {name}: {reason}")
        console.say(f"wrote {out}; check it, and give it to 'medfm-compress finetune' or 'distill' with --columns")

    console.emit(as_json, in_words)


def _print_written(study: Study, table: Path) -> None:
    """Where the new table lies; and how it is opened, where its labels would make it a study of those."""
    if any(name == "label" or name.startswith("label:") for name in study.subgroup_names()):
        wanted = " ".join(f"--structure {shlex.quote(label)}" for label in study.labels)
        console.say(f"its labels are kept; as a study of masks it is opened with {wanted}")
    console.say(f"wrote {table}; it can be used wherever a study is asked for")


def _split_as_json(result: SplitResult, out: Path) -> dict[str, object]:
    sizes = {name: len(result.study.split(name)) for name in ("train", "val", "test")}
    return {
        "study": str(out),
        "images": sizes,
        "dropped": [case.image for case in result.dropped],
        "undrawn": [case.image for case in result.undrawn],
    }


def _print_check(checked: StudyCheck, path: Path, accept_leakage: bool) -> None:
    images = sum(checked.images.values())
    console.say(f"{path}: {images} images, {checked.kind if checked.labels else 'no labels'}")
    if checked.labels:
        console.say(f"labels: {', '.join(checked.labels)} ({checked.label_order})")
    console.say()
    console.table(
        ["split", "images", "patients", *checked.labels],
        [
            [split, str(count), str(checked.patients[split] or "-"), *_with_shares(checked.classes[split], count)]
            for split, count in checked.images.items()
        ],
    )
    for name, sizes in checked.subgroups.items():
        shown = [f"{value} {count}" for value, count in list(sizes.items())[:_SHOWN_VALUES]]
        more = [f"and {len(sizes) - _SHOWN_VALUES} more"] if len(sizes) > _SHOWN_VALUES else []
        console.say()
        console.say(f"{name}: {', '.join(shown + more)}")
    if checked.masks:
        _print_masks(checked.masks)
    console.say()
    _print_images(checked)
    for sentence in checked.remarks:
        console.say(f"note: {sentence}")
    for sentence in checked.leakage:
        console.say(f"{'accepted leakage' if accept_leakage else 'leakage'}: {sentence}")
    for sentence in checked.errors:
        console.say(f"unusable: {sentence}")
    if checked.leakage and not accept_leakage:
        console.say("cut the splits with 'medfm-compress study split', or accept the leakage with --accept-leakage")
    elif not checked.errors:
        console.say(_conclusion(checked))


def _print_masks(masks: MaskCheck) -> None:
    console.say()
    console.say("share of the image that a structure covers, of the masks that show it:")
    rows = [
        [
            split,
            name,
            str(shown.cases),
            *(f"{share:.2%}" for share in (shown.area_p5, shown.area_median, shown.area_p95)),
        ]
        for split, found in masks.splits.items()
        for name, shown in found.structures.items()
    ]
    console.table(["split", "structure", "masks", "5%", "median", "95%"], rows)
    console.say()
    console.table(
        ["split", "drawn", "of them empty", "undrawn"],
        [[split, *map(str, (found.drawn, found.empty, found.undrawn))] for split, found in masks.splits.items()],
    )
    for bad in masks.unusable[:_SHOWN]:
        console.say(f"  {bad.reason}")


def _conclusion(checked: StudyCheck) -> str:
    """Without errors and leakage: that all is well is said only where nothing was remarked."""
    if not checked.remarks:
        return "no obstacle found"
    return f"no error found; the notes above ({len(checked.remarks)}) say what is lacking or in doubt"


def _print_needs(needs: Sequence[Need], split: str) -> None:
    if not needs:
        return
    console.say()
    console.say(f"patients of {split} that the policy takes at least, were bundle and teacher alike:")
    rows = [[need.requirement, need.whose, *map(str, (need.patients, need.present, need.needed))] for need in needs]
    console.table(["requirement", "patients", f"in {split}", "that count", "needed"], rows)
    if any(need.present < need.patients for need in needs):
        console.say(
            "that count: with several images a patient, the images divided by the most that one patient has, since one "
            "patient can carry a loss in all of his (docs/policy.md)"
        )
    short = [need for need in needs if not need.met]
    if short:
        console.say(
            f"{len(short)} of {len(needs)} cannot be shown on this split, however good the bundle: cut more patients "
            f"for {split}, collect more, or discuss the margin with those who chose it"
        )


def _with_shares(sizes: dict[str, int], total: int) -> list[str]:
    return [f"{count} ({count / total:.0%})" if total else "0" for count in sizes.values()]


def _print_images(checked: StudyCheck) -> None:
    across = sum(len(set(group.splits)) > 1 for group in checked.copies)
    console.say(f"exact copies: {len(checked.copies)} groups, {across} of them across splits")
    console.say(f"patients in several splits: {len(checked.shared_patients)}")
    console.say(
        f"unreadable: {len(checked.unreadable)}, blank: {len(checked.blank)}, of odd size: {len(checked.odd_sizes)}, "
        f"of the other kind of colour: {len(checked.other_colour)}"
    )
    for bad in checked.unreadable[:_SHOWN]:
        console.say(f"  {bad.image}: {bad.reason}")
    for odd in checked.odd_sizes[:_SHOWN]:
        console.say(f"  {odd.image}: {odd.width_px}×{odd.height_px} px")
    for image in checked.other_colour[:_SHOWN]:
        console.say(f"  {image}: of the other kind of colour")


def _print_split(result: SplitResult, out: Path) -> None:
    from medfm_compress.data.labels import class_counts

    study = result.study
    splits = [name for name in ("train", "val", "test") if study.split(name)]
    rows = []
    for name in splits:
        cases, counts = study.split(name), class_counts(study, name)
        sizes = {label: counts[label] for label in study.labels}
        patients = str(len({case.cluster for case in cases})) if any(case.patient_key for case in cases) else "-"
        rows.append([name, str(len(cases)), patients, *_with_shares(sizes, len(cases))])
    console.table(["split", "images", "patients", *study.labels], rows)
    for sentence in study.remarks:
        console.say(f"note: {sentence}")
    if result.dropped:
        console.say(f"dropped {len(result.dropped)} images that share a patient or an exact copy with test")
    if result.undrawn:
        console.say(f"{len(result.undrawn)} images without a mask are 'unlabelled' now")
    if study.kind == "segmentation":
        _print_written(study, out)
    else:
        console.say(f"wrote {out}; it can be used wherever a study is asked for")
