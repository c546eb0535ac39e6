"""`skipguide studio --share`: raters on other machines, with TLS, a link and a QR code."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from skipguide.runs.study import Study
    from skipguide.studio.access import Policy
    from skipguide.studio.certificate import Certificate
    from skipguide.studio.sharing import Place, Sharing

_OPEN = (
    "Without TLS whoever is on the way, in the same Wi-Fi for one, can read the link and the"
    " answers, and change the videos and the votes."
)


@dataclass(frozen=True)
class Wishes:
    """The options of raters from outside, see `studio`."""

    share: str | None
    port: int | None
    cert: Path | None
    key: Path | None
    no_tls: bool


@dataclass(frozen=True)
class Outside:
    """The address that raters come to, and its certificate; None for plain http."""

    place: Place
    certificate: Certificate | None


def prepare(run: Path, wishes: Wishes, loopback: bool) -> Outside | None:
    """Find the place and the certificate for raters, before anything starts; None without --share.

    Args:
        loopback: the studio itself is for this machine alone.

    Raises:
        ValueError: if options do not fit each other, there is no such address, or TLS cannot be
            had.
    """
    from skipguide.studio import sharing

    _check(wishes, loopback)
    if wishes.share is None:
        return None
    place = sharing.find_place(wishes.share)
    return Outside(place, _find_certificate(run, wishes, place))


def _check(wishes: Wishes, loopback: bool) -> None:
    if wishes.key is not None and wishes.cert is None:
        raise ValueError("--key must come with --cert, but came alone. Add --cert FILE.")
    if wishes.no_tls and wishes.cert is not None:
        raise ValueError("--no-tls must come without --cert, but both came. Leave one out.")
    if wishes.share is None:
        given = {"--share-port": wishes.port, "--no-tls": wishes.no_tls or None}
        if loopback:
            given["--cert"] = wishes.cert
        if alone := [flag for flag, value in given.items() if value is not None]:
            raise ValueError(
                f"{alone[0]} must come with --share, but came without it. Add --share lan, or leave"
                " it out."
            )


def tls_of_studio(wishes: Wishes, host: str, loopback: bool) -> dict[str, Any]:
    """Return uvicorn's options for TLS of the studio itself; on this machine there is none."""
    if loopback:
        return {}
    if wishes.cert is None:
        typer.echo(
            f"The studio itself is open on {host} without TLS. {_OPEN} Pass --cert and --key, put a"
            " proxy with TLS before it, or use --share for raters.",
            err=True,
        )
        return {}
    from skipguide.studio import certificate

    found = certificate.load_given(wishes.cert, wishes.key or wishes.cert, host)
    return {"ssl_certfile": str(found.file), "ssl_keyfile": str(found.key)}


def listen(stack: contextlib.ExitStack, outside: Outside, port: int) -> socket.socket:
    """Return the socket to which raters come, before anything is written or printed.

    Args:
        stack: closes it.

    Raises:
        ValueError: if the port is taken.
    """
    from skipguide.cli.studio import open_listener

    found = open_listener(outside.place.listen, port, "--share and --share-port")
    return stack.enter_context(contextlib.closing(found))


def start(
    stack: contextlib.ExitStack,
    run: Path,
    outside: Outside,
    listener: socket.socket,
    policy: Policy,
    study: Study | None,
) -> Sharing:
    """Start the server for raters beside the studio's own, and print their link.

    Args:
        stack: ends the server.
        listener: as `listen` returns it.
        policy: of the studio, whose tokens and secret hold here as well.
    """
    from skipguide.studio import app, connections, sharing

    place, found = outside.place, outside.certificate
    names = {name.lower() for name in (place.name, *_further_names(place))}
    for_raters = replace(
        policy, loopback=True, names=policy.names | names, hosts=(), raters_only=True
    )
    made = app.create_rater_app(run, for_raters)
    files = (str(found.file), str(found.key)) if found else None
    stack.enter_context(connections.SharedServer(made, listener, files))
    base = sharing.url_of(place.name, listener.getsockname()[1], found is not None)
    link = f"{base}/vote?token={for_raters.rater_token}"
    shared = _describe(link, place, found)
    _print(shared, link if study else link + _whole_test(run), found)
    return shared


def _find_certificate(run: Path, wishes: Wishes, place: Place) -> Certificate | None:
    """Return the certificate of the server for raters; None for plain http."""
    from skipguide.studio import certificate

    if wishes.no_tls or (wishes.cert is None and not place.leaves_machine):
        return None
    if wishes.cert is not None:
        return certificate.load_given(wishes.cert, wishes.key or wishes.cert, place.name)
    try:
        return certificate.load_own(run, list(dict.fromkeys([place.name, *_further_names(place)])))
    except OSError as error:
        raise ValueError(
            f"a certificate must be kept for the run, but cannot: {error}. Pass --cert and --key of"
            " your own."
        ) from None


def _further_names(place: Place) -> list[str]:
    """Return what else the server is called by: what it listens on, if that is one address."""
    return [] if place.listen in ("0.0.0.0", "::") else [place.listen]


def _describe(link: str, place: Place, found: Certificate | None) -> Sharing:
    from skipguide.studio.sharing import Sharing

    if found is None:
        told = f" {_OPEN}" if place.leaves_machine else ""
        return Sharing(link, place.told + told, "none")
    tls = "self-signed" if found.is_own else "given"
    told = f"{place.told} {found.told}".strip()
    return Sharing(link, told, tls, found.fingerprint, found.until.isoformat(timespec="seconds"))


def _whole_test(run: Path) -> str:
    """Return the part of a link that says which test: pairs of all settings."""
    from skipguide.runs import Run

    with Run.open(run) as found:
        ids = ",".join(str(setting.id) for setting in found.settings())
    return f"#kind=pair&settings={ids}"


def _print(shared: Sharing, link: str, found: Certificate | None) -> None:
    """Print the link on stdout, and for people the QR code and what is to be known on stderr."""
    from skipguide.studio import qr

    typer.echo(link)
    typer.echo(shared.told, err=True)
    if found is not None:
        whose = "self-signed" if found.is_own else "given"
        typer.echo(
            f"TLS certificate: {whose}, valid until {found.until:%Y-%m-%d}, SHA-256 fingerprint\n"
            f"  {found.fingerprint}",
            err=True,
        )
    if found is not None and found.is_own:
        typer.echo(
            "Browsers warn of it once, because nobody else has signed it: raters look at its"
            " details, compare the fingerprint, and go on.",
            err=True,
        )
    if not _can_draw():
        typer.echo("The QR code of the link is on the studio's page, under Votes.", err=True)
        return
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    typer.echo(f"\n{qr.to_terminal(link, colours)}\n", err=True, color=True)


def _can_draw() -> bool:
    """Return whether the terminal's encoding has the blocks of which a QR code is drawn."""
    try:
        "▀▄█".encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
