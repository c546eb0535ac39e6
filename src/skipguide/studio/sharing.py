"""The way of raters from outside to the studio: addresses of this machine, and the link to it."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# Bridges and tunnels of containers, machines in machines and private networks: nobody outside of
# this machine is behind them, or few.
_INNER = re.compile(
    r"^(docker|br-|veth|virbr|vmnet|vboxnet|lxc|lxd|cni|flannel|podman|tun|tap|wg|utun)"
)
_ELSEWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}  # for documentation, RFC 5737 and 3849


@dataclass(frozen=True)
class Address:
    """An address of this machine, and the interface that has it."""

    address: str
    interface: str

    def __str__(self) -> str:
        return f"{self.address} ({self.interface})"


@dataclass(frozen=True)
class Place:
    """The address that the server for raters listens on, and its name.

    Args:
        name: in the link.
        listen: the address to listen on.
        told: what a person should know of the choice, in a sentence.
    """

    name: str
    listen: str
    told: str

    @property
    def leaves_machine(self) -> bool:
        """Return whether others can listen on the way."""
        parsed = _parse(self.listen)
        return parsed is None or not parsed.is_loopback


@dataclass(frozen=True)
class Sharing:
    """The link by which raters from outside reach the test, and its TLS.

    Args:
        link: with the token for raters.
        told: what a person should know of the place and the certificate, in sentences.
        tls: "given" or "self-signed" of the certificate, "none" without TLS.
        fingerprint: SHA-256 of the certificate.
        until: when the certificate ends, ISO 8601.
    """

    link: str
    told: str
    tls: str
    fingerprint: str | None = None
    until: str | None = None


def find_place(share: str) -> Place:
    """Return where raters reach this machine.

    Args:
        share: "lan", or an address or a name under which they do.

    Raises:
        ValueError: if this machine is in no network, or nothing has such a name.
    """
    if share.lower() == "lan":
        return _find_lan(own_addresses())
    given = _parse(share.strip("[]"))
    if given is not None:
        if given.is_unspecified:
            raise ValueError(
                f"--share must be one address, which the link has, but got {share}. Use --share lan"
                f" or one of {_all_own()}."
            )
        return _place_of(str(given), [str(given)])
    if not re.fullmatch(r"(?!-)[A-Za-z0-9._-]{1,253}", share):
        raise ValueError(
            f"--share must be lan, an address or a name of this machine, but got {share!r}. Correct"
            " it."
        )
    try:
        found = socket.getaddrinfo(share, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"--share must be lan, an address or a name that this machine is known by, but nothing"
            f" is found under {share!r}: {error}. Use one of {_all_own()}."
        ) from None
    return _place_of(share.lower(), [str(entry[4][0]) for entry in found])


def _find_lan(found: Sequence[Address]) -> Place:
    if not found:
        raise ValueError(
            "--share lan needs a network, but this machine has no address but its own. Connect it,"
            " or name an address."
        )
    first, *others = found
    told = f"Raters reach this machine at {first}."
    if others:
        more = "another one" if len(others) == 1 else "others"
        told += f" It has {more}, {_listed(others)}: --share ADDRESS takes one of these."
    return Place(first.address, first.address, told)


def _place_of(name: str, addresses: Sequence[str]) -> Place:
    """Return where to listen for a name; everywhere if its address is that of a router before."""
    own = {one.address: one for one in own_addresses()}
    for address in addresses:
        if address in own:
            return Place(name, address, f"Raters reach this machine at {own[address]}.")
        if (parsed := _parse(address)) and parsed.is_loopback:
            return Place(
                name, address, "Nobody else reaches it: the address is this machine's own."
            )
    # A machine of a cloud, or behind a router, does not know the address that others see.
    everywhere = "::" if _parse(addresses[0]) and ":" in addresses[0] else "0.0.0.0"
    return Place(
        name,
        everywhere,
        f"{addresses[0]} is no address of this machine, so it listens on all of them, and something"
        " before it, such as a router, must pass connections on.",
    )


def own_addresses() -> list[Address]:
    """Return the addresses under which others can reach this machine, the likeliest first.

    That is the one by which it reaches the rest of the world, then others of IPv4, then of IPv6;
    those of bridges to containers come last. Addresses of one link alone (fe80::) are no links for
    a browser.
    """
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = {}
    for interface, entries in psutil.net_if_addrs().items():
        for entry in entries:
            address = _parse(entry.address) if interface in up else None
            if address and not (address.is_loopback or address.is_link_local):
                found[str(address)] = Address(str(address), interface)
    best = list(_outgoing())

    def rank(one: Address) -> tuple[bool, bool, int, bool]:
        place = best.index(one.address) if one.address in best else len(best)
        return bool(_INNER.match(one.interface)), place == len(best), place, ":" in one.address

    return sorted(found.values(), key=rank)


def _outgoing() -> Iterator[str]:
    """Yield the addresses by which this machine reaches others; nothing is sent to find them."""
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((_ELSEWHERE[version], 9))
            yield str(asking.getsockname()[0])


def _parse(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _listed(found: Sequence[Address]) -> str:
    return ", ".join(map(str, found))


def _all_own() -> str:
    return _listed(own_addresses()) or "this machine"


def url_of(name: str, port: int, is_secure: bool) -> str:
    """Return the address of a server without a path."""
    host = f"[{name}]" if ":" in name else name
    return f"http{'s' if is_secure else ''}://{host}:{port}"
