"""Skip guidance on a model of ComfyUI: what happens at one evaluation of the model.

A node only puts its request into `model_options`, with one wrapper around the guider and one
function behind CFG. At a step that is guided, the wrapper makes a Step, which

1. runs each conditioning by itself, so that a batch is the same in the conditional and in the weak
   pass to the last bit, and records what enters the first skipped blocks; in the negative one it
   skips layers if a term says so;
2. keeps the conditional estimate before other nodes (APG) change it;
3. behind CFG, runs the weak passes and adds s (c - p) to what CFG and other nodes made.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key  # pyright: ignore[reportMissingImports]

from . import blocks
from ._skipguide.method.terms import SLG, STG
from .models import BlockChain, block_chain
from .node_request import SKIPS, ActiveTerm, NodeRequest, Term, describe_terms, push_estimate
from .page import warn

Tensor = torch.Tensor
Options = dict[str, Any]
KEY, STEP, RUN = "skipguide", "skipguide_step", "skipguide_run"
_log = logging.getLogger("skipguide")


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
    sigma, requests = float(timestep[0]), model_options.get(KEY, ())
    if RUN not in model_options:  # samplers pass one and the same dictionary at every step
        model_options[RUN] = list[Term]()
        _report(requests, model_options, executor.class_obj)
    active = [term for request in requests for term in request.active(sigma)]
    if active:
        refuse_caches(model_options)
        refuse_frames(model_options)
        step = Step(active, executor.class_obj.conds, model_options[RUN])
        model_options = step.options(model_options)
    with _cfg_scale(executor.class_obj, sigma, requests):
        return executor(x, timestep, model_options, seed)


@contextlib.contextmanager
def _cfg_scale(guider: Any, sigma: float, requests: Sequence[NodeRequest]) -> Iterator[None]:
    """Give the guider the CFG scale that a schedule has for this noise level."""
    scales = [request.guidance_scale(sigma) for request in requests]
    found = [scale for scale in scales if scale is not None]
    if not found:
        yield
        return
    if not hasattr(guider, "cfg") or (found[-1] != 1 and not guider.conds.get("negative")):
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


def _report(requests: Sequence[NodeRequest], model_options: Options, guider: Any) -> None:
    """Log at the first step how many steps are guided."""
    given = model_options.get("transformer_options", {}).get("sample_sigmas")
    terms = [term for request in requests for term in request.guidance.terms]
    if not terms or given is None:
        return
    sigmas = given[:-1].tolist()
    if any(isinstance(term, SLG) for term in terms) and getattr(guider, "cfg", 0) == 1:
        warn(
            "SLG skips layers in the unconditional pass, and this run has none, because its CFG"
            " is 1"
        )
    count = sum(any(request.active(value) for request in requests) for value in sigmas)
    text = f"skip guidance ({describe_terms(terms)}): {count} of {len(sigmas)} steps are guided"
    (_log.info if count else warn)(text)


def refuse_caches(model_options: Options) -> None:
    """Refuse caches of other nodes, which are known by what they put on a model.

    Raises:
        ValueError: if one is there.
    """
    options = model_options.get("transformer_options", {})
    easy = "easycache" in options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    if easy or "rel_l1_thresh" in options:
        name = "EasyCache" if easy else "TeaCache"
        raise ValueError(
            f"skip guidance cannot be combined with {name}, which would reuse outputs of the weak"
            f" pass in the others. Remove {name}, or use LazyCache."
        )


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
        effective: terms that have changed something in this run; those of this step are added.
    """

    def __init__(
        self, active: Sequence[ActiveTerm], conds: dict[str, Any], effective: list[Term]
    ) -> None:
        self._effective = effective
        self.weak = [entry for entry in active if isinstance(entry.term, STG)]
        self.slg = [entry.term for entry in active if isinstance(entry.term, SLG)]
        self._uuids = {
            name: {cond["uuid"] for cond in conds.get(name) or []}
            for name in ("positive", "negative")
        }
        self._recording: blocks.Recording | None = None
        self._before_weak = True
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

    # --- the conditional and the unconditional pass -----------------------------------------------

    def _calc_cond_batch(
        self, executor: Any, model: Any, conds: list[Any], x: Tensor, sigma: Tensor,
        options: Options,
    ) -> list[Tensor]:  # fmt: skip
        if not self._before_weak:
            return executor(model, conds, x, sigma, options)
        chain = block_chain(model.diffusion_model)
        found = []
        for number, cond in enumerate(conds):
            alone = [cond if other == number else None for other in range(len(conds))]
            own = self._options_for(cond, chain, options)
            found.append(executor(model, alone, x, sigma, own)[number])
        return found

    def _options_for(self, cond: Any, chain: BlockChain, options: Options) -> Options:
        uuids = {entry["uuid"] for entry in cond or []}
        if uuids and uuids <= self._uuids["negative"] and self.slg:
            return _with_model_wrapper(options, self._slg_wrapper(chain))
        shared = any(entry.share_prefix for entry in self.weak)
        if uuids and uuids <= self._uuids["positive"] and shared:
            return _with_model_wrapper(options, self._record_wrapper(chain))
        return options

    def _record_wrapper(self, chain: BlockChain) -> Any:
        firsts = {chain.skipped_by(entry.term)[0] for entry in self.weak if entry.share_prefix}
        if self._recording is None:
            self._recording = blocks.Recording(sorted(firsts))
        recording = self._recording

        def changes(uuids: Sequence[Any]) -> dict[int, blocks.Change]:
            return {first: recording.recorder(first, uuids) for first in firsts}

        return _model_wrapper(chain, changes)

    def _slg_wrapper(self, chain: BlockChain) -> Any:
        residual, attention = (self._slg_skips(skip, chain) for skip in SKIPS)
        return _model_wrapper(
            chain, lambda _: blocks.weak_changes(residual, "residual", None), attention
        )

    def _slg_skips(self, skip: str, chain: BlockChain) -> list[int]:
        terms = [term for term in self.slg if term.skip == skip]
        return sorted({position for term in terms for position in chain.skipped_by(term)})

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
        for entry in self.weak:
            p = self._weak_estimate(entry, args)
            self._check_effect(entry.term, c, p)
            D = push_estimate(D, c, p, origin_of(args), entry, sizes_of(args))
        if self._recording is not None:
            self._recording.clear()
        return D

    def _check_effect(self, term: Term, c: Tensor, p: Tensor) -> None:
        """Check once in a run that a weak pass differs: looking at values waits for the device."""
        if term in self._effective:
            return
        if not torch.equal(c, p):
            self._effective.append(term)
        elif c.any():
            raise RuntimeError(
                "the weak pass must differ from the conditional one, but skipping"
                f" {describe_terms([term])} changed nothing. Another node probably runs the blocks"
                " in its own way; remove nodes one by one to find which."
            )

    def _weak_estimate(self, entry: ActiveTerm, args: dict[str, Any]) -> Tensor:
        chain = block_chain(args["model"].diffusion_model)
        skipped, skip = chain.skipped_by(entry.term), entry.term.skip

        def changes(uuids: Sequence[Any]) -> dict[int, blocks.Change]:
            recorded = None
            if entry.share_prefix and self._recording is not None:
                recorded = self._recording.streams(skipped[0], uuids)
            isolation = chain.sites[skipped[0]].stack.isolation
            return blocks.weak_changes(skipped, skip, recorded, isolation)

        return model_pass(args, chain, changes, skipped if skip == "attention" else ())


