"""What guide() was asked for, checked: all that does not need to know the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from skipguide.method import cfg_rules, validate
from skipguide.method.restart import Restart
from skipguide.method.terms import SLG, STG, Bin, Schedule

Term = STG | SLG


@dataclasses.dataclass(frozen=True)
class GuidanceRequest:
    """See guide() for what they do.

    Args:
        terms: those of a schedule are its bins' own, in the order of its bins.
        schedule: in the place of windows and scales of `terms`.
        rescale: phi of the guided steps; a schedule has its own.
        rule: `cfg` of guide().

    Raises:
        ValueError: for a bad number or name, or for what does not go together.
    """

    terms: tuple[Term, ...] = ()
    schedule: Schedule | None = None
    rescale: float = 0.0
    rescale_space: str = "prediction"
    orthogonalize: bool = False
    rule: cfg_rules.CFGRule | None = None
    restarts: tuple[Restart, ...] = ()
    share_prefix: bool = True

    def __post_init__(self) -> None:
        if self.rule is not None and not isinstance(self.rule, cfg_rules.CFGRule):
            raise ValueError(
                f"cfg must be an APG, CFGZero, TCFG or Interval, but got {self.rule!r}. Write"
                " cfg=APG()."
            )
        validate.check_number("rescale", self.rescale, 0.0, 1.0, "0 is off, the paper uses 0.7")
        if self.rescale_space not in ("prediction", "data"):
            raise ValueError(
                f'rescale_space must be "prediction" or "data", but got {self.rescale_space!r}.'
                " Choose one of them."
            )
        if self.rescale and self.schedule is not None:
            raise ValueError(
                "rescale beside a Schedule has no meaning, for its bins have their own, but got"
                f" {self.rescale!r}. Write it into the bins."
            )
        if self.rescale and not self.terms and not self._replaces_cfg():
            raise ValueError(
                f"rescale holds at steps with a term or a rule, but got {self.rescale!r} without"
                " any. Add a term, or leave it out."
            )
        self._check_orthogonalize()

    def _replaces_cfg(self) -> bool:
        """Whether the rule is another formula, at all steps."""
        return self.rule is not None and not isinstance(self.rule, cfg_rules.Interval)

    def _check_orthogonalize(self) -> None:
        several = self.schedule is None and sum(isinstance(term, STG) for term in self.terms) > 1
        if not isinstance(self.orthogonalize, bool) or (self.orthogonalize and not several):
            number = len(self.terms)
            came = (
                "a Schedule, one term at a time"
                if self.schedule
                else f"{number} term{'s' * (number > 1)}"
            )
            raise ValueError(
                "orthogonalize must be True or False, and True needs two STG terms or more, but"
                f" got {self.orthogonalize!r} with {came}. Leave it out, or add a term."
            )

    @property
    def data_space_features(self) -> str:
        """What of all this speaks of estimates of the data, for errors; "" for nothing."""
        phis = (
            [self.rescale]
            if self.schedule is None
            else [entry.rescale for entry in self.schedule.bins]
        )
        named = {
            'APG in the space of the data (space="data")': (
                isinstance(self.rule, cfg_rules.APG) and self.rule.space == "data"
            ),
            'rescaling in the space of the data (rescale_space="data")': (
                self.rescale_space == "data" and any(phis)
            ),
        }
        return " and ".join(name for name, on in named.items() if on)


def unpack_terms(
    given: Sequence[Any], allow_empty: bool
) -> tuple[Schedule | None, tuple[Term, ...]]:
    """A Schedule if there is one, and the terms: its bins' own, in the order of its bins.

    Args:
        given: terms, or lists of them, as in a preset of several; or one Schedule.
        alone: whether there is something to do without any term.

    Raises:
        ValueError: for no terms, something else, or a Schedule beside others.
    """
    terms = [
        term for entry in given for term in (entry if isinstance(entry, (list, tuple)) else [entry])
    ]
    if len(terms) == 1 and isinstance(terms[0], Schedule):
        return terms[0], tuple(entry.term() for entry in active_bins(terms[0]))
    if not (terms or allow_empty) or not all(isinstance(term, (STG, SLG)) for term in terms):
        came = ", ".join(type(term).__name__ for term in terms) or "none"
        raise ValueError(
            f"guide() needs one or more STG or SLG terms, or one Schedule, but got {came}. Write"
            " guide(pipe, STG(layers=[34]))."
        )
    return None, tuple(terms)


def active_bins(schedule: Schedule) -> list[Bin]:
    """The bins that have a term."""
    return [entry for entry in schedule.bins if entry.scale > 0]


def published_rescale(terms: Sequence[Term]) -> float:
    """phi as it was published with a preset; 0 without one."""
    return max((term.preset_rescale for term in terms if isinstance(term, STG)), default=0.0)
