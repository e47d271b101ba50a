"""``medfm-compress doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from medfm_compress.cli import console


def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Show what this machine can run: CPU, engines, DICOM decoders, toolchain, GPU, and what is missing."""
    from medfm_compress.runtime.doctor import examine

    diagnosis = examine()
    if json:
        console.emit_json(diagnosis)
        return
    for section in diagnosis.__struct_fields__:
        findings = getattr(diagnosis, section)
        width = max(len(finding.name) for finding in findings)
        console.say(section)
        for finding in findings:
            console.say(f"  {'yes' if finding.ok else 'no':3}  {finding.name:{width}}  {finding.detail}".rstrip())
