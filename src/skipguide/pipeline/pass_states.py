"""A state for each pass, for a cache of diffusers that has one per module whatever pass it is for.

Pyramid Attention Broadcast keeps what an attention returned in `hook.state`, and counts its calls
there. A `PassStates` in its place has such a state for each context, as diffusers' StateManagers
have, and outside of all contexts is the state that was there.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class CacheContext:
    """Name the pass that runs, as diffusers' own contexts of caches do."""

    name: str


@dataclasses.dataclass
class PassState:
    """Hold the state of one attention from step to step, in one of the passes.

    Args:
        iteration: how often it was called.
        cache: what it returned last.
        was_reused: whether that was what it had returned before.
    """

    iteration: int = 0
    cache: Any = None
    was_reused: bool = False


class PassStates:
    """Stand for the state of a hook: its attributes are those of the state of the context.

    Args:
        plain: the hook's own state, which is used where no context is set.
    """

    def __init__(self, plain: Any):
        self.plain = plain
        self._state_cache: dict[str, PassState] = {}
        self._context: Any = None

    def set_context(self, context: Any) -> None:
        """Set the context of the pass that begins, or None."""
        self._context = context

    def _state(self) -> Any:
        if self._context is None:
            return self.plain
        return self._state_cache.setdefault(self._context.name, PassState())

    # --- what the hook knows of its state -----------------------------------------------------

    @property
    def iteration(self) -> int:
        """Return how often the module was called."""
        return self._state().iteration

    @iteration.setter
    def iteration(self, value: int) -> None:
        self._state().iteration = value

    @property
    def cache(self) -> Any:
        """Return the last output of the module."""
        return self._state().cache

    @cache.setter
    def cache(self, value: Any) -> None:
        state = self._state()
        if isinstance(state, PassState):
            state.was_reused = value is state.cache
        state.cache = value

    def reset(self) -> None:
        """Throw away all states, as the pipeline does at the end of a run."""
        self._state_cache.clear()
        self.plain.reset()


def give_states_to_passes(hook: Any) -> None:
    """Put a PassStates in the place of a hook's state, if it is not there."""
    if not isinstance(hook.state, PassStates):
        hook.state = PassStates(hook.state)


def take_states_from_passes(hook: Any) -> None:
    """Put the hook's own state back."""
    if isinstance(getattr(hook, "state", None), PassStates):
        hook.state = hook.state.plain
