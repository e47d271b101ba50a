"""``medfm-compress run``: predict for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle
from medfm_compress.cli.command import command
from medfm_compress.runtime.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNUSABLE, MedfmError, Refused

if TYPE_CHECKING:
    from medfm_compress.runtime.engine import Engine, Prediction

SHOWN_CLASSES = 5  # of a multiclass task, the most probable ones; --json gives all


@command()
def run(
    bundle: Bundle,
    images: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files.", metavar="IMAGE")],
    backend: Annotated[str | None, typer.Option(help="Use only this engine: openvino or onnxruntime.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one prediction (default: physical cores).")] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also use a variant that no passing verdict covers.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of your own where OpenVINO may keep compiled models (faster start).")
    ] = None,
) -> None:
    """Predict for images with a bundle. A refused image gets its reason, the others are still done (exit code 4)."""
    from medfm_compress.runtime.engine import Engine

    code, results = EXIT_OK, []
    with Engine(bundle, backend=backend, threads=threads, unverified=unverified, cache_dir=cache) as engine:
        for image in images:
            outcome = _predict(engine, image)
            if isinstance(outcome, MedfmError):
                code = max(code, EXIT_REFUSED if isinstance(outcome, Refused) else EXIT_UNUSABLE)
            results.append(_as_json(image, outcome))
            if not console.wants_json():
                console.say(_as_line(image, outcome))
    if console.wants_json():
        console.emit_json(results)
    if code:
        raise typer.Exit(code)


def _predict(engine: Engine, image: Path) -> Prediction | MedfmError:
    try:
        return engine.predict(image)
    except MedfmError as exc:
        return exc


def _as_json(image: Path, outcome: Prediction | MedfmError) -> dict[str, Any]:
    import msgspec

    if isinstance(outcome, MedfmError):
        return {"image": str(image), "error": str(outcome), "exit_code": outcome.exit_code}
    return {"image": str(image), **msgspec.to_builtins(outcome)}


def _as_line(image: Path, outcome: Prediction | MedfmError) -> str:
    if isinstance(outcome, MedfmError):
        return f"{image.name}: refused: {outcome}"
    names = list(outcome.probabilities)
    if outcome.label is not None:
        names = sorted(names, key=outcome.probabilities.__getitem__, reverse=True)[:SHOWN_CLASSES]
    findings = ", ".join(_as_words(name, outcome) for name in names)
    flags = f"  [{', '.join(outcome.flags)}]" if outcome.flags else ""
    return f"{image.name}: {findings}{flags}"


def _as_words(finding: str, outcome: Prediction) -> str:
    called = {True: "called", False: "not called", None: "no operating point"}[outcome.findings[finding]]
    return f"{finding} {outcome.probabilities[finding]:.3f} ({called})"
