"""What becomes of a `DeviceState`: pure functions, one a change.

    install ─▶ candidate ─activate─▶ active, on trial ─N predictions─▶ active, committed
                                           │
                                           └─N refusals, or three starts without any outcome─▶ previous is active again

Whatever is active was accepted: it passed the self-test on this device. What is committed also passed its trial, and
raises the release below which nothing else is let in.
"""

from __future__ import annotations

import time

from msgspec.structs import replace

from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.device.state import MAX_ACCEPTED, MAX_EVENTS, DeviceState, Event, Installed, Trial
from medfm_compress.runtime.errors import BundleRefused, InputError

MAX_STARTS = 3
"""Engines that may be opened on trial without a word of what became of them: a bundle may end the process."""


def check_release(state: DeviceState, bundle: Installed) -> None:
    """Only what is newer than everything committed here, or was committed here itself, may come in.

    Raises:
        BundleRefused: it is neither.
    """
    if bundle.manifest_sha256 in state.accepted or not state.accepted:
        return
    if bundle.release <= state.minimum_release:
        raise BundleRefused(
            f"{bundle} is no newer than release {state.minimum_release}, which was committed here, and was never "
            "committed here itself; give the bundle a higher release"
        )


def install(state: DeviceState, bundle: Installed) -> DeviceState:
    """``bundle`` waits for its activation, in place of any other that waited."""
    check_release(state, bundle)
    return _changed(replace(state, candidate=bundle), "installed", bundle)


def activate(state: DeviceState, options: DeviceOptions) -> DeviceState:
    """The candidate becomes the active bundle: on trial, or committed at once where it was accepted before.

    The one before becomes the previous; one on trial does so only where there is no other.
    """
    bundle = _candidate(state)
    check_release(state, bundle)
    earlier = (state.active if state.trial is None else None, state.previous, state.active)
    previous = next((known for known in earlier if known and known.sha256 != bundle.sha256), None)
    switched = replace(
        state,
        active=bundle,
        previous=previous,
        candidate=None,
        backend=options.backend,
        threads=options.threads,
        trial=Trial(length=options.trial),
    )
    changed = _changed(switched, "activated", bundle)
    return commit(changed) if bundle.manifest_sha256 in state.accepted or not options.trial else changed


def drop_candidate(state: DeviceState, reason: str) -> DeviceState:
    """The candidate failed its self-test and is forgotten."""
    return _changed(replace(state, candidate=None), "self-test-failed", _candidate(state), reason)


def commit(state: DeviceState) -> DeviceState:
    """The active bundle passed its trial; a previous one that never did is no way back any more."""
    bundle = state.active
    if bundle is None:
        raise InputError("no bundle is active")
    others = tuple(known for known in state.accepted if known != bundle.manifest_sha256)
    accepted = (*others, bundle.manifest_sha256)[-MAX_ACCEPTED:]
    previous = state.previous if state.previous and state.previous.manifest_sha256 in accepted else None
    changed = replace(
        state,
        previous=previous,
        trial=None,
        minimum_release=max(state.minimum_release, bundle.release),
        accepted=accepted,
    )
    return _event(changed, "committed", bundle)


def roll_back(state: DeviceState, reason: str, *, keep: bool = False) -> DeviceState:
    """The previous bundle is active again; ``keep`` keeps the one that was left, if it was committed, as the previous.

    Raises:
        InputError: there is none.
    """
    bundle, left = state.previous, state.active
    if bundle is None:
        raise InputError("there is no earlier bundle to go back to; install another one")
    kept = left if keep and state.trial is None else None
    trial = (
        None if bundle.manifest_sha256 in state.accepted or state.trial is None else Trial(length=state.trial.length)
    )
    changed = replace(state, active=bundle, previous=kept, trial=trial)
    return _changed(changed, "rolled-back", left or bundle, reason)


def count_start(state: DeviceState) -> DeviceState:
    """An engine is about to be opened on trial; one start too many without any outcome brings the previous back."""
    trial = state.trial
    if trial is None:
        return state
    if trial.starts >= MAX_STARTS and state.previous is not None:
        return roll_back(state, f"{trial.starts} starts of it came to nothing")
    return replace(state, number=state.number + 1, trial=replace(trial, starts=trial.starts + 1))


def take_back_start(state: DeviceState) -> DeviceState:
    """The last start that was counted says nothing of the bundle."""
    if state.trial is None or not state.trial.starts:
        return state
    return replace(state, number=state.number + 1, trial=replace(state.trial, starts=state.trial.starts - 1))


def count_outcome(state: DeviceState, refused: bool) -> DeviceState:
    """A prediction on trial was made, or refused."""
    trial = state.trial
    if trial is None:
        return state
    counted = replace(trial, predicted=trial.predicted + (not refused), refused=trial.refused + refused, starts=0)
    if counted.refused >= trial.length and state.previous is not None:
        total = counted.refused + counted.predicted
        return roll_back(state, f"{counted.refused} of its first {total} images were refused")
    if counted.refused >= trial.length:  # nothing to go back to: the trial begins anew
        counted = Trial(length=trial.length)
    changed = replace(state, number=state.number + 1, trial=counted)
    return commit(changed) if counted.predicted >= trial.length else changed


def _candidate(state: DeviceState) -> Installed:
    if state.candidate is None:
        raise InputError("no bundle waits to be activated; install one first")
    return state.candidate


def _changed(state: DeviceState, what: str, bundle: Installed, reason: str = "") -> DeviceState:
    return _event(replace(state, number=state.number + 1), what, bundle, reason)


def _event(state: DeviceState, what: str, bundle: Installed, reason: str = "") -> DeviceState:
    event = Event(
        number=state.number,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        what=what,
        bundle=bundle.sha256,
        release=bundle.release,
        reason=reason,
    )
    return replace(state, events=(*state.events, event)[-MAX_EVENTS:])
