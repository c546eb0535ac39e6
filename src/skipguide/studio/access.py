"""Guard every request: the server's names, tokens, who may write, and how much."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from skipguide.studio.asgi import (
    MAX_BODY_BYTES,
    App,
    Message,
    Receive,
    Send,
    build_cookie,
    drop_bodies,
    read_body,
    replay_body,
    safety_headers,
    send_error,
    send_redirect,
    with_headers,
)
from skipguide.studio.limits import Limits
from skipguide.studio.responses import Refused

BODY_SECONDS = 20  # that a body may take to come
_LONG_TOKEN = 24  # letters; those that are made here have 24 and 32 hexadecimal digits
_RATER_DAYS = 30  # that a browser keeps the token of the blind test
_SAFE_METHODS = ("GET", "HEAD")
_WRITING_METHODS = ("POST", "DELETE")
_RATER_PATHS = re.compile(
    r"/vote|/api/study|/(static|study|api/study)/[^/]+"
)  # the paths of the blind test


@dataclass(frozen=True)
class Policy:
    """The rules that decide whom the server lets in.

    Args:
        token: that every request must bring, in a cookie, as `Authorization: Bearer`, or once as
            `?token=`. Requests of the blind test may bring `for_raters` instead.
        loopback: only addresses of this machine are names of the server.
        names: further names of the server, of a proxy for one.
        secret: what everything else is drawn from where there is no token. A server that is
            started anew with the same token or secret knows its visitors and tasks again.
        hosts: names under which other computers reach the server, the best one first.
        raters_only: the server has the blind test and nothing else; `token` opens nothing there.
    """

    token: str | None = None
    loopback: bool = True
    names: frozenset[str] = field(default_factory=frozenset)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    hosts: tuple[str, ...] = ()
    raters_only: bool = False

    def key(self, purpose: str) -> bytes:
        """Return 32 bytes for one purpose; they are derived from the token or the secret one
        way."""
        return derive_key(_stretch(self.token) if self.token else self.secret, purpose)

    @property
    def rater_token(self) -> str:
        """Return a token that opens the blind test only."""
        return self.key("raters").hex()[:32]

    @property
    def owner_mark(self) -> str | None:
        """Return what tells a browser that was here first from a rater's, where there is no
        token."""
        return None if self.token else self.key("owner").hex()[:32]

    def tokens(self, path: str) -> dict[str, str]:
        """Return the tokens that open a path, each with the kind of its cookie; both are kept
        apart."""
        opens_test = self.raters_only or bool(_RATER_PATHS.fullmatch(path))
        found = {
            "": None if self.raters_only else self.token,
            "-rater": self.rater_token if opens_test else None,
        }
        return {kind: token for kind, token in found.items() if token}


@functools.lru_cache(maxsize=8)
def _stretch(token: str) -> bytes:
    """Return a key that takes long to make: a rater, who knows what is drawn from it, cannot try
    words until one fits."""
    return hashlib.scrypt(token.encode(), salt=b"skipguide studio", n=1 << 14, r=8, p=1)


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return 32 bytes that are the same for the same secret and purpose, and tell neither."""
    return hmac.new(secret, purpose.encode(), hashlib.sha256).digest()