def model_pass(
    args: dict[str, Any], chain: BlockChain, changes: Any, identities: Sequence[int] = ()
) -> Tensor:
    """Return the estimate of a pass with the positive prompt and some blocks changed.

    Args:
        args: as ComfyUI calls a function behind CFG.
        changes: a function from the uuids of prompts to what the blocks do.
        identities: as for `blocks.attached`.
    """
    wrapper = _model_wrapper(chain, changes, identities)
    options = _with_model_wrapper(args["model_options"], wrapper)
    return comfy.samplers.calc_cond_batch(
        args["model"], [args["cond"]], args["input"], args["sigma"], options
    )[0]


def shapes_of(args: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the video and of the sound where ComfyUI packs both into one tensor.

    Args:
        args: as ComfyUI calls a function behind CFG.
    """
    known = args["cond"][0].get("model_conds", {}).get("latent_shapes") if args["cond"] else None
    return [tuple(shape) for shape in known.cond] if known is not None else []


def sizes_of(args: dict[str, Any]) -> list[int]:
    """Return how many numbers of a packed row are the video's and how many the sound's."""
    return [math.prod(shape[1:]) for shape in shapes_of(args)]


def outputs_of(args: dict[str, Any], estimate: Tensor) -> list[Tensor]:
    """Return the video of an estimate, and the sound if it has one, in their own shapes."""
    shapes, sizes = shapes_of(args), sizes_of(args)
    if len(shapes) < 2:
        return [estimate]
    parts = zip(estimate.split(sizes, -1), shapes, strict=True)
    return [part.reshape(len(estimate), *shape[1:]) for part, shape in parts]


def origin_of(args: dict[str, Any]) -> Tensor:
    """Return a x of x_0 = a x + b F: the estimate where the model predicts zero."""
    x = args["input"]
    return args["model"].model_sampling.calculate_denoised(args["sigma"], torch.zeros_like(x), x)


def _with_model_wrapper(model_options: Options, wrapper: Any) -> Options:
    options = comfy.model_patcher.create_model_options_clone(model_options)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, wrapper, options, is_model_options=True)
    return options


def _model_wrapper(chain: BlockChain, changes: Any, identities: Sequence[int] = ()) -> Any:
    """Return a wrapper of BaseModel.apply_model, which is called with rows of one or more prompts.

    Args:
        changes: a function from the uuids of these prompts to what the blocks do.
        identities: as for `blocks.attached`.
    """

    def wrapper(
        executor: Any, x: Tensor, t: Tensor, concat: Any, cross: Any, control: Any,
        options: Options, **extra: Any,
    ) -> Tensor:  # fmt: skip
        with blocks.attached(chain, changes(options["uuids"]), options, identities) as changed:
            return executor(x, t, concat, cross, control, changed, **extra)

    return wrapper
