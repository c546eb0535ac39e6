"""Limits of one address and one rater: token buckets; what is too much is refused with 429.

A bucket holds some requests that may come at once, and fills again with time. Whole classrooms come
from one address, so that those of addresses are large; those of raters need not be.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from skipguide.studio.responses import Refused

_MOST_KEYS = 4096  # that are remembered; the one that was seen least lately is forgotten


class Buckets:
    """Token buckets, one per key.

    Args:
        burst: requests that may come at once.
        per_second: that come again.
        now: the time in seconds.
    """

    def __init__(
        self, burst: float, per_second: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.burst, self.per_second, self._now = burst, per_second, now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, amount: float = 1.0) -> float:
        """Take a request out of a bucket; return 0, or the seconds to wait if it is empty.

        Args:
            amount: 0 looks without taking.
        """
        with self._lock:
            now = self._now()
            level, since = self._levels.get(key, (self.burst, now))
            level = min(self.burst, level + max(now - since, 0.0) * self.per_second)
            is_there = level >= max(amount, 1.0)
            self._levels[key] = (level - amount if is_there else level, now)
            self._levels.move_to_end(key)
            if len(self._levels) > _MOST_KEYS:
                self._levels.popitem(last=False)
            return 0.0 if is_there else (max(amount, 1.0) - level) / self.per_second


class Limits:
    """The limits of a studio.

    Args:
        now: the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._requests = Buckets(600, 50, now)  # of an address
        self._wrong_tokens = Buckets(40, 0.2, now)  # of an address
        self._newcomers = Buckets(60, 0.2, now)  # of an address: names, and codes to go on with
        self._of_rater = Buckets(60, 2, now)  # of a name: a task takes two

    def check_request(self, client: str) -> None:
        """Count a request of an address.

        Raises:
            Refused: if there were too many.
        """
        _refuse_if(self._requests.take(address_key(client)), "requests came from this address")

    def check_guesses(self, client: str) -> None:
        """Look whether an address may bring a token.

        Raises:
            Refused: if it has brought too many wrong ones.
        """
        wait = self._wrong_tokens.take(address_key(client), 0)
        _refuse_if(wait, "wrong links came from this address")

    def count_wrong_token(self, client: str) -> None:
        """Count a token that was wrong."""
        self._wrong_tokens.take(address_key(client))

    def check_newcomer(self, client: str) -> None:
        """Count somebody who takes a name, or tries one that is taken.

        Raises:
            Refused: if there were too many from this address.
        """
        _refuse_if(self._newcomers.take(address_key(client)), "names were taken at this address")

    def check_rater(self, rater: str) -> None:
        """Count a request of a rater.

        Raises:
            Refused: if there were too many.
        """
        _refuse_if(self._of_rater.take(rater), "requests came under this name")


def address_key(client: str) -> str:
    """Return what counts as one address: of IPv6 the network of 64 bits, of which everybody has all
    addresses."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _refuse_if(wait: float, what: str) -> None:
    if wait > 0:
        seconds = math.ceil(wait)
        raise Refused(
            429,
            f"too many {what}. Wait {seconds} s, then go on; nothing is lost.",
            {"Retry-After": str(seconds)},
        )
