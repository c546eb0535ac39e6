"""skipguide studio: show a run in the browser, and let people judge it."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from pathlib import Path
from typing import Annotated

import typer


def studio(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run, as skipguide sweep wrote it."),
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
) -> None:
    """Show a run in the browser, and vote blind.

    Side by side in sync, maps and plots, a blind test, new videos. Loads nothing from the network.
    Ctrl-C stops it.
    """
    try:
        import uvicorn

        from skipguide.studio import app
    except ImportError as error:
        raise ValueError(
            f"the studio needs FastAPI and uvicorn, but {error}. Run pip install"
            " 'skipguide[studio]'."
        ) from None
    from skipguide.studio.access import Policy
    from skipguide.studio.playground import Trials
    from skipguide.studio.secret import find_secret

    loopback = _is_loopback(host)
    if token is not None and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise ValueError(
            "--token must consist of letters, digits and . _ ~ -, which a URL keeps as they are,"
            f" but got {token!r}. Leave it out to get one."
        )
    secret, told = (b"", None) if token else find_secret(run)
    if told:
        typer.echo(told, err=True)
    if token is None and not loopback:
        token = secret.hex()[:24]
    policy = Policy(
        token,
        loopback,
        frozenset(text.lower() for text in _allowed_hosts(host, loopback, name or [])),
        secret,
        _hosts_for_others(host, loopback),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app.create_app(run, policy, Trials.local(run) if trials else None),
            log_level="warning",
            server_header=False,
        )
    )
    with contextlib.closing(_open_listener(host, port)) as listener:
        address = _display_address(host, listener.getsockname()[1])
        typer.echo(f"{address}/{f'?token={token}' if token else ''}")
        typer.echo("Ctrl-C ends it.", err=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it after it has shut down
            server.run(sockets=[listener])


def _hosts_for_others(host: str, loopback: bool) -> tuple[str, ...]:
    """Return the names under which other computers reach the server, the best one first."""
    if loopback:
        return ()
    if host not in ("0.0.0.0", "::"):
        return (host,)
    return tuple(dict.fromkeys((_network_address(), socket.gethostname())))


def _network_address() -> str:
    """Return the address of this machine in its network; nothing is sent to find it."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # an address for documentation, RFC 5737
            return str(asking.getsockname()[0])
        except OSError:  # no network
            return socket.gethostname()


def _allowed_hosts(host: str, loopback: bool, more: list[str]) -> list[str]:
    return more if loopback else [host, socket.gethostname(), *more]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _open_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"--host and --port must be a free address of this machine, but got {host} and {port}:"
            f" {error.strerror}. Choose another port, or 0."
        ) from None
    return listener


def _display_address(host: str, port: int) -> str:
    """Return the address to open.

    A host that stands for all addresses is shown as this machine's own.
    """
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
