"""``medfm-compress bundle keygen``, ``bundle sign`` and ``bundle verify``: who answers for a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.runtime.errors import EXIT_REFUSED, InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.runtime.bundle.manifest import Variant
    from medfm_compress.runtime.trust.keys import PublicKey, Role
    from medfm_compress.runtime.trust.signature import Cited

app = typer.Typer(help="Make keys, sign bundles, and ask who signed one.", no_args_is_help=True)
YEARS = 2


@app.command()
@command()
def keygen(
    name: Annotated[str, typer.Option(help="Whose key it is, as people will read it.")],
    role: Annotated[str, typer.Option(help="builder (signs models) or approver (signs verdicts).")],
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Path of the key: OUT.key is kept secret, OUT.pub is given away.")
    ],
    expires: Annotated[
        str, typer.Option(help="Day from which its signatures do not hold (default: in two years).")
    ] = "",
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase that encrypts it.")] = False,
) -> None:
    """Make an Ed25519 key pair. Keep OUT.key off the machines that build and run."""
    from medfm_compress.runtime.atomic_write import write_atomically
    from medfm_compress.runtime.strict_json import encode
    from medfm_compress.runtime.trust.clock import check_time, clock_now, years_later
    from medfm_compress.runtime.trust.keys import ROLES, PublicKey, make_private_key, public_bytes

    path = _key_path(out)
    if role not in ROLES:
        raise InputError(f"--role is {role!r}; choose {' or '.join(ROLES)}")
    now = clock_now()
    until = check_time(expires, "--expires") if expires else years_later(now, YEARS)
    if until <= now:
        raise InputError(f"--expires is {expires}, which is past; give a later day")
    secret, public = path.with_name(path.name + ".key"), path.with_name(path.name + ".pub")
    if public.exists():
        raise InputError(f"{public} exists, and a key is never overwritten; name another file")
    placeholder = PublicKey(name=name, role=role, public_key="0" * 64, expires=until)
    private = make_private_key(secret, _new_passphrase() if passphrase else "")
    key = PublicKey(name=placeholder.name, role=placeholder.role, public_key=public_bytes(private).hex(), expires=until)
    write_atomically(public, encode(key))
    console.emit(
        lambda: {"key": str(secret), "public": str(public), "key_id": key.key_id, "expires": until},
        lambda: _print_key(key, secret, public),
    )


@app.command()
@command()
def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option(help="Private key that bundle keygen made.")],
    report: Annotated[
        list[Path] | None, typer.Option(help="As an approver: report.json whose verdict is approved; may be repeated.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="As an approver: the policy of the verdict.")] = None,
    release: Annotated[
        int | None, typer.Option(help="With the first signature: a number that counts up, for devices to refuse older.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The .medfm file to write (default: BUNDLE itself).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out names, if it is there.")] = False,
) -> None:
    """Sign a bundle. A builder signs it as it is; an approver gives the report and the policy, which are judged again.

    Sign last: whatever changes the manifest afterwards (gate --bundle among it) drops all signatures.
    """
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.runtime.bundle.bundle import utc_date
    from medfm_compress.runtime.bundle.sign import add_signature, set_release
    from medfm_compress.runtime.trust.keys import public_bytes, read_private_key
    from medfm_compress.runtime.trust.signature import Statement
    from medfm_compress.runtime.trust.signature import sign as make_signature

    if out:
        check_file_out(out, ".medfm", overwrite)
    if bool(report) != bool(policy):
        raise InputError("give --report and --policy together, as an approver, or neither, as a builder")
    private = read_private_key(key, ask_passphrase(key))
    role: Role = "approver" if report else "builder"
    known = _public_half(key, public_bytes(private).hex())
    if known and known.role != role:
        raise InputError(_wrong_role(known))
    opened = OpenedBundle.open(bundle)
    cited = _judged_again(opened, report, policy) if report and policy else ()
    target = out or bundle
    if release is not None:
        set_release(opened, target, release)
        opened = OpenedBundle.open(target)
    member, content = make_signature(
        private, "bundle", Statement(signed_sha256=_sha256(opened.signed.manifest), signed_at=utc_date(), cited=cited)
    )
    replaced = add_signature(opened, target, member, content)
    document = {"bundle": str(target), "member": member, "replaced": replaced, "approved": cited, "as": role}
    needed = "" if known else role
    console.emit(lambda: document, lambda: _print_signed(opened, target, cited, replaced, needed))


@app.command()
@command()
def verify(
    bundle: Bundle,
    trust_store: TrustStoreOption = None,
    model_only: Annotated[
        bool, typer.Option("--model-only", help="Ask for a builder's signature alone: there is no verdict yet.")
    ] = False,
) -> None:
    """Whether a device with this trust store takes the bundle: exit code 0 where it does, 4 where it does not.

    Every member is hashed; what can run on this machine is not asked.
    """
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.runtime.trust.store import DEFAULT_STORE, VARIABLE, find_store

    store = find_store(trust_store)
    if store is None:
        raise InputError(
            f"there is no trust store: give --trust-store, set {VARIABLE}, or make {DEFAULT_STORE} with "
            "'medfm-compress trust add'"
        )
    opened = OpenedBundle.open(bundle, trust=store)
    variants = {variant.name: _why_not(opened, variant) for variant in opened.manifest.variants}
    document = {"bundle": str(bundle), "release": opened.manifest.release_number, "standing": opened.standing}
    console.emit(lambda: {**document, "variants": variants}, lambda: _print_standing(opened, variants))
    if not model_only and all(variants.values()):
        raise typer.Exit(EXIT_REFUSED)


def _why_not(opened: OpenedBundle, variant: Variant) -> str:
    from medfm_compress.runtime.variant_selection import UNVERIFIED, verdict_incompatibility

    return verdict_incompatibility(opened, variant).replace(UNVERIFIED, "--unverified")


def _judged_again(opened: OpenedBundle, reports: list[Path], policy: Path) -> tuple[Cited, ...]:
    """What an approver may cite: reports whose verdict follows again, and is the one in the bundle."""
    from medfm_compress.bench.gate.approval import approve
    from medfm_compress.bench.gate.policy_file import load_policy

    rules = load_policy(policy)
    return tuple(approve(opened, path, rules) for path in reports)


def _key_path(out: str) -> Path:
    """The path that a pair of keys is named by; raises InputError where it names a folder."""
    from medfm_compress.cli.outputs import check_place

    path = Path(out)
    check_place(path)
    if out.replace(os.sep, "/").rpartition("/")[2] in ("", ".", "..") or path.is_dir():
        raise InputError(f"--out {out} is a folder; give the path of the key in it, e.g. {path / 'build'}")
    return path


def _public_half(key: Path, public_key: str) -> PublicKey | None:
    """What the .pub file beside ``key`` says of it; None where there is none, or one of another key."""
    from medfm_compress.runtime.trust.store_changes import read_public_key

    try:
        known = read_public_key(key.with_suffix(".pub"))
    except (InputError, ValueError):
        return None
    return known if known.public_key == public_key else None


def _wrong_role(known: PublicKey) -> str:
    if known.role == "approver":
        return f"the key of {known.name!r} is an approver's, who signs verdicts; give --report and --policy with it"
    return f"the key of {known.name!r} is a builder's, who signs models; approve with the key of an approver"


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _new_passphrase() -> str:
    text: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return text


def ask_passphrase(key: Path) -> str:
    """The passphrase of the private key at ``key``, empty where it needs none; raises like `read_private_key`."""
    from medfm_compress.runtime.trust.keys import is_encrypted

    if not is_encrypted(key):
        return ""
    text: str = typer.prompt("passphrase of the key", hide_input=True, err=True)
    return text


def _print_key(key: PublicKey, secret: Path, public: Path) -> None:
    console.say(f"wrote {secret}: the secret half, readable by you alone; keep it off the machines that build and run")
    console.say(f"wrote {public}: {key.role} {key.name!r}, key {key.key_id[:16]}, until {key.expires[:10]}")
    console.say(f"enter it on a device: medfm-compress trust add {public}")


def _print_signed(opened: OpenedBundle, target: Path, cited: tuple[Cited, ...], replaced: bool, needed: str) -> None:
    what = f"the verdict on {len(cited)} report(s)" if cited else "the model"
    release = opened.manifest.release_number
    numbered = f", release {release}" if release else ""
    console.say(f"signed {what} of {target}{numbered}{'; the earlier signature of this key is replaced' * replaced}")
    if needed:  # no .pub file said so
        console.say(f"note: it counts on devices whose trust store has this key as {needed}, and on no other")


def _print_standing(opened: OpenedBundle, variants: dict[str, str]) -> None:
    standing = opened.standing
    if standing is None:  # asked with a store
        return
    rows: list[list[Any]] = [
        [entry.name or "?", entry.role or "", entry.key_id[:16], entry.signed_at[:10], entry.state]
        for entry in standing.signatures
    ]
    console.table(["signed by", "role", "key", "on", "state"], rows, left=(0, 1, 2, 3, 4))
    if standing.clock_is_behind:
        console.say(f"note: the clock of this machine is wrong; it is at least {standing.time[:10]}")
    console.say()
    for name, reason in variants.items():
        console.say(f"{name}: {reason or 'its passing verdict counts'}")
