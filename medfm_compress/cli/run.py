"""``medfm-compress run``: predict for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNUSABLE, MedfmError, Refused

if TYPE_CHECKING:
    from medfm_compress.runtime.engine import Engine, Prediction

SHOWN_CLASSES = 5  # of a multiclass task, the most probable ones; --json gives all


def run(
    bundle: Annotated[Path, typer.Argument(help="The .medfm file.")],
    images: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files.")],
    backend: Annotated[str | None, typer.Option(help="Use only this engine: openvino or onnxruntime.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one prediction (default: physical cores).")] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also use a variant that no passing verdict covers.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of your own where OpenVINO may keep compiled models (faster start).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Predict for images with a bundle. A refused image gets its reason, the others are still done (exit code 4)."""
    from medfm_compress.runtime.engine import Engine

    code, results = EXIT_OK, []
    with Engine(bundle, backend=backend, threads=threads, unverified=unverified, cache_dir=cache) as engine:
        for image in images:
            answer = _answer(engine, image)
            if isinstance(answer, MedfmError):
                code = max(code, EXIT_REFUSED if isinstance(answer, Refused) else EXIT_UNUSABLE)
            results.append(_as_json(image, answer))
            if not json:
                console.say(_as_line(image, answer))
    if json:
        console.emit_json(results)
    if code:
        raise typer.Exit(code)


def _answer(engine: Engine, image: Path) -> Prediction | MedfmError:
    try:
        return engine.predict(image)
    except MedfmError as exc:
        return exc


def _as_json(image: Path, answer: Prediction | MedfmError) -> dict[str, Any]:
    import msgspec

    if isinstance(answer, MedfmError):
        return {"image": str(image), "error": str(answer), "exit_code": answer.exit_code}
    return {"image": str(image), **msgspec.to_builtins(answer)}


def _as_line(image: Path, answer: Prediction | MedfmError) -> str:
    if isinstance(answer, MedfmError):
        return f"{image.name}: refused: {answer}"
    names = list(answer.probabilities)
    if answer.label is not None:
        names = sorted(names, key=answer.probabilities.__getitem__, reverse=True)[:SHOWN_CLASSES]
    findings = ", ".join(_as_words(name, answer) for name in names)
    flags = f"  [{', '.join(answer.flags)}]" if answer.flags else ""
    return f"{image.name}: {findings}{flags}"


def _as_words(finding: str, answer: Prediction) -> str:
    called = {True: "called", False: "not called", None: "no operating point"}[answer.findings[finding]]
    return f"{finding} {answer.probabilities[finding]:.3f} ({called})"
