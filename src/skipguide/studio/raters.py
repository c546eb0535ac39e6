"""The raters of a blind test: one name for one rater, also where two have the same one in mind.

A browser makes up a key the first time, and takes a name with it. Another browser that wants the
name is asked whether it is the same person: then it takes part in the name, else it gets another.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from skipguide.method.protocols import PlainData
from skipguide.runs import Run

LONGEST = 40  # letters of a name
# Persian and many scripts of India are not written without them, nor are families of emoji.
_JOINERS = "\u200c\u200d"
Claim = Literal["new", "known", "taken", "full", "wrong code"]


def check_name(name: str) -> str:
    """Return the name of a rater as it is kept: without spaces around it.

    Raises:
        ValueError: if it is empty, too long, has a character that cannot be seen, or a table
            program would take it for a formula.
    """
    name = " ".join(name.split()).strip(f" {_JOINERS}")
    hidden = next((each for each in name if not (each.isprintable() or each in _JOINERS)), None)
    if hidden is not None:
        raise ValueError(
            "a name must not have control characters, marks that turn the direction of text, or"
            f" others that cannot be seen, but got {_describe_hidden(hidden)}. Leave it out."
        )
    if not 0 < len(name) <= LONGEST:
        got = f"{len(name)}: {name[:60]!r}" if name else "none"
        raise ValueError(f"a name must have 1 to {LONGEST} letters, but got {got}. Choose another.")
    if name[0] in "=+-@":
        raise ValueError(
            f"a name must not begin with one of = + - @, but got {name!r}. Choose another."
        )
    return name


def _describe_hidden(letter: str) -> str:
    return " ".join((f"U+{ord(letter):04X}", unicodedata.name(letter, ""))).strip()


@dataclass(frozen=True)
class Newcomer:
    """A browser that wants to vote under a name.

    Args:
        key: what the browser is known by.
        is_same: the person says that a name that is taken is their own.
        may_claim: what they say is believed; else they need the code of the name.
    """

    name: str
    key: str
    is_same: bool = False
    may_claim: bool = True


def begin(run: Run, who: Newcomer, most: int | None = None) -> PlainData:
    """Take a name for a browser.

    Args:
        run: open for writing.
        most: how many raters the run takes.

    Returns:
        {"status", "rater", "votes", "free"}: "new" and "known" can go on as `rater`. For "taken"
        nothing is kept; `free` is a name that nobody has. "full" is a run with `most` raters,
        "wrong code" what it says.
    """
    known, votes = run.rater_keys(), [vote.rater for vote in run.votes()]
    names = {*known, *votes}
    same = [other for other in sorted(names) if _fold(other) == _fold(who.name)]
    own = next((other for other in same if _hash(who.key) in known.get(other, ())), None)
    status, rater = _judge(who.name, same, own, who.is_same)
    if status == "new" and most is not None and len(names) >= most:
        status = "full"
    if own is None and status == "known" and not who.may_claim:
        status = "wrong code"
    # Of two that begin at the same moment, one is first.
    takes = status in ("new", "known")
    if takes and not run.add_rater_key(rater, _hash(who.key), status == "new"):
        status = "taken"
    count = votes.count(rater)
    return {"status": status, "rater": rater, "votes": count, "free": _free(who.name, names)}


def _judge(name: str, same: list[str], own: str | None, is_same: bool) -> tuple[Claim, str]:
    if own is not None:
        return "known", own
    if not same:
        return "new", name
    rater = name if name in same else same[0]  # "ann" may be "Ann", who types on a phone now
    return ("known" if is_same else "taken"), rater


def may_vote(run: Run, name: str, key: str | None) -> bool:
    """Return whether nobody else votes under a name."""
    keys = run.rater_keys().get(name)
    return keys is None or (key is not None and _hash(key) in keys)


def _free(name: str, names: Collection[str]) -> str:
    taken = {_fold(other) for other in names}
    tries = (f"{name[: LONGEST - 5]} {number}" for number in itertools.count(2))
    return next(other for other in tries if _fold(other) not in taken)


def _fold(name: str) -> str:
    seen = name.translate(dict.fromkeys(map(ord, _JOINERS)))  # two that look alike are one
    return unicodedata.normalize("NFKC", seen).casefold()


def _hash(key: str) -> str:
    """Return what is kept of a key: whoever reads the ledger cannot vote with it."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
