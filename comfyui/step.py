"""Skip guidance on a model of ComfyUI: what happens at one evaluation of the model.

A node only puts its request into `model_options`, with one wrapper around the guider and one
function behind CFG. At a step that is guided, the wrapper makes a Step, which

1. runs each conditioning by itself, so that a batch is the same in the conditional and in the weak
   pass to the last bit, and records what enters the first skipped blocks; in the negative one it
   skips layers if a term says so. Where code of other nodes looks at the whole batch, the batch
   stays as it is without guidance;
2. keeps the conditional estimate before other nodes (APG) change it;
3. behind CFG, runs the weak passes and adds s (c - p) to what CFG and other nodes made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key  # pyright: ignore[reportMissingImports]

from . import blocks, foreign, passes, run_state
from ._skipguide.method.terms import SLG, STG
from .caches import cache_on
from .models import BlockChain, block_chain
from .node_request import SKIPS, ActiveTerm, NodeRequest, push_estimate
from .passes import NEGATIVE, POSITIVE, Row, origin_of, sizes_of
from .run_state import RunState

Tensor = torch.Tensor
Options = dict[str, Any]
KEY, STEP, RUN = passes.KEY, "skipguide_step", "skipguide_run"


def with_request(model: Any, request: NodeRequest) -> Any:
    """Return a clone of a model (a ModelPatcher) with this request beside those that it has.

    Raises:
        ValueError: for a model that cannot be guided, or layers that it does not have.
    """
    chain = chain_of(model)
    for term in request.guidance.terms:
        chain.skipped_by(term)
    clone = model.clone()
    fresh = KEY not in clone.model_options
    clone.model_options[KEY] = (*requests_of(clone), request)
    if fresh:
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict_noise)
        clone.set_model_sampler_post_cfg_function(_guide_behind_cfg)
    return clone


def chain_of(model: Any) -> BlockChain:
    """Return the blocks of a model (a ModelPatcher).

    Raises:
        ValueError: for a model that cannot be guided.
    """
    kind = type(model.model).__name__  # ComfyUI's name of the model, as SDXL
    return block_chain(model.get_model_object("diffusion_model"), kind)


def requests_of(model: Any) -> tuple[NodeRequest, ...]:
    """Return the requests on a model, in the order of their nodes."""
    return model.model_options.get(KEY, ())


def predict_noise(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None = None
) -> Tensor:
    """Wrap CFGGuider.predict_noise: a guided step, or the guider's own."""
    guider, sigma = executor.class_obj, float(timestep[0])
    if RUN not in model_options:  # samplers pass one and the same dictionary at every step
        levels = model_options.get("transformer_options", {}).get("sample_sigmas")
        sampling = guider.inner_model.model_sampling
        asked = model_options.get(KEY, ())
        model_options[RUN] = run_state.begin(asked, sampling.percent_to_sigma, levels)
    run = model_options[RUN]
    run.check_pending()
    active = [term for request in run.requests for term in request.active(sigma)]
    slg = tuple(entry.term for entry in active if isinstance(entry.term, SLG))
    model_options = run.caches.begin(guider.inner_model, model_options, slg)
    with _cfg_scale(guider, sigma, run.requests):
        if not active:
            return executor(x, timestep, model_options, seed)
        refuse_frames(model_options)
        step = Step(active, guider.conds, run, sigma)
        found = executor(x, timestep, step.options(model_options), seed)
    step.warn_of_idle_terms()
    return found


@contextlib.contextmanager
def _cfg_scale(guider: Any, sigma: float, requests: Sequence[NodeRequest]) -> Iterator[None]:
    """Give the guider the CFG scale that a schedule has for this noise level."""
    scales = [request.guidance_scale(sigma) for request in requests]
    found = [scale for scale in scales if scale is not None]
    if not found:
        yield
        return
    if not _reads_cfg(guider) or (found[-1] != 1 and not guider.conds.get("negative")):
        raise ValueError(
            "a schedule with CFG scales needs a sampler with a negative prompt and one scale, but"
            f" this one is a {type(guider).__name__}. Use KSampler or CFGGuider, or a schedule"
            " without cfg=."
        )
    before, guider.cfg = guider.cfg, found[-1]
    try:
        yield
    finally:
        guider.cfg = before


