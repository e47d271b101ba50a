"""``medfm-compress evidence pack`` and ``evidence verify``: a verdict that its recipient can derive again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.bench.evidence.pack import Packed
    from medfm_compress.bench.evidence.verify import Verified

SUFFIX = ".evidence"
app = typer.Typer(help="Pack the evidence behind a verdict, or derive it again from a pack.", no_args_is_help=True)


@app.command()
@command()
def pack(
    bundle: Bundle,
    report: Annotated[Path, typer.Option(help="report.json that the bundle's verdict cites.")],
    policy: Annotated[Path, typer.Option(help="The policy that it was judged by.")],
    key: Annotated[Path, typer.Option(help="Private key that signs the pack.")],
    out: Annotated[Path, typer.Option(help="The .evidence file to write.")],
    study: Annotated[
        Path | None, typer.Option(help="The study that was benched: its case keys are hashed, else row numbers.")
    ] = None,
    limits: Annotated[
        Path | None, typer.Option(help="Markdown of your own for the model card: training data, limits.")
    ] = None,
    baseline_bundle: Annotated[Path | None, typer.Option(help="The bundle before, for a change report.")] = None,
    baseline_report: Annotated[Path | None, typer.Option(help="Its report, on the same cases.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out names, if it is there.")] = False,
) -> None:
    """Write one signed file: report, policy, scores, verdict, environment, bill of materials, model card, change plan.

    No image, patient or case key goes in. The salt of the hashes is written beside it, for you alone: who has it and
    the study finds a case again.
    """
    from medfm_compress.bench.evidence.pack import PackRequest, pack_evidence
    from medfm_compress.cli.bundle import ask_passphrase
    from medfm_compress.runtime.trust.keys import read_private_key

    check_file_out(out, SUFFIX, overwrite)
    if bool(baseline_bundle) != bool(baseline_report):
        raise InputError("give --baseline-bundle and --baseline-report together, or neither")
    private = read_private_key(key, ask_passphrase(key))
    salt = out.with_name(out.name + ".salt")
    baseline = (baseline_bundle, baseline_report) if baseline_bundle and baseline_report else None
    request = PackRequest(bundle, report, policy, study, limits, baseline, _kept_salt(salt))
    packed = pack_evidence(request, out, private)
    try:
        _keep_salt(salt, packed.salt)
    except BaseException:
        out.unlink()  # without its salt no case in it is ever found again
        raise
    console.emit(
        lambda: {"pack": str(out), "salt": str(salt), "index": packed.index}, lambda: _print_packed(out, salt, packed)
    )


@app.command()
@command()
def verify(
    pack: Annotated[Path, typer.Argument(help="The .evidence file.", metavar="PACK")],
    trust_store: TrustStoreOption = None,
) -> None:
    """Derive every figure and the verdict of a pack again, from it alone: exit code 0, or 4 with what differs.

    With a trust store a key in it must have signed the pack. The exit code says nothing of the verdict itself.
    """
    from medfm_compress.bench.evidence.verify import verify_pack
    from medfm_compress.runtime.trust.store import find_store

    verified = verify_pack(pack, find_store(trust_store))
    document = {
        "pack": str(pack),
        "outcome": verified.verdict.outcome,
        "figures": verified.figures,
        "not_derived": verified.not_derived,
        "standing": verified.standing,
        "bundle_standing": verified.bundle,
        "index": verified.pack.index,
    }
    console.emit(lambda: document, lambda: _print_verified(verified))


def _kept_salt(path: Path) -> bytes:
    """The salt of an earlier pack of that name, so that its hashes stay the same; empty where there is none."""
    from medfm_compress.bench.evidence.case_table import SALT_BYTES
    from medfm_compress.runtime.regular_file import read_regular

    if not path.exists():
        return b""
    try:
        salt = bytes.fromhex(read_regular(path, 1000, "the salt").decode().strip())
    except (UnicodeDecodeError, ValueError):
        salt = b""
    if len(salt) != SALT_BYTES:
        raise InputError(f"{path} is no salt of {SALT_BYTES} bytes in hex; remove it, or name another pack")
    return salt


def _keep_salt(path: Path, salt: bytes) -> None:
    if path.exists():
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(salt.hex() + "\n")


def _print_packed(out: Path, salt: Path, packed: Packed) -> None:
    console.say(
        f"wrote {out}: the evidence for a verdict of {packed.index.outcome}; verify it: medfm-compress evidence verify "
        f"{out}"
    )
    console.say(f"wrote {salt}: keep it at home, and it finds the cases again")


def _print_verified(verified: Verified) -> None:
    index = verified.pack.index
    console.say(f"{index.bundle_name}, model {index.model_digest[:12]}, packed {index.created}")
    console.say(
        f"{verified.figures} figures follow from the scores and times in the pack; the verdict follows from them"
    )
    for taken in verified.not_derived:
        console.say(f"taken as it stands: {taken}")
    console.say(f"verdict: {verified.verdict.outcome}")
    if verified.standing is None:
        console.say(
            f"signatures: {len(verified.pack.signatures)}, not checked: no trust store was asked (--trust-store)"
        )
        return
    console.say("signed by: " + ", ".join(f"{entry.name} ({entry.role})" for entry in verified.signed_by))
    bundle = verified.bundle
    holding = [f"{s.name} ({s.role})" for s in bundle.signatures if s.state == "holds"] if bundle else []
    console.say(f"its bundle is signed by: {', '.join(holding) or 'no trusted key'}")
    if verified.unapproved:
        console.say(f"no device would count this verdict: {verified.unapproved}")
