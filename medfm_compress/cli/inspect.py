"""``medfm-compress inspect``: what is in a bundle, and does it compute the same here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import column_in_words, describe_colour_rule, describe_fit, dicom_in_words
from medfm_compress.runtime.errors import EXIT_REFUSED, MedfmError

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.runtime.bundle.manifest import Manifest, Variant
    from medfm_compress.runtime.image_spec import ImageSpec
    from medfm_compress.runtime.task import Task


@command()
def inspect(
    bundle: Bundle,
    verify: Annotated[
        bool, typer.Option("--verify", help="Replay the golden cases of every variant that can run here.")
    ] = False,
) -> None:
    """Show a bundle. With --verify, exit code 4 where a variant computes something else here or none can run."""
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle

    opened = OpenedBundle.open(bundle)
    variants = [_examine(opened, variant, verify) for variant in opened.manifest.variants]
    document = {"bundle": str(bundle), "bytes": bundle.stat().st_size, "variants": variants}
    signatures = sorted(opened.signed.signatures)
    console.emit(
        lambda: {**document, "manifest": opened.manifest, "signatures": signatures},
        lambda: _print_bundle(opened, variants),
    )
    agreeing = [row["verification"] == "agrees" for row in variants if row["verification"]]
    if verify and not (agreeing and all(agreeing)):
        raise typer.Exit(EXIT_REFUSED)


def _print_bundle(opened: OpenedBundle, variants: list[dict[str, Any]]) -> None:
    _describe(opened.manifest, opened.path, len(opened.signed.signatures))
    _tabulate(variants)
    _print_operating_points(opened.manifest)


def _examine(bundle: OpenedBundle, variant: Variant, verify: bool) -> dict[str, Any]:
    """One row: name, target, bytes, verdict, how it decides, why it cannot run here (empty if it can), golden cases."""
    from medfm_compress.runtime.cpu import read_cpu
    from medfm_compress.runtime.variant_selection import Machine, incompatibility

    verdict = bundle.verdict(variant.name)
    row: dict[str, Any] = {
        "name": variant.name,
        "target": variant.target,
        "bytes": bundle.variant_bytes(variant),
        "verdict": verdict.outcome if verdict else None,
        "temperature": bundle.manifest.task_of(variant).temperature,
        "operating_points": bundle.manifest.task_of(variant).operating_points,
        "obstacle": incompatibility(variant, Machine(cpu=read_cpu())),
        "golden_error": None,
        "verification": "",
    }
    return row | _replay(bundle, variant) if verify and not row["obstacle"] else row


def _replay(bundle: OpenedBundle, variant: Variant) -> dict[str, Any]:
    from medfm_compress.runtime.golden_cases import replay_goldens
    from medfm_compress.runtime.opening import check_columns_of, check_names, typicality_judge
    from medfm_compress.runtime.sessions.table import open_variant

    try:
        session = open_variant(bundle, variant, threads=1)
        check_names(session, bundle.manifest)
        check_columns_of(bundle)
        error = replay_goldens(bundle, variant, session)
        typicality_judge(bundle, variant)
    except MedfmError as exc:
        return {"verification": str(exc)}
    return {"golden_error": error, "verification": "agrees"}


def _describe(manifest: Manifest, path: Path, signatures: int) -> None:
    task, provenance = manifest.task, manifest.provenance
    facts: dict[str, object] = {
        "bundle": f"{manifest.name} ({path.stat().st_size / 1e6:.2f} MB, schema {manifest.schema_version})",
        "model digest": manifest.model_digest,
        "release": manifest.release_number,
        "signatures": f"{signatures}; 'bundle verify' says whose, and whether they hold" if signatures else "none",
        "intended use": manifest.intended_use,
        "task": f"{task.kind}: {', '.join(task.labels)}",
        "input": _input_in_words(manifest.image_spec),
        **{f"column {number}": column_in_words(column) for number, column in enumerate(manifest.told, start=1)},
        "teacher": provenance.teacher,
        "teacher licence": provenance.teacher_licence,
        "student": provenance.student,
        "study": provenance.study_fingerprint,
        "recipe": provenance.recipe_sha256,
        "made": provenance.date,
        "made with": ", ".join(f"{name} {version}" for name, version in sorted(provenance.libraries.items())),
    }
    for name, value in facts.items():
        console.fact(name, value or "(not recorded)")
    for name, value in _decisions(task):
        console.fact(name, value)
    for number, step in enumerate(provenance.steps, start=1):
        console.fact(f"step {number}", step)


def _decisions(task: Task) -> list[tuple[str, str]]:
    """How scores become calls, as names and values."""
    lines = [("temperature", f"{task.temperature:g}")]
    if task.is_dense:
        lines.append(("label map", "0 background" + "".join(f", {k} {name}" for k, name in enumerate(task.labels, 1))))
    if task.normal_labels:
        normal = f"{', '.join(task.normal_labels)}; the score orders images and is no probability of disease"
        lines.append(("normal", normal))
    for point in task.operating_points:
        held = f"{point.rule}; {point.rates}"
        lines.append(("called at", f"{point.label} >= {point.threshold:.4g} ({held})"))
    return lines


def _print_operating_points(manifest: Manifest) -> None:
    """The variants that decide otherwise than the task does."""
    for variant in manifest.variants:
        if variant.decides_itself:
            for name, value in _decisions(manifest.task_of(variant)):
                console.say(f"{variant.name}: {name} {value}")


def _input_in_words(spec: ImageSpec) -> str:
    words = f"{spec.width_px}×{spec.height_px} px {spec.colour}, {describe_fit(spec)}"
    if spec.stain:
        words += f", stain after {type(spec.stain).__name__.removesuffix('Stain')}"
    kind = dicom_in_words(spec) if spec.dicom.declares_kind else f"of any kind; {dicom_in_words(spec)}".rstrip("; ")
    return f"{words}, at least {spec.min_side_px} px; DICOM {kind}; {describe_colour_rule(spec)}"


def _tabulate(variants: list[dict[str, Any]]) -> None:
    console.say()
    rows = [
        [row["name"], row["target"], f"{row['bytes'] / 1e6:.2f}", row["verdict"] or "none", _here(row)]
        for row in variants
    ]
    console.table(["variant", "target", "MB", "verdict", "here"], [[*row[:4], _short(row[4])] for row in rows])
    for row in rows:
        if len(row[4]) > len(_short(row[4])):
            console.say(f"{row[0]}: {row[4]}")


def _here(row: dict[str, Any]) -> str:
    if row["obstacle"]:
        return f"cannot run: {row['obstacle']}"
    if row["verification"] == "agrees":
        return f"agrees (relative logit error {row['golden_error']:.1e})"
    return f"disagrees: {row['verification']}" if row["verification"] else "can run"


def _short(text: str) -> str:
    """Reasons stand below the table in full; in it only what they begin with."""
    return text.partition(":")[0]
