"""The contexts by which diffusers' caches keep their states, one for each pass of a guided step.

Pipelines set a context around the calls of their denoiser, and a cache keeps its states by the name
of it. Under guidance each pass has a context of its own: c, u, each weak pass, and u weakened by
SLG. So the states in a context are those of one model on its own way through the run, as if a copy
of the denoiser with a cache of its own computed that pass.

- The halves of a batch have a context each, and are apart at every step of a run that is guided.
- States of a context that was not used in the step before are dropped: they are those of an older
  step. So are all of them where a run begins, or goes back to more noise.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from skipguide.pipeline.cache_hooks import CacheKind

COND, UNCOND = "cond", "uncond"
UNREAD = "unread"  # the context of a call whose result nobody reads
REPEAT = "repeat"  # that of a cond pass that is run once more to be looked at
NO_STATE = object()


class CacheContexts:
    """The contexts of a cache on one denoiser, in a run."""

    def __init__(self) -> None:
        self.kind: CacheKind | None = None
        self._managers: list[Any] = []  # diffusers' StateManagers, which hold the states
        self._step = -1
        self._first_position: int | None = None  # of the run at which the states count from 0
        self._count = 0  # calls in a context before this step, were it used from the beginning
        self._used: dict[str, int] = {}  # the last step in which a context was used
        self._begun: dict[str, int] = {}  # the step in which its states began

    @property
    def is_on(self) -> bool:
        """True where the denoiser has a cache."""
        return self.kind is not None

    def manage(self, kind: CacheKind | None, managers: Sequence[Any]) -> bool:
        """Take over the states of a cache; return whether they are others than before."""
        unique = list({id(manager): manager for manager in managers}.values())
        changed = [id(manager) for manager in self._managers] != [id(m) for m in unique]
        self.kind, self._managers = kind, unique
        if changed:
            self._used, self._begun = {}, {}
        return changed

    # --- a run and its steps ----------------------------------------------------------------------

    def forget(self, keep: Sequence[str] = ()) -> None:
        """Drop the states of all contexts but these: they belong to another run or noise level."""
        for name in self._names() - set(keep):
            self._drop(name)

    def begin_run(self, joins: bool = False) -> None:
        """Begin a run.

        Args:
            joins: the run was under way without guidance, and the states are of its last step.
        """
        self._first_position, self._step = None, -1
        if not joins:
            self.forget()
        self._used = dict.fromkeys(self._names(), -1)  # begin_step() tells of what step
        self._begun = dict.fromkeys(self._names(), -1)

    def begin_step(self, step: int, position: int) -> None:
        """Begin a step: states that are older than the step before are dropped.

        Args:
            step: its index in the run, restarts included.
            position: its index in the run without restarts.
        """
        if self.kind is None or step == self._step:
            return
        if self._first_position is None:
            self._used = dict.fromkeys(self._used, step - 1)
            self._first_position = position - self._calls_counted()
        self._step, self._count = step, position - self._first_position
        for name in self._names():
            if self._used.get(name, -2) < step - 1:
                self._drop(name)

    def _names(self) -> set[str]:
        return {name for manager in self._managers for name in manager._state_cache}

    def _drop(self, name: str) -> None:
        for manager in self._managers:
            manager._state_cache.pop(name, None)
        self._used.pop(name, None)
        self._begun.pop(name, None)

    def _calls_counted(self) -> int:
        """Return how many calls the states of a run that was joined have counted."""
        if self.kind is None or not self.kind.counter:
            return 0
        states = self._managers[0]._state_cache.values()
        return max((getattr(state, self.kind.counter) for state in states), default=0)

    def state(self, name: str) -> Any:
        """Return the state that all blocks share in a context, if there is one."""
        return self._managers[0]._state_cache.get(name, NO_STATE)

    # --- contexts ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def context(self, name: str, like: Any = None) -> Iterator[None]:
        """Run a pass in a context; what the pipeline says of the step is kept.

        Args:
            name: of the context; "" keeps the pipeline's.
            like: a context that says it, where the pipeline sets none on this denoiser.
        """
        before = [(manager, manager._context) for manager in self._managers]
        ours = [(manager, self._make_context(name, known or like)) for manager, known in before]
        for manager, context in ours:
            manager.set_context(context)
        for entered in {context.name for _, context in ours}:
            self._begin_context(entered)
        try:
            yield
        finally:
            for (manager, known), (_, context) in zip(before, ours, strict=True):
                if manager._context is context:  # after a Ctrl-C the pipeline has cleared it
                    manager.set_context(known)

    def _make_context(self, name: str, known: Any) -> Any:
        if known is not None:
            return dataclasses.replace(known, name=name or known.name)
        module = importlib.import_module(type(self._managers[0]).__module__)
        return module.CacheContext(name=name or "inference")

    @property
    def pipeline_context(self) -> Any:
        """The context that is set now; None without one."""
        return next((manager._context for manager in self._managers), None)

    def _begin_context(self, name: str) -> None:
        self._used[name] = self._step
        self._begun.setdefault(name, self._step)
        if self.kind is not None and self.kind.counter and self.state(name) is NO_STATE:
            setattr(self._managers[0].get_state(), self.kind.counter, self._count)

    def copy_states(self, source: str, target: str) -> None:
        """Let a context have the states that another one has now."""
        for manager in self._managers:
            manager._state_cache.pop(target, None)
            if source in manager._state_cache:
                manager._state_cache[target] = _copy_state(manager._state_cache[source])


def _copy_state(state: Any) -> Any:
    """Copy a state; its tensors are replaced and never changed, but lists and dictionaries are."""
    made = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, (list, dict)):
            setattr(made, name, copy.copy(value))
    return made
