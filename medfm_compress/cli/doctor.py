"""``medfm-compress doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.cli import console
from medfm_compress.cli.command import command

if TYPE_CHECKING:
    from medfm_compress.runtime.doctor import Diagnosis


@command()
def doctor() -> None:
    """Show what this machine can run: CPU, engines, DICOM decoders, toolchain, GPU, and what is missing."""
    from medfm_compress.runtime.doctor import examine

    diagnosis = examine()
    console.emit(lambda: diagnosis, lambda: _print_diagnosis(diagnosis))


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    for section in diagnosis.__struct_fields__:
        findings = getattr(diagnosis, section)
        width = max(len(finding.name) for finding in findings)
        console.say(section)
        for finding in findings:
            console.say(f"  {'yes' if finding.ok else 'no':3}  {finding.name:{width}}  {finding.detail}".rstrip())
