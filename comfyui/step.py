"""Skip guidance on a model of ComfyUI: what happens at one evaluation of the model.

A node only puts terms into `model_options`, one wrapper around the guider, and one function behind CFG. At a step that
a term reaches, the wrapper makes a Step, which

1. runs each conditioning by itself, so that a batch is the same in the strong and in the weak pass to the last bit, and
   records what enters the first skipped blocks; skips layers in the negative one if a term says so;
2. keeps the conditional estimate, before other nodes (APG) change it;
3. behind CFG runs the weak passes and adds s (c - p) to what CFG and other nodes made.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key  # pyright: ignore[reportMissingImports]

from . import blocks, layers, models
from .terms import SKIPS, Term, Window, guided, in_words

Tensor = torch.Tensor
Options = dict[str, Any]
KEY, STEP, SCALES, RUN = "skipguide", "skipguide_step", "skipguide_scales", "skipguide_run"
Scale = tuple[Window, float]  # the CFG scale at some noise levels
_log = logging.getLogger("skipguide")


def with_terms(model: Any, terms: Sequence[Term], scales: Sequence[Scale] = ()) -> Any:
    """A clone of the model (a ModelPatcher) under these terms, beside those that it has.

    Args:
        scales: CFG scales that take the place of the guider's.

    Raises:
        ValueError: for a model that cannot be guided, or layers that it does not have.
    """
    places = models.places_of(model.get_model_object("diffusion_model"))
    for term in terms:
        layers.chosen(term.layers, places)
    clone = model.clone()
    fresh = KEY not in clone.model_options
    for key, more in ((KEY, terms), (SCALES, scales)):
        clone.model_options[key] = (*clone.model_options.get(key, ()), *more)
    if fresh:
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict_noise)
        clone.set_model_sampler_post_cfg_function(_behind_cfg)
    return clone


def predict_noise(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Options, seed: int | None = None
) -> Tensor:
    """Wraps CFGGuider.predict_noise: a guided step, or the guider's own."""
    sigma, terms = float(timestep[0]), model_options.get(KEY, ())
    if RUN not in model_options:  # the samplers hand over one and the same dictionary at every step
        model_options[RUN] = set[Term]()
        _report(terms, model_options, executor.class_obj)
    active = [term for term in terms if term.active(sigma)]
    if active:
        _refuse_caches(model_options)
        model_options = Step(active, executor.class_obj.conds, model_options[RUN]).options(model_options)
    with _scaled(executor.class_obj, sigma, model_options.get(SCALES, ())):
        return executor(x, timestep, model_options, seed)


@contextlib.contextmanager
def _scaled(guider: Any, sigma: float, scales: Sequence[Scale]) -> Iterator[None]:
    """The guider has the CFG scale of this noise level."""
    found = [scale for window, scale in scales if window.includes(sigma)]
    if not found:
        yield
        return
    if not hasattr(guider, "cfg") or (found[-1] != 1 and not guider.conds.get("negative")):
        raise ValueError(
            f"a schedule with CFG scales needs a sampler with a negative prompt and one scale, but got a "
            f"{type(guider).__name__}. Use KSampler or CFGGuider, or a schedule without cfg=."
        )
    before, guider.cfg = guider.cfg, found[-1]
    try:
        yield
    finally:
        guider.cfg = before


def _report(terms: Sequence[Term], model_options: Options, guider: Any) -> None:
    """Say at the first step how many are guided."""
    given = model_options.get("transformer_options", {}).get("sample_sigmas")
    if not terms or given is None:
        return
    sigmas = given[:-1].tolist()
    if any(term.kind == "slg" for term in terms) and getattr(guider, "cfg", 0) == 1:
        _log.warning("SLG skips layers in the unconditional pass, and this run has none, because its CFG is 1")
    count = sum(any(term.active(value) for term in terms) for value in sigmas)
    level = logging.INFO if count else logging.WARNING
    _log.log(level, "skip guidance (%s): %d of %d steps are guided", in_words(terms), count, len(sigmas))


def _refuse_caches(model_options: Options) -> None:
    options = model_options.get("transformer_options", {})
    easy = "easycache" in options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    if easy or "rel_l1_thresh" in options:
        name = "EasyCache" if easy else "TeaCache"
        raise ValueError(
            f"skip guidance needs passes that are really run, but got a model with {name}, which mixes those of the "
            "weak model with the others. Take it out, or use LazyCache."
        )


def _behind_cfg(args: dict[str, Any]) -> Tensor:
    step = args["model_options"].get(STEP)
    return args["denoised"] if step is None else step.guide(args)