def _reads_cfg(guider: Any) -> bool:
    """Return whether a guider has one CFG scale; DualCFGGuider has the attribute, and two."""
    code = getattr(type(guider).predict_noise, "__code__", None)
    return hasattr(guider, "cfg") and (code is None or "cfg" in code.co_names)


def refuse_frames(model_options: Options) -> None:
    """Refuse a sampler that makes a video frame by frame, and keeps what its blocks saw before.

    Raises:
        ValueError: if it is one.
    """
    if "ar_state" in model_options.get("transformer_options", {}):
        raise ValueError(
            "skip guidance needs a sampler that makes the whole video at once, but this one goes"
            " frame by frame and keeps the keys and values of each pass, so that the weak pass"
            " would get into the others. Use another sampler than ar_video, or remove this node."
        )


def _guide_behind_cfg(args: dict[str, Any]) -> Tensor:
    step = args["model_options"].get(STEP)
    return args["denoised"] if step is None else step.guide(args)


class Step:
    """One guided evaluation of the model.

    Args:
        active: the terms of this step.
        conds: the guider's prompts, by name.
        run: the memory of the run.
        sigma: the noise level.
    """

    def __init__(
        self, active: Sequence[ActiveTerm], conds: dict[str, Any], run: RunState, sigma: float
    ) -> None:
        self._run, self._conds, self._sigma = run, conds, sigma
        self.weak = [entry for entry in active if isinstance(entry.term, STG)]
        self.slg = [entry.term for entry in active if isinstance(entry.term, SLG)]
        self._recording: blocks.Recording | None = None
        self._before_weak = True
        self._seen: set[str | None] = set()
        self._c: tuple[Any, Tensor] | None = None

    def options(self, model_options: Options) -> Options:
        """Return the model_options of this evaluation."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        options[STEP] = self
        earlier = options.get("sampler_pre_cfg_function", [])
        options["sampler_pre_cfg_function"] = [self._keep_estimate, *earlier]
        add_wrapper_with_key(
            WrappersMP.CALC_COND_BATCH, KEY, self._calc_cond_batch, options, is_model_options=True
        )
        return options

    def warn_of_idle_terms(self) -> None:
        """Warn where SLG skips nothing, for there was no negative pass."""
        if self.slg and NEGATIVE not in self._seen:
            self._run.warn_once(
                "SLG skips layers in the unconditional pass, and this run has none, because its"
                " CFG is 1 or it has no negative prompt"
            )

    def _around(self, options: Options) -> passes.Around:
        cached = cache_on(options) is not None
        return passes.Around(cached, foreign.suspects(options), self._run.warn_once)

    # --- the conditional and the unconditional pass -----------------------------------------------

    def _calc_cond_batch(
        self, executor: Any, model: Any, conds: list[Any], x: Tensor, sigma: Tensor,
        options: Options,
    ) -> list[Tensor]:  # fmt: skip
        if not self._before_weak:
            return executor(model, conds, x, sigma, options)
        names = passes.names_of(conds, self._conds)
        self._seen.update(name for name, cond in zip(names, conds, strict=True) if cond)
        together = _sees_batch(model, options) or foreign.changes_whole_passes(options)
        together = together or cache_on(options) is not None

        def run(own: Options) -> list[Tensor]:
            if together:
                return executor(model, conds, x, sigma, own)
            found = []
            for number, cond in enumerate(conds):
                alone = [cond if other == number else None for other in range(len(conds))]
                found.append(executor(model, alone, x, sigma, own)[number])
            return found

        whole = _sees_batch(model, options)
        wrapper = passes.model_wrapper(
            model,
            names,
            lambda chain, rows: self._strong_parts(chain, rows, whole),
            self._around(options),
        )
        found = run(passes.with_model_wrapper(options, wrapper))
        self._check_slg(model, names, conds, found, options, run)
        return found

    def _strong_parts(
        self, chain: BlockChain, rows: Sequence[Row], whole: bool
    ) -> list[blocks.Part]:
        """Return what is changed in a call: layers skipped by SLG, and what is recorded."""
        firsts = {chain.skipped_by(entry.term)[0] for entry in self.weak if entry.share_prefix}
        keys = [row.key if whole or row.name == POSITIVE else None for row in rows]
        parts = self._slg_parts(chain, rows)
        if firsts and any(keys):
            if self._recording is None:
                self._recording = blocks.Recording(sorted(firsts))
            recording = self._recording
            parts.append(blocks.Part({first: recording.recorder(first, keys) for first in firsts}))
        return parts

    def _slg_parts(
        self, chain: BlockChain, rows: Sequence[Row], first: int = 0
    ) -> list[blocks.Part]:
        """Return what SLG skips in the rows of the negative prompt, from a block on."""
        chosen = [row.name == NEGATIVE for row in rows]
        skips = {skip: self._slg_skips(skip, chain, first) for skip in SKIPS}
        return [
            blocks.Part(
                blocks.weak_changes(positions, skip, None),
                positions if skip == "attention" else (),
                chosen,
            )
            for skip, positions in skips.items()
            if positions and any(chosen)
        ]

    def _slg_skips(self, skip: str, chain: BlockChain, first: int) -> list[int]:
        terms = [term for term in self.slg if term.skip == skip]
        found = {position for term in terms for position in chain.skipped_by(term)}
        return sorted(position for position in found if position >= first)

    def _check_slg(
        self, model: Any, names: Sequence[str | None], conds: Sequence[Any],
        found: Sequence[Tensor], options: Options, run: Any,
    ) -> None:  # fmt: skip
        """Check at the first step that SLG changes the negative pass, by one without it."""
        number = names.index(NEGATIVE) if NEGATIVE in names else None
        new = [term for term in self.slg if number is not None and self._run.is_unchecked(term)]
        if not new or number is None or not conds[number]:
            return
        wrapper = passes.model_wrapper(model, names, lambda _chain, _rows: [])
        with self._run.caches.of("without SLG", model, options) as own:
            plain = run(passes.with_model_wrapper(own, wrapper))
        for term in new:
            self._run.check_effect(term, plain[number], found[number], self._sigma)

    def _keep_estimate(self, args: dict[str, Any]) -> Any:
        self._before_weak, self._c = False, (args["conds"][0], args["conds_out"][0])
        return args["conds_out"]

    # --- the weak passes --------------------------------------------------------------------------

    def guide(self, args: dict[str, Any]) -> Tensor:
        """Return D with the pushes of all terms.

        Args:
            args: as ComfyUI calls a function behind CFG.
        """
        self._before_weak = False
        kept = self._c is not None and self._c[0] is args["cond"]
        c = self._c[1] if self._c is not None and kept else args["cond_denoised"]
        D = args["denoised"]
        for number, entry in enumerate(self.weak):
            p = self._weak_estimate((number, entry.term), entry, args)
            self._run.check_effect(entry.term, c, p, self._sigma)
            D = push_estimate(D, c, p, origin_of(args), entry, sizes_of(args))
        if self._recording is not None:
            self._recording.clear()
        return D

    def _weak_estimate(self, key: Hashable, entry: ActiveTerm, args: dict[str, Any]) -> Tensor:
        options = args["model_options"]
        whole = _sees_batch(args["model"], options) and args["uncond"] is not None
        conds = [args["cond"], args["uncond"]] if whole else [args["cond"]]
        wrapper = passes.model_wrapper(
            args["model"],
            passes.names_of(conds, self._conds),
            lambda chain, rows: self._weak_parts(entry, chain, rows),
            self._around(options),
        )
        with self._run.caches.of(key, args["model"], options) as own:
            return passes.estimate({**args, "model_options": own}, conds, wrapper)

    def _weak_parts(
        self, entry: ActiveTerm, chain: BlockChain, rows: Sequence[Row]
    ) -> list[blocks.Part]:
        """Return what is changed in a call of a weak pass.

        Rows of the negative prompt are there for the code of other nodes, and are what they are in
        the unconditional pass.
        """
        skipped, skip = chain.skipped_by(entry.term), entry.term.skip
        recorded = None
        if entry.share_prefix and self._recording is not None:
            recorded = self._recording.streams(skipped[0], [row.key for row in rows])
        weak = [row.place == 0 for row in rows]
        isolation = chain.sites[skipped[0]].stack.isolation
        changes = blocks.weak_changes(skipped, skip, None, isolation)
        parts = self._slg_parts(chain, rows, skipped[0] if recorded is not None else 0)
        parts.append(blocks.Part(changes, skipped if skip == "attention" else (), weak))
        if recorded is not None:
            parts.append(blocks.Part(blocks.prefix_changes(skipped[0], recorded)))
        return parts


def _sees_batch(model: Any, options: Options) -> bool:
    patcher = getattr(model, "current_patcher", None)
    return foreign.sees_the_batch(options, getattr(patcher, "object_patches", ()))