class Guard:
    """ASGI middleware that refuses what the policy forbids, bounds bodies and adds safety
    headers."""

    def __init__(self, app: App, policy: Policy, limits: Limits | None = None):
        self.app, self.policy, self.limits = app, policy, limits or Limits()
        self.headers = safety_headers()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no websockets
            return None
        send = self._add_headers(send)
        if scope["method"] == "HEAD":
            send = drop_bodies(send)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = find_refusal(scope["method"], headers, self.policy)
        if refusal is not None:
            return await send_error(send, *refusal, headers)
        try:
            self._check_limits(scope, headers)
            refusal = self._check_visitor(scope, headers)
        except Refused as refused:
            return await send_error(send, refused.status, refused.words, headers, refused.headers)
        if refusal is not None:
            return await send_error(send, *refusal, headers)
        if entrance := self._token_in_address(scope):
            kind, token = entrance
            location = "/vote" if scope["path"] == "/vote" or self.policy.raters_only else "/"
            # A phone forgets what is for a session only, and a rater goes on another day.
            days = _RATER_DAYS if kind and (self.policy.token or self.policy.raters_only) else 0
            keep = build_cookie(
                _cookie_name(headers, kind), token, days, scope["scheme"] == "https"
            )
            return await send_redirect(send, location, keep)
        if scope["method"] not in _WRITING_METHODS:
            return await self.app(scope, receive, self._mark_owner(scope["path"], headers, send))
        try:
            body = await asyncio.wait_for(read_body(receive, headers), BODY_SECONDS)
        except TimeoutError:
            late = f"a request must be sent within {BODY_SECONDS} s. Send it again."
            return await send_error(send, 408, late, headers, {"Connection": "close"})
        if body is None:
            refused = f"a request must have at most {MAX_BODY_BYTES} bytes. Send less."
            return await send_error(send, 413, refused, headers)
        return await self.app(scope, replay_body(body, receive), send)

    def _check_visitor(self, scope: Message, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if self._token_in_address(scope):
            return None
        if self.policy.token is None and not self.policy.raters_only:
            return self._check_rater(scope["path"], headers)
        tokens = self.policy.tokens(scope["path"])
        if _has_valid_token(headers, tokens):
            return None
        if _brings_token(scope, headers, tokens):
            self.limits.count_wrong_token(_client(scope))
        return (
            401,
            (
                "a token is needed. Open the address that `skipguide studio` printed, or the link"
                " to the test."
            ),
        )

    def _check_limits(self, scope: Message, headers: Mapping[str, str]) -> None:
        """Count a request to the blind test, and hold up who tries tokens.

        Raises:
            Refused: if there were too many.
        """
        if _RATER_PATHS.fullmatch(scope["path"]) or self.policy.raters_only:
            self.limits.check_request(_client(scope))
        if self.policy.token is None and not self.policy.raters_only:
            return
        if not self._brings_long_token(scope, headers):
            self.limits.check_guesses(_client(scope))

    def _brings_long_token(self, scope: Message, headers: Mapping[str, str]) -> bool:
        """Return whether a right token comes that nobody finds by trying.

        It is let in however many wrong ones came from its address, of which others may be behind
        the same one. A short word of the owner's is not: trying on would find it.
        """
        found = {
            kind: token
            for kind, token in self.policy.tokens(scope["path"]).items()
            if len(token) >= _LONG_TOKEN
        }
        entrance = self._token_in_address(scope)
        return _has_valid_token(headers, found) or (
            entrance is not None and len(entrance[1]) >= _LONG_TOKEN
        )

    def _check_rater(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Keep the names of settings from a browser that came by the link for raters.

        Where there is no token, everybody on this machine may see all of the studio; who has
        opened the link is to judge blind nevertheless.
        """
        mark = self.policy.owner_mark
        is_rater = _has_valid_token(headers, {"-rater": self.policy.rater_token})
        is_owner = mark is not None and _has_valid_token(headers, {"-owner": mark})
        if _RATER_PATHS.fullmatch(path) or not is_rater or is_owner:
            return None
        return (
            403,
            (
                "this browser has opened the link for raters, so the names of the settings are"
                " kept from it. Go back to the test, or open the studio in another browser or a"
                " private window."
            ),
        )

    def _mark_owner(self, path: str, headers: Mapping[str, str], send: Send) -> Send:
        """Let a browser that opens the studio keep it open after it has looked at the test."""
        mark = self.policy.owner_mark
        if mark is None or path != "/":
            return send
        return with_headers(
            send, [(b"set-cookie", build_cookie(_cookie_name(headers, "-owner"), mark))]
        )  # without a token there is this machine alone, and no TLS

    def _token_in_address(self, scope: Message) -> tuple[str, str] | None:
        """Return a right token in the address with its kind; the browser goes on without it
        there."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get("token", [""])[0]
        if scope["method"] not in _SAFE_METHODS:
            return None
        return next(
            (
                pair
                for pair in self.policy.tokens(scope["path"]).items()
                if _tokens_equal(given, pair[1])
            ),
            None,
        )

    def _add_headers(self, send: Send) -> Send:
        return with_headers(send, self.headers)


def find_refusal(method: str, headers: Mapping[str, str], policy: Policy) -> tuple[int, str] | None:
    """Return why a request is refused whoever sends it; None if it is not.

    Args:
        headers: with names in lower case.
    """
    host = headers.get("host", "")
    if not _is_own_host(host, policy):
        return (
            421,
            (
                f"the server must be called by its own name, but got {host[:80]!r}. Use the address"
                " that it printed."
            ),
        )
    if method not in _WRITING_METHODS:  # all others change nothing: the app refuses what it lacks
        return None
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != host
    ):
        return 403, "changes must come from the page itself."
    if (
        method == "POST"
        and headers.get("content-type", "").partition(";")[0].strip() != "application/json"
    ):
        return 415, "the body must be application/json."
    return None


def _is_own_host(host: str, policy: Policy) -> bool:
    """Return whether a host is this server.

    Another site can point its own name here (DNS rebinding), but not a number or localhost.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in policy.names:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not policy.loopback


def _has_valid_token(headers: Mapping[str, str], tokens: Mapping[str, str]) -> bool:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        cookies = SimpleCookie()
    brought = {kind: cookies.get(_cookie_name(headers, kind)) for kind in tokens}
    kept = {kind: cookie.value for kind, cookie in brought.items() if cookie is not None}
    return any(
        _tokens_equal(bearer, token) or _tokens_equal(kept.get(kind, ""), token)
        for kind, token in tokens.items()
    )


def _brings_token(scope: Message, headers: Mapping[str, str], tokens: Mapping[str, str]) -> bool:
    """Return whether a request brings what can be a guess; one without any is none."""
    names = [_cookie_name(headers, kind) for kind in tokens]
    return (
        b"token=" in scope["query_string"]
        or "authorization" in headers
        or any(f"{name}=" in headers.get("cookie", "") for name in names)
    )


def _client(scope: Message) -> str:
    return (scope.get("client") or ("",))[0]


def _tokens_equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookie_name(headers: Mapping[str, str], kind: str) -> str:
    """Name a cookie by port: cookies do not know ports, and two studios need one each."""
    return f"skipguide{kind}-{headers.get('host', '').rpartition(':')[2]}".replace("]", "")
