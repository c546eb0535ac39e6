"""Racers of the tests of races and answers, with CFG alone among them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Racer:
    """A racer with nothing but what a race reads."""

    name: str
    role: str
    passes: float
    called: str = ""  # in sentences, where that is not its name

    @property
    def title(self) -> str:
        return self.called or self.name


CFG = Racer("cfg", "cfg", 28.0)
