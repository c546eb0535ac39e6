"""What a run of a sampler remembers from one evaluation of the model to the next."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from .caches import CacheStates
from .node_request import NodeRequest, Term, describe_terms
from .page import warn

Tensor = torch.Tensor
_AT_ONCE = 3  # how often the push of a term is looked at in the step itself
_log = logging.getLogger("skipguide")


class RunState:
    """The memory of a run.

    Args:
        requests: with the noise levels of this run.
        sigmas: the noise levels of its steps without the last, 0; empty where they are not known.
    """

    def __init__(self, requests: Sequence[NodeRequest], sigmas: Sequence[float]) -> None:
        self.requests = tuple(requests)
        self.sigmas = tuple(sigmas)
        self.caches = CacheStates()
        self._looks = Counter[Term]()
        self._pending: list[tuple[Term, Tensor]] = []
        self._said: set[str] = set()

    def warn_once(self, text: str) -> None:
        """Warn in the log and in the page, but only once in this run."""
        if text not in self._said:
            self._said.add(text)
            warn(text)

    # --- whether guidance changes anything --------------------------------------------------------

    def check_effect(self, term: Term, c: Tensor, p: Tensor, sigma: float) -> None:
        """Check that a weak pass differs from the one that it is to be weaker than.

        To look at values waits for the device. So they are looked at in the first steps and in the
        last, and else at the beginning of the next step, which waits for the noise level anyhow.

        Raises:
            RuntimeError: if it does not differ.
        """
        differs = (c != p).any() | ~c.any()
        self._looks[term] += 1
        last = bool(self.sigmas) and sigma <= self.sigmas[-1]
        if self._looks[term] <= _AT_ONCE or last:
            _require(term, differs)
        else:
            self._pending.append((term, differs))

    def check_pending(self) -> None:
        """Look at what the step before left to be looked at.

        Raises:
            RuntimeError: if a weak pass changed nothing.
        """
        pending, self._pending = self._pending, []
        for term, differs in pending:
            _require(term, differs)

    def is_unchecked(self, term: Term) -> bool:
        """Return whether a term of SLG has not been looked at; it counts as looked at then.

        What it skips is no pass beside others. So one more pass is run, once in a run.
        """
        self._looks[term] += 1
        return self._looks[term] == 1


def _require(term: Term, differs: Tensor) -> None:
    if not differs:
        raise RuntimeError(
            "the weak pass must differ from the one without skips, but skipping"
            f" {describe_terms([term])} changed nothing. Another node probably runs the blocks"
            " in its own way; remove nodes one by one to find which."
        )


def begin(
    requests: Sequence[NodeRequest],
    percent_to_sigma: Callable[[float], float],
    sample_sigmas: Tensor | None,
) -> RunState:
    """Begin a run, and log how many of its steps are guided.

    Args:
        requests: of the nodes.
        percent_to_sigma: of the model as it is sampled, with what nodes behind changed of it.
        sample_sigmas: the noise levels of the steps, with the 0 behind the last.
    """
    resolved = [request.resolved(percent_to_sigma) for request in requests]
    sigmas = [] if sample_sigmas is None else sample_sigmas[:-1].tolist()
    terms = [term for request in resolved for term in request.guidance.terms]
    if terms and sigmas:
        count = sum(any(request.active(value) for request in resolved) for value in sigmas)
        text = f"skip guidance ({describe_terms(terms)}): {count} of {len(sigmas)} steps are guided"
        (_log.info if count else warn)(text)
    return RunState(resolved, sigmas)