class Step:
    """One guided evaluation of the model.

    Args:
        seen: terms that have been seen to change something in this run; those of this step are added.
    """

    def __init__(self, terms: Sequence[Term], conds: dict[str, Any], seen: set[Term]) -> None:
        self._seen = seen
        self.weak = [term for term in terms if term.kind == "stg"]
        self.slg = [term for term in terms if term.kind == "slg"]
        self._uuids = {name: {cond["uuid"] for cond in conds.get(name) or []} for name in ("positive", "negative")}
        self._recording: blocks.Recording | None = None
        self._strong = True
        self._c: tuple[Any, Tensor] | None = None

    def options(self, model_options: Options) -> Options:
        """The model_options of this evaluation."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        options[STEP] = self
        options["sampler_pre_cfg_function"] = [self._before_cfg, *options.get("sampler_pre_cfg_function", [])]
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self._calc_cond_batch, options, is_model_options=True)
        return options

    # --- the strong passes --------------------------------------------------------------------------------------------

    def _calc_cond_batch(
        self, executor: Any, model: Any, conds: list[Any], x: Tensor, sigma: Tensor, options: Options
    ) -> list[Tensor]:
        if not self._strong:
            return executor(model, conds, x, sigma, options)
        places = models.places_of(model.diffusion_model)
        found = []
        for number, cond in enumerate(conds):
            alone = [cond if other == number else None for other in range(len(conds))]
            found.append(executor(model, alone, x, sigma, self._options_for(cond, places, options))[number])
        return found

    def _options_for(self, cond: Any, places: Sequence[models.Place], options: Options) -> Options:
        uuids = {entry["uuid"] for entry in cond or []}
        if uuids and uuids <= self._uuids["negative"] and self.slg:
            return _with_model_wrapper(options, self._slg(places))
        if uuids and uuids <= self._uuids["positive"] and any(term.shared for term in self.weak):
            return _with_model_wrapper(options, self._record(places))
        return options

    def _record(self, places: Sequence[models.Place]) -> Any:
        firsts = {layers.chosen(term.layers, places)[0].position for term in self.weak if term.shared}
        if self._recording is None:
            self._recording = blocks.Recording(sorted(firsts))
        recording = self._recording

        def arounds(uuids: Sequence[Any]) -> dict[int, blocks.Around]:
            return {first: recording.recorder(first, uuids) for first in firsts}

        return _model_wrapper(places, arounds)

    def _slg(self, places: Sequence[models.Place]) -> Any:
        residual, attention = (self._spared(skip, places) for skip in SKIPS)
        return _model_wrapper(places, lambda _: blocks.weakened(residual, places, "residual", None), attention)

    def _spared(self, skip: str, places: Sequence[models.Place]) -> tuple[models.Place, ...]:
        return layers.chosen([name for term in self.slg if term.skip == skip for name in term.layers], places)

    def _before_cfg(self, args: dict[str, Any]) -> Any:
        self._strong, self._c = False, (args["conds"][0], args["conds_out"][0])
        return args["conds_out"]

    # --- the weak passes ----------------------------------------------------------------------------------------------

    def guide(self, args: dict[str, Any]) -> Tensor:
        """D with the pushes of all terms. Takes and returns what ComfyUI's functions behind CFG do."""
        self._strong = False
        c = self._c[1] if self._c is not None and self._c[0] is args["cond"] else args["cond_denoised"]
        D = args["denoised"]
        for term in self.weak:
            p = self._weak(term, args)
            self._see(term, c, p)
            D = guided(D, c, p, _origin(args), term)
        if self._recording is not None:
            self._recording.clear()
        return D

    def _see(self, term: Term, c: Tensor, p: Tensor) -> None:
        """See once in a run that a weak pass is one: to look at it is to wait for the device."""
        if term in self._seen:
            return
        if not torch.equal(c, p):
            self._seen.add(term)
        elif c.any():
            raise RuntimeError(
                f"the weak pass must differ from the strong one, but skipping {in_words([term])} changed nothing. "
                "Another node seems to run the blocks in its own way; take it out to find which."
            )

    def _weak(self, term: Term, args: dict[str, Any]) -> Tensor:
        places = models.places_of(args["model"].diffusion_model)
        skipped = layers.chosen(term.layers, places)

        def arounds(uuids: Sequence[Any]) -> dict[int, blocks.Around]:
            recorded = None
            if term.shared and self._recording is not None:
                recorded = self._recording.streams(skipped[0].position, uuids)
            return blocks.weakened(skipped, places, term.skip, recorded)

        identities = skipped if term.skip == "attention" else ()
        options = _with_model_wrapper(args["model_options"], _model_wrapper(places, arounds, identities))
        return comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)[0]


def _origin(args: dict[str, Any]) -> Tensor:
    """The estimate of the data where the model predicts zero: a x of x_0 = a x + b F."""
    x = args["input"]
    return args["model"].model_sampling.calculate_denoised(args["sigma"], torch.zeros_like(x), x)


def _with_model_wrapper(model_options: Options, wrapper: Any) -> Options:
    options = comfy.model_patcher.create_model_options_clone(model_options)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, wrapper, options, is_model_options=True)
    return options


def _model_wrapper(places: Sequence[models.Place], arounds: Any, identities: Sequence[models.Place] = ()) -> Any:
    """Wraps BaseModel.apply_model, which is called with the rows of one or more prompts.

    Args:
        arounds: from the uuids of these prompts to what the blocks do.
    """

    def wrapper(
        executor: Any, x: Tensor, t: Tensor, concat: Any, cross: Any, control: Any, options: Options, **extra: Any
    ) -> Tensor:
        model = executor.class_obj.diffusion_model
        with blocks.attached(model, places, arounds(options["uuids"]), options, identities) as changed:
            return executor(x, t, concat, cross, control, changed, **extra)

    return wrapper
