"""``medfm-compress trust add``, ``trust list`` and ``trust remove``: whose signatures a device takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import TrustStoreOption
from medfm_compress.cli.command import command
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.trust.store import TrustStore

app = typer.Typer(help="Keep the keys whose signatures a device takes.", no_args_is_help=True)


@app.command()
@command()
def add(
    key: Annotated[Path, typer.Argument(help="The .pub file that bundle keygen wrote.", metavar="KEY")],
    trust_store: TrustStoreOption = None,
    name: Annotated[str, typer.Option(help="Another name for its owner.")] = "",
    role: Annotated[str, typer.Option(help="Another role: builder or approver.")] = "",
    expires: Annotated[str, typer.Option(help="Another day from which its signatures do not hold.")] = "",
) -> None:
    """Enter a public key. Check its key id with its owner by another way than the one the file came by."""
    from medfm_compress.runtime.trust.clock import check_time
    from medfm_compress.runtime.trust.keys import ROLES, PublicKey
    from medfm_compress.runtime.trust.store_changes import add_key, read_public_key

    if role and role not in ROLES:
        raise InputError(f"--role is {role!r}; choose {' or '.join(ROLES)}")
    folder, given = _folder(trust_store), read_public_key(key)
    wanted = PublicKey(
        name=name or given.name,
        role=role or given.role,
        public_key=given.public_key,
        expires=check_time(expires, "--expires") if expires else given.expires,
    )
    entered = add_key(folder, wanted)
    console.emit(
        lambda: {"trust_store": str(folder), "key_id": entered.key_id, "key": entered},
        lambda: console.say(
            f"entered {entered.role} {entered.name!r} until {entered.expires[:10]} into {folder}; compare its key id "
            f"with its owner: {entered.key_id}"
        ),
    )


@app.command("list")
@command()
def list_keys(trust_store: TrustStoreOption = None) -> None:
    """Show the keys of a trust store, and those that were revoked."""
    from medfm_compress.runtime.trust.store import TrustStore

    folder = _folder(trust_store)
    store = TrustStore.open_or_empty(folder)
    console.emit(
        lambda: {"trust_store": str(folder), "keys": store.keys, "revoked": store.revoked}, lambda: _print_store(store)
    )


@app.command()
@command()
def remove(
    key: Annotated[str, typer.Argument(help="Name, or the beginning of the key id.", metavar="KEY")],
    trust_store: TrustStoreOption = None,
    revoke: Annotated[
        str | None,
        typer.Option(help="Why it was revoked: its signatures never hold again, nor can it be entered again."),
    ] = None,
) -> None:
    """Take a key out of a trust store; bundles that only it signed are refused from then on."""
    from medfm_compress.runtime.trust.store_changes import remove_key

    folder = _folder(trust_store)
    removed = remove_key(folder, key, revoke=revoke)
    done = "removed" if revoke is None else "revoked"
    console.emit(
        lambda: {"trust_store": str(folder), done: removed},
        lambda: console.say(f"{done} {removed.name!r} ({removed.key_id[:16]}) in {folder}"),
    )


def _folder(given: Path | None) -> Path:
    from medfm_compress.runtime.trust.store import DEFAULT_STORE, store_path

    return store_path(given) or DEFAULT_STORE


def _print_store(store: TrustStore) -> None:
    from medfm_compress.runtime.trust.clock import clock_now, latest
    from medfm_compress.runtime.trust.keys import ROLES

    now = latest(clock=clock_now(), dates=store.dates)
    rows = [
        [key.name, key.role, identity[:16], key.expires[:10], "expired" if now > key.expires else "trusted"]
        for identity, key in sorted(store.keys.items(), key=lambda item: (item[1].role, item[1].name))
    ]
    rows += [
        [entry.name, "", identity[:16], entry.date[:10], f"revoked: {entry.reason}"]
        for identity, entry in store.revoked.items()
    ]
    console.table(["name", "role", "key", "until", "state"], rows, left=(0, 1, 2, 3, 4))
    for role in ROLES:
        if not any(key.role == role and now <= key.expires for key in store.keys.values()):
            what = "no bundle is trusted" if role == "builder" else "no verdict counts"
            console.say(f"note: there is no {role} whose key is current, so {what}; enter one with trust add")
