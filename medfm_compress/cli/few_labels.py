"""``medfm-compress few-labels``: what is an encoder worth with few labelled cases?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.next_command import after_distill, print_next
from medfm_compress.cli.outputs import check_place
from medfm_compress.cli.parse_units import parse_value
from medfm_compress.compress.few_labels.options import ClassifierName, FewLabelsOptions
from medfm_compress.early_refusals import refuse_classifier_on, refuse_to_overwrite

if TYPE_CHECKING:
    from medfm_compress.compress.few_labels.curve import Spread
    from medfm_compress.compress.few_labels.few_labels import FewLabels, Point

ENCODERS = (
    "Model folder, or backbone folder of pretrain; it is not changed. Of several each is compared with the first, on "
    "the same draws."
)


@command()
def few_labels(
    encoders: Annotated[list[Path], typer.Argument(help=ENCODERS, metavar="ENCODER")],
    options: FewLabelsOptions,
    study: Study,
    cases: Annotated[
        str, typer.Option("--cases", help="Labelled cases of every class in a draw.", metavar="N,N,…")
    ] = "5,20,100",
    out: Annotated[
        Path | None,
        typer.Option(help="Model folder to write, for export: the encoder with --classifier of all training cases."),
    ] = None,
    classifier: Annotated[ClassifierName, typer.Option(help="Which of the two --out writes.")] = "linear-probe",
    log: Annotated[
        Path | None,
        typer.Option(help="With --split test: the report's folder, whose log of looks at the test split gets a line."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Classify from few labels: prototypes and a linear probe on an encoder that stays as it is.

    Draws training cases, fits both classifiers to each draw, and judges them on the split. Intervals are over draws
    (other labels), over cases (other patients) and over both, which is what one who labels once has to expect.
    """
    import msgspec

    from medfm_compress.compress.few_labels.encoder import open_encoders
    from medfm_compress.compress.few_labels.few_labels import few_labels as compare
    from medfm_compress.compress.few_labels.fitted_model import fitted_model
    from medfm_compress.compress.networks.model import save_model
    from medfm_compress.data.open import open_study

    if out is not None:
        check_place(out)
        refuse_to_overwrite(out, overwrite)
        refuse_classifier_on(encoders[0])
    chosen = msgspec.structs.replace(options, cases=_parse_cases(cases))
    opened = open_encoders(encoders)
    first = next(iter(opened.values()))
    labelled = open_study(study, dicom_rules=first.spec.dicom)
    # What cannot be written is said before the curves are drawn, which take longer.
    fitted = None if out is None else fitted_model(first, labelled, classifier, console.progress)
    curves = compare(opened, labelled, chosen, console.progress, log)
    if out is not None and fitted is not None:
        save_model(fitted, out)
    written = {} if out is None else {"model": str(out), "classifier": classifier}
    console.emit(lambda: {"curves": curves, **written}, lambda: _print_curves(curves))
    if out is not None and not console.wants_json():
        console.say(f"wrote {out}: {classifier} of all labelled training cases, on {encoders[0]}")
        print_next(after_distill(out, study))


def _parse_cases(text: str) -> tuple[int, ...]:
    return tuple(parse_value(part.strip(), "--cases", int) for part in text.split(","))


def _print_curves(curves: FewLabels) -> None:
    columns = ["encoder", "classifier", "cases a class", "AUROC", "over draws", "over cases", "over both"]
    console.table([*columns, "balanced accuracy"], [_row(point) for point in curves.points], left=(0, 1))
    console.say()
    if any(point.auroc_difference for point in curves.points):
        first = curves.points[0].encoder
        header = ["encoder", "classifier", "cases a class", f"AUROC − that of {first}", "over draws", "over both"]
        rows = [_difference_row(point) for point in curves.points if point.auroc_difference is not None]
        console.table(header, rows, left=(0, 1))
        console.say()
    for number, reason in curves.left_out.items():
        console.say(f"{number} cases a class: not drawn, {reason}")
    console.say(
        f"{curves.draws} draws of training cases, judged on {curves.judged} cases of {curves.patients} patients in "
        f"split {curves.split!r}; 95% intervals"
    )


def _row(point: Point) -> list[str]:
    auroc = point.auroc
    return [*_key(point), f"{auroc.mean:.3f}", *map(_ends, (auroc.over_draws, auroc.over_cases, auroc.over_both)),
            f"{point.balanced_accuracy.mean:.3f}"]  # fmt: skip


def _difference_row(point: Point) -> list[str]:
    change: Spread | None = point.auroc_difference
    if change is None:
        return [*_key(point), "–", "–", "–"]
    return [*_key(point), f"{change.mean:+.3f}", _ends(change.over_draws, "+"), _ends(change.over_both, "+")]


def _key(point: Point) -> list[str]:
    return [point.encoder, point.classifier, str(point.cases)]


def _ends(ends: tuple[float, float] | None, sign: str = "") -> str:
    return "–" if ends is None else f"[{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
