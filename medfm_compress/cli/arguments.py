"""Arguments and options that several commands share: artefacts, studies and folders, as types of a parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STUDY_KINDS = (
    "Folder with cases.csv, a CSV file (columns image, split, label or label:NAME …, mask, patient, subgroups), a "
    "folder per class, a MedMNIST .npz, or a folder of DICOM files."
)
Bundle = Annotated[Path, typer.Argument(help="The .medfm file.", metavar="BUNDLE")]
ModelFolder = Annotated[Path, typer.Argument(help="Model folder; it is not changed.", metavar="MODEL")]
StudyArgument = Annotated[Path, typer.Argument(help=STUDY_KINDS, metavar="STUDY")]
Structures = Annotated[
    list[str] | None,
    typer.Option(
        "--structure",
        help="What the study's masks show; repeated in the order of their values, 1 and up. A table of mask:NAME "
        "columns says it itself.",
        metavar="NAME",
    ),
]
NormalLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--normal",
        help="A label of the study that is normal; may be repeated. Every other label is abnormal then.",
        metavar="LABEL",
    ),
]
Study = Annotated[Path, typer.Option("--study", help=STUDY_KINDS, metavar="STUDY")]
MaybeStudy = Annotated[Path | None, typer.Option("--study", help=STUDY_KINDS, metavar="STUDY")]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="Instead of --study: a folder of images without labels, 12 or more; relative logit error and agreement of "
        "decisions alone are judged then.",
        metavar="FOLDER",
    ),
]
Teachers = Annotated[
    list[str],
    typer.Option("--teacher", help="Whatever can teach, see distill; may be repeated, several are averaged."),
]
Policy = Annotated[
    Path, typer.Option("--policy", help="What must hold, committed before the test cases are evaluated.")
]
ModelOut = Annotated[Path, typer.Option("--out", help="Model folder to write.", metavar="MODEL")]
BundleOut = Annotated[Path, typer.Option("--out", help="The .medfm file to write.", metavar="BUNDLE")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names, if it is there.")]
ReportOut = Annotated[Path, typer.Option("--out", help="Folder of the report.", metavar="FOLDER")]
DeviceFolder = Annotated[
    Path | None,
    typer.Option(
        "--device-folder",
        help="Folder of the device's bundles, made by device install.",
        metavar="FOLDER",
        envvar="MEDFM_DEVICE_FOLDER",
    ),
]
TrustStoreOption = Annotated[
    Path | None,
    typer.Option(
        "--trust-store",
        help="Folder of trusted keys (default: MEDFM_TRUST_STORE, else /etc/medfm-compress/trust where it exists).",
        metavar="FOLDER",
    ),
]
