"""``medfm-compress slide``: slides larger than memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, Overwrite, StudyArgument, TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_file_out, check_place, check_report_out
from medfm_compress.data.stain_fit import StainMethod
from medfm_compress.runtime.errors import EXIT_REFUSED
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.slides.settings import SlideSettings, read_settings

if TYPE_CHECKING:
    from medfm_compress.bench.evaluate.slide_labels import ChosenAggregation, TileScores
    from medfm_compress.data.study import Case, Study
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.slides.result import SlideResult

app = typer.Typer(help="Read slides larger than memory; choose how; fit stains.", no_args_is_help=True)

Settings = Annotated[
    Path, typer.Option("--settings", help="JSON file of 'slide settings' or 'slide choose'.", metavar="FILE")
]
SettingsOut = Annotated[Path, typer.Option("--out", help="JSON file to write.", metavar="FILE")]
UmPerPx = Annotated[
    float | None,
    typer.Option("--um-per-px", help="Micrometres a pixel of the slide's finest level, instead of what its file says."),
]
Threads = Annotated[int, typer.Option(min=1, help="Tiles that are read at once, each at batch 1 on one thread.")]
Unverified = Annotated[bool, typer.Option("--unverified", help="Also use a variant that no passing verdict covers.")]
Backend = Annotated[str | None, typer.Option(help="Use only openvino, onnxruntime or tensorrt.")]
AllowUnsigned = Annotated[
    bool, typer.Option("--allow-unsigned", help="Also use a bundle that no trusted key signed; flagged.")
]


@app.command()
@command()
def run(
    bundle: Bundle,
    slide: Annotated[Path, typer.Argument(help="The slide: SVS, NDPI, MRXS, DICOM …, TIFF or PNG.", metavar="SLIDE")],
    settings: Settings,
    out: Annotated[Path, typer.Option("--out", help="Folder of the results; what was begun there goes on.")],
    um_per_px: UmPerPx = None,
    reader: Annotated[str, typer.Option(help="Use only openslide, tifffile, pillow or picture.")] = "",
    threads: Threads = 1,
    backend: Backend = None,
    unverified: Unverified = False,
    trust_store: TrustStoreOption = None,
    allow_unsigned: AllowUnsigned = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a slide tile by tile: label, heat map (pyramidal TIFF), overlay, top tiles, table of all tiles. Resumes.

    Exit code 4 where the slide is refused, or where so many tiles lack an answer that no label is given; everything
    else is written all the same.
    """
    check_report_out(out, overwrite, ("result.json",))
    declared = read_settings(settings)
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.slides.outputs import RESULT, write_outputs
    from medfm_compress.runtime.slides.scan import SlideFile, answer_tiles, open_scan
    from medfm_compress.runtime.variant_selection import advising

    start = time.monotonic()
    options = {"backend": backend, "unverified": unverified, "trust": trust_store, "allow_unsigned": allow_unsigned}
    with (
        advising("--unverified"),
        Engine(bundle, threads=1, **options) as engine,  # type: ignore[arg-type]
        open_scan(engine, SlideFile(slide, um_per_px, reader), declared, out, console.progress) as scan,
    ):
        (out / RESULT).unlink(missing_ok=True)
        answer_tiles(scan, engine, threads, console.progress)
        result = write_outputs(scan, engine, out)
        scan.journal.path.unlink(missing_ok=True)
    cost = {"seconds": round(time.monotonic() - start, 2), "peak_mb": _peak_mb()}
    console.emit(lambda: msgspec.to_builtins(result) | cost, lambda: _print_result(result, out, cost))
    if result.withheld:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
@command()
def settings(settings: SlideSettings, out: SettingsOut, overwrite: Overwrite = False) -> None:
    """Write how slides are cut, read and summed up to a file; 'slide choose' lets validation slides say the latter."""
    check_file_out(out, ".json", overwrite)
    _write(settings, out)


@app.command()
@command()
def choose(
    bundle: Bundle,
    study: StudyArgument,
    settings: Settings,
    out: SettingsOut,
    split: Annotated[str, typer.Option(help="Validation slides of the study.")] = "val",
    rule: Annotated[str, typer.Option(help="youden, sensitivity>=X or specificity>=X.")] = "youden",
    cache: Annotated[
        Path | None, typer.Option(help="Folder where answers of tiles are kept, so that choosing again is quick.")
    ] = None,
    um_per_px: UmPerPx = None,
    threads: Threads = 1,
    backend: Backend = None,
    unverified: Unverified = False,
    trust_store: TrustStoreOption = None,
    allow_unsigned: AllowUnsigned = False,
    overwrite: Overwrite = False,
) -> None:
    """Choose aggregation and thresholds on validation slides: a study whose column image names slides."""
    check_file_out(out, ".json", overwrite)
    declared = read_settings(settings)
    from medfm_compress.bench.evaluate.slide_labels import choose_aggregation
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.engine import Engine
    from medfm_compress.runtime.variant_selection import advising

    opened = open_study(study)
    cases = opened.labelled_split(split)
    options = {"backend": backend, "unverified": unverified, "trust": trust_store, "allow_unsigned": allow_unsigned}
    with advising("--unverified"), Engine(bundle, threads=1, **options) as engine:  # type: ignore[arg-type]
        tiles = _tiles_of(engine, opened, cases, declared, (um_per_px, threads, cache))
        chosen = choose_aggregation(tiles, opened, cases, engine.task, declared, rule)
    _write(chosen.settings, out, chosen)


