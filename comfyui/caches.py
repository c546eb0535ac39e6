"""Caches of other nodes, each pass with a state of its own.

A cache across steps keeps what a pass returned, and gives it to the next pass of the same prompt
that looks nearly the same. The weak pass has the prompt of the conditional one. With a state of its
own, each pass is what a copy of the model with a cache of its own would compute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher  # pyright: ignore[reportMissingImports]
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key  # pyright: ignore[reportMissingImports]

Options = dict[str, Any]
State = dict[str, Any]
HOLDER = "easycache"  # of EasyCache, and of LazyCache, in transformer_options


@dataclass(frozen=True)
class Cache:
    """A cache whose state can be had.

    Args:
        option: the entry of transformer_options by which it is known.
        attributes: where its state is on the diffusion model; none if the option holds it.
        off: entries of transformer_options with which one call computes everything. The first call
            of a state must: what MagCache would add is not there yet.
    """

    name: str
    option: str
    attributes: tuple[str, ...] = ()
    off: Mapping[str, bool] | None = None


KNOWN = (
    Cache("EasyCache", HOLDER),
    Cache(
        "TeaCache", "rel_l1_thresh",
        ("teacache_state", "accumulated_rel_l1_distance", "previous_modulated_input",
         "previous_residual"),
        {"enable_teacache": False},
    ),
    Cache(
        "MagCache", "magcache_thresh",
        ("magcache_state", "accumulated_err", "accumulated_ratio", "accumulated_steps",
         "residual_cache"),
        {"enable_magcache": False},
    ),
)  # fmt: skip


def cache_on(model_options: Options) -> Cache | None:
    """Return the cache on a model.

    LazyCache is none here: it keeps what is behind CFG and guidance, so that it needs no more.
    """
    options = model_options.get("transformer_options", {})
    for cache in KNOWN:
        held = options.get(cache.option)
        if held is not None and (cache.attributes or held.name == cache.name):
            return cache
    return None


def refuse_cache(model_options: Options) -> None:
    """Refuse a cache where passes are to be measured.

    Raises:
        ValueError: if one is there.
    """
    cache = cache_on(model_options)
    if cache is not None:
        raise ValueError(
            f"a map of layers must be that of the model itself, but {cache.name} is on this one."
            " Connect the model before that node."
        )


class CacheStates:
    """The states of a cache in one run, one for each weak pass.

    That of the conditional and the unconditional pass is where the node keeps it. A state that was
    not used at the evaluation before is dropped: it would be too old.
    """

    def __init__(self) -> None:
        self._states: dict[Hashable, State] = {}
        self._used: set[Hashable] = set()
        self._strong: Hashable = ()

    def begin(self, model: Any, model_options: Options, strong: Hashable) -> Options:
        """Begin an evaluation; return its model_options.

        Args:
            model: the BaseModel that is sampled.
            strong: what the conditional and the unconditional pass are, as the terms of SLG. Where
                it is another than before, their state is made anew.
        """
        cache = cache_on(model_options)
        self._states = {key: self._states[key] for key in self._states if key in self._used}
        self._used = set()
        changed, self._strong = strong != self._strong, strong
        if cache is None or not changed:
            return model_options
        _take_state(cache, model)
        if not cache.attributes:
            held = model_options["transformer_options"]  # one and the same dictionary in a run
            held[HOLDER] = _new_holder(held[HOLDER], model)
        return _computing(cache, model_options)

    @contextlib.contextmanager
    def of(self, key: Hashable, model: Any, model_options: Options) -> Iterator[Options]:
        """Give a pass its own state as long as the context lasts; yield its model_options."""
        cache = cache_on(model_options)
        if cache is None:
            yield model_options
            return
        self._used.add(key)
        fresh = key not in self._states
        if not cache.attributes:
            yield self._with_holder(key, model, model_options)
            return
        before = _take_state(cache, model)
        _put_state(model, self._states.get(key, {}))
        try:
            yield _computing(cache, model_options) if fresh else model_options
        finally:
            self._states[key] = _take_state(cache, model)
            _put_state(model, before)

    def _with_holder(self, key: Hashable, model: Any, model_options: Options) -> Options:
        """Return model_options with a holder of EasyCache of one's own."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        given = options["transformer_options"][HOLDER]
        if key not in self._states:
            self._states[key] = {HOLDER: _new_holder(given, model)}
        options["transformer_options"][HOLDER] = self._states[key][HOLDER]
        return options


def _new_holder(holder: Any, model: Any) -> Any:
    return holder.clone().prepare_timesteps(model.model_sampling)


def _take_state(cache: Cache, model: Any) -> State:
    """Take a state off the diffusion model."""
    held = _holder_of(model)
    return {name: held.pop(name) for name in cache.attributes if name in held}


def _put_state(model: Any, state: State) -> None:
    _holder_of(model).update(state)


def _holder_of(model: Any) -> dict[str, Any]:
    inner = model.diffusion_model
    return getattr(inner, "_orig_mod", inner).__dict__


def _computing(cache: Cache, model_options: Options) -> Options:
    """Return model_options with which a call computes everything."""
    if cache.off is None:
        return model_options
    off = dict(cache.off)

    def compute(executor: Any, *args: Any, **kwargs: Any) -> Any:
        # x, t, c_concat, c_crossattn, control and transformer_options, as apply_model has them.
        return executor(*args[:5], {**args[5], **off}, *args[6:], **kwargs)

    options = comfy.model_patcher.create_model_options_clone(model_options)
    key = "skipguide_cache"
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, compute, options, is_model_options=True)
    return options
