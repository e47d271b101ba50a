"""Who may ask what: the names that the page is called by, the origin of what changes something, sessions.

Host      must be one of the page's own names and its port: a foreign name that leads here is refused (DNS rebinding)
Origin    of every POST must be the page itself: no other site, and no other page of this machine, acts for a user
session   made against the token; its cookie is HttpOnly, SameSite=Strict, and named after this very page, since
browsers keep one jar for all ports of a machine
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

MAX_SESSIONS = 64
SESSION_S = 12 * 3600.0
_STANDARD = {"http": 80, "https": 443}
_PUBLIC = frozenset({"/api/login"})


class Objection(NamedTuple):
    """Why a request is not answered."""

    status: int
    sentence: str


class Access:
    """Of one page, from its start to its end."""

    def __init__(
        self, token: str, *, scheme: str, names: Collection[str], port: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nobody has a session yet.

        Args:
            token: that opens one.
            scheme: ``http`` or ``https``.
            names: that the page is called by, lower case; an IPv6 address in brackets.
            port: where it listens.
            clock: seconds.
        """
        self._token, self._scheme, self._clock = token.encode(), scheme, clock
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == _STANDARD[scheme] else set())
        self.cookie = f"medfm-{secrets.token_hex(6)}"
        self._sessions: OrderedDict[str, float] = OrderedDict()

    def objection(self, method: str, path: str, headers: Mapping[str, str]) -> Objection | None:
        """Why this request is refused, None: it is answered. ``headers`` by their names in lower case."""
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            return Objection(421, f"this page is not served under that name; ask at one of {', '.join(self._names())}")
        if method not in ("GET", "HEAD", "POST"):
            return Objection(405, "the page knows GET and POST alone")
        if method == "POST" and headers.get("origin", "").lower() != f"{self._scheme}://{host}":
            return Objection(403, "the request does not come from this page; open the page itself")
        if path.startswith("/api/") and path not in _PUBLIC and not self.has_session(headers.get("cookie", "")):
            return Objection(401, "there is no session; open the page with its token")
        return None

    def log_in(self, token: str) -> str | Objection:
        """The cookie of a new session, or why there is none."""
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return Objection(401, "that is not this page's token; take the one that was shown when it was started")
        session = secrets.token_urlsafe(24)
        self._sessions[session] = self._clock()
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        secure = "; Secure" if self._scheme == "https" else ""
        return f"{self.cookie}={session}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def log_out(self, cookies: str) -> str:
        """End the session that ``cookies`` (the header) names; the cookie that takes its place."""
        self._sessions.pop(self._session_of(cookies), None)
        return f"{self.cookie}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"

    def has_session(self, cookies: str) -> bool:
        """Whether ``cookies`` (the header) names a session that was used within `SESSION_S`."""
        session = self._session_of(cookies)
        used, now = self._sessions.get(session), self._clock()
        if used is None or now - used > SESSION_S:
            self._sessions.pop(session, None)
            return False
        self._sessions[session] = now
        self._sessions.move_to_end(session)
        return True

    def _session_of(self, cookies: str) -> str:
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel is not None else ""

    def _names(self) -> list[str]:
        return [f"{self._scheme}://{host}" for host in sorted(self.hosts)]