@app.command("fit-stain")
@command()
def fit_stain(
    study: StudyArgument,
    out: SettingsOut,
    method: Annotated[
        StainMethod, typer.Option(help="Macenko's unmixing of two stains, or Reinhard's colours.")
    ] = "macenko",
    split: Annotated[str, typer.Option(help="Training images of the study.")] = "train",
    refuse: Annotated[
        bool, typer.Option("--refuse", help="Refuse images whose stains cannot be told, instead of keeping them.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure the stains of training images; 'finetune --stain FILE' makes them the reference of all that follows."""
    check_file_out(out, ".json", overwrite)
    from medfm_compress.data.open import open_study
    from medfm_compress.data.stain_fit import fit_stain as fit
    from medfm_compress.runtime.atomic_write import write_atomically
    from medfm_compress.runtime.strict_json import encode

    opened = open_study(study)
    rule = fit(opened, opened.split(split), method, refuse=refuse, progress=console.progress)
    write_atomically(out, encode(rule))
    console.emit(lambda: msgspec.to_builtins(rule), lambda: console.say(f"wrote {out}: {method}, of {split} images"))


def _tiles_of(
    engine: Engine,
    study: Study,
    cases: tuple[Case, ...],
    declared: SlideSettings,
    how: tuple[float | None, int, Path | None],
) -> list[TileScores]:
    """Probabilities of the answered tiles of each slide."""
    import numpy as np

    from medfm_compress.runtime.slides.journal import PREDICTED
    from medfm_compress.runtime.slides.scan import SlideFile, answer_tiles, open_scan, tile_scores

    um_per_px, threads, cache = how
    folder = study.root if study.root.is_dir() else study.root.parent
    scores = []
    with scratch_folder() as temporary:
        for number, case in enumerate(cases):
            file = SlideFile(folder / case.image, um_per_px)
            with open_scan(engine, file, declared, (cache or temporary) / str(number), console.progress) as scan:
                answer_tiles(scan, engine, threads, console.progress)
                rows = [answer.scores for _, answer in tile_scores(scan) if answer.status == PREDICTED]
            scores.append(np.array(rows, np.float32).reshape(len(rows), len(engine.task.findings)))
    return scores


def _write(declared: SlideSettings, out: Path, chosen: ChosenAggregation | None = None) -> None:
    from medfm_compress.runtime.atomic_write import write_atomically
    from medfm_compress.runtime.strict_json import encode

    check_place(out)
    write_atomically(out, encode(declared))
    tried = chosen.candidates if chosen else ()

    def in_words() -> None:
        if tried:
            console.table(
                ["aggregation", "top", "AUROC"], [[name, str(top), f"{area:.3f}"] for name, top, area in tried]
            )
        console.say(f"wrote {out}")

    console.emit(
        lambda: msgspec.to_builtins(declared) | {"candidates": [candidate._asdict() for candidate in tried]}, in_words
    )


def _peak_mb() -> int:
    """Most memory that this process has held."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _print_result(result: SlideResult, out: Path, cost: dict[str, float]) -> None:
    tiles = result.tiles
    console.say(
        f"{result.slide}: {result.size_px[0]}×{result.size_px[1]} px of {result.um_per_px[0]:g} µm, {result.reader}; "
        f"{tiles.tissue} of {tiles.all} tiles show tissue, {tiles.answered} answered"
        + (f", {tiles.unread} could not be read" if tiles.unread else "")
        + (f", {tiles.not_reliable} not reliable" if tiles.not_reliable else "")
    )
    for finding, score in result.probabilities.items():
        called = {True: "  found", False: "  not found", None: ""}[result.findings[finding]]
        console.say(f"  {finding}: {score:.4f}{called}")
    if result.withheld:
        console.say(f"  no label: {result.withheld}")
    for name, area in result.area_mm2.items():
        console.say(f"  {name}: {area:.3f} mm²")
    for region in result.unread[:5]:
        console.say(f"  not read: {region.width}×{region.height} px at {region.x}, {region.y}")
    if result.flags:
        console.say(f"  flags: {', '.join(result.flags)}")
    console.say(f"wrote {out} in {cost['seconds']:.1f} s, at most {cost['peak_mb']} MB of memory")
