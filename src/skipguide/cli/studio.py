"""skipguide studio: show a run in the browser, and let people judge it, here or from outside."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from skipguide.cli import studio_share, studio_study
    from skipguide.studio.access import Policy

_OUTSIDE, _STUDY = "Raters from outside", "A study"


def studio(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, as skipguide sweep wrote it, or the .zip of skipguide"
            " report --zip.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8700,
    token: Annotated[
        str | None,
        typer.Option(
            help="What a visitor must know.",
            show_default="none for this machine alone, else one of the run's own",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that the server answers to, such as a proxy's; repeatable."
        ),
    ] = None,
    trials: Annotated[
        bool,
        typer.Option(
            "--trials/--no-trials", help="Let visitors make videos with the run's models."
        ),
    ] = True,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="lan|ADDRESS",
            help="Let raters on other machines in, to the blind test alone: in this machine's"
            " network, or at an address or name of it. Prints their link and a QR code.",
            show_default="nobody",
            rich_help_panel=_OUTSIDE,
        ),
    ] = None,
    share_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Where raters come to.",
            show_default="one above --port",
            rich_help_panel=_OUTSIDE,
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of a TLS certificate, with those that signed it below.",
            show_default="one that is made here, and kept for the run",
            rich_help_panel=_OUTSIDE,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of its key.", show_default="in --cert", rich_help_panel=_OUTSIDE
        ),
    ] = None,
    no_tls: Annotated[
        bool,
        typer.Option(
            "--no-tls",
            help="Plain http for raters: whoever is on the way can read and change all of it.",
            rich_help_panel=_OUTSIDE,
        ),
    ] = False,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Hold a study: each rater gets as many pairs, balanced over settings and sides.",
            show_default="no study, or the one that goes on",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    kind: Annotated[
        Literal["pair", "rating"] | None,
        typer.Option(
            help="Which of two is better, or five questions on one.",
            show_default="pair",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A setting that is compared; repeatable.",
            show_default="all",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    consent: Annotated[
        Path | None,
        typer.Option(
            help="A .md or .txt file with what raters must accept before the first task.",
            show_default="none",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    checks: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tasks more per rater whose answer is known: a video beside itself, or beside a"
            " damaged copy.",
            show_default="one per ten tasks, at least two",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    raters: Annotated[
        int,
        typer.Option(
            min=1, help="How many are expected, to say what they see.", rich_help_panel=_STUDY
        ),
    ] = 12,
    max_raters: Annotated[
        int, typer.Option(min=1, help="How many can take part.", rich_help_panel=_STUDY)
    ] = 200,
    no_study: Annotated[
        bool,
        typer.Option(
            "--no-study",
            help="End the study that goes on; its votes stay.",
            rich_help_panel=_STUDY,
        ),
    ] = False,
) -> None:
    """Show a run in the browser, and vote blind.

    Side by side in sync, maps and plots, a blind test, new videos. Loads nothing from the network.
    Ctrl-C stops it.
    """
    _check_installed()
    from skipguide.cli import studio_share, studio_study
    from skipguide.runs import Run, packed

    loopback = _is_loopback(host)
    if token is not None and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise ValueError(
            "--token must consist of letters, digits and . _ ~ -, which a URL keeps as they are,"
            f" but got {token!r}. Leave it out to get one."
        )
    wishes = studio_share.Wishes(share, share_port, cert, key, no_tls)
    if packed.is_packed(run):
        run, trials = _unpack(context, run, share), False
    Run.open(run).close()
    outside = studio_share.prepare(run, wishes, loopback)
    asked = studio_study.Wishes(
        tasks, kind, tuple(setting or ()), consent, checks, raters, max_raters, no_study
    )
    policy = _make_policy(run, host, token, name or [])
    _serve(run, policy, (host, port), trials, (wishes, outside), asked)


def _check_installed() -> None:
    """Check that the packages of the studio are there.

    Raises:
        ValueError: if one is missing.
    """
    try:
        import uvicorn  # noqa: F401

        from skipguide.studio import app  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the studio needs FastAPI and uvicorn, but {error}. Run pip install"
            " 'skipguide[studio]'."
        ) from None


def _make_policy(run: Path, host: str, token: str | None, more: list[str]) -> Policy:
    """Return who may do what; beyond this machine a token is needed, of the run's own if none is
    given.

    Args:
        more: names that the server answers to.
    """
    from skipguide.studio.access import Policy
    from skipguide.studio.secret import find_secret

    loopback = _is_loopback(host)
    secret, told = (b"", None) if token else find_secret(run)
    if told:
        typer.echo(told, err=True)
    if token is None and not loopback:
        token = secret.hex()[:24]
    allowed = frozenset(text.lower() for text in _allowed_hosts(host, loopback, more))
    return Policy(token, loopback, allowed, secret, _hosts_for_others(host, loopback))


def _serve(
    run: Path,
    policy: Policy,
    address: tuple[str, int],
    trials: bool,
    sharing: tuple[studio_share.Wishes, studio_share.Outside | None],
    asked: studio_study.Wishes,
) -> None:
    """Begin the study, print the addresses, and serve until Ctrl-C.

    Args:
        address: host and port of the studio itself.
        sharing: what is asked for raters from outside, and what was found for it.
    """
    import uvicorn

    from skipguide.cli import studio_share, studio_study
    from skipguide.studio import app
    from skipguide.studio.playground import Trials

    host, port = address
    wishes, outside = sharing
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(open_listener(host, port)))
        own_port = listener.getsockname()[1]
        at = min(own_port + 1, 65535) if wishes.port is None else wishes.port
        door = studio_share.listen(stack, outside, at) if outside else None
        tls = studio_share.tls_of_studio(wishes, host, policy.loopback)
        # Last of what can be refused: a start that fails leaves no study in the run.
        study = studio_study.begin(run, asked)
        typer.echo(f"{_display_address(host, own_port, bool(tls))}/{_query(policy.token)}")
        shared = None
        if outside is not None and door is not None:
            shared = studio_share.start(stack, run, outside, door, policy, study)
        made = app.create_app(run, policy, Trials.local(run) if trials else None, sharing=shared)
        server = uvicorn.Server(
            uvicorn.Config(made, log_level="warning", server_header=False, **tls)
        )
        typer.echo("Ctrl-C ends it.", err=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it after it has shut down
            server.run(sockets=[listener])


def _unpack(context: typer.Context, path: Path, share: str | None) -> Path:
    """Return the folder of a packed run, which is there until the command ends.

    Raises:
        ValueError: for raters from outside, whose votes would be gone with it.
    """
    from skipguide.runs import packed

    if share is not None:
        raise ValueError(
            f"--share must have a run that keeps its votes, but {path} is shown from a copy that"
            " is gone afterwards. Unpack it, and name the folder in it."
        )
    typer.echo(
        f"{path} is shown from a copy: votes, tags and notes that are given here are gone"
        " afterwards. Unpack it and open the folder in it to keep them.",
        err=True,
    )
    return context.with_resource(packed.opened(path))


def _query(token: str | None) -> str:
    return f"?token={token}" if token else ""


def _hosts_for_others(host: str, loopback: bool) -> tuple[str, ...]:
    """Return the names under which other computers reach the server, the best one first."""
    if loopback:
        return ()
    if host not in ("0.0.0.0", "::"):
        return (host,)
    return tuple(dict.fromkeys((_network_address(), socket.gethostname())))


def _network_address() -> str:
    """Return the address of this machine in its network, or its name where it is in none."""
    from skipguide.studio.sharing import own_addresses

    return next((one.address for one in own_addresses()), socket.gethostname())


def _allowed_hosts(host: str, loopback: bool, more: list[str]) -> list[str]:
    return more if loopback else [host, socket.gethostname(), *more]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_listener(host: str, port: int, flags: str = "--host and --port") -> socket.socket:
    """Return a socket that listens on an address.

    Args:
        flags: the options that say which.

    Raises:
        ValueError: if it is not free, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"{flags} must be a free address of this machine, but got {host} and {port}:"
            f" {error.strerror}. Choose another port, or 0."
        ) from None
    return listener


def _display_address(host: str, port: int, is_secure: bool) -> str:
    """Return the address to open.

    A host that stands for all addresses is shown as this machine's own.
    """
    from skipguide.studio.sharing import url_of

    return url_of("127.0.0.1" if host in ("0.0.0.0", "::") else host, port, is_secure)
