"""``medfm-compress anomaly``: models that tell how unlike the normal cases an image is."""

from __future__ import annotations

from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import ModelOut, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import print_model
from medfm_compress.cli.next_command import after_distill
from medfm_compress.cli.outputs import check_place
from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource

app = typer.Typer(help="Make models that tell how unlike the normal cases an image is.", no_args_is_help=True)
Normal = Annotated[
    list[str],
    typer.Option(
        "--normal",
        help="A label of the study that is normal; may be repeated. Every other label is abnormal.",
        metavar="LABEL",
    ),
]


@app.command()
@command()
def fit(
    encoder: EncoderSource,
    options: AnomalyFit,
    study: Study,
    normal: Normal,
    out: ModelOut,
    overwrite: Overwrite = False,
) -> None:
    """Fit a scorer on an encoder's embeddings of normal cases; no abnormal case is needed, or looked at.

    Normal cases of train are compared with, those of val make the scores comparable. The model folder names its normal
    labels, and 'export', 'quantize' and 'bench' open the study with them. An encoder is shortened to --length numbers
    for good: of several lengths, fit and export each.
    """
    check_place(out)
    from medfm_compress import steps

    model = steps.fit_anomaly(study, tuple(normal), encoder, options, console.progress, out, overwrite=overwrite)
    print_model(model, out, after_distill(out, study))
