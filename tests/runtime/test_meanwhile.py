"""A call in a thread of its own: what it gives, what it raises, and that it keeps nothing."""

from __future__ import annotations

import threading
import weakref

import pytest

from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.meanwhile import Meanwhile


class Content:
    """Something that a weak reference can point to."""


def test_it_runs_while_its_caller_goes_on():
    may_end = threading.Event()
    call = Meanwhile(lambda: may_end.wait(20) and threading.current_thread())
    may_end.set()
    assert call.result() is not threading.current_thread()


def test_what_it_raises_is_raised_where_it_is_waited_for():
    def refuse():
        raise BundleRefused("altered")

    with pytest.raises(BundleRefused, match="altered"):
        Meanwhile(refuse).result()


def test_the_result_is_handed_over_and_not_kept():
    call = Meanwhile(Content)
    result = call.result()
    left = weakref.ref(result)
    del result
    assert left() is None


def test_where_no_thread_is_to_be_had_it_is_called_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert Meanwhile(lambda: 3).result() == 3
