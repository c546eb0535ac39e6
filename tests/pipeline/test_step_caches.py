"""Caches across steps under guidance, against copies of the denoiser with a cache each
(support/cached.py)."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any, cast

import pytest
import torch
from torch import nn

from skipguide import SLG, STG, CFGReuse, Random, Restart, guide
from skipguide.method.cfg_rules import Interval
from skipguide.weak.weak_pass import WeakPass
from support import foreign, oracle
from support.cached import STEPS, Copies, Copy, Push, blocks_of, by_copies, configs
from support.tiny import builders
from support.tiny.base import Tiny

PIPELINES = ["WanPipeline", "MochiPipeline", "LTXPipeline", "CogVideoXPipeline"]
CACHES = list(configs())
LEADERS = ["first block", "mag", "sea"]


@functools.cache
def build(name: str) -> Tiny:
    return builders()[name](torch.float32)


def run(small: Tiny, **changes: Any) -> torch.Tensor:
    with torch.no_grad():
        return oracle.run(small, num_inference_steps=STEPS, **changes)


def switch_on(small: Tiny, cache: str) -> None:
    for model in oracle.models(small):
        model.enable_cache(copy.deepcopy(configs()[cache]))


def switch_off(small: Tiny) -> None:
    for model in oracle.models(small):
        model.disable_cache()


def cached(small: Tiny, cache: str, *terms: Any, **options: Any) -> tuple[torch.Tensor, Any]:
    """A guided run with a cache, and the handle."""
    switch_on(small, cache)
    try:
        with guide(small.pipe, *terms, **options) as handle:
            return run(small), handle
    finally:
        switch_off(small)


def by_hand(small: Tiny, copies: Copies) -> torch.Tensor:
    with by_copies(small, copies):
        return run(small)


def passes_of(small: Tiny, cache: str, *pushes: Push, **more: Any) -> Copies:
    model, config = small.pipe.transformer, configs()[cache]
    return Copies(Copy(model, config, "cond"), Copy(model, config, "uncond"), pushes, **more)


def weak(small: Tiny, cache: str, name: str = "weak", **how: Any) -> Copy:
    return Copy(small.pipe.transformer, configs().get(cache), name, **how)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def has_cache(small: str, cache: str) -> bool:
    """SeaCache knows where Wan has its video; FirstBlockCache asks for a context."""
    return cache != "sea" or small == "WanPipeline"


# --- one weak pass, two passes, windows -----------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("layer", ["middle", "last", "attention"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", PIPELINES)
def test_each_pass_is_that_of_a_copy_with_a_cache_of_its_own(
    name: str, cache: str, layer: str
) -> None:
    if not has_cache(name, cache):
        pytest.skip("SeaCache takes its indicator from the latents of Wan")
    small = build(name)
    depth = len(blocks_of(small.pipe.transformer))
    k = {"middle": 2, "last": depth - 1, "attention": 1}[layer]
    skip = "attention" if layer == "attention" else "residual"
    how: Any = {"masked": [k]} if layer == "attention" else {"skipped": [k]}
    copies = passes_of(small, cache, Push(weak(small, cache, **how)))
    theirs = by_hand(small, copies)
    shared, handle = cached(small, cache, STG([k], skip=skip))
    full, unshared = cached(small, cache, STG([k], skip=skip), share_prefix=False)
    assert_equal(shared, theirs)
    assert torch.equal(shared, full)
    with guide(small.pipe, STG([k], skip=skip)) as without:
        assert (run(small) - shared).abs().max() > 1e-3, "the cache changed nothing"
    assert handle.passes_per_step < unshared.passes_per_step
    assert handle.passes_per_step < without.passes_per_step
    if cache in LEADERS:  # blocks are counted; the copies share nothing
        assert unshared.passes_per_step == pytest.approx(copies.runs() / depth / STEPS)
        for one in (copies.cond, copies.uncond, copies.pushes[0].weak):
            assert depth < one.runs < STEPS * one.counted, "all or none of the steps were hits"


@pytest.mark.parametrize("cache", CACHES)
def test_two_terms_of_which_one_has_a_window(cache: str) -> None:
    """A pass that joins the run late begins with nothing, and shares what is still the same."""
    small = build("MochiPipeline") if cache != "sea" else build("WanPipeline")
    copies = passes_of(
        small, cache,
        Push(weak(small, cache, "weak 0", skipped=[1]), 1.0, range(3, 8)),
        Push(weak(small, cache, "weak 1", skipped=[2]), 0.5),
    )  # fmt: skip
    theirs = by_hand(small, copies)
    terms = [STG([1], start=0.3, stop=0.8), STG([2], 0.5)]
    for share_prefix in (True, False):
        assert_equal(cached(small, cache, *terms, share_prefix=share_prefix)[0], theirs)


@pytest.mark.diagonal
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline"])
def test_slg_whose_window_ends_reads_no_stale_state(name: str, cache: str) -> None:
    if not has_cache(name, cache):
        pytest.skip("SeaCache takes its indicator from the latents of Wan")
    small = build(name)
    for layer in (1, len(blocks_of(small.pipe.transformer)) - 1):
        copies = passes_of(
            small, cache,
            weak_uncond=weak(small, cache, "uncond weakened", skipped=[layer]),
            uncond_steps=range(2, 7),
        )  # fmt: skip
        theirs = by_hand(small, copies)
        ours, handle = cached(small, cache, SLG([layer], start=0.2, stop=0.7))
        assert_equal(ours, theirs)
        if cache in LEADERS:
            blocks = len(blocks_of(small.pipe.transformer)) * STEPS
            assert handle.passes_per_step == pytest.approx(copies.runs() / blocks)


@pytest.mark.parametrize("cache", CACHES)
def test_a_term_that_runs_at_every_other_step_begins_anew_each_time(cache: str) -> None:
    """Its states are two steps old: what is used of an earlier step is the difference alone."""
    small = build("WanPipeline")
    one = Push(weak(small, cache, skipped=[2]), 1.0, range(0, STEPS, 2))
    theirs = by_hand(small, Reused(*vars(passes_of(small, cache, one)).values()))
    assert_equal(cached(small, cache, STG([2], every=2))[0], theirs)


class Reused(Copies):
    """A push is c less the difference of the last step at which the weak model ran."""

    difference = torch.zeros(())

    def c_and_push(self, inputs: Any, step: int, **fields: Any) -> Any:
        c, push = super().c_and_push(inputs, step, **fields)
        self.difference = push if step in self.pushes[0].steps else self.difference
        return c, self.difference


@pytest.mark.parametrize("cache", ["first block", "mag", "taylor seer", "pyramid"])
def test_layers_drawn_at_each_step_are_other_models(cache: str) -> None:
    """Each has states of its own, which it loses once it is not drawn in a step."""
    small = build("MochiPipeline")
    terms, seen = [STG(Random(0.25), scale=1.0)], list[set[str]]()

    def look(*_: Any) -> dict[str, Any]:
        seen.append(contexts(small))
        return {}

    switch_on(small, cache)
    try:
        with guide(small.pipe, *terms) as handle:
            shared = run(small, callback_on_step_end=look)
    finally:
        switch_off(small)
    full, _ = cached(small, cache, *terms, share_prefix=False)
    assert torch.equal(shared, full)
    drawn = [cast("WeakPass", one).skipped for one in handle.passes.weak_runs]
    assert len(drawn) == 2  # of four blocks the inner two
    assert all({"cond", "uncond"} <= names for names in seen)
    weak = [{name for name in names if name.startswith("weak")} for names in seen]
    assert set().union(*weak) == {f"weak 0 without {skipped}" for skipped in drawn}
    assert any(before - now for before, now in itertools.pairwise(weak))


def contexts(small: Tiny) -> set[str]:
    """The names under which hooks on a denoiser have states."""
    managers = (
        value
        for model in oracle.models(small)
        for module in model.modules()
        for hook in getattr(vars(module).get("_diffusers_hook"), "hooks", {}).values()
        for value in vars(hook).values()
        if hasattr(value, "_state_cache")
    )
    return {name for manager in managers for name in manager._state_cache}


# --- what is left of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["first block", "mag", "taylor seer", "pyramid"])
@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline"])
def test_afterwards_the_pipeline_with_its_cache_is_what_it_was(name: str, cache: str) -> None:
    """Also after a run that raised, whose states nobody else throws away."""
    small = build(name)
    switch_on(small, cache)
    try:
        plain = run(small)
        with guide(small.pipe, STG([2])):
            expected = run(small)
        assert torch.equal(run(small), plain)
        with guide(small.pipe, STG([2])):
            with pytest.raises(KeyboardInterrupt):
                run(small, callback_on_step_end=functools.partial(interrupt, 4))
            assert torch.equal(run(small), expected)
            with pytest.raises(KeyboardInterrupt):
                run(small, callback_on_step_end=functools.partial(interrupt, 4))
        assert not contexts(small)
        assert torch.equal(run(small), plain)
        with guide(small.pipe, STG([2], 0.0)):  # with scale 0 nothing runs in halves
            assert torch.equal(run(small), plain)
    finally:
        switch_off(small)


def test_attentions_have_their_own_states_again() -> None:
    """Of Pyramid Attention Broadcast, which has one each; at the end of a run all are let go."""
    small = build("MochiPipeline")
    switch_on(small, "pyramid")
    name = "pyramid_attention_broadcast"
    hooks = [
        module._diffusers_hook.get_hook(name)
        for module in small.pipe.transformer.modules()
        if hasattr(module, "_diffusers_hook") and module._diffusers_hook.get_hook(name)
    ]
    before = [hook.state for hook in hooks]
    assert len(before) == len(blocks_of(small.pipe.transformer))
    try:
        with guide(small.pipe, STG([2])):
            run(small)
            assert not any(hook.state._state_cache for hook in hooks)
        assert all(hook.state is own for hook, own in zip(hooks, before, strict=True))
    finally:
        switch_off(small)


def interrupt(at: int, pipe: Any, step: int, *_: Any) -> dict[str, Any]:
    if step == at:
        raise KeyboardInterrupt
    return {}


@pytest.mark.parametrize("cache", ["first block", "mag"])
def test_joining_a_run_that_is_under_way_keeps_the_states_of_its_last_step(cache: str) -> None:
    small, handles = build("WanPipeline"), list[Any]()
    copies = passes_of(small, cache, Push(weak(small, cache, skipped=[2]), 1.0, range(4, STEPS)))
    theirs = by_hand(small, copies)

    def join(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 3:
            handles.append(guide(pipe, STG([2])))
        return {}

    switch_on(small, cache)
    try:
        assert_equal(run(small, callback_on_step_end=join), theirs)
    finally:
        handles.pop().remove()
        switch_off(small)


# --- in company -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["first block", "mag", "sea", "taylor seer", "pyramid"])
def test_restarts_forget_what_belongs_to_another_noise_level(cache: str) -> None:
    """As a run in which the cache is told of the jump: its states are thrown away by hand."""
    small = build("WanPipeline")
    small.pipe.scheduler, before = euler(), small.pipe.scheduler
    try:
        ours, handle = cached(small, cache, restart=Restart(window=(0.4, 0.7), noise_scale=0.5))
        assert handle.passes.steps > STEPS
        assert torch.equal(ours, restarted_by_hand(small, cache))
    finally:
        small.pipe.scheduler = before


def euler() -> Any:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def restarted_by_hand(small: Tiny, cache: str) -> torch.Tensor:
    """The same restarts on the denoiser without a cache, for which copies with caches play c and u.

    A jump is known by its timestep, which was there before.
    """
    copies, calls, usual = passes_of(small, cache), list[float](), list[float]()

    def play(model: Any, args: Any, kwargs: Any, output: Any) -> Any:
        index, is_uncond = divmod(len(calls), 2)
        calls.append(t := float(kwargs["timestep"][0]))
        if t not in usual:
            usual.append(t)
        one = copies.uncond if is_uncond else copies.cond
        if index and t > calls[2 * index - 2]:
            one.last_step = -2
        sigmas = small.pipe.scheduler.sigmas
        fields = dict(step_index=index, sigma=float(sigmas[index]))
        return (one.predict(kwargs, usual.index(t), num_inference_steps=len(sigmas) - 1, **fields),)

    hook = small.pipe.transformer.register_forward_hook(play, with_kwargs=True)
    try:
        with guide(small.pipe, restart=Restart(window=(0.4, 0.7), noise_scale=0.5)):
            return run(small)
    finally:
        hook.remove()


@pytest.mark.parametrize("cache", LEADERS)
def test_interval_leaves_u_out_and_begins_it_anew(cache: str) -> None:
    """The pipeline calls for u all the same, which computes nothing and must leave no state."""
    small = build("WanPipeline")
    copies = passes_of(small, cache, Push(weak(small, cache, skipped=[2])))
    inside = range(3, 7)

    class Cut(Copies):
        def u(self, inputs: Any, step: int, **fields: Any) -> Any:
            if step in inside:
                return super().u(inputs, step, **fields)
            return self.c  # of which u + g (c - u) makes c

        def c_and_push(self, inputs: Any, step: int, **fields: Any) -> Any:
            self.c, push = super().c_and_push(inputs, step, **fields)
            return self.c, push

    theirs = by_hand(small, Cut(*vars(copies).values()))
    ours, _ = cached(small, cache, STG([2]), cfg=Interval((0.3, 0.7)))
    assert_equal(ours, theirs)


@pytest.mark.parametrize("cache", ["first block", "mag", "taylor seer", "pyramid"])
def test_a_weak_model_has_a_cache_of_its_own_or_none(cache: str) -> None:
    small = build("WanPipeline")
    torch.manual_seed(1)
    other = copy.deepcopy(small.pipe.transformer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    for own in (True, False):
        made = weak(small, cache) if own else weak(small, "none")
        made.model.load_state_dict(other.state_dict())
        copies = passes_of(small, cache, Push(made))
        theirs = by_hand(small, copies)
        if own:
            other.enable_cache(copy.deepcopy(configs()[cache]))
        ours, handle = cached(small, cache, STG(weak=other))
        if own:
            other.disable_cache()
        assert_equal(ours, theirs)
        if cache in LEADERS:  # blocks are counted
            depth = len(blocks_of(small.pipe.transformer))
            assert handle.passes_per_step == pytest.approx(copies.runs() / depth / STEPS)


@pytest.mark.parametrize("cache", ["first block", "taylor seer"])
@pytest.mark.parametrize("kind", ["a hook that changes", "a wrapped forward"])
def test_code_of_others_is_still_looked_at(cache: str, kind: str) -> None:
    """The conditional pass that runs once more behind the weak one has a context of its own."""
    small = builders()["WanPipeline"](torch.float32)
    model = small.pipe.transformer
    expected, plain = cached(small, cache, STG([2]))
    off = FOREIGN[kind](model)
    ours, handle = cached(small, cache, STG([2]))
    assert torch.equal(ours, expected)
    assert handle.passes.unweakened > plain.passes.unweakened
    off()
    foreign.instead_of_forward(model)
    with pytest.raises(ValueError, match="that runs its own forward, but"):
        cached(small, cache, STG([2]))


def hook_that_changes(model: nn.Module) -> Any:
    def add_nothing(_: nn.Module, __: Any, output: Any) -> Any:
        return (output[0] + 0, *output[1:])

    return model.register_forward_hook(add_nothing).remove


def wrapped_forward(model: nn.Module) -> Any:
    block = foreign.blocks_of(model)[1]
    usual = block.forward

    @functools.wraps(usual)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return usual(*args, **kwargs)

    block.forward = forward  # type: ignore[method-assign]
    return lambda: vars(block).pop("forward")


FOREIGN = {"a hook that changes": hook_that_changes, "a wrapped forward": wrapped_forward}


def test_two_transformers_have_states_of_their_own() -> None:
    """Wan 2.2: the second one begins where it is called first."""
    small = build("WanPipeline 2.2")
    for cache in ("first block", "mag", "sea", "taylor seer"):
        shared, handle = cached(small, cache, STG([2]))
        full, _ = cached(small, cache, STG([2]), share_prefix=False)
        assert torch.equal(shared, full)
        with guide(small.pipe, STG([2])) as uncached:
            assert not torch.equal(run(small), shared)
        assert handle.passes_per_step < uncached.passes_per_step


@pytest.mark.parametrize("cache", ["first block", "mag", "taylor seer", "pyramid"])
def test_pipelines_that_set_no_context_get_one(cache: str) -> None:
    """Without guidance FirstBlockCache raises there, and the others mix c and u."""
    small, wan = build("WanVideoToVideoPipeline"), "WanVideoToVideoPipeline"
    assert type(small.pipe).__name__ == wan
    shared, handle = cached(small, cache, STG([2]))
    full, _ = cached(small, cache, STG([2]), share_prefix=False)
    assert torch.equal(shared, full)
    with guide(small.pipe, STG([2])) as uncached:
        assert (run(small) - shared).abs().max() > 1e-3
    assert handle.passes_per_step < uncached.passes_per_step


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", LEADERS)
def test_the_first_block_belongs_to_the_cache_that_decides_there(cache: str) -> None:
    small = build("WanPipeline")
    with pytest.raises(ValueError, match=r"decides at the first block .* layers=\[0\] takes it"):
        cached(small, cache, STG([0, 2]))
    with pytest.raises(ValueError, match=r"decides at the first block .* layers=\[0\] takes it"):
        cached(small, cache, SLG([0]))
    ours, _ = cached(small, cache, STG([0], skip="attention"))
    copies = passes_of(small, cache, Push(weak(small, cache, masked=[0])))
    assert_equal(ours, by_hand(small, copies))


def test_blocks_of_space_and_time_in_turn_have_no_residual_from_first_to_last() -> None:
    small = build("LattePipeline")
    with pytest.raises(ValueError, match="their tokens lie in another order"):
        cached(small, "mag", STG([1]))


def test_two_caches_at_once_are_refused() -> None:
    from diffusers.hooks.taylorseer_cache import apply_taylorseer_cache

    small = builders()["WanPipeline"](torch.float32)
    switch_on(small, "first block")
    apply_taylorseer_cache(small.pipe.transformer, configs()["taylor seer"])
    with pytest.raises(ValueError, match="FirstBlockCache and TaylorSeer are on"):
        guide(small.pipe, STG([1]))


def test_a_scan_of_layers_is_no_run() -> None:
    small = builders()["WanPipeline"](torch.float32)
    switch_on(small, "mag")
    with pytest.raises(ValueError, match="a scan of layers needs a WanTransformer3DModel without"):
        scan_cells(small)


def scan_cells(small: Tiny) -> None:
    from skipguide.families.lookup import family_of
    from skipguide.pipeline.denoiser import GuidedDenoiser
    from skipguide.tuning.scan import cells, record

    guided = GuidedDenoiser(family_of(small.pipe), small.pipe.transformer, (), True)
    cells.WeakCells(guided, record.ScanOptions())


def test_a_cache_that_changes_nothing_is_left_to_itself() -> None:
    """TextKVCache keeps what depends on the text alone; no model of a video has such blocks."""
    from diffusers.hooks.text_kv_cache import TextKVCacheConfig

    small = builders()["WanPipeline"](torch.float32)
    with guide(small.pipe, STG([2])) as handle:
        expected = run(small)
    passes = handle.passes_per_step
    small.pipe.transformer.enable_cache(TextKVCacheConfig())
    with guide(small.pipe, STG([2])) as handle:
        assert torch.equal(run(small), expected)
    assert handle.passes_per_step == passes


# --- beside the other ways to compute less --------------------------------------------------------


@pytest.mark.parametrize("cache", ["first block", "taylor seer"])
def test_halves_of_a_batch_stay_apart_where_exact_is_off(cache: str) -> None:
    small = build("MochiPipeline")
    apart, _ = cached(small, cache, STG([2]))
    joined, _ = cached(small, cache, STG([2]), exact=False)
    assert torch.equal(apart, joined)


@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline"])
def test_u_that_is_not_computed_leaves_its_states_alone(name: str) -> None:
    """They are then those of an older step and dropped, so every u that is computed is whole."""
    small = build(name)
    without, handle = cached(small, "first block", cfg=CFGReuse(2))
    assert without.isfinite().all()
    assert handle.passes.unweakened == STEPS + STEPS // 2
    switch_on(small, "first block")
    try:
        with guide(small.pipe, cfg=CFGReuse(2)) as handle:
            first = run(small)
            assert torch.equal(run(small), first)
        c = handle.passes.steps - handle.passes.left_out_by_caches
        assert 1 < c < STEPS
    finally:
        switch_off(small)
