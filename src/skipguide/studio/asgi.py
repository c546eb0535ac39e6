"""Requests and answers as every server of the studio treats them, below its routes."""

from __future__ import annotations

import html
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from skipguide.studio import files

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 << 10  # bytes; the longest prompt is far below


def with_headers(send: Send, more: list[tuple[bytes, bytes]]) -> Send:
    """Add headers to an answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending


def drop_bodies(send: Send) -> Send:
    """Answer HEAD as GET, headers and all, without the content."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending


async def read_body(receive: Receive, headers: Mapping[str, str]) -> bytes | None:
    """Return the body of a request; None if it is too large, or the client has gone."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            return None
    return body


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever asks for it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return left.pop() if left else await receive()

    return receiving


async def send_error(
    send: Send,
    status: int,
    message: str,
    headers: Mapping[str, str],
    more: Mapping[str, str] | None = None,
) -> None:
    """Refuse in words: a page for a person who opens an address, JSON for a program."""
    if "text/html" in headers.get("accept", ""):
        said = html.escape(message[0].upper() + message[1:])
        kind, body = b"text/html; charset=utf-8", _ERROR_PAGE.format(said).encode()
    else:
        kind, body = b"application/json", json.dumps({"error": message}).encode()
    found = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    found += [(name.lower().encode(), value.encode()) for name, value in (more or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": found})
    await send({"type": "http.response.body", "body": body})


_ERROR_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport"'
    ' content="width=device-width"><meta name="color-scheme" content="light dark">'
    "<title>skipguide studio</title><h1>This cannot be opened</h1><p>{}</p></html>"
)


async def send_redirect(send: Send, location: str, cookie: bytes) -> None:
    """Send a browser elsewhere, with a cookie."""
    headers = [
        (b"location", location.encode()),
        (b"set-cookie", cookie),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def build_cookie(name: str, value: str, days: int = 0, is_secure: bool = False) -> bytes:
    """Return the value of Set-Cookie.

    Args:
        days: that it is kept; 0 is for as long as the browser is open.
        is_secure: it is for TLS alone.
    """
    # Lax: a link in a mail brings it along. What changes something is taken from the page itself
    # only, see find_refusal.
    age = f"; Max-Age={days * 86400}" if days else ""
    secure = "; Secure" if is_secure else ""
    return f"{name}={value}; HttpOnly; SameSite=Lax; Path=/{age}{secure}".encode()


def safety_headers() -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer has."""
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{files.import_map_hash()}'; style-src"
        " 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
    }
    return [(name.encode(), value.encode()) for name, value in headers.items()]
